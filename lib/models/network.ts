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
  shortened,
} from '../support/validate.js';
import type { Fits } from '../weights/pth.js';
import { type Skipped, writeSafetensors } from '../weights/safetensors.js';
import { castWeights, WEIGHTS_DTYPES, type WeightsDtype } from '../weights/weights-dtype.js';
import { openWeights, readWeights, type WeightsFile } from '../weights/weights-file.js';
import { encodeDescription, type WeightsDescription } from '../weights/weights-metadata.js';
import { bodyText, guessArchitecture } from './guess-architecture.js';
import { type RenamedWeights, type Renaming, strangerText, withOwnNames } from './other-names.js';

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
  /**
   * A prefix to drop from the names that have it. By default `module.`, `Scale.`, `_orig_mod.`, `model.`, `net.` and
   * `student.` where all names begin with them.
   */
  strip?: string;
  signal?: AbortSignal;
}

/** What became of a weights file's tensors. Names are without the prefix that was dropped. */
export interface LoadReport {
  format: WeightsFile['format'];
  /** What every name began with and was dropped, such as `module.`; mostly empty. */
  prefix: string;
  /** What names of other code became, such as `layer6.` `layer5.`; mostly empty. */
  renamed: Renaming[];
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
  /**
   * Left out on purpose, with the reason: entries that are no tensors, tensors of types that bidiseg does not have,
   * auxiliary heads, and `layer5.*` where the class count differs. Names are as in the file.
   */
  skipped: Skipped[];
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
    return loadNetworks(file, [{ prefix: '', network: this }], this.#description.architecture, options);
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

/** How loadNetworks() gets at the tensors. */
export type OpenNetworks = (fits: Fits) => Promise<RenamedWeights[]>;

/**
 * @internal Reads several networks from one file: all of them or none.
 *
 * @param architecture what the networks are, for messages
 * @param open where the tensors come from if not from the file alone
 */
export async function loadNetworks(
  file: string,
  networks: NamedNetwork[],
  architecture: string,
  options: LoadOptions = {},
  open: OpenNetworks = async (fits) => [
    withOwnNames(await openWeights(file, { strip: options.strip, fits })),
  ],
): Promise<LoadReport> {
  const { strict = true, strip, signal } = checkObject('options', options);
  checkPath('file', file);
  checkBoolean('strict', strict);
  if (strip !== undefined && strip !== '') checkString('strip', strip);
  const states: (NamedNetwork & { own: StateEntry[] })[] = [];
  const read: { name: string; tensor: TensorHandle }[] = [];
  try {
    for (const { prefix, network } of networks) {
      const own = (await network.state()).map((entry) => ({ ...entry, name: prefix + entry.name }));
      states.push({ prefix, network, own });
    }
    const own = states.flatMap((state) =>
      state.own.map(({ name, tensor }) => ({ name, shape: callSync(() => native.tensorInfo(tensor).shape) })),
    );
    const shapes = new Map(own.map(({ name, shape }) => [name, String(shape)]));
    const weights = await open((tensors) =>
      tensors.some(({ name, shape }) => shapes.get(name) === String(shape)),
    );
    const tensors = weights.flatMap((part) => part.tensors);
    for (const part of weights) checkKind(part, architecture);
    for (const { prefix } of states) checkBody(file, tensors, own, prefix);
    const report = compare(weights, own);
    checkWanted(file, report);
    const problems = problemsOf(weights, report);
    if (strict && problems.length > 0) {
      const more = problems.length > 3 ? `; and ${problems.length - 3} more` : '';
      throw new DataError(
        `${file}: the weights do not fit the network: ${problems.slice(0, 3).join('; ')}${more}`,
      );
    }
    if (report.loaded.length === 0) {
      throw new DataError(
        `${file}: none of its ${tensors.length} tensors fits the network: found ${foundText(tensors)}, expected ` +
          `those of ${architecture} (${namesText(own)})`,
      );
    }
    const wanted = new Set(report.loaded);
    for (const part of weights) {
      const chosen = part.tensors.filter(({ name }) => wanted.has(name));
      read.push(...(await readWeights(part, chosen, signal)));
    }
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

type Shape = { name: string; shape: number[] };

/** Names of some tensors in a message. */
export function namesText(tensors: readonly { name: string }[]): string {
  const names = tensors.slice(0, 3).map(({ name }) => name);
  return shortened(`${names.join(', ')}${tensors.length > 3 ? ', …' : ''}`, 300);
}

/** What a file's tensors are, in a message. */
function foundText(tensors: Shape[]): string {
  const guess = guessArchitecture(tensors);
  return guess ? `the weights of ${guess.architecture}` : namesText(tensors);
}

/** @throws DataError if the file is known to be for other images or another network */
function checkKind(weights: WeightsFile, architecture: string): void {
  const stranger = strangerText(weights);
  if (!stranger) return;
  throw new DataError(
    `${weights.file}: found ${stranger.what}, expected the weights of ${architecture}: ${stranger.why}`,
  );
}

/** @throws DataError if the file's ResNet or generator has other blocks: what fits of it would be worth nothing. */
function checkBody(file: string, tensors: Shape[], own: Shape[], prefix: string): void {
  const within = (all: Shape[]) =>
    all
      .filter(({ name }) => name.startsWith(prefix))
      .map((t) => ({ ...t, name: t.name.slice(prefix.length) }));
  const [found, expected] = [bodyText(within(tensors)), bodyText(within(own))];
  if (found === null || expected === null || found === expected) return;
  throw new DataError(`${file}: found the weights of a ${found}, expected those of a ${expected}`);
}

/** @throws DataError if the network needs what bidiseg cannot read */
function checkWanted(file: string, { missing, skipped }: LoadReport): void {
  const needed = new Set(missing.filter((name) => !name.endsWith('num_batches_tracked')));
  const wanted = skipped.find(({ name }) => needed.has(name));
  if (wanted) throw new DataError(`${file}: '${wanted.name}' cannot be read: it is ${wanted.reason}`);
}

/** What of the files goes into networks with these parameters and buffers. */
function compare(weights: RenamedWeights[], own: Shape[]): LoadReport {
  const shapes = new Map(own.map(({ name, shape }) => [name, shape]));
  const tensors = weights.flatMap((part) => part.tensors);
  const report: LoadReport = {
    format: weights[0]!.format,
    prefix: weights[0]!.prefix,
    renamed: weights.flatMap((part) => part.renamed),
    loaded: [],
    missing: [],
    extra: [],
    reshaped: [],
    skipped: weights.flatMap((part) => part.skipped),
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
    const heads = tensors.filter(({ name }) => isHead(name));
    report.skipped = [...report.skipped, ...heads.map(({ name }) => ({ name, reason: OTHER_CLASSES }))];
    report.reshaped = report.reshaped.filter(({ name }) => !isHead(name));
    report.loaded = report.loaded.filter((name) => !isHead(name));
    report.extra = report.extra.filter((name) => !isHead(name));
  }
  return report;
}

const OTHER_CLASSES = 'the head for another class count';
const isHead = (name: string) => name.startsWith('layer5.');

/** The differences that a strict load does not tolerate, in words. */
function problemsOf(weights: WeightsFile[], report: LoadReport): string[] {
  const names = new Set(weights.flatMap(({ tensors }) => tensors.map(({ name }) => name)));
  const absent = weights[0]!.description?.missing ?? [];
  const isAbsent = (name: string) => absent.some((network) => name.startsWith(`${network}.`));
  const isHarmless = (name: string) => {
    const [, module = '', buffer] =
      /^(.*\.)?(running_mean|running_var|num_batches_tracked)$/.exec(name) ?? [];
    return buffer === 'num_batches_tracked' || (buffer !== undefined && !names.has(`${module}weight`));
  };
  const head = report.skipped.find(({ reason }) => reason === OTHER_CLASSES);
  return [
    ...report.missing
      .filter((name) => !name.endsWith('num_batches_tracked') && !isAbsent(name))
      .map((name) => `missing ${name}`),
    ...report.reshaped.map(
      ({ name, found, expected }) => `${name} is [${found.join(', ')}], not [${expected.join(', ')}]`,
    ),
    ...(head ? [`${head.name} and the rest of the head are for another class count`] : []),
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
 * @param means how the file is opened and loaded; by default openWeights() and load()
 * @throws DataError where the file does not say what it holds, or a newer bidiseg wrote it, or it is nothing of that kind.
 */
export async function createFromFile<T extends Disposable & Pick<Network, 'load'>>(
  file: string,
  options: FromFileOptions,
  kind: { name: string; architectures: readonly string[] },
  create: (description: WeightsDescription, place: FilePlace) => Promise<T>,
  {
    open = (name) => openWeights(name),
    load = (created, loadOptions) => created.load(file, loadOptions),
  }: {
    open?: (file: string) => Promise<WeightsFile>;
    load?: (created: T, options: LoadOptions) => Promise<LoadReport>;
  } = {},
): Promise<T> {
  const { device = 'cpu', dtype, signal } = checkObject('options', options);
  const place = { device: checkString('device', device), dtype: checkDtype(dtype) };
  requireDevice(place.device);
  checkPath('file', file);
  const weights = await open(file);
  const { description, tensors } = weights;
  if (!description) {
    checkKind(weights, `a ${kind.name}`);
    throw new DataError(
      `${file} does not say which network it belongs to; expected weights that bidiseg saved or converted: ` +
        'bidiseg convert FILE OUT.safetensors',
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
    await load(created, { ...(signal && { signal }) });
  } catch (error) {
    created[Symbol.dispose]();
    throw error;
  }
  return created;
}
