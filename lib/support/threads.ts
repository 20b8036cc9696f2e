/**
 * Decides how many threads do what (docs/design/boundary.md#numbers-of-threads).
 *
 * - LibTorch's operations run on the compute thread of each Node environment (the main thread or a worker) and on its
 *   OpenMP workers. There is one thread per core that the process may use. Several environments share the cores, and a
 *   short spin keeps this fair.
 * - libuv's pool decodes images, each on one thread. So the number of decoding threads is the number of images decoded
 *   at once. Node sizes the pool by the variable UV_THREADPOOL_SIZE before any JavaScript runs.
 */
import os from 'node:os';
import process from 'node:process';

/** Threads of libuv's pool. Decoding and all file access of the process share them. */
const poolThreads = Math.min(
  1024,
  Math.max(1, Number.parseInt(process.env.UV_THREADPOOL_SIZE ?? '4', 10) || 1),
);

/** Threads of LibTorch that the user set. undefined: none. */
export const givenThreads = process.env.OMP_NUM_THREADS;

/** Images decoded at once. One thread stays free, so that writing a checkpoint never waits for images needed later. */
export const decodingThreads = Math.max(1, poolThreads - 1);

/** Threads that decode, resize or encode one image, regardless of sharp's default on this system. */
export const threadsPerImage = 1;

/**
 * Sets the environment variables that LibTorch reads when it is loaded, unless the user has set them. In a worker
 * thread, process.env is a copy. There this works only if the worker shares it.
 */
export function prepareLibTorchThreads(): void {
  // OpenMP does not know the limits that affinity and the container set.
  process.env.OMP_NUM_THREADS ??= String(os.availableParallelism());
  // OpenMP's workers spin for milliseconds while they wait for each other. If anything else wants a core, such as image
  // decoding or another process, every wait then lasts a scheduler's time slice. Training steps took 10 to 30 times as
  // long. A short spin costs nothing on an idle machine (docs/design/kernels-and-speed.md#the-spin-of-openmps-workers).
  if (process.env.OMP_WAIT_POLICY === undefined) process.env.GOMP_SPINCOUNT ??= '1000';
}
