import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './folder.js';

export interface ChildResult {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  durationMs: number;
}

/**
 * Runs test/boundary/fixtures/`name` with Node and waits for its end. `onOutput` receives the output at once. A child
 * that does not end within `timeoutMs` is killed. Its signal is then SIGKILL.
 */
export function runFixture(
  name: string,
  args: string[],
  options: {
    nodeFlags?: string[];
    env?: Record<string, string>;
    cwd?: string;
    onOutput?: (child: ChildProcess, stdout: string) => void;
    timeoutMs?: number;
  } = {},
): Promise<ChildResult> {
  const { nodeFlags = [], env, cwd, onOutput, timeoutMs = 300_000 } = options;
  const file = join(ROOT, 'test/boundary/fixtures', name);
  const start = performance.now();
  const child = spawn(process.execPath, [...nodeFlags, file, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd,
    // One thread each, because the machine may be busy and stopping must not depend on its speed.
    env: { ...process.env, OMP_NUM_THREADS: '1', ...env },
  });
  const result = { stdout: '', stderr: '' };
  child.stderr!.on('data', (chunk) => {
    result.stderr += chunk;
  });
  child.stdout!.on('data', (chunk) => {
    result.stdout += chunk;
    onOutput?.(child, result.stdout);
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, ...result, durationMs: performance.now() - start });
    });
  });
}
