import { type Command, InvalidArgumentError } from 'commander';
import type { ServerOptions } from '../server/http-server.js';
import { UsageError } from './exit.js';
import { addJsonOption, type CommonOptions } from './options.js';

/** Options of commands that serve over HTTP. */
export interface HttpOptions extends CommonOptions {
  host: string;
  port: number;
  token?: string;
}

export function addServerOptions(command: Command, port: number): Command {
  command
    .option('-p, --port <number>', `port to listen on; 0 takes any free port`, parsePort, port)
    .option('--host <address>', 'address to listen on; others than the loopback need a token', '127.0.0.1')
    .option(
      '--token <text>',
      'token that requests need, at least 16 characters (default: the environment variable BIDISEG_TOKEN, which other users of the machine cannot see)',
    );
  return addJsonOption(command);
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65535)
    throw new InvalidArgumentError('Expected a port from 0 to 65535.');
  return port;
}

/**
 * Returns where to listen and who may use the server.
 *
 * @throws UsageError when others could reach the server without a token
 */
export async function serverOptions({ host, port, token, json }: HttpOptions): Promise<ServerOptions> {
  const { checkAccess } = await import('../server/access.js');
  // An empty variable is none.
  const options = {
    host,
    port,
    token: token ?? (process.env.BIDISEG_TOKEN || undefined),
    log: json === true,
  };
  try {
    checkAccess(options);
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
  return options;
}
