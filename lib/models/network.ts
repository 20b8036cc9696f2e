import { native } from '../binding.js';
import type { NetworkHandle, StateEntry } from '../binding-types.js';
import { DataError, InvalidArgumentError } from '../errors.js';
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from '../io/safetensors.js';
import { call, callSync, handleOf, NativeObject } from '../native-object.js';
import { Tensor } from '../tensor.js';

/** Version of what bidiseg writes beside the tensors of a weights file. */
const FORMAT_VERSION = 1;

/** How a weights file says which network it belongs to. */
export interface Architecture {
  /** Such as `deeplab-v2` or `translator`. */
  architecture: string;
  /** The options the network was created with, without seed and device. */
  options: Record<string, unknown>;
}

/**
 * A network: one tensor in, one tensor out.
 *
 * Forward passes remember what backward() needs unless the network is frozen. A new network is in training mode.
 */
export class Network extends NativeObject<NetworkHandle> {
  readonly #architecture: Architecture;

  /** @internal */
  constructor(handle: NetworkHandle, architecture: Architecture) {
    super(handle);
    this.#architecture = architecture;
  }

  /** How many numbers the network has learnt or can learn; buffers do not count. */
  get parameterCount(): number {
    return callSync(() => native.networkParameterCount(this.handle));
  }

  /** The network's output for `input`; shapes are those of the subclass. */
  async forward(input: Tensor, options: { signal?: AbortSignal } = {}): Promise<Tensor> {
    const output = await call(
      (token) => native.networkForward(this.handle, handleOf('input', input, Tensor), token),
      options.signal,
    );
    return new Tensor(output);
  }

  /** Training mode: batch normalisation by the batch (and running statistics move), dropout on. */
  async train(): Promise<void> {
    await call(() => native.networkSetTraining(this.handle, true));
  }

  /** Evaluation mode: batch normalisation by running statistics, dropout off. */
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

  /** @internal Rejects with InvalidArgumentError where loadState() would. */
  async checkState(entries: Pick<StateEntry, 'name' | 'tensor'>[]): Promise<void> {
    const names = entries.map(({ name }) => name);
    const tensors = entries.map(({ tensor }) => tensor);
    await call(() => native.networkCheckState(this.handle, names, tensors));
  }

  /** @internal Copies tensors into parameters and buffers; every name must occur on both sides, with equal shapes. */
  async loadState(entries: Pick<StateEntry, 'name' | 'tensor'>[]): Promise<void> {
    const names = entries.map(({ name }) => name);
    const tensors = entries.map(({ tensor }) => tensor);
    await call(() => native.networkLoadState(this.handle, names, tensors));
  }

  /** Makes this network's weights and running statistics equal to those of `other`, a network of the same shape. */
  async copyFrom(other: Network): Promise<void> {
    const state = await other.state();
    try {
      await this.loadState(state);
    } finally {
      for (const { tensor } of state) tensor.dispose();
    }
  }

  /** Writes weights and running statistics as safetensors, to a temporary name that is then renamed. */
  async save(file: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    await saveNetworks(file, this.#architecture, [{ prefix: '', network: this }], options.signal);
  }

  /**
   * Reads what save() wrote. Strict: every name must fit with its shape, or nothing is changed.
   *
   * @throws DataError naming the file and the first few differences.
   */
  async load(file: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    await loadNetworks(file, [{ prefix: '', network: this }], options.signal);
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
  architecture: Architecture,
  networks: NamedNetwork[],
  signal?: AbortSignal,
): Promise<void> {
  const entries: StateEntry[] = [];
  try {
    for (const { prefix, network } of networks) {
      for (const entry of await network.state()) entries.push({ ...entry, name: prefix + entry.name });
    }
    const metadata = { format: 'pt', bidiseg: JSON.stringify({ version: FORMAT_VERSION, ...architecture }) };
    await writeSafetensors(file, entries, metadata, signal);
  } finally {
    for (const { tensor } of entries) tensor.dispose();
  }
}

/** @internal Reads several networks from one file. */
export async function loadNetworks(
  file: string,
  networks: NamedNetwork[],
  signal?: AbortSignal,
): Promise<void> {
  const { tensors } = await readSafetensors(file, signal);
  try {
    const stranger = tensors.find(({ name }) => !networks.some(({ prefix }) => name.startsWith(prefix)));
    if (stranger) throw new DataError(`${file}: unexpected ${stranger.name}`);
    const loads = networks.map(({ prefix, network }) => {
      // The empty prefix takes all; otherwise each network takes its own.
      const own = tensors
        .filter(({ name }) => name.startsWith(prefix))
        .map(({ name, tensor }) => ({ name: name.slice(prefix.length), tensor }));
      return { network, own };
    });
    try {
      for (const { network, own } of loads) await network.checkState(own); // all of them, before one is changed
      for (const { network, own } of loads) await network.loadState(own);
    } catch (cause) {
      if (!(cause instanceof InvalidArgumentError)) throw cause;
      throw new DataError(`${file}: ${cause.message}`, { cause });
    }
  } finally {
    for (const { tensor } of tensors) tensor.dispose();
  }
}

/**
 * @internal Which network a weights file belongs to.
 * @throws DataError where the file does not say, or a newer bidiseg wrote it.
 */
export async function readArchitecture(file: string): Promise<Architecture> {
  const { metadata } = await readSafetensorsHeader(file);
  let described: { version?: unknown; architecture?: unknown; options?: unknown };
  try {
    described = JSON.parse(metadata.bidiseg ?? 'null') ?? {};
  } catch (cause) {
    throw new DataError(`${file} has unreadable bidiseg metadata`, { cause });
  }
  if (described.version !== FORMAT_VERSION) {
    const found =
      described.version === undefined
        ? 'does not say which network it belongs to'
        : `has format version ${described.version}`;
    throw new DataError(
      `${file} ${found}; expected weights saved by bidiseg, format version ${FORMAT_VERSION}`,
    );
  }
  if (
    typeof described.architecture !== 'string' ||
    typeof described.options !== 'object' ||
    !described.options
  ) {
    throw new DataError(`${file} has incomplete bidiseg metadata: no architecture or options`);
  }
  return { architecture: described.architecture, options: described.options as Record<string, unknown> };
}
