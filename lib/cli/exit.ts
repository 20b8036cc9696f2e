/** Exit codes: 1 for any failure, 2 for an invalid command line. */
export const EXIT_FAILURE = 1;
export const EXIT_USAGE = 2;

/** Error of a command line that cannot work. Exit code 2. */
export class UsageError extends Error {
  readonly code = 'ERR_USAGE';
}

/** Failure that the command has already printed. Nothing is added. */
export class QuietFailure extends Error {
  constructor(readonly exitCode = EXIT_FAILURE) {
    super();
  }
}

/** Signal that stops a command. SIGPIPE stands for a closed output. */
export type StopSignal = 'SIGHUP' | 'SIGINT' | 'SIGTERM' | 'SIGPIPE';

/** Reason of the abort when the user or the system stops the command. */
export class Interruption extends Error {
  override readonly name = 'AbortError';
  readonly code = 'ERR_INTERRUPTED';
  /** Exit code: 128 + the number of the signal, as shells expect. */
  readonly exitCode: number;

  constructor(signal: StopSignal) {
    super(`interrupted (${signal})`);
    this.exitCode = 128 + { SIGHUP: 1, SIGINT: 2, SIGPIPE: 13, SIGTERM: 15 }[signal];
  }
}
