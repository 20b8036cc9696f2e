import { BidisegError } from '../support/errors.js';
import { removeUnfinishedFiles } from '../support/files.js';
import { oneLine } from '../support/format.js';
import { Console } from './console.js';
import { EXIT_FAILURE, EXIT_USAGE, Interruption, QuietFailure, type StopSignal, UsageError } from './exit.js';
import type { Output } from './output-folder.js';

/** What a command gets from the process around it. */
export interface CommandContext {
  readonly console: Console;
  /** Aborts with an `Interruption` when the command is to stop; pass it to everything that takes long. */
  readonly signal: AbortSignal;
  /** Set by the command: what an interruption leaves behind, as the end of the line "interrupted; …". */
  kept: () => string;
  /** Places that the command writes to, as those who prepare them note them. */
  readonly outputs: Output[];
  /** After a signal, what is under way gets this long to end by itself, in milliseconds; then the process ends anyway. */
  graceMs: number;
}

/** The promise to the user is two seconds. */
const GRACE_MS = 1500;
/** After the last word, open handles get this long to close by themselves. */
const LINGER_MS = 500;

/** Runs one command to its end and sets the exit code of the process. Never rejects. */
export async function runCommand(
  options: { json?: boolean },
  action: (context: CommandContext) => Promise<void>,
): Promise<void> {
  const controller = new AbortController();
  const context: CommandContext = {
    console: new Console(options.json === true),
    signal: controller.signal,
    kept: () => '',
    outputs: [],
    graceMs: GRACE_MS,
  };
  listenForTheEnd(controller, context);
  try {
    await action(context);
    controller.signal.throwIfAborted();
  } catch (error) {
    context.console.endProgress();
    process.exitCode = report(controller.signal.aborted ? controller.signal.reason : error, context);
    for (const output of context.outputs) output.removeIfUnused();
  }
  context.console.endProgress();
  setTimeout(() => process.exit(), LINGER_MS).unref();
}

/** Tells what went wrong and returns the exit code for it. */
function report(error: unknown, context: CommandContext): number {
  const { console } = context;
  if (process.env.BIDISEG_DEBUG === '1' && error instanceof Error) {
    process.stderr.write(`${error.stack}\n${error.cause ? `caused by ${String(error.cause)}\n` : ''}`);
  }
  if (error instanceof QuietFailure) return EXIT_FAILURE;
  if (error instanceof Interruption) {
    const kept = context.kept();
    console.error(
      error.code,
      oneLine(kept === '' ? 'interrupted; nothing was written' : `interrupted; ${kept}`),
    );
    return error.exitCode;
  }
  console.error(errorCode(error), oneLine(error instanceof Error ? error.message : String(error)));
  return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE;
}

function errorCode(error: unknown): string {
  if (error instanceof BidisegError || error instanceof UsageError) return error.code;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : 'ERR_UNEXPECTED';
}

function listenForTheEnd(controller: AbortController, context: CommandContext): void {
  const stop = (signal: StopSignal) => {
    if (controller.signal.aborted) {
      // A closed terminal sends SIGHUP twice, by its shell and by the system; nobody is in a hurry there.
      return signal === 'SIGHUP' ? undefined : leaveNow(signal, context);
    }
    const interruption = new Interruption(signal);
    // Also for the case that nothing is left to wait for and the process ends before the command has noticed.
    process.exitCode = interruption.exitCode;
    controller.abort(interruption);
    if (context.graceMs === Infinity) return;
    setTimeout(() => {
      context.console.endProgress();
      report(interruption, context);
      leaveNow(signal, context);
    }, context.graceMs).unref();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  process.on('SIGHUP', stop);
  // The reader of our output is gone (`bidiseg train … | head`): as good as a signal, and no reason for a stack trace.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') stop('SIGPIPE');
  });
  // Nobody hears what is said to a closed terminal, and the state is still to be saved.
  process.stderr.on('error', () => {});
  process.on('uncaughtException', (error) => {
    context.console.endProgress();
    process.exit(report(error, context));
  });
}

/**
 * Ends the process by the signal itself, as if nobody had listened. Shells see the same code (129, 130, 143) as from a proper
 * exit, but no exit handler waits for a native step that may go on for a minute, and no destructor runs under its feet.
 */
function leaveNow(signal: StopSignal, context: CommandContext): void {
  context.console.endProgress();
  removeUnfinishedFiles();
  for (const output of context.outputs) output.removeIfUnused();
  // Node ignores SIGPIPE, so it cannot end anything.
  if (signal === 'SIGPIPE') process.exit();
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}
