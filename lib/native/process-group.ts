import { InvalidArgumentError } from '../support/errors.js';
import {
  checkChoice,
  checkInteger,
  checkNumber,
  checkObject,
  checkPath,
  checkString,
  invalidArgument,
} from '../support/validate.js';
import { native } from './binding.js';
import type { NativeProcessGroupOptions, NetworkHandle, ProcessGroupHandle } from './binding-types.js';
import { launchedProcess } from './launcher.js';
import { call, callSync, handleOf, NativeObject } from './native-object.js';
import { Tensor } from './tensor.js';

/** How a process joins a group. Omitted options come from the launcher's environment. */
export interface ProcessGroupOptions {
  /** Engine: `gloo` for CPUs, `nccl` for GPUs. Default `gloo`. */
  backend?: 'gloo' | 'nccl';
  /** Place of this process, 0 to `size` − 1. */
  rank?: number;
  /** Number of processes. */
  size?: number;
  /** A new file that all processes see, as their meeting point instead of an address. */
  file?: string;
  /** Address of the meeting point. Rank 0 serves it, unless the launcher does. */
  host?: string;
  port?: number;
  /** Name of the group. Groups of different names share a meeting point without meeting. Default `group`. */
  name?: string;
  /** Time that the start and each operation may take, in seconds, from 0.1 to 86,400. Default 600. */
  timeoutSeconds?: number;
  signal?: AbortSignal;
}

/**
 * Processes that train together, over LibTorch's c10d: `gloo` on CPUs, `nccl` on GPUs.
 *
 * All processes make the same calls in the same order, with tensors of the same shapes and dtypes. If they differ, all of
 * them throw InvalidArgumentError, and the group can still be used. An operation that fails throws ProcessGroupError, which names the
 * ranks that have stopped reporting, and the group cannot be used after it. The meeting point has no password. Keep its
 * port inside the cluster.
 *
 *     using group = await ProcessGroup.join();          // under torchrun or srun
 *     await loss.backward();
 *     await group.averageGradients(segmenter);          // then every process takes the same step
 *     await optimizer.step(learningRate);
 */
export class ProcessGroup extends NativeObject<ProcessGroupHandle> {
  /** Place of this process, 0 to `size` − 1. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  readonly backend: 'gloo' | 'nccl';

  private constructor(
    handle: ProcessGroupHandle,
    { rank, size, backend }: Pick<NativeProcessGroupOptions, 'rank' | 'size' | 'backend'>,
  ) {
    super(handle);
    this.rank = rank;
    this.size = size;
    this.backend = backend;
  }

  /**
   * Joins the group that torchrun, Slurm or the options describe. Waits for all processes.
   *
   * @throws InvalidArgumentError when neither names this process's place, or an option is out of range
   * @throws ProcessGroupError when not all processes come within the timeout
   */
  static async join(options: ProcessGroupOptions = {}): Promise<ProcessGroup> {
    const given = nativeOptions(checkObject('options', options));
    const handle = await call((token) => native.createProcessGroup(given, token), options.signal);
    return new ProcessGroup(handle, given);
  }

  /** Backends that this build of bidiseg has. */
  static backends(): ('gloo' | 'nccl')[] {
    return native.processGroupBackends();
  }

  /** Bytes that this process has handed to collectives so far. */
  get bytesSent(): number {
    return callSync(() => native.processGroupBytesSent(this.handle));
  }

  /**
   * Replaces each tensor by its sum over all processes. All processes get the same bits. A tensor that comes twice
   * counts once. After an error, the tensors may hold parts of the sum.
   */
  async add(tensors: readonly Tensor[], options: { signal?: AbortSignal } = {}): Promise<void> {
    checkObject('options', options);
    await call((token) => native.processGroupAdd(this.handle, handlesOf(tensors), token), options.signal);
  }

  /** Replaces each tensor by its mean over all processes. Otherwise like `add`. */
  async average(tensors: readonly Tensor[], options: { signal?: AbortSignal } = {}): Promise<void> {
    checkObject('options', options);
    await call((token) => native.processGroupAverage(this.handle, handlesOf(tensors), token), options.signal);
  }

