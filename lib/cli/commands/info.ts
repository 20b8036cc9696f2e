import { statSync } from 'node:fs';
import type { Command } from 'commander';
import type { BuildInfo } from '../../native/device.js';
import { oneLine } from '../../support/format.js';
import { packageVersion } from '../../support/package.js';
import { CLASSES_HELP, LABEL_MAP_HELP, readClasses, readLabelMap } from '../classes.js';
import type { DatasetInfoOptions } from '../dataset-info.js';
import { QuietFailure, UsageError } from '../exit.js';

import {
  addExamples,
  addJsonOption,
  addOverwriteOption,
  type CommonOptions,
  maxPixelsOption,
  parseCount,
} from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { weightsInfo } from '../weights-info.js';

type InfoOptions = CommonOptions &
  Partial<Omit<DatasetInfoOptions, 'labelMap' | 'classes'>> & { labelMap?: string; classes?: string };

/** Number of images to read per part of a data set, by default. */
const SAMPLE = 50;

export function addInfoCommand(program: Command): void {
  const command = program
    .command('info')
    .description(
      'shows versions, the LibTorch in use and the devices, or the content of a weights file or a data set',
    )
    .argument(
      '[path]',
      'weights file (safetensors or a PyTorch state dict, .pth; nothing in it is executed) or folder of a data set',
    )
    .option('--labels <folder>', "for a folder of images: folder of label PNGs with the images' base names")
    .option(
      '--label-map <map>',
      `for a data set: conversion of the ids in label files to classes: ${LABEL_MAP_HELP} (default: its layout's)`,
    )
    .option('--classes <names>', `for a data set: ${CLASSES_HELP} (default: the label map's, or numbers)`)
    .option(
      '--sample <count>',
      `for a data set: number of images to read per part (default: ${SAMPLE})`,
      parseCount,
    )
    .option('--contact-sheet <file>', 'for a data set: PNG to write with some images and their labels')
    .addOption(maxPixelsOption());
  addOverwriteOption(command, 'the file of --contact-sheet if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg info', 'information for a bug report'],
    ['bidiseg info --json', 'the same for a program'],
    ['bidiseg info weights.pth', 'format, network, tensors and sizes of a weights file'],
    [
      'bidiseg info cityscapes --contact-sheet sheet.png',
      'images, sizes and class shares of a data set, with a check of a sample',
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
    const { labelMap, classes, sample = SAMPLE, ...others } = options;
    const read = {
      ...(labelMap !== undefined && { labelMap: await readLabelMap(labelMap) }),
      ...(classes !== undefined && { classes: await readClasses(classes) }),
    };
    return datasetInfo(path, { ...others, ...read, sample }, context);
  }
  const { json: _, ...forFolders } = options;
  if (Object.keys(forFolders).length > 0) {
    throw new UsageError(
      '--labels, --label-map, --classes, --sample, --contact-sheet, --overwrite and --max-pixels need the folder of a data set',
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
    throw new QuietFailure();
  }
}

/** Loads the addon only here. Without it, the rest of the output is still useful. */
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
    ['native part', `${build.addonOrigin} (${build.addon})`],
    ['LibTorch', `${build.libtorchVersion} from ${build.libtorchOrigin}`],
    ['CUDA', describeCuda(build)],
    ['devices', ['cpu', ...build.cudaDevices].join(', ')],
    ...Object.entries(build.precisions).map(
      ([device, names]) => [`on ${device}`, `trains in ${names.join(', ')}`] as [string, string],
    ),
    ['processes', `train together over ${build.backends.join(', ')}`],
    ['threads', String(build.threads)],
    ['CPU', build.cpuCapability],
  ];
}

function describeCuda(build: BuildInfo): string {
  if (!build.cuda) {
    return 'not compiled in; building the addon with it needs a CUDA build of LibTorch and nvcc';
  }
  return build.cudaDevices.length > 0
    ? 'compiled in'
    : 'compiled in, but no device found; check the NVIDIA driver and CUDA_VISIBLE_DEVICES';
}
