import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import type { Config } from '../config/schema.js';
import type { RunEvent } from '../pipeline/events.js';
import { requireTrainingDevice } from '../pipeline/require-device.js';
import { NonFiniteLossError } from '../support/errors.js';
import type { TrainOptions } from '../workflows/train.js';
import { EXIT_FAILURE, QuietFailure, UsageError } from './exit.js';
import { parseCount } from './options.js';
import { prepareOutputFolder } from './output-folder.js';
import type { CommandContext } from './run-command.js';
import { followRun } from './run-view.js';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** Time for a process to end by itself before it is killed, and for rank 0, which saves the state, in milliseconds. */
const GRACE_MS = 10_000;
const SAVING_MS = 600_000;

/** Options of commands that train in several processes. */
export interface ProcessOptions {
  processes?: number;
  processTimeout?: number;
}

export function addProcessOptions(command: Command): Command {
  return command
    .option(
      '--processes <count>',
      'train in this many processes of this machine, each with its share of the cores or a GPU; same result (default: 1, or as torchrun or srun started them)',
      parseCount,
    )
    .option(
      '--process-timeout <seconds>',
      'with several processes: time after which one that hangs is an error (default: 600)',
      parseCount,
    );
}

/**
 * Trains and shows the run: in this process, as one of those that a launcher started, or in new processes.
 */
export async function trainAndFollow(
  config: Config,
  options: ProcessOptions & Omit<TrainOptions, 'group' | 'restarted' | 'signal'>,
  context: CommandContext,
): Promise<void> {
  const { processes: count, processTimeout, ...training } = options;
  if (count === 0) throw new UsageError('--processes: expected at least 1');
  const { launchedProcess } = await import('../native/launcher.js');
  const launched = launchedProcess();
  if (count !== undefined && launched !== null && launched.launcher !== 'bidiseg') {
    throw new UsageError(
      `--processes cannot be combined with ${launched.launcher}, which started this process`,
    );
  }
  if (count !== undefined && count > 1 && launched === null) {
    const { requireDividedSteps } = await import('../pipeline/divided-steps.js');
    requireDividedSteps(config, count);
    return startProcesses(count, context);
  }
  const isFirst = (launched?.rank ?? 0) === 0;
  if (launched?.launcher === 'bidiseg') endWithParent();
  if (!isFirst) {
    context.console.silence();
    context.isTold = true;
  }
  const [{ train }, { joinProcesses }] = await Promise.all([
    import('../workflows/train.js'),
    import('../pipeline/processes.js'),
  ]);
  const { signal } = context;
  try {
    using joined = await joinProcesses(config, { timeoutSeconds: processTimeout, signal });
    await requireTrainingDevice(joined?.config ?? config);
    if (isFirst) prepareOutputFolder(config.output, context);
    if (joined) context.console.note(joined.description);
    const events = train(joined?.config ?? config, {
      ...training,
      signal,
      group: joined?.group,
      restarted: (launched?.restarts ?? 0) > 0,
    });
    if (isFirst) await followRun(context, events, { folder: config.output });
    else await drainQuietly(events);
  } catch (error) {
    const { ToldError } = await import('../native/group-values.js');
    const isTold = error instanceof ToldError || (error instanceof NonFiniteLossError && error.rank !== null);
    // Rank 0 has the same error and says it for all.
    if (!isFirst && isTold) throw new QuietFailure();
    throw error;
  }
}

async function drainQuietly(events: AsyncIterable<RunEvent>): Promise<void> {
  for await (const _ of events);
}

/** Ends this process as SIGTERM would when the process that started it is gone. */
function endWithParent(): void {
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  process.channel?.unref();
}

interface End {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
  /** Last line on stderr. Rank 0 has shown its own. */
  words: string;
}

interface Ends {
  /** First process that failed. undefined: all have succeeded. */
  failed: End | undefined;
  /** First process whose failure is not that of another one, and that rank 0 cannot know. */
  cause: End | undefined;
}

