import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { buildInfo, setThreadCount } from 'bidiseg';
import { ROOT } from './folder.js';

/** Finds a Python with torch, numpy and these modules, or gives the reason why there is none. */
export function findPython(...modules: string[]): { python: string } | { reason: string } {
  const candidates = [process.env.PYTHON, 'python3', 'python', join(ROOT, '.libtorch/bin/python')];
  const wanted = ['torch', 'numpy', ...modules];
  const script = 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))';
  for (const python of candidates) {
    if (python && spawnSync(python, ['-c', script, ...wanted], { stdio: 'ignore' }).status === 0) {
      return { python };
    }
  }
  return {
    reason: `no Python with ${wanted.join(', ')}: tried $PYTHON, python3, python and .libtorch/bin/python`,
  };
}

/**
 * Python process with the PyTorch twins of the networks, losses and training steps (test/parity/*.py). It imports torch
 * at once, while the test prepares its cases. Requests and answers are lines of JSON.
 */
export class Twin {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #errors = '';

  constructor(python: string) {
    // Only our side may compute with other kernels than the machine's best, see
    // docs/testing.md#parity-with-other-kernels.
    const { ATEN_CPU_CAPABILITY: _aten, ONEDNN_MAX_CPU_ISA: _onednn, ...env } = process.env;
    this.#process = spawn(python, ['-B', join(ROOT, 'test/parity/twin.py')], { env });
    this.#process.stderr.on('data', (chunk) => {
      this.#errors += chunk;
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /** Returns the answer to one request. Rejects with Python's traceback. */
  async ask<T>(request: { do: string; [key: string]: unknown }): Promise<T> {
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`The Python process ended: ${this.#errors}`);
    const answer = JSON.parse(value) as { result?: T; error?: string };
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer.result as T;
  }

  close(): void {
    this.#process.stdin.end();
  }
}

/** Starts the twin before a suite. Skips the suite with the reason if no Python has torch, numpy and these modules. */
export function useTwin(...modules: string[]): () => Twin {
  let twin: Twin | undefined;
  let threads = 0;
  before(async function () {
    const found = findPython(...modules);
    if ('reason' in found) {
      console.log(`    skipped: ${found.reason}`);
      this.skip();
    }
    twin = new Twin(found.python);
    threads = (await buildInfo()).threads;
    await setThreadCount(1); // the fastest for small tensors, and both sides sum in the same order
  });
  after(async () => {
    twin?.close();
    if (threads > 0) await setThreadCount(threads);
  });
  return () => twin!;
}
