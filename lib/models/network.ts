import { native } from '../native/binding.js';
import type { NetworkDtype, NetworkHandle, StateEntry, TensorHandle } from '../native/binding-types.js';
import { requireDevice } from '../native/device.js';
import { checkDtype } from '../native/dtype.js';
import { call, callSync, handleOf, NativeObject } from '../native/native-object.js';
import { Tensor } from '../native/tensor.js';
import { DataError, InvalidArgumentError } from '../support/errors.js';
import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkObject,
  checkPath,
  checkSignal,
  checkString,
  invalidArgument,
} from '../support/validate.js';
import { writeSafetensors } from '../weights/safetensors.js';
import { castWeights, WEIGHTS_DTYPES, type WeightsDtype } from '../weights/weights-dtype.js';
import { openWeights, readWeights, type WeightsFile } from '../weights/weights-file.js';
import { encodeDescription, type WeightsDescription } from '../weights/weights-metadata.js';

export type { NetworkDtype } from '../native/binding-types.js';

export interface SaveOptions {
  /**
   * What to store the weights as; by default as they are. float16 and bfloat16 halve the file; loading rounds nothing more.
   * A weight too large for float16 is a DataError.
   */
  dtype?: WeightsDtype;
  /** How many steps the weights were trained for: written into the file for whoever reads it. */
  step?: number;
  signal?: AbortSignal;
}

export interface LoadOptions {
  /**
   * Default true. False leaves the network's own values where the file has none or of another shape, and the whole head
   * `layer5.*` where the class count differs; something must fit nevertheless.
   */
  strict?: boolean;
  /** A prefix to drop from the names that have it. By default `module.` and `Scale.` where all names begin with them. */
  strip?: string;
  signal?: AbortSignal;
}

/** What became of a weights file's tensors. Names are without the prefix that was dropped. */
export interface LoadReport {
  format: WeightsFile['format'];
  /** What every name began with and was dropped, such as `module.`; mostly empty. */
  prefix: string;
  loaded: string[];
  /** In the network only; it keeps its values. `num_batches_tracked`, which nothing depends on, may be missing even if strict. */
  missing: string[];
  /**
   * In the file only. `num_batches_tracked` may be too many even if strict, and so may running statistics of
   * normalizations that have no weight: those of InstanceNorm, which are never used.
   */
  extra: string[];
  /** Of another shape in the file; the network keeps its values. */
  reshaped: { name: string; found: number[]; expected: number[] }[];
  /** Left out on purpose: entries that are no tensors, and `layer5.*` where the class count differs. */
  skipped: string[];
}

/**
 * A network: one tensor in, one tensor out.
 *
 * Forward passes remember what backward() needs unless the network is frozen. A new network is in training mode.
 */
export class Network extends NativeObject<NetworkHandle> {
  readonly #description: WeightsDescription;

  /** @internal */
  constructor(handle: NetworkHandle, description: WeightsDescription) {
    super(handle);
    this.#description = description;
  }

  /** Of the weights, and so of what forward() takes and gives. */
  get dtype(): NetworkDtype {
    return callSync(() => native.networkDtype(this.handle));
  }

  /** How many numbers the network has learned or can learn; buffers do not count. */
  get parameterCount(): number {
    return callSync(() => native.networkParameterCount(this.handle));
  }

  /** The network's output for `input`, which has its dtype; shapes are those of the subclass. */
  async forward(input: Tensor, options: { signal?: AbortSignal } = {}): Promise<Tensor> {
    checkObject('options', options);
    const output = await call(
      (token) => native.networkForward(this.handle, handleOf('input', input, Tensor), token),
      options.signal,
    );
    return new Tensor(output);
  }

  /** Training mode: batch normalization by the batch (and running statistics move), dropout on. */
  async train(): Promise<void> {
    await call(() => native.networkSetTraining(this.handle, true));
  }

  /** Evaluation mode: batch normalization by running statistics, dropout off. */
  async eval(): Promise<void> {
    await call(() => native.networkSetTraining(this.handle, false));
  }

  /** Stops gradients to the parameters; gradients still pass through to the input. */
  async freeze(): Promise<void> {
    await call(() => native.networkSetFrozen(this.handle, true));
  }

  /** Undoes freeze(). */
  async unfreeze(): Promise<void> {
    await call(() => native.networkSetFrozen(this.handle, false));
  }

  /** Parameters by their PyTorch names. The tensors share memory with the network: they show what training does. */
  async parameters(): Promise<Map<string, Tensor>> {
    return this.#named('parameter');
  }

  /** Buffers (running statistics) by their PyTorch names, sharing memory with the network. */
  async buffers(): Promise<Map<string, Tensor>> {
    return this.#named('buffer');
  }

