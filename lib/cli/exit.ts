/** What the shell is told: 1 for anything that went wrong, 2 for a command line that makes no sense. */
export const EXIT_FAILURE = 1;
export const EXIT_USAGE = 2;

/** The command line asks for something that no run could do; exit code 2. */
export class UsageError extends Error {
  readonly code = 'ERR_USAGE';
}

/** The addon or its CUDA half is not what the command needs; the command has said so itself, so nothing is added. */
export class QuietFailure extends Error {}

/** What stops a command: a signal, or the end of whoever reads its output. */
export type StopSignal = 'SIGHUP' | 'SIGINT' | 'SIGTERM' | 'SIGPIPE';

/** The reason of the abort when the user or the system asks the command to stop. */
export class Interruption extends Error {
  override readonly name = 'AbortError';
  readonly code = 'ERR_INTERRUPTED';
  /** 128 + the number of the signal, as shells expect. */
  readonly exitCode: number;

  constructor(signal: StopSignal) {
    super(`interrupted (${signal})`);
    this.exitCode = 128 + { SIGHUP: 1, SIGINT: 2, SIGPIPE: 13, SIGTERM: 15 }[signal];
  }
}
