import { statSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { LABEL_MAP_NAMES } from '../../data/label-maps.js';
import type { BuildInfo } from '../../native/device.js';
import { oneLine } from '../../support/format.js';
import { packageVersion } from '../../support/package.js';
import { CLASSES_HELP, parseClasses } from '../classes.js';
import type { DatasetInfoOptions } from '../dataset-info.js';
import { QuietFailure, UsageError } from '../exit.js';

import { addExamples, addJsonOption, type CommonOptions, maxPixelsOption, parseCount } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { weightsInfo } from '../weights-info.js';

type InfoOptions = CommonOptions & Partial<DatasetInfoOptions>;

/** Images of each part of a data set that are read unless the user says how many. */
const SAMPLE = 50;

export function addInfoCommand(program: Command): void {
  const command = program
    .command('info')
    .description(
      'shows versions, where LibTorch was found, and the devices that can be computed on; or what a weights file or a data set holds',
    )
    .argument(
      '[path]',
      'weights: safetensors or a PyTorch state dict (.pth), of which nothing is executed; or the folder of a data set',
    )
    .option('--labels <folder>', "for a folder of images: label PNGs with the images' names")
    .addOption(
      new Option(
        '--label-map <name>',
        "for a data set: from ids in the label files to classes (default: its layout's)",
      ).choices(LABEL_MAP_NAMES),
    )
    .option(
      '--classes <names>',
      `for a data set: ${CLASSES_HELP} (default: the label map's, or numbers)`,
      parseClasses,
    )
    .option(
      '--sample <count>',
      `for a data set: images of each part to read (default: ${SAMPLE})`,
      parseCount,
    )
    .option('--contact-sheet <file>', 'for a data set: write a PNG of some images and their labels')
    .addOption(maxPixelsOption());
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg info', 'what to put into a bug report'],
    ['bidiseg info --json', 'the same for a program'],
    ['bidiseg info weights.pth', 'format, network, tensors and sizes of a weights file'],
    [
      'bidiseg info cityscapes --contact-sheet sheet.png',
      'images, sizes and class shares of a data set, and whether a sample of it can be read',
    ],
  ]);
  command.action((path: string | undefined, options: InfoOptions) =>
    runCommand(options, (context) => infoAbout(path, options, context)),
  );
}

async function infoAbout(
  path: string | undefined,
  options: InfoOptions,
  context: CommandContext,
): Promise<void> {
  const { contactSheet } = options;
  if (contactSheet !== undefined && !/\.png$/i.test(contactSheet)) {
    throw new UsageError(`Expected a file that ends in .png for --contact-sheet but found ${contactSheet}`);
  }
  if (path !== undefined && statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    const { datasetInfo } = await import('../dataset-info.js');
    return datasetInfo(path, { ...options, sample: options.sample ?? SAMPLE }, context);
  }
  const { json: _, ...forFolders } = options;
  if (Object.keys(forFolders).length > 0) {
    throw new UsageError(
      '--labels, --label-map, --classes, --sample, --contact-sheet and --max-pixels are for the folder of a data set',
    );
  }
  return path === undefined ? info(context) : fileInfo(path, context);
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
    const { buildInfo } = await import('../../native/device.js');
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
    ...Object.entries(build.precisions).map(
      ([device, names]) => [`on ${device}`, `trains in ${names.join(', ')}`] as [string, string],
    ),
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
