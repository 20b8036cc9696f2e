/**
 * How many threads do what, in one place.
 *
 * - LibTorch's operations run on the compute thread of each Node environment (the main thread, a worker) and its OpenMP
 *   workers: as many as there are cores. Several environments share the cores, which a short spin keeps fair.
 * - Images are decoded on libuv's pool, each by one thread, so that as many as there are decoding threads go on at once.
 *   The pool's size is Node's to decide, by the variable UV_THREADPOOL_SIZE, before any JavaScript runs.
 */
import os from 'node:os';
import process from 'node:process';

/** Threads of libuv's pool, which decoding and all file access of the process share. */
const poolThreads = Math.min(
  1024,
  Math.max(1, Number.parseInt(process.env.UV_THREADPOOL_SIZE ?? '4', 10) || 1),
);

/** Images decoded at once. One thread is left, so that writing a checkpoint never queues behind images wanted later. */
export const decodingThreads = Math.max(1, poolThreads - 1);

/** Threads that decode, resize or encode one image, whatever sharp's default on this system is. */
export const threadsPerImage = 1;

/**
 * Sets what LibTorch reads when it is loaded; whoever has set a variable knows better. In a worker thread process.env is a
 * copy, and this has an effect only if the worker shares it.
 */
export function prepareLibTorchThreads(): void {
  // What this process may use, by affinity and the limits of its container, of which OpenMP knows nothing.
  process.env.OMP_NUM_THREADS ??= String(os.availableParallelism());
  // OpenMP's workers spin while they wait for each other. By default they do so for milliseconds, and when anything else
  // wants a core - image decoding, the event loop, another process - every wait lasts a scheduler's time slice: training
  // steps were measured to take 10 to 30 times as long. A short spin costs nothing on an idle machine (CONTRIBUTING.md has
  // the figures).
  if (process.env.OMP_WAIT_POLICY === undefined) process.env.GOMP_SPINCOUNT ??= '1000';
}
