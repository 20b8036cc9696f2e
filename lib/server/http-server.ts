import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import Fastify, { type FastifyHttpOptions, type FastifyInstance } from 'fastify';
import { DataError } from '../support/errors.js';
import { type Access, checkAccess } from './access.js';
import { answerClientError, HttpError, sendError } from './http-error.js';

export interface ServerOptions extends Access {
  /** Port to listen on. 0: any free port. */
  port: number;
  /** Writes one JSON object per line to stdout for each request. Default false. */
  log?: boolean;
}

/**
 * Requests of one connection without an answer. A client that sends many at once and never reads would otherwise fill the
 * memory with answers.
 */
const MAX_UNANSWERED = 16;

/** Beyond as many, refusals included, the connection is closed. Refusals that nobody reads fill the memory too. */
const MAX_UNREAD = 4 * MAX_UNANSWERED;

/**
 * Creates a server. Its errors are JSON objects `{ statusCode, error, message }`. Nothing that it sends may be framed,
 * sniffed or read by other sites.
 */
export function createServer(
  options: ServerOptions,
  limits: FastifyHttpOptions<Server> = {},
): FastifyInstance {
  checkAccess(options);
  const app = Fastify({
    // Through `process.stdout` as all other output: Pino's own stream may write a line later than what is printed after
    // it. Without a log of requests, unforeseen errors still show.
    logger: options.log === true ? { stream: process.stdout } : { level: 'error', stream: process.stderr },
    forceCloseConnections: 'idle',
    clientErrorHandler: answerClientError,
    ...limits,
  }) as FastifyInstance;
  app.addHook('onRequest', async (_request, reply) => {
    reply.headers({
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-store',
    });
  });
  const unanswered = new WeakMap<Socket, number>();
  app.addHook('onRequest', async ({ raw: { socket } }, reply) => {
    const count = (unanswered.get(socket) ?? 0) + 1;
    unanswered.set(socket, count);
    reply.raw.once('close', () => unanswered.set(socket, unanswered.get(socket)! - 1));
    if (count > MAX_UNREAD) socket.destroy();
    if (count > MAX_UNANSWERED) {
      throw new HttpError(429, `Expected at most ${MAX_UNANSWERED} requests at once on a connection`);
    }
  });
  app.setErrorHandler(sendError);
  app.setNotFoundHandler((request) => {
    throw new HttpError(404, `Nothing is at ${request.method} ${request.url.split('?')[0]}`);
  });
  return app;
}

/**
 * Begins to listen.
 *
 * @returns the address of the server, such as `http://127.0.0.1:8080/`
 * @throws DataError when the address cannot be used; the message names host and port
 */
export async function listen(app: FastifyInstance, { host, port }: ServerOptions): Promise<string> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const reason = REASONS[code ?? ''] ?? (error as Error).message;
    throw new DataError(`Cannot listen on ${host}, port ${port}: ${reason}`, { cause: error });
  }
  const { port: actual } = app.server.address() as { port: number };
  return `http://${host.includes(':') ? `[${host}]` : host}:${actual}/`;
}

const REASONS: Record<string, string> = {
  EADDRINUSE: 'another program uses it; choose another with --port',
  EACCES: 'no permission; choose a port from 1024 with --port',
  EADDRNOTAVAIL: 'the host is no address of this machine',
  ENOTFOUND: 'the host is unknown',
};
