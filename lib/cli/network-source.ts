import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../config/schema.js';
import type { ImageDataset } from '../data/dataset.js';
import { type ImageLimits, MAX_PIXELS } from '../data/image-limits.js';
import type { ImageSize } from '../data/image-size.js';
import type { ClassList } from '../data/label-maps.js';
import type { Segmenter } from '../models/segmenter.js';
import type { RunSummary, StageRecord } from '../pipeline/events.js';
import { requireDevice } from '../pipeline/require-device.js';
import { DataError } from '../support/errors.js';
import { UsageError } from './exit.js';
import { deviceOption, maxPixelsOption } from './options.js';

/** Source of a command's network: a weights file, or a stage of a run. */
export interface NetworkOptions {
  weights?: string;
  run?: string;
  stage?: string;
  device?: string;
  maxPixels?: number;
}

export interface NetworkFile {
  file: string;
  /** Config of the run that the file belongs to. null: the file belongs to no run. */
  config: Config | null;
  /** Device to compute on. It exists. */
  device: string;
  /** Limits of the input images, from the options or the config. */
  limits: ImageLimits;
}

type NetworkKind = 'segmenter' | 'translator';

export function addNetworkOptions(command: Command, kind: NetworkKind): Command {
  return command
    .option('-w, --weights <file>', `weights of the ${kind} (safetensors written by bidiseg)`)
    .option('-r, --run <folder>', `run folder, instead of --weights; uses its newest ${kind}`)
    .option(
      '--stage <name>',
      `with --run: stage that trained the ${kind}, by name or label (default: the newest)`,
    )
    .addOption(deviceOption())
    .addOption(maxPixelsOption());
}

/** Finds the weights that the options select, and the config of their run. */
export async function findNetwork(kind: NetworkKind, options: NetworkOptions): Promise<NetworkFile> {
  const found = await findFile(kind, options);
  const { config } = found;
  const maxPixels = options.maxPixels ?? config?.data.maxPixels ?? MAX_PIXELS;
  return {
    ...found,
    config: config && { ...config, data: { ...config.data, maxPixels } },
    limits: { maxPixels },
  };
}

async function findFile(kind: NetworkKind, options: NetworkOptions): Promise<Omit<NetworkFile, 'limits'>> {
  const { weights, run, stage, device = 'cpu' } = options;
  if ((weights === undefined) === (run === undefined)) {
    throw new UsageError(`Expected either --weights FILE or --run FOLDER, to find the ${kind}`);
  }
  if (weights !== undefined) {
    if (stage !== undefined) throw new UsageError('--stage needs --run');
    if (!existsSync(weights)) throw new DataError(`No such weights file: ${weights}`);
    await requireDevice(device);
    return { file: weights, config: await configAround(weights), device };
  }
  const { readSummary, stageWeights } = await import('../run/run-files.js');
  const config = await openRunConfig(run!);
  const found = chooseStage(kind, await readSummary(run!), run!, stage);
  await requireDevice(device);
  return { file: stageWeights(run!, found), config, device };
}

/** Reads the config of the run in `folder`, with the assignments of `--set`. */
export async function openRunConfig(folder: string, set: readonly string[] = []): Promise<Config> {
  if (!existsSync(path.join(folder, 'config.yaml'))) {
    throw new DataError(`${folder}: expected a run folder but found no config.yaml`);
  }
  const { resumeConfig } = await import('../run/run-files.js');
  return resumeConfig(folder, { set });
}

/** Finds the finished stage named `wanted`, or the newest one with a network of this kind. */
function chooseStage(kind: NetworkKind, summary: RunSummary, run: string, wanted?: string): StageRecord {
  const stages = summary.stages.filter((stage) =>
    kind === 'translator' ? stage.kind === 'translator' : ['source-only', 'segmenter'].includes(stage.kind),
  );
  const found =
    wanted === undefined
      ? stages.at(-1)
      : stages.find(({ name, label }) => name === wanted || label === wanted);
  if (found) return found;
  const finished = stages.map(({ name, label }) => `${name} (${label})`).join(', ') || 'none';
  throw new DataError(
    wanted === undefined
      ? `The run ${run} has no finished ${kind} yet`
      : `The run ${run} has no finished ${kind} stage '${wanted}'; finished: ${finished}`,
  );
}

/**
 * Reads the config of the run around weights in `RUN/stages/NAME/weights.safetensors`. It provides sizes and class
 * names.
 */
async function configAround(weights: string): Promise<Config | null> {
  const run = path.resolve(weights, '..', '..', '..');
  if (!existsSync(path.join(run, 'config.yaml'))) return null;
  const { resumeConfig } = await import('../run/run-files.js');
  // The config is only a convenience here. The weights are usable without it.
  return resumeConfig(run).catch(() => null);
}

/** Returns the size of the first image. Most data sets have one size. */
export async function firstSize(dataset: ImageDataset): Promise<ImageSize> {
  const { width, height } = await dataset.openImage(0);
  return { width, height };
}

/** Returns names and colors of a segmenter's classes: of its run, or else of its weights or generated. */
export async function segmenterClasses(config: Config | null, { options }: Segmenter): Promise<ClassList> {
  const { classNames, classPalette } = await import('../config/classes.js');
  const { classesOf } = await import('../data/palette.js');
  const names = config && classNames(config);
  if (names?.length === options.classCount) return { names, palette: classPalette(config!) };
  return classesOf(options);
}