/** Runs this command in `count` processes and waits until all have ended. Rank 0 has the output. */
async function startProcesses(count: number, context: CommandContext): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-'));
  // Rank 0 describes how it ends, and has to save its state.
  context.isTold = true;
  context.graceMs = Number.POSITIVE_INFINITY;
  const group = new StartedGroup(count, path.join(folder, 'meeting'));
  const forward = (signal: NodeJS.Signals) => group.stop(signal);
  // Before the listener that ends this process at the second signal.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.prependListener(signal, forward);
  try {
    const { failed, cause } = await group.ended;
    if (!failed || context.signal.aborted) return;
    if (cause) context.console.error('ERR_PROCESS_GROUP', group.describe(cause));
    throw new QuietFailure(failed.code ?? EXIT_FAILURE);
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, forward);
    await rm(folder, { recursive: true, force: true });
  }
}

/** Processes that were started together. When one fails, the others are ended. */
class StartedGroup {
  readonly ended: Promise<Ends>;
  readonly #children: ChildProcess[];
  readonly #failures: End[] = [];

  constructor(count: number, meetingFile: string) {
    this.#children = Array.from({ length: count }, (_, rank) => startProcess(rank, count, meetingFile));
    const ends = this.#children.map((child, rank) => this.#follow(child, rank));
    this.ended = Promise.all(ends).then(() => ({
      failed: this.#failures[0],
      cause: this.#failures.find(isCause),
    }));
  }

  stop(signal: NodeJS.Signals): void {
    for (const child of this.#children) child.kill(signal);
  }

  describe({ rank, code, signal, words }: End): string {
    const how = signal ? `was ended by ${signal}` : `ended with code ${code}`;
    return `rank ${rank} ${how}${words === '' ? '' : `: ${words}`}; the other processes were stopped`;
  }

  #follow(child: ChildProcess, rank: number): Promise<void> {
    let errors = '';
    child.stderr?.on('data', (text: Buffer) => {
      errors = (errors + String(text)).slice(-4000);
    });
    return new Promise((resolve) => {
      child.on('error', () => resolve());
      child.on('close', (code, signal) => {
        const words = (errors.trim().split('\n').at(-1) ?? '').replace(/^bidiseg: /, '');
        if (code !== 0) this.#onFailure({ rank, code, signal, words });
        resolve();
      });
    });
  }

  #onFailure(end: End): void {
    this.#failures.push(end);
    if (this.#failures.length > 1) return;
    this.stop('SIGTERM');
    this.stop('SIGCONT'); // one that was stopped can end then
    for (const [rank, child] of this.#children.entries()) {
      setTimeout(() => child.kill('SIGKILL'), rank === 0 ? SAVING_MS : GRACE_MS).unref();
    }
  }
}

function isCause({ rank, code, signal, words }: End, index: number): boolean {
  // A process that lost another one, or was stopped here because of one.
  const isEffect = /Rank \d+ of \d+: /.test(words) || (index > 0 && words === '');
  // Without words, code 1 is an error that rank 0 says for all.
  return rank > 0 && !isEffect && (signal !== null || words !== '' || code !== EXIT_FAILURE);
}

function startProcess(rank: number, count: number, meetingFile: string): ChildProcess {
  const places = { RANK: rank, WORLD_SIZE: count, LOCAL_RANK: rank, LOCAL_WORLD_SIZE: count };
  const threads = Math.max(1, Math.floor(availableParallelism() / count));
  const env = {
    OMP_NUM_THREADS: String(threads),
    // One machine needs no other interface, and nobody else can connect to this one.
    GLOO_SOCKET_IFNAME: 'lo',
    ...process.env,
    ...Object.fromEntries(Object.entries(places).map(([name, value]) => [name, String(value)])),
    BIDISEG_MEETING_FILE: meetingFile,
  };
  const args = [...process.execArgv, MAIN, ...process.argv.slice(2)];
  return spawn(process.execPath, args, {
    env,
    // A process group of its own keeps Ctrl-C from reaching it twice.
    detached: true,
    stdio: rank === 0 ? ['ignore', 'inherit', 'inherit', 'ipc'] : ['ignore', 'ignore', 'pipe', 'ipc'],
  });
}
