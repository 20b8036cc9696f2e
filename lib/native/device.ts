import { packageVersion } from '../support/package.js';
import { checkInteger } from '../support/validate.js';
import { native } from './binding.js';
import { call, callSync } from './native-object.js';
import type { Precision } from './precision.js';

export interface BuildInfo {
  /** Of bidiseg. */
  version: string;
  libtorchVersion: string;
  /** How LibTorch was found when the addon was built. */
  libtorchOrigin: string;
  /** Whether CUDA kernels are compiled in. */
  cuda: boolean;
  /** Such as `cuda:0`; empty where there are none. */
  cudaDevices: string[];
  /** That one operation may use. */
  threads: number;
  /** Such as `AVX512`. */
  cpuCapability: string;
  /** By device: the precisions that it has instructions for. */
  precisions: Record<string, Precision[]>;
}

/** What this build of bidiseg is and what it finds on this machine. */
export async function buildInfo(): Promise<BuildInfo> {
  const info = await call(() => native.buildInfo());
  const cudaDevices = Object.keys(info.precisions).filter((device) => device !== 'cpu');
  return { version: packageVersion(), ...info, cudaDevices };
}

/** @internal @throws InvalidArgumentError unless there is a device of that name. */
export function requireDevice(name: string): void {
  callSync(() => native.checkDevice(name));
}

/** How many threads one operation may use; default: one per core. Takes effect for work that starts later. */
export async function setThreadCount(threads: number): Promise<void> {
  checkInteger('threads', threads, 1, 1024);
  await call(() => native.setThreadCount(threads));
}

/**
 * How long everything asked for from this thread has computed so far, in milliseconds. Differences of it beside wall-clock
 * time tell what was spent on anything else, such as waiting for data.
 */
export function computeTimeMs(): number {
  return native.computeTime();
}

/**
 * Limits what all tensors of this process, also those of other threads, may take of the host's memory; null, the default, for no
 * limit. Work that would take more fails with OutOfMemoryError, and everything else goes on. A limit below what is in use takes
 * nothing away.
 */
export function setMemoryLimit(bytes: number | null): void {
  if (bytes !== null) checkInteger('bytes', bytes, 0);
  native.setMemoryLimit(bytes);
}

/**
 * Bytes of the host's memory that all tensors of this process hold. What they no longer hold is kept for the next ones, and goes
 * back to the system when nothing has computed for ten seconds.
 */
export function memoryInUse(): number {
  return native.memoryInUse();
}

/**
 * How many native objects are alive (created and neither disposed nor collected), by class, and the native bytes the
 * garbage collector has been told of, under `bytes`. For tests that look for leaks.
 */
export function liveObjects(): Record<string, number> {
  return native.liveObjects();
}
