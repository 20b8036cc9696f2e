import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { StageRecord } from '../pipeline/events.js';
import { configFile } from '../run/run-files.js';
import { onAbort } from '../support/abort.js';
import type { StageOfRun } from '../workflows/ablation/ablation.js';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** Progress of a stage in another process. */
export interface StageProgress {
  done: number;
  total: number;
}

/**
 * Runs one stage as `bidiseg train` in its own process. So several stages can run side by side, and each returns its
 * memory at the end. An abort stops the process as Ctrl-C would: it saves its state first.
 *
 * @param options.jobs number of such processes that share the machine; each gets its share of the threads
 * @throws Error with the message of the process when it fails
 */
export async function runStageProcess(
  { folder, stage }: StageOfRun,
  options: { jobs: number; signal: AbortSignal; onProgress: (progress: StageProgress) => void },
): Promise<StageRecord> {
  const { jobs, signal, onProgress } = options;
  const threads = Math.max(1, Math.floor(availableParallelism() / jobs));
  const env = { ...(jobs > 1 && { OMP_NUM_THREADS: String(threads) }), ...process.env };
  const args = [MAIN, 'train', configFile(folder), '--stage', stage.name, '--json'];
  // Its own process group keeps Ctrl-C from reaching it twice. A second signal stops it without saving.
  const child = spawn(process.execPath, args, { env, detached: true, stdio: ['ignore', 'pipe', 'ignore'] });
  const stop = () => child.kill('SIGTERM');
  if (signal.aborted) stop();
  const removeListener = onAbort(signal, stop);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  let record: StageRecord | undefined;
  let message = '';
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      const event = JSON.parse(line) as { event: string } & Record<string, unknown>;
      if (event.event === 'step') onProgress({ done: event.step as number, total: event.steps as number });
      if (event.event === 'progress') onProgress(event as unknown as StageProgress);
      if (event.event === 'stage-end') record = event.record as StageRecord;
      if (event.event === 'error') message = event.message as string;
    }
    const code = await ended;
    signal.throwIfAborted();
    if (code === 0 && record) return record;
    throw new Error(message || `the process ended with code ${code}`);
  } finally {
    removeListener();
  }
}
