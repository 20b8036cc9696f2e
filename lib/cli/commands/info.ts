import type { Command } from 'commander';
import type { BuildInfo } from '../../device.js';
import { oneLine } from '../../format.js';
import { packageVersion } from '../../run/package-version.js';
import { QuietFailure } from '../exit.js';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { weightsInfo } from '../weights-info.js';

export function addInfoCommand(program: Command): void {
  const command = program
    .command('info')
    .description(
      'shows versions, where LibTorch was found, and the devices that can be computed on; or what a weights file holds',
    )
    .argument('[file]', 'weights: safetensors or a PyTorch state dict (.pth), of which nothing is executed');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg info', 'what to put into a bug report'],
    ['bidiseg info --json', 'the same for a program'],
    ['bidiseg info weights.pth', 'format, network, tensors and sizes of a weights file'],
  ]);
  command.action((file: string | undefined, options: CommonOptions) =>
    runCommand(options, (context) => (file === undefined ? info(context) : fileInfo(file, context))),
  );
}

async function fileInfo(file: string, { console }: CommandContext): Promise<void> {
  const { data, rows } = await weightsInfo(file);
  console.result(data, rowsText(rows));
}

function rowsText(rows: [string, string][]): string {
  return rows.map(([name, value]) => `${name.padEnd(13)}${value}`).join('\n');
}

async function info({ console }: CommandContext): Promise<void> {
  const { build, problem } = await loadBuildInfo();
  const node = { version: process.version, platform: process.platform, arch: process.arch };
  const rows: [string, string][] = [
    ['bidiseg', packageVersion()],
    ['Node.js', `${node.version} (${node.platform} ${node.arch})`],
    ...(build ? describeBuild(build) : [['native part', 'not loaded'] as [string, string]]),
  ];
  console.result(
    { bidiseg: packageVersion(), node, native: build ?? null, problem: problem ?? null },
    rowsText(rows),
  );
  if (problem !== undefined) {
    process.stderr.write(`bidiseg: ${problem}\n`);
    throw new QuietFailure(problem);
  }
}

/** Imported only here and now: without the addon, the rest of the answer is still worth having. */
async function loadBuildInfo(): Promise<{ build?: BuildInfo; problem?: string }> {
  try {
    const { buildInfo } = await import('../../device.js');
    return { build: await buildInfo() };
  } catch (error) {
    return { problem: oneLine((error as Error).message) };
  }
}

function describeBuild(build: BuildInfo): [string, string][] {
  return [
    ['LibTorch', `${build.libtorchVersion} from ${build.libtorchOrigin}`],
    ['CUDA', describeCuda(build)],
    ['devices', ['cpu', ...build.cudaDevices].join(', ')],
    ['threads', String(build.threads)],
    ['CPU', build.cpuCapability],
  ];
}

function describeCuda(build: BuildInfo): string {
  if (!build.cuda) {
    return 'not compiled in: needs a CUDA build of LibTorch, and nvcc, when the addon is built';
  }
  return build.cudaDevices.length > 0
    ? 'compiled in'
    : 'compiled in, but no device answers; check the NVIDIA driver and CUDA_VISIBLE_DEVICES';
}