  async #named(kind: StateEntry['kind']): Promise<Map<string, Tensor>> {
    const result = new Map<string, Tensor>();
    for (const entry of await this.state()) {
      if (entry.kind === kind) result.set(entry.name, new Tensor(entry.tensor));
      else entry.tensor.dispose();
    }
    return result;
  }

  /** @internal Handles of all parameters and buffers; the caller disposes them. */
  async state(): Promise<StateEntry[]> {
    return call(() => native.networkState(this.handle));
  }

  /** @internal Copies tensors into parameters and buffers; every name must occur on both sides, with equal shapes. */
  async loadState(entries: Pick<StateEntry, 'name' | 'tensor'>[]): Promise<void> {
    if (!Array.isArray(entries)) throw invalidArgument('entries', 'an array of names with tensors', entries);
    const names = entries.map((entry, i) => checkObject(`entries[${i}]`, entry).name);
    const tensors = entries.map(({ tensor }) => tensor);
    await call(() => native.networkLoadState(this.handle, names, tensors));
  }

  /** Gives this network the weights and running statistics of `other`, a network of the same shape, in its own dtype. */
  async copyFrom(other: Network): Promise<void> {
    handleOf('other', other, Network);
    const state = await other.state();
    try {
      await this.loadState(state);
    } finally {
      for (const { tensor } of state) tensor.dispose();
    }
  }

  /** Writes weights and running statistics as safetensors, to a temporary name that is then renamed. */
  async save(file: string, options: SaveOptions = {}): Promise<void> {
    await saveNetworks(file, this.#description, [{ prefix: '', network: this }], options);
  }

  /**
   * Reads what save() wrote, or a state dict from PyTorch: safetensors, or `.pth` as `torch.save` writes it, of which
   * nothing is ever executed. Unless it throws, every name fitted with its shape; `strict: false` takes what fits.
   * Values are rounded to the network's dtype.
   *
   * @returns what was taken and what was not.
   * @throws DataError naming the file and the first few differences; nothing is changed then.
   */
  async load(file: string, options: LoadOptions = {}): Promise<LoadReport> {
    return loadNetworks(file, [{ prefix: '', network: this }], options);
  }
}

interface NamedNetwork {
  /** Goes before each of the network's own names in the file. */
  prefix: string;
  network: Network;
}

/** @internal Writes several networks into one file. */
export async function saveNetworks(
  file: string,
  description: WeightsDescription,
  networks: NamedNetwork[],
  options: SaveOptions,
): Promise<void> {
  const { dtype, step, signal } = checkObject('options', options);
  checkPath('file', file);
  checkSignal(signal);
  if (dtype !== undefined) checkChoice('dtype', dtype, WEIGHTS_DTYPES);
  if (step !== undefined) checkInteger('step', step, 0);
  const entries: StateEntry[] = [];
  try {
    for (const { prefix, network } of networks) {
      for (const entry of await network.state()) entries.push({ ...entry, name: prefix + entry.name });
    }
    if (dtype !== undefined) await castWeights(file, entries, dtype, signal);
    const metadata = encodeDescription(step === undefined ? description : { ...description, step });
    await writeSafetensors(file, entries, metadata, signal);
  } finally {
    for (const { tensor } of entries) tensor.dispose();
  }
}

/** @internal Reads several networks from one file: all of them or none. */
export async function loadNetworks(
  file: string,
  networks: NamedNetwork[],
  options: LoadOptions = {},
): Promise<LoadReport> {
  const { strict = true, strip, signal } = checkObject('options', options);
  checkPath('file', file);
  checkBoolean('strict', strict);
  if (strip !== undefined && strip !== '') checkString('strip', strip);
  const weights = await openWeights(file, strip);
  const states: (NamedNetwork & { own: StateEntry[] })[] = [];
  let read: { name: string; tensor: TensorHandle }[] = [];
  try {
    for (const { prefix, network } of networks) {
      const own = (await network.state()).map((entry) => ({ ...entry, name: prefix + entry.name }));
      states.push({ prefix, network, own });
    }
    const report = compare(
      weights,
      states.flatMap(({ own }) => own),
    );
    const problems = problemsOf(weights, report);
    if (strict && problems.length > 0) {
      const more = problems.length > 3 ? `; and ${problems.length - 3} more` : '';
      throw new DataError(
        `${file}: the weights do not fit the network: ${problems.slice(0, 3).join('; ')}${more}`,
      );
    }
    if (report.loaded.length === 0) {
      throw new DataError(`${file}: none of its ${weights.tensors.length} tensors fits the network`);
    }
    const wanted = new Set(report.loaded);
    read = await readWeights(
      weights,
      weights.tensors.filter(({ name }) => wanted.has(name)),
      signal,
    );
    const found = new Map(read.map(({ name, tensor }) => [name, tensor]));
    for (const { prefix, network, own } of states) {
      await network.loadState(
        // What the file lacks is copied onto itself.
        own.map(({ name, tensor }) => ({
          name: name.slice(prefix.length),
          tensor: found.get(name) ?? tensor,
        })),
      );
    }
    return report;
  } finally {
    for (const { tensor } of [...read, ...states.flatMap(({ own }) => own)]) tensor.dispose();
  }
}

