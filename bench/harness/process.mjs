// One side of a trial: a process that executes commands, one at a time.
import { spawn, spawnSync } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';

export const BENCH = path.dirname(import.meta.dirname);
const ROOT = path.dirname(BENCH);

export class Side {
  #process;
  #lines;
  #errors = '';

  constructor(command, args, env) {
    this.#process = spawn(command, args, { env });
    this.#process.on('error', (error) => {
      this.#errors += error.message;
    });
    this.#process.stderr.on('data', (chunk) => {
      this.#errors = (this.#errors + chunk).slice(-2000);
    });
    // A write to an ended process shows by its missing answer.
    this.#process.stdin.on('error', () => {});
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /** Sends one command and returns its answer. Rejects with the error that the side reports. */
  async ask(command, request = {}) {
    this.#process.stdin.write(`${JSON.stringify({ do: command, ...request })}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the process ended: ${this.#errors.trim().split('\n').at(-1)}`);
    const { result, error, trace } = JSON.parse(value);
    if (error !== undefined) throw Object.assign(new Error(error), { stack: trace });
    return result;
  }

  /** Waits for the end of the process, so that nothing of it is left when the next one starts. */
  async close() {
    const ended = new Promise((resolve) => this.#process.once('close', resolve));
    this.#process.stdin.end();
    if (this.#process.exitCode === null && this.#process.signalCode === null) await ended;
  }
}

/**
 * Makes the environment of both sides: the same number of threads, and the short spin that bidiseg sets for itself. On
 * a quiet machine, PyTorch is as fast with it. On any other machine, PyTorch would be many times slower without it.
 */
const environment = (threads) => ({
  GOMP_SPINCOUNT: '1000',
  ...process.env,
  OMP_NUM_THREADS: threads,
  MKL_NUM_THREADS: threads,
});

export function startOurs(benchmark, threads) {
  return new Side(process.execPath, [path.join(BENCH, 'ours/side.mjs'), benchmark], environment(threads));
}

/** Starts a twin that is a module for Node.js, with the same interface as our side. */
export function startNodeTwin(module, threads) {
  const args = [path.join(BENCH, 'ours/side.mjs'), `../twins/${module}`];
  return new Side(process.execPath, args, environment(threads));
}

/** Starts a twin in Python. `cache` is the folder of torch.compile. A new folder makes it compile. */
export function startTwin(python, benchmark, threads, cache) {
  const args = ['-B', path.join(BENCH, 'twins/side.py'), benchmark.replaceAll('-', '_')];
  return new Side(python, args, { ...environment(threads), TORCHINDUCTOR_CACHE_DIR: cache });
}

/** Finds a Python with numpy and the torch version that the addon is linked to. */
export function findPython(libtorch) {
  const candidates = [process.env.PYTHON, path.join(ROOT, '.libtorch/bin/python'), 'python3', 'python'];
  const script = 'import numpy, torch; print(torch.__version__)';
  const found = [];
  for (const python of candidates.filter(Boolean)) {
    const { status, stdout } = spawnSync(python, ['-c', script], { encoding: 'utf8' });
    if (status !== 0) continue;
    const version = stdout.trim();
    if (version.split('+')[0] === libtorch) return python;
    found.push(`${python} has torch ${version}`);
  }
  throw new Error(
    `No Python with numpy and torch ${libtorch}, which the addon is linked to; ` +
      (found.length > 0 ? found.join(', ') : 'looked at $PYTHON, .libtorch/bin/python, python3 and python'),
  );
}
