import { once } from 'node:events';
import type { Command } from 'commander';
import { addExamples } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { addServerOptions, type HttpOptions, serverOptions } from '../server-options.js';

/** Default port. TensorBoard's is 6006. */
const PORT = 6007;

export function addWatchCommand(program: Command): void {
  const command = program
    .command('watch')
    .description(
      'serves a live page of a run: stages, losses, mIoU, speed, warnings and pictures as they come',
    )
    .argument('<run>', 'run folder; its run may be going on, interrupted, complete, or not have begun');
  addServerOptions(command, PORT);
  addExamples(command, [
    ['bidiseg watch runs/demo', `then open http://127.0.0.1:${PORT}/; Ctrl+C ends it, and the run goes on`],
    ['bidiseg watch runs/street --port 0', 'at any free port'],
    [
      'BIDISEG_TOKEN=$(openssl rand -hex 16) bidiseg watch runs/street --host 0.0.0.0',
      'for other machines; the address that it prints holds the token',
    ],
  ]);
  command.action((run: string, options: HttpOptions) =>
    runCommand(options, (context) => watch(run, options, context)),
  );
}

async function watch(folder: string, options: HttpOptions, context: CommandContext): Promise<void> {
  const { console, signal } = context;
  const listening = await serverOptions(options);
  const { watchRun } = await import('../../server/watch-server.js');
  // Requests of a page that asks again and again are not worth a line each.
  const server = await watchRun(folder, { ...listening, log: false });
  context.isServer = true;
  console.event('listening', { url: server.url, status: server.status });
  console.note(
    `${server.status === 'waiting' ? 'Waiting for a run to begin in' : 'Watching'} ${folder}: ${server.url}`,
  );
  if (!signal.aborted) await once(signal, 'abort');
  await server.close();
  console.event('result', { folder });
}
