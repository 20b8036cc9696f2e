import { native } from '../native/binding.js';
import type { NetworkDtype, NetworkHandle, StateEntry, TensorHandle } from '../native/binding-types.js';
import { CONVOLUTIONS, type Convolutions } from '../native/convolutions.js';
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
import { openWeights, type WeightsFile } from '../weights/weights-file.js';
import {
  type Architecture,
  encodeDescription,
  type WeightsDescription,
} from '../weights/weights-metadata.js';
import { type Converted, readNamedWeights } from './backbones.js';
import { bodyText, guessArchitecture } from './guess-architecture.js';
import {
  backboneFor,
  descriptionFor,
  type RenamedWeights,
  type Renaming,
  strangerText,
  withOwnNames,
} from './other-names.js';

export type { NetworkDtype } from '../native/binding-types.js';

/** Options of {@link Network.forward}. */
export interface ForwardOptions {
  /** How convolutions on the CPU are computed, in the backward pass too: `auto` (default) or `direct`. */
  convolutions?: Convolutions;
  signal?: AbortSignal;
}

/** Options of {@link Network.save}. */
export interface SaveOptions {
  /**
   * Dtype of the weights in the file. Default: the network's own. float16 and bfloat16 halve the file, and loading
   * rounds no further. A weight too large for float16 is a DataError.
   */
  dtype?: WeightsDtype;
  /** Number of training steps of the weights, ≥ 0. It is written into the file as information. Default: none. */
  step?: number;
  signal?: AbortSignal;
}

/** Options of {@link Network.load}. */
export interface LoadOptions {
  /**
   * Requires that all names and shapes fit. Default true. With false, the network keeps its own values for tensors that
   * the file lacks or has in another shape. It keeps the whole head `layer5.*` if the class count differs. At least one
   * tensor must fit.
   */
  strict?: boolean;
  /**
   * Prefix to drop from the names that have it. Default: `module.`, `Scale.`, `_orig_mod.`, `model.`, `net.` and
   * `student.`, if all names begin with them.
   */
  strip?: string;
  signal?: AbortSignal;
}

/** Result of loading a weights file. Names are without the dropped prefix. */
export interface LoadReport {
  /** Format of the file. */
  format: WeightsFile['format'];
  /** Prefix that was dropped from every name, such as `module.`. Usually empty. */
  prefix: string;
  /** Names of other code that were replaced, such as `layer6.` by `layer5.`. Usually empty. */
  renamed: Renaming[];
  /** Tensors whose values were computed for a segmenter's images, such as those of torchvision. Usually empty. */
  converted: Converted[];
  /** Names of the tensors that were loaded. */
  loaded: string[];
  /**
   * Names only in the network, which keeps its values. A strict load tolerates a missing `num_batches_tracked`, because
   * nothing depends on it, and the layers that a backbone alone does not have.
   */
  missing: string[];
  /**
   * Names only in the file. A strict load tolerates `num_batches_tracked`, and running statistics of a normalization
   * without weights. InstanceNorm has such statistics but never uses them.
   */
  extra: string[];
  /** Tensors whose shape in the file differs. The network keeps its values. */
  reshaped: { name: string; found: number[]; expected: number[] }[];
  /**
   * Entries left out on purpose, with the reason: entries that are not tensors, tensors of types that bidiseg does not
   * have, auxiliary heads, and `layer5.*` if the class count differs. Names are as in the file.
   */
  skipped: Skipped[];
}

/** @internal */
export function forwardOptions(options: ForwardOptions): { convolutions: Convolutions } {
  const { convolutions = 'auto' } = checkObject('options', options);
  return { convolutions: checkChoice('convolutions', convolutions, CONVOLUTIONS) };
}

/**
 * A network with one input tensor and one output tensor. A new network is in training mode.
 *
 * Forward passes remember what backward() needs, unless the network is frozen. A network keeps its dtype and device
 * (docs/design/boundary.md#networks-keep-their-dtype-and-device).
 */
export class Network extends NativeObject<NetworkHandle> {
  readonly #description: WeightsDescription;

  /** @internal */
  constructor(handle: NetworkHandle, description: WeightsDescription) {
    super(handle);
    this.#description = description;
  }

  /** Dtype of the weights, and of the tensors that forward() takes and returns. */
  get dtype(): NetworkDtype {
    return callSync(() => native.networkDtype(this.handle));
  }

  /** Number of trainable values. Buffers do not count. */
  get parameterCount(): number {
    return callSync(() => native.networkParameterCount(this.handle));
  }

  /** Computes the network's output for `input`, which has the network's dtype. The subclasses document the shapes. */
  async forward(input: Tensor, options: ForwardOptions = {}): Promise<Tensor> {
    const passed = forwardOptions(options);
    const output = await call(
      (token) => native.networkForward(this.handle, handleOf('input', input, Tensor), passed, token),
      options.signal,
    );
    return new Tensor(output);
  }

  /**
   * Switches to training mode: batch normalization uses the batch and updates running statistics, and dropout is on.
   */
  async train(): Promise<void> {
    await call(() => native.networkSetTraining(this.handle, true));
  }

