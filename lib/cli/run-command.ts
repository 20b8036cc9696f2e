import { writeFileSync } from 'node:fs';
import { BidisegError, NonFiniteLossError } from '../support/errors.js';
import { removeUnfinishedFiles } from '../support/files.js';
import { oneLine } from '../support/format.js';
import { Console } from './console.js';
import { EXIT_FAILURE, EXIT_USAGE, Interruption, QuietFailure, type StopSignal, UsageError } from './exit.js';
import type { Output } from './output-folder.js';

/** Context of a command. */
export interface CommandContext {
  readonly console: Console;
  /** Aborts with an `Interruption` when the command must stop. Pass it to everything that takes long. */
  readonly signal: AbortSignal;
  /** Describes what an interrupted command has kept, for the line "interrupted; …". The command sets it. */
  kept: () => string;
  /** Describes what a command that failed can go on with, for the end of its error. '': nothing. The command sets it. */
  keptAtFailure: () => string;
  /** Places that the command writes to, noted by the functions of `output-folder.ts`. */
  readonly outputs: Output[];
  /** Time for running work to end by itself after a signal, in milliseconds. Then the process ends. */
  graceMs: number;
  /** true: the command serves until a signal ends it. That is its normal end, with exit code 0. The command sets it. */
  isServer: boolean;
  /** Handles SIGHUP, which otherwise ends the command. The command sets it. */
  onHangup: (() => void) | undefined;
  /** Whether another process has said how the command was interrupted. */
  isTold: boolean;
}

/** Default of `graceMs`. Commands must end within two seconds. */
const GRACE_MS = 1500;
/** Time for open handles to close by themselves at the end, in milliseconds. */
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
    keptAtFailure: () => '',
    outputs: [],
    graceMs: GRACE_MS,
    isServer: false,
    onHangup: undefined,
    isTold: false,
  };
  listenForTheEnd(controller, context);
  try {
    await action(context);
    if (!context.isServer) controller.signal.throwIfAborted();
  } catch (error) {
    context.console.endProgress();
    const isInterrupted = controller.signal.aborted && !context.isServer;
    const reason = isInterrupted ? controller.signal.reason : error;
    process.exitCode = report(reason, context);
    tellTorchrun(oneLine(reason instanceof Error ? reason.message : String(reason)));
    for (const output of context.outputs) output.removeIfUnused();
  }
  context.console.endProgress();
  context.graceMs = 0; // what is left is to write the output
  setTimeout(exitWhenWritten, LINGER_MS).unref();
}

/** Ends the process once its readers have taken all output: an exit would drop what a full pipe has not taken yet. */
function exitWhenWritten(): void {
  if (process.stdout.writableLength + process.stderr.writableLength === 0) process.exit();
  setTimeout(exitWhenWritten, LINGER_MS).unref();
}

/** Prints an error and returns its exit code. */
function report(error: unknown, context: CommandContext): number {
  const { console } = context;
  if (process.env.BIDISEG_DEBUG === '1' && error instanceof Error) {
    process.stderr.write(`${error.stack}\n${error.cause ? `caused by ${String(error.cause)}\n` : ''}`);
  }
  if (error instanceof QuietFailure) return error.exitCode;
  if (error instanceof Interruption) {
    if (context.isTold) return error.exitCode;
    const kept = context.kept();
    console.error(
      error.code,
      oneLine(kept === '' ? 'interrupted; nothing was written' : `interrupted; ${kept}`),
    );
    return error.exitCode;
  }
  const message = error instanceof Error ? error.message : String(error);
  // A loss that is not finite would not be finite again.
  const kept = error instanceof NonFiniteLossError ? '' : context.keptAtFailure();
  console.error(errorCode(error), oneLine(kept === '' ? message : `${message}; ${kept}`));
  return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE;
}

/** Puts an error where torchrun finds it for its own report. */
function tellTorchrun(message: string): void {
  const file = process.env.TORCHELASTIC_ERROR_FILE;
  if (file === undefined || file === '' || message === '') return;
  const extraInfo = { timestamp: String(Math.floor(Date.now() / 1000)) };
  try {
    writeFileSync(file, JSON.stringify({ message: { message, extraInfo } }));
  } catch {
    // The report of torchrun then lacks the message, which was printed.
  }
}

function errorCode(error: unknown): string {
  if (error instanceof BidisegError || error instanceof UsageError) return error.code;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : 'ERR_UNEXPECTED';
}

function listenForTheEnd(controller: AbortController, context: CommandContext): void {
  const stop = (signal: StopSignal) => {
    if (signal === 'SIGHUP' && context.onHangup) return context.onHangup();
    if (controller.signal.aborted || context.graceMs === 0) {
      // A closed terminal sends SIGHUP twice, from its shell and from the system. The second does not mean haste.
      return signal === 'SIGHUP' ? undefined : leaveNow(signal, context);
    }
    const interruption = new Interruption(signal);
    // The process may end before the command notices the signal, if nothing is left to wait for.
    process.exitCode = context.isServer ? 0 : interruption.exitCode;
    controller.abort(interruption);
    if (context.isServer || context.graceMs === Infinity) return;
    setTimeout(() => {
      context.console.endProgress();
      report(interruption, context);
      leaveNow(signal, context);
    }, context.graceMs).unref();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  process.on('SIGHUP', stop);
  // The reader of our output has closed it (`bidiseg train … | head`). Stop as after a signal, without a stack trace.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') stop('SIGPIPE');
  });
  // Nobody reads a closed terminal, and the state must still be saved.
  process.stderr.on('error', () => {});
  process.on('uncaughtException', (error) => {
    context.console.endProgress();
    process.exit(report(error, context));
  });
}

/**
 * Ends the process by the signal itself. Shells see the same code (129, 130, 143) as from a normal exit. But no exit
 * handler waits for a native step that may take a minute more, and no destructor runs during that step.
 */
function leaveNow(signal: StopSignal, context: CommandContext): void {
  context.console.endProgress();
  removeUnfinishedFiles();
  for (const output of context.outputs) output.removeIfUnused();
  // Node ignores SIGPIPE, so that signal cannot end the process.
  if (signal === 'SIGPIPE') process.exit();
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}
