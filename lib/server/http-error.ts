import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

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

/** Sends an error as JSON. What we did not foresee is logged, and its message stays here. */
export function sendError(
  error: FastifyError | HttpError,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const statusCode = error.statusCode ?? 500;
  if ((error as FastifyError).code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    const { bodyLimit } = request.server.initialConfig;
    error = new HttpError(413, `Expected a body of at most ${bodyLimit} bytes but found more`);
  }
  const isForeseen = statusCode < 500 || error instanceof HttpError;
  if (!isForeseen) request.log.error({ err: error }, 'unforeseen error');
  if (error instanceof HttpError && error.retryAfter !== undefined) {
    reply.header('retry-after', Math.max(1, Math.ceil(error.retryAfter)));
  }
  const message = isForeseen ? error.message : 'The server failed; its log has the reason';
  return reply.code(statusCode).send({ statusCode, error: STATUS_CODES[statusCode], message });
}

/** Answers what is not HTTP, or came too slowly. */
export function answerClientError(
  this: FastifyInstance,
  error: Error & { code?: string },
  socket: Socket,
): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const statusCode =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400;
  const message = statusCode === 408 ? 'The request came too slowly' : 'The request is not HTTP as expected';
  const body = JSON.stringify({ statusCode, error: STATUS_CODES[statusCode], message });
  socket.end(
    `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}\r\nContent-Type: application/json; charset=utf-8\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