  /** Switches to evaluation mode: batch normalization uses running statistics, and dropout is off. */
  async eval(): Promise<void> {
    await call(() => native.networkSetTraining(this.handle, false));
  }

  /** Stops gradients to the parameters. Gradients still pass through to the input. */
  async freeze(): Promise<void> {
    await call(() => native.networkSetFrozen(this.handle, true));
  }

  /** Undoes freeze(). */
  async unfreeze(): Promise<void> {
    await call(() => native.networkSetFrozen(this.handle, false));
  }

  /**
   * Returns the parameters by their PyTorch names. The tensors share memory with the network and change during
   * training.
   */
  async parameters(): Promise<Map<string, Tensor>> {
    return this.#named('parameter');
  }

  /** Returns the buffers (running statistics) by their PyTorch names. The tensors share memory with the network. */
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

  /** @internal Returns handles of all parameters and buffers. The caller disposes them. */
  async state(): Promise<StateEntry[]> {
    return call(() => native.networkState(this.handle));
  }

  /** @internal Copies tensors into parameters and buffers. Every name must occur on both sides, with equal shapes. */
  async loadState(entries: Pick<StateEntry, 'name' | 'tensor'>[]): Promise<void> {
    if (!Array.isArray(entries)) throw invalidArgument('entries', 'an array of names with tensors', entries);
    const names = entries.map((entry, i) => checkObject(`entries[${i}]`, entry).name);
    const tensors = entries.map(({ tensor }) => tensor);
    await call(() => native.networkLoadState(this.handle, names, tensors));
  }

  /**
   * Copies weights and running statistics from `other`, a network of the same shape. Values are rounded to this dtype.
   */
  async copyFrom(other: Network): Promise<void> {
    handleOf('other', other, Network);
    const state = await other.state();
    try {
      await this.loadState(state);
    } finally {
      for (const { tensor } of state) tensor.dispose();
    }
  }

