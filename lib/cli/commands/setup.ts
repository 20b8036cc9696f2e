import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import type { Command } from 'commander';
import { cacheFolder, isCheckout, packageRoot } from '../../support/package.js';
import { QuietFailure } from '../exit.js';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';

interface SetupOptions extends CommonOptions {
  cuda?: boolean;
  check?: boolean;
}

export function addSetupCommand(program: Command): void {
  const command = program
    .command('setup')
    .description(
      'builds the native part on this machine, for a LibTorch of your own or for CUDA; not needed if the packages do',
    )
    .option('--cuda', 'build for CUDA; needs nvcc, and fetches a CUDA build of LibTorch if there is none')
    .option('--check', 'only report what is there and what is missing');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg setup', 'for the LibTorch of LIBTORCH, PYTHON or python3, or for one that it fetches'],
    ['PYTHON=.venv/bin/python bidiseg setup --cuda', 'for the CUDA build of torch in a Python environment'],
  ]);
  command.action((options: SetupOptions) => runCommand(options, (context) => setUp(options, context)));
}

/** Runs scripts/setup.mjs, which needs no package and no addon, so it also prepares checkouts. */
async function setUp(options: SetupOptions, { console, signal }: CommandContext): Promise<void> {
  const root = packageRoot();
  const into = isCheckout(root) ? undefined : installedFolder();
  const args = [
    path.join(root, 'scripts', 'setup.mjs'),
    ...(into === undefined ? [] : ['--into', into]),
    ...(options.cuda ? ['--cuda'] : []),
    ...(options.check ? ['--check'] : []),
  ];
  const { LIBTORCH } = process.env;
  const child = spawn(process.execPath, args, {
    // The script works in the folder of the package.
    env: { ...process.env, ...(LIBTORCH && { LIBTORCH: path.resolve(LIBTORCH) }) },
    stdio: ['ignore', options.json ? process.stderr : 'inherit', 'inherit'],
    // Its own process group, so that an abort reaches compilers and pip too.
    detached: true,
  });
  const stop = () => process.kill(-child.pid!, 'SIGTERM');
  signal.addEventListener('abort', stop, { once: true });
  const [code] = await once(child, 'close');
  signal.removeEventListener('abort', stop);
  signal.throwIfAborted();
  // The script has printed one line with the reason.
  if (code !== 0) throw new QuietFailure();
  if (options.json) console.result({ folder: into ?? root, checked: options.check === true }, '');
}

function installedFolder(): string {
  const folder = cacheFolder();
  if (folder !== undefined) return folder;
  throw new Error('Expected a home folder, or an absolute path in the variable XDG_CACHE_HOME');
}