  /**
   * Replaces the gradients of a network's parameters by their means over all processes. The same parameters must have
   * gradients in all of them.
   */
  async averageGradients(
    network: NativeObject<NetworkHandle>,
    options: { signal?: AbortSignal } = {},
  ): Promise<void> {
    checkObject('options', options);
    await call((token) => {
      const { handle } = this;
      if (!(network instanceof NativeObject && NativeObject.isNative(network))) {
        throw invalidArgument('network', 'a network', network);
      }
      return native.processGroupAverageGradients(handle, network.handle, token);
    }, options.signal);
  }

  /**
   * Makes BatchNorm's running statistics the means over the batches of all processes. Those of this process are the means
   * over its own batches, see `Segmenter.updateStatistics`.
   *
   * @param options.own number of batches of this process, ≥ 0
   * @param options.all number of batches of all processes, ≥ 1
   */
  async averageStatistics(
    network: NativeObject<NetworkHandle>,
    options: { own: number; all: number; signal?: AbortSignal | undefined },
  ): Promise<void> {
    const { own, all, signal } = checkObject('options', options);
    const batches = { own: checkInteger('own', own, 0), all: checkInteger('all', all, Math.max(1, own)) };
    await call((token) => {
      const { handle } = this;
      if (!(network instanceof NativeObject && NativeObject.isNative(network))) {
        throw invalidArgument('network', 'a network', network);
      }
      return native.combineStatistics(network.handle, handle, batches, token);
    }, signal);
  }

  /** Replaces each tensor by the one of the process `root`. Default root 0. */
  async broadcast(
    tensors: readonly Tensor[],
    options: { root?: number; signal?: AbortSignal } = {},
  ): Promise<void> {
    const { root = 0, signal } = checkObject('options', options);
    checkInteger('root', root, 0, this.size - 1);
    await call((token) => native.processGroupBroadcast(this.handle, handlesOf(tensors), root, token), signal);
  }

  /** The tensors of all processes, by rank. They must have one shape and dtype. */
  async allGather(tensor: Tensor, options: { signal?: AbortSignal } = {}): Promise<Tensor[]> {
    checkObject('options', options);
    const handles = await call(
      (token) => native.processGroupAllGather(this.handle, handleOf('tensor', tensor, Tensor), token),
      options.signal,
    );
    return handles.map((handle) => new Tensor(handle));
  }

  /** Resolves when all processes have called it. */
  async barrier(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkObject('options', options);
    await call((token) => native.processGroupBarrier(this.handle, token), options.signal);
  }
}

function handlesOf(tensors: readonly Tensor[]) {
  if (!Array.isArray(tensors)) throw invalidArgument('tensors', 'an array of tensors', tensors);
  return tensors.map((tensor, index) => handleOf(`tensors[${index}]`, tensor, Tensor));
}

function nativeOptions(options: ProcessGroupOptions): NativeProcessGroupOptions {
  const launched = options.rank === undefined ? launchedProcess() : null;
  if (options.rank === undefined && launched === null) {
    throw new InvalidArgumentError(
      'Expected the environment of torchrun or Slurm, or the options rank and size, but found neither',
    );
  }
  const size = checkInteger('size', options.size ?? launched?.size, 1, 2 ** 20);
  const rank = checkInteger('rank', options.rank ?? launched?.rank, 0, size - 1);
  const file = options.file ?? (options.host === undefined ? (launched?.file ?? undefined) : undefined);
  if (file !== undefined) checkPath('file', file);
  const host = options.host ?? launched?.host;
  if (file === undefined && !/^[\w.:%-]+$/.test(checkString('host', host))) {
    throw invalidArgument('host', 'a host name or an IP address', host);
  }
  const isOwnAddress = options.host !== undefined || options.port !== undefined;
  return {
    backend: checkChoice('backend', options.backend ?? 'gloo', ProcessGroup.backends()),
    rank,
    size,
    store: file === undefined ? 'tcp' : 'file',
    host: host ?? '',
    port: file === undefined ? checkInteger('port', options.port ?? launched?.port, 1, 65_535) : 0,
    hostsStore: rank === 0 && (isOwnAddress || launched === null || !launched.launcherHostsStore),
    file: file ?? '',
    name: [launched?.name, checkString('name', options.name ?? 'group')].filter(Boolean).join('/'),
    timeoutSeconds: checkNumber('timeoutSeconds', options.timeoutSeconds ?? 600, 0.1, 86_400),
  };
}
