import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../../lib/cli/main.js', import.meta.url));

/** Line of `--json`. */
export type JsonEvent = { event: string; stage?: string; step?: number } & Record<string, unknown>;

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
  events: JsonEvent[];
}

export interface RunningProcess {
  child: ChildProcess;
  ended: Promise<Ended>;
}

/**
 * Starts a bidiseg command with `--json`.
 *
 * @param options.under command line that runs the command after it, such as `nice`
 * @param options.onEvent receives each event at once
 */
export function startBidiseg(
  args: string[],
  options: { under?: string[]; onEvent?: (event: JsonEvent, child: ChildProcess) => void } = {},
): RunningProcess {
  const [command, ...rest] = [...(options.under ?? []), process.execPath, MAIN, ...args];
  // One thread, because the networks are tiny and the results of an uninterrupted run must be repeated bit for bit.
  const env = { ...process.env, OMP_NUM_THREADS: '1' };
  const child = spawn(command!, rest, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const events: JsonEvent[] = [];
  let stderr = '';
  createInterface({ input: child.stdout! }).on('line', (line) => {
    // A process that is killed may leave half a line.
    if (!line.endsWith('}')) return;
    const event = JSON.parse(line) as JsonEvent;
    events.push(event);
    options.onEvent?.(event, child);
  });
  child.stderr!.on('data', (data) => {
    stderr += data;
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stderr, events }));
  });
  return { child, ended };
}
