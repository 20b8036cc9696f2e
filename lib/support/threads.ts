/**
 * Decides how many threads do what (docs/design/boundary.md#numbers-of-threads).
 *
 * - LibTorch's operations run on the compute thread of each Node environment (the main thread or a worker) and on its
 *   OpenMP workers. There is one thread per core that the process may use. Several environments share the cores, and a
 *   short spin keeps this fair.
 * - libuv's pool decodes images, each on one thread, which is sharp's default with glibc. So the number of decoding threads is the number of images decoded
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

/**
 * Runs a function that loads LibTorch, with settings for its OpenMP in the environment. Variables that the user has set
 * stay. OpenMP reads its variables while it is loaded and never again, so they are removed afterwards. In a worker
 * thread, process.env is a copy. There this works only if the worker shares it.
 */
export function withOpenMpSettings<T>(load: () => T): T {
  const settings = Object.entries(openMpSettings()).filter(([name]) => process.env[name] === undefined);
  for (const [name, value] of settings) process.env[name] = value;
  try {
    return load();
  } finally {
    for (const [name] of settings) delete process.env[name];
  }
}

function openMpSettings(): Record<string, string> {
  // OpenMP does not know the limits that affinity and the container set.
  const count = { OMP_NUM_THREADS: String(os.availableParallelism()) };
  if (process.env.OMP_WAIT_POLICY !== undefined) return count;
  // OpenMP's workers spin for milliseconds while they wait for each other. If anything else wants a core, such as image
  // decoding or another process, every wait then lasts a scheduler's time slice. Training steps took 10 to 30 times as
  // long. A short spin costs nothing on an idle machine (docs/design/kernels-and-speed.md#the-spin-of-openmps-workers).
  return { ...count, GOMP_SPINCOUNT: '1000' };
}