/** What of a file goes into a network with these parameters and buffers. */
function compare({ format, prefix, tensors, others }: WeightsFile, own: StateEntry[]): LoadReport {
  const shapes = new Map(
    own.map(({ name, tensor }) => [name, callSync(() => native.tensorInfo(tensor).shape)]),
  );
  const report: LoadReport = {
    format,
    prefix,
    loaded: [],
    missing: [],
    extra: [],
    reshaped: [],
    skipped: [...others],
  };
  for (const { name, shape: found } of tensors) {
    const expected = shapes.get(name);
    shapes.delete(name);
    if (!expected) report.extra.push(name);
    else if (String(expected) === String(found)) report.loaded.push(name);
    else report.reshaped.push({ name, found, expected });
  }
  report.missing = [...shapes.keys()];
  // One tensor of another class count is enough: half a head is worth nothing.
  if (report.reshaped.some(({ name }) => isHead(name))) {
    report.skipped.push(...tensors.map(({ name }) => name).filter(isHead));
    report.reshaped = report.reshaped.filter(({ name }) => !isHead(name));
    report.loaded = report.loaded.filter((name) => !isHead(name));
    report.extra = report.extra.filter((name) => !isHead(name));
  }
  return report;
}

const isHead = (name: string) => name.startsWith('layer5.');

/** The differences that a strict load does not tolerate, in words. */
function problemsOf({ tensors }: WeightsFile, report: LoadReport): string[] {
  const names = new Set(tensors.map(({ name }) => name));
  const isHarmless = (name: string) => {
    const [, module = '', buffer] =
      /^(.*\.)?(running_mean|running_var|num_batches_tracked)$/.exec(name) ?? [];
    return buffer === 'num_batches_tracked' || (buffer !== undefined && !names.has(`${module}weight`));
  };
  const head = report.skipped.find((name) => names.has(name));
  return [
    ...report.missing
      .filter((name) => !name.endsWith('num_batches_tracked'))
      .map((name) => `missing ${name}`),
    ...report.reshaped.map(
      ({ name, found, expected }) => `${name} is [${found.join(', ')}], not [${expected.join(', ')}]`,
    ),
    ...(head ? [`${head} and the rest of the head are for another class count`] : []),
    ...report.extra.filter((name) => !isHarmless(name)).map((name) => `unexpected ${name}`),
  ];
}

/** Where a network of a file is to be made. */
export interface FromFileOptions {
  /** Default `cpu`. */
  device?: string;
  /** Default `float32`; see SegmenterOptions. */
  dtype?: NetworkDtype;
  signal?: AbortSignal;
}

/** @internal The same, checked, and a bound on what an untrusted file may ask for. */
export interface FilePlace {
  device: string;
  dtype: NetworkDtype;
  /** How many numbers the file has. */
  maxParameters: number;
}

/**
 * @internal What `create` makes of the description in a weights file, with the file's weights.
 *
 * @param kind what it has to be, and the architectures that are of that kind
 * @throws DataError where the file does not say what it holds, or a newer bidiseg wrote it, or it is nothing of that kind.
 */
export async function createFromFile<T extends Disposable & Pick<Network, 'load'>>(
  file: string,
  options: FromFileOptions,
  kind: { name: string; architectures: readonly string[] },
  create: (description: WeightsDescription, place: FilePlace) => Promise<T>,
): Promise<T> {
  const { device = 'cpu', dtype, signal } = checkObject('options', options);
  const place = { device: checkString('device', device), dtype: checkDtype(dtype) };
  requireDevice(place.device);
  checkPath('file', file);
  const { description, tensors } = await openWeights(file);
  if (!description) {
    throw new DataError(
      `${file} does not say which network it belongs to; expected weights that bidiseg saved or converted`,
    );
  }
  if (!kind.architectures.includes(description.architecture)) {
    throw new DataError(`${file} holds the weights of a ${description.architecture}, not of a ${kind.name}`);
  }
  const sizes = tensors.map(({ shape }) => shape.reduce((product, extent) => product * extent, 1));
  const maxParameters = sizes.reduce((total, size) => total + size, 0);
  let created: T;
  try {
    created = await create(description, { ...place, maxParameters });
  } catch (cause) {
    if (!(cause instanceof InvalidArgumentError)) throw cause;
    throw new DataError(`${file} describes no valid ${kind.name}: ${cause.message}`, { cause });
  }
  try {
    await created.load(file, signal && { signal });
  } catch (error) {
    created[Symbol.dispose]();
    throw error;
  }
  return created;
}