  /**
   * Writes weights and running statistics as safetensors, whole or not at all.
   *
   * @throws DataError when the file cannot be written
   */
  async save(file: string, options: SaveOptions = {}): Promise<void> {
    await saveNetworks(file, this.#description, [{ prefix: '', network: this }], options);
  }

  /**
   * Reads a file that save() wrote, or a state dict from PyTorch as safetensors or `.pth`. Nothing in a `.pth` is ever
   * executed. Every name must fit with its shape, unless `strict` is false. Values are rounded to the network's dtype.
   *
   * A segmenter also takes a backbone alone, such as a ResNet or VGG-16 of torchvision. Other layers keep their values.
   *
   * @returns the tensors that were loaded and those that were not
   * @throws DataError that names the file and the first few differences. The network is then unchanged
   */
  async load(file: string, options: LoadOptions = {}): Promise<LoadReport> {
    return loadNetworks(file, [{ prefix: '', network: this }], this.#description, options);
  }
}

interface NamedNetwork {
  /** Prefix of the network's names in the file. */
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

/** Opens the files that loadNetworks() reads. */
export type OpenNetworks = (fits: Fits) => Promise<RenamedWeights[]>;

/**
 * @internal Reads several networks from one file, all or none.
 *
 * @param expected description of the networks
 * @param open opens the tensors, if they do not come from the file alone
 */
export async function loadNetworks(
  file: string,
  networks: NamedNetwork[],
  expected: Architecture,
  options: LoadOptions = {},
  open: OpenNetworks = async (fits) => [
    withOwnNames(await openWeights(file, { strip: options.strip, fits })),
  ],
): Promise<LoadReport> {
  const { strict = true, strip, signal } = checkObject('options', options);
  checkPath('file', file);
  checkBoolean('strict', strict);
  if (strip !== undefined && strip !== '') checkString('strip', strip);
  const { architecture } = expected;
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
    const opened = await open((tensors) =>
      tensors.some(({ name, shape }) => shapes.get(name) === String(shape)),
    );
    const weights = opened.map((part) => backboneFor(part, expected));
    const tensors = weights.flatMap((part) => part.tensors);
    for (const part of weights) checkKind(part, architecture);
    for (const { prefix } of states) checkBody(file, tensors, own, prefix);
    for (const part of weights) checkStride(part, expected);
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
      read.push(...(await readNamedWeights(part, chosen, signal)));
    }
    const found = new Map(read.map(({ name, tensor }) => [name, tensor]));
    for (const { prefix, network, own } of states) {
      await network.loadState(
        // A value that the file lacks is copied onto itself.
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

/** Lists some names of tensors for a message. */
export function namesText(tensors: readonly { name: string }[]): string {
  const names = tensors.slice(0, 3).map(({ name }) => name);
  return shortened(`${names.join(', ')}${tensors.length > 3 ? ', …' : ''}`, 300);
}

/** Describes the tensors of a file for a message. */
function foundText(tensors: Shape[]): string {
  const guess = guessArchitecture(tensors);
  return guess ? `the weights of ${guess.architecture}` : namesText(tensors);
}

/** Rejects a file for other images or another network. @throws DataError that names the file */
function checkKind(weights: RenamedWeights, architecture: string): void {
  const stranger = strangerText(weights);
  if (!stranger) {
    const { classifier } = weights;
    if (!classifier || descriptionFor(weights)?.architecture === architecture) return;
    throw new DataError(`${weights.file}: found a ${classifier}, expected the weights of ${architecture}`);
  }
  throw new DataError(
    `${weights.file}: found ${stranger.what}, expected the weights of ${architecture}: ${stranger.why}`,
  );
}

/** Rejects a ResNet or generator with other blocks, because a part of it is useless. @throws DataError */
function checkBody(file: string, tensors: Shape[], own: Shape[], prefix: string): void {
  const within = (all: Shape[]) =>
    all
      .filter(({ name }) => name.startsWith(prefix))
      .map((t) => ({ ...t, name: t.name.slice(prefix.length) }));
  const [found, expected] = [bodyText(within(tensors)), bodyText(within(own))];
  if (found === null || expected === null || found === expected) return;
  throw new DataError(`${file}: found the weights of a ${found}, expected those of a ${expected}`);
}

/** Rejects bottlenecks with the stride elsewhere: the names and shapes fit, but not the function. @throws DataError */
function checkStride(weights: RenamedWeights, { options }: Architecture): void {
  const found = strideOf(weights);
  const { bottleneckStride: own = 'first' } = options;
  if (found === null || found === own) return;
  throw new DataError(
    `${weights.file}: found bottlenecks with the stride in the ${found} convolution, expected it in the ${own} one, as ` +
      `the segmenter was created; create it with bottleneckStride: '${found}'`,
  );
}

/**
 * @internal Reads from a weights file which convolution of its bottlenecks has the stride. Null: the file does not tell,
 * or has none.
 */
export async function bottleneckStrideOf(file: string): Promise<'first' | 'middle' | null> {
  return strideOf(withOwnNames(await openWeights(file)));
}

function strideOf(weights: RenamedWeights): 'first' | 'middle' | null {
  if (!weights.description && !weights.classifier) return null;
  const { architecture, options } = descriptionFor(weights) ?? { architecture: '', options: {} };
  if (architecture !== 'deeplab-v2' || !/50|101/.test(String(options.backbone))) return null;
  return options.bottleneckStride === 'middle' ? 'middle' : 'first';
}

/** Rejects a file if the network needs a tensor that was skipped. @throws DataError */
function checkWanted(file: string, { missing, skipped }: LoadReport): void {
  const needed = new Set(missing.filter((name) => !name.endsWith('num_batches_tracked')));
  const wanted = skipped.find(({ name }) => needed.has(name));
  if (wanted) throw new DataError(`${file}: '${wanted.name}' cannot be read: it is ${wanted.reason}`);
}

/** Compares files with the parameters and buffers of networks. */
function compare(weights: RenamedWeights[], own: Shape[]): LoadReport {
  const shapes = new Map(own.map(({ name, shape }) => [name, shape]));
  const tensors = weights.flatMap((part) => part.tensors);
  const report: LoadReport = {
    format: weights[0]!.format,
    prefix: weights[0]!.prefix,
    renamed: weights.flatMap((part) => part.renamed),
    converted: weights.flatMap((part) => part.converted),
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
  // A partial head is useless, so one tensor of another class count skips the whole head.
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

/** Describes the differences that a strict load does not tolerate. */
function problemsOf(weights: RenamedWeights[], report: LoadReport): string[] {
  const names = new Set(weights.flatMap(({ tensors }) => tensors.map(({ name }) => name)));
  const absent = descriptionFor(weights[0]!)?.missing ?? [];
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

/** Options for creating a network from a file. */
export interface FromFileOptions {
  /** Device to compute on. Default `cpu`. */
  device?: string;
  /** Dtype of the network. Default `float32`. `float64` is for precise checks. */
  dtype?: NetworkDtype;
  signal?: AbortSignal;
}

/** @internal Checked {@link FromFileOptions} with a limit for untrusted files. */
export interface FilePlace {
  device: string;
  dtype: NetworkDtype;
  /** Number of values in the file. The network may not have far more parameters. */
  maxParameters: number;
}

/**
 * @internal Creates a network from the description in a weights file and loads the file's weights.
 *
 * @param kind expected kind of network and the architectures that belong to it
 * @param means functions that open and load the file. Default: openWeights() and load()
 * @throws DataError when the file has no description, a newer bidiseg wrote it, or it is of another kind
 */
export async function createFromFile<T extends Disposable & Pick<Network, 'load'>>(
  file: string,
  options: FromFileOptions,
  kind: { name: string; architectures: readonly string[] },
  create: (description: WeightsDescription, place: FilePlace) => Promise<T>,
  {
    open = async (name) => withOwnNames(await openWeights(name)),
    load = (created, loadOptions) => created.load(file, loadOptions),
  }: {
    open?: (file: string) => Promise<RenamedWeights>;
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
