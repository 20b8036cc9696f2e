import { isIPv4 } from 'node:net';
import fastifyBearerAuth from '@fastify/bearer-auth';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { InvalidArgumentError } from '../support/errors.js';
import { HttpError } from './http-error.js';

/** Decides who may use a server. */
export interface Access {
  /** Address or name to listen on. */
  host: string;
  /** Token that every request needs, see {@link requireAccess}. undefined: none, on the loopback only. */
  token?: string | undefined;
}

/** Shortest token. A token of 16 random characters cannot be guessed over a network. */
const MIN_TOKEN_LENGTH = 16;

/** @throws InvalidArgumentError when others could reach the server without a token, or the token is too short */
export function checkAccess({ host, token }: Access): void {
  if (token === undefined) {
    if (isLoopback(host)) return;
    throw new InvalidArgumentError(
      `Expected --token or the environment variable BIDISEG_TOKEN for host ${host}, because other machines can reach it`,
    );
  }
  if (token.length < MIN_TOKEN_LENGTH || !/^[\x21-\x7e]+$/.test(token)) {
    throw new InvalidArgumentError(
      `Expected a token of at least ${MIN_TOKEN_LENGTH} visible ASCII characters; 'openssl rand -hex 16' makes one`,
    );
  }
}

/**
 * Refuses requests that must not use the server.
 *
 * With a token, each request needs `Authorization: Bearer TOKEN`. `isOpen` exempts requests. The comparison takes
 * constant time. Without a token, the server is on the loopback. A web page in a browser of this machine could still
 * reach it. So `Host` must then be a name of the loopback, which stops DNS rebinding. `Origin`, if there is one, must
 * be the server's own.
 */
export async function requireAccess(
  app: FastifyInstance,
  { token }: Access,
  isOpen: (request: FastifyRequest) => boolean,
): Promise<void> {
  if (token === undefined) {
    app.addHook('onRequest', async ({ headers }) => refuseOtherSites(headers));
    return;
  }
  await app.register(fastifyBearerAuth, { keys: [token], addHook: false, verifyErrorLogLevel: 'info' });
  app.addHook('onRequest', (request, reply, done) => {
    if (isOpen(request)) return done();
    app.verifyBearerAuth!(request, reply, (error) => {
      if (error) reply.header('www-authenticate', 'Bearer');
      done(
        error && new HttpError(401, `Expected the header 'Authorization: Bearer TOKEN': ${error.message}`),
      );
    });
  });
}

function refuseOtherSites({ host = '', origin }: FastifyRequest['headers']): void {
  if (!isLoopback(hostname(host))) {
    throw new HttpError(
      403,
      `Expected a name of this machine in the header Host, such as localhost, but found '${host}'`,
    );
  }
  if (origin !== undefined && origin !== `http://${host}`) {
    throw new HttpError(403, `Expected no request from another site but found the origin '${origin}'`);
  }
}

/** Returns the name or address in a `Host` header, without its port. */
function hostname(host: string): string {
  return host.replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1');
}

/** Tells whether a name or address is the loopback's. */
export function isLoopback(host: string): boolean {
  return /^localhost$/i.test(host) || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}
