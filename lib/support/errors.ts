/** Base class of every error that bidiseg throws on purpose. Programs should test its stable `code`. */
export class BidisegError extends Error {
  /** Stable identifier such as `ERR_INVALID_ARGUMENT`. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Reports an argument or option of the wrong type or outside its range. */
export class InvalidArgumentError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_INVALID_ARGUMENT', message, options);
  }
}

/** Reports a malformed config file or `--set` assignment. The message names the key and the expected value. */
export class ConfigError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_CONFIG', message, options);
  }
}

/** Reports a file or folder that cannot be used. The message names it, what was found and what was expected. */
export class DataError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DATA', message, options);
  }
}

/** Reports a call on an object after `dispose()`. */
export class DisposedError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DISPOSED', message, options);
  }
}

/** Reports a failure of native code that no argument check foresaw. */
export class NativeError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_NATIVE', message, options);
  }
}

/** Reports that a {@link BatchedPredictor} has as many images waiting as it may have. Nothing was computed. */
export class QueueFullError extends BidisegError {
  /** Time until the waiting images will be computed, in milliseconds, by the speed so far. A hint for Retry-After. */
  readonly retryAfterMs: number;

  constructor(message: string, retryAfterMs: number, options?: ErrorOptions) {
    super('ERR_QUEUE_FULL', message, options);
    this.retryAfterMs = retryAfterMs;
  }
}

/** Reports that memory ran out, on the host or on a device. The process stays usable. */
export class OutOfMemoryError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_OUT_OF_MEMORY', message, options);
  }
}

/** Reports a loss or gradient that became NaN or infinite. The step was not applied. */
export class NonFiniteLossError extends BidisegError {
  /** Process of a group whose loss or gradient it was. null: the step had one process. */
  readonly rank: number | null;

  constructor(message: string, options?: ErrorOptions & { rank?: number | null | undefined }) {
    super('ERR_NON_FINITE_LOSS', message, options);
    this.rank = options?.rank ?? null;
  }
}

/** Reports that an operation of a process group failed. The message names this rank and the ranks that are missing. */
export class ProcessGroupError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_PROCESS_GROUP', message, options);
  }
}

/** Reports that the native addon could not be loaded. The message lists every attempt and the remedy. */
export class BindingError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_BINDING', message, options);
  }
}
