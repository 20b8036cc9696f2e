/** Every error that bidiseg throws on purpose is one of these; `code` is stable and meant for programs. */
export class BidisegError extends Error {
  /** A stable identifier such as `ERR_INVALID_ARGUMENT`. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An argument or option is of the wrong type or outside its range. */
export class InvalidArgumentError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_INVALID_ARGUMENT', message, options);
  }
}

/** A config file or `--set` assignment is malformed; the message names the key and what was expected. */
export class ConfigError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_CONFIG', message, options);
  }
}

/** A file or folder of data cannot be used; the message names it, what was found and what was expected. */
export class DataError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DATA', message, options);
  }
}

/** A method was called on an object after `dispose()`. */
export class DisposedError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DISPOSED', message, options);
  }
}

/** The native part failed in a way that no argument check foresaw. */
export class NativeError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_NATIVE', message, options);
  }
}

/** Memory ran out, on the host or on a device. The process can go on. */
export class OutOfMemoryError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_OUT_OF_MEMORY', message, options);
  }
}

/** A loss or a gradient became NaN or infinite; the step was not applied. */
export class NonFiniteLossError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_NON_FINITE_LOSS', message, options);
  }
}

/** An operation of a process group failed. The message names this rank and the ranks that are missing. */
export class ProcessGroupError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_PROCESS_GROUP', message, options);
  }
}

/** The native addon could not be loaded; the message lists every attempt and the remedy. */
export class BindingError extends BidisegError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_BINDING', message, options);
  }
}
