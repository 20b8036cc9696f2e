/** Error with an HTTP status. Its message goes to the client. */
export class HttpError extends Error {
  /** Seconds for the header `Retry-After`. */
  readonly retryAfter: number | undefined;

  constructor(
    readonly statusCode: number,
    message: string,
    options: ErrorOptions & { retryAfter?: number } = {},
  ) {
    super(message, options);
    this.retryAfter = options.retryAfter;
  }
}
