// Layout of a run folder, and functions to read it. They need no addon, and are enough for the report.
import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/schema.js';
import type { RunSummary } from '../pipeline/events.js';
import type { Stage } from '../pipeline/plan.js';
import { ConfigError, DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';

/** Maximum size of a JSON file, hundreds of times the size of a summary. */
const MAX_JSON_BYTES = 2 ** 26;

/**
 * Reads the config of a run folder to continue the run, wherever the folder is now.
 *
 * @param options.set assignments that override the config, see `loadConfig`
 * @throws ConfigError when the folder holds no run
 */
export async function resumeConfig(
  folder: string,
  options: { set?: readonly string[] } = {},
): Promise<Config> {
  return { ...(await loadConfig(configFile(folder), options)), output: path.resolve(folder) };
}

/**
 * Refuses a run folder that holds a link, a pipe or a device. The folder may come from anywhere, and a run must not
 * write outside it. Only `data` may be anything, because it is what `data.root` names.
 *
 * @throws ConfigError that names the file
 */
export async function requireOwnFiles(folder: string): Promise<void> {
  const visit = async (place: string): Promise<void> => {
    for (const entry of await entriesOf(place)) {
      const file = path.join(place, entry.name);
      if (file === path.join(folder, 'data')) continue;
      if (entry.isDirectory()) await visit(file);
      else if (!entry.isFile()) {
        const what = entry.isSymbolicLink() ? 'a symbolic link' : 'a pipe, socket or device';
        throw new ConfigError(
          `${file}: is ${what}, expected a file or folder of the run; replace it by its content`,
        );
      }
    }
  };
  await visit(folder);
}

/** Lists a folder. Returns no entries for a file, or if the folder does not exist, because the run may be in progress. */
export async function entriesOf(folder: string): Promise<Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
    throw new DataError(`${folder}: cannot be listed: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Reads `summary.json` of a run folder.
 *
 * @throws DataError when the folder holds none
 */
export async function readSummary(folder: string): Promise<RunSummary> {
  const summary = await readJson<RunSummary>(path.join(folder, 'summary.json'));
  if (!summary) throw new DataError(`${folder}: expected a run folder but found no summary.json`);
  return summary;
}

/** Tells whether a run folder holds a result of a stage, or a checkpoint: something that was made from data. */
export async function hasResults(folder: string): Promise<boolean> {
  for (const { name } of await entriesOf(path.join(folder, 'stages'))) {
    const stage = path.join(folder, 'stages', name);
    const saved = await readJson<{ record: unknown }>(path.join(stage, 'stage.json'));
    if (saved?.record || (await entriesOf(stage)).some((entry) => entry.name.startsWith('checkpoint-'))) {
      return true;
    }
  }
  return false;
}

/** Paths of a stage's files in a run folder, as `StageStore` names them. */
export class RunPaths {
  constructor(readonly folder: string) {}

  weightsFile(stage: Stage): string {
    return stageWeights(this.folder, stage);
  }

  bestWeightsFile(stage: Stage): string {
    return path.join(stageFolder(this.folder, stage), 'best.safetensors');
  }

  teacherWeightsFile(stage: Stage): string {
    return path.join(stageFolder(this.folder, stage), 'teacher.safetensors');
  }

  imagesFolder(stage: Stage): string {
    return stageImages(this.folder, stage);
  }

  pictureFile(stage: Stage, part?: string): string {
    const suffix = part === undefined ? '' : `-${part}`;
    return path.join(this.folder, 'pictures', `${flat(stage.name)}${suffix}.png`);
  }

  get classCountsFile(): string {
    return path.join(this.folder, 'class-counts.json');
  }
}

/** Returns the path of the weights that a `source-only`, `segmenter` or `translator` stage writes. */
export function stageWeights(folder: string, stage: { name: string }): string {
  return path.join(stageFolder(folder, stage), 'weights.safetensors');
}

/** Returns the path of the folder of images that a `translate` or `pseudo-labels` stage writes. */
export function stageImages(folder: string, { name, kind, round }: Stage): string {
  return kind === 'translate'
    ? path.join(folder, 'translated', `round-${round}`)
    : path.join(folder, 'pseudo-labels', flat(name));
}

export function tensorBoardFolder(folder: string, { name }: { name: string }): string {
  return path.join(folder, 'tensorboard', flat(name));
}

export function stageFolder(folder: string, { name }: { name: string }): string {
  return path.join(folder, 'stages', flat(name));
}

export function configFile(folder: string): string {
  return path.join(folder, 'config.yaml');
}

/** Converts a stage's name to a file name. */
export function flat(name: string): string {
  return name.replaceAll('/', '-');
}

export function toJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** Reads a JSON file of a run folder. undefined: the file does not exist. */
export async function readJson<T>(file: string, maxBytes = MAX_JSON_BYTES): Promise<T | undefined> {
  try {
    return JSON.parse(String(await readRegularFile(file, maxBytes))) as T;
  } catch (error) {
    if (((error as Error).cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return undefined;
    if (error instanceof DataError) throw error;
    throw new DataError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
