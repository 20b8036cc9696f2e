import { packageVersion } from '../support/package.js';
import { checkInteger } from '../support/validate.js';
import { addon, native } from './binding.js';
import type { MemoryReservation } from './binding-types.js';
import { call, callSync } from './native-object.js';
import type { Precision } from './precision.js';

/** Build of bidiseg and the devices of this machine. */
export interface BuildInfo {
  /** Version of bidiseg. */
  version: string;
  /** Path of the native addon. */
  addon: string;
  /** How the addon was found, such as `the package @bidiseg/linux-x64`. */
  addonOrigin: string;
  /** Version of the LibTorch that the addon was built for. */
  libtorchVersion: string;
  /** How LibTorch was found. */
  libtorchOrigin: string;
  /** True if the addon contains CUDA kernels. */
  cuda: boolean;
  /** Names of the CUDA devices, such as `cuda:0`. Empty if there are none. */
  cudaDevices: string[];
  /** Threads that one operation may use. */
  threads: number;
  /** Instruction set of the CPU kernels, such as `AVX512`. */
  cpuCapability: string;
  /** Precisions that each device has instructions for, by device name. */
  precisions: Record<string, Precision[]>;
  /** Engines for training in several processes that this build has. See {@link ProcessGroup}. */
  backends: ('gloo' | 'nccl')[];
}

/** Reports how bidiseg was built and which devices it finds on this machine. */
export async function buildInfo(): Promise<BuildInfo> {
  const info = await call(() => native.buildInfo());
  const cudaDevices = Object.keys(info.precisions).filter((device) => device !== 'cpu');
  const { file, origin, libtorchOrigin = info.libtorchOrigin } = addon;
  return {
    ...info,
    version: packageVersion(),
    addon: file,
    addonOrigin: origin,
    libtorchOrigin,
    cudaDevices,
    backends: native.processGroupBackends(),
  };
}

/** @internal @throws InvalidArgumentError if there is no device of that name. */
export function requireDevice(name: string): void {
  callSync(() => native.checkDevice(name));
}

/** Sets how many threads one operation may use, 1 to 1024. Default: one per core. Running work keeps its number. */
export async function setThreadCount(threads: number): Promise<void> {
  checkInteger('threads', threads, 1, 1024);
  await call(() => native.setThreadCount(threads));
}

/**
 * Reports how long the work of this JavaScript thread has computed so far, in milliseconds. Compare differences with
 * wall-clock time to find time spent otherwise, such as waiting for data.
 */
export function computeTimeMs(): number {
  return native.computeTime();
}

/**
 * Limits the host memory of all tensors of this process, in bytes, including tensors of other threads. Images that wait
 * in a {@link BatchedPredictor} count too. Default null: no limit. Work that needs more fails with OutOfMemoryError, and everything else continues. A limit below the memory in
 * use frees nothing.
 */
export function setMemoryLimit(bytes: number | null): void {
  if (bytes !== null) checkInteger('bytes', bytes, 0);
  native.setMemoryLimit(bytes);
}

/**
 * @internal Counts bytes outside of tensors as memory in use, until the result is disposed.
 *
 * @throws OutOfMemoryError where a tensor of as many bytes would
 */
export function reserveMemory(bytes: number): MemoryReservation {
  return callSync(() => native.reserveMemory(bytes));
}

/**
 * @internal Makes `malloc` return large blocks to the system as soon as they are freed, in the whole process. For a
 * process that decodes the images of others: without it a server that met damaged ones grew by 190 MiB in ten minutes.
 */
export function giveBackLargeBlocks(): void {
  native.giveBackLargeBlocks();
}

/**
 * Reports the host memory that all tensors of this process hold, in bytes, with the images that wait in a
 * {@link BatchedPredictor}. Freed memory is kept for later tensors. It
 * returns to the system after ten seconds without computation.
 */
export function memoryInUse(): number {
  return native.memoryInUse();
}

/**
 * Reports how many native objects are alive, by class: created, and neither disposed nor garbage-collected. `bytes` is
 * the native memory reported to the garbage collector. Tests use this to find leaks.
 */
export function liveObjects(): Record<string, number> {
  return native.liveObjects();
}
