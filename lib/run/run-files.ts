// Where things are in a run folder, and reading them: enough for the report, and without the addon.
import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/schema.js';
import type { RunSummary } from '../pipeline/events.js';
import type { Stage } from '../pipeline/plan.js';
import { ConfigError, DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';

/** Hundreds of times what a summary takes. */
const MAX_JSON_BYTES = 2 ** 26;

/**
 * The config with which a run folder was made, for going on with it wherever the folder is now.
 *
 * @param options.set assignments that override it, see `loadConfig`
 * @throws ConfigError when the folder holds no run
 */
export async function resumeConfig(
  folder: string,
  options: { set?: readonly string[] } = {},
): Promise<Config> {
  return { ...(await loadConfig(configFile(folder), options)), output: path.resolve(folder) };
}

/**
 * Refuses a run folder that holds a link, a pipe or a device: it may come from anywhere, and what is written in it must stay
 * there. Only its `data` may be anything, as what `data.root` names.
 *
 * @throws ConfigError naming what is there
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
          `${file}: is ${what}, expected a run folder of files and folders alone; put what it stands for in its place`,
        );
      }
    }
  };
  await visit(folder);
}

/** None for a folder that is gone: the run may be going on. */
async function entriesOf(folder: string): Promise<Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new DataError(`${folder}: cannot be listed: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * What `summary.json` of a run folder says.
 *
 * @throws DataError when the folder holds none
 */
export async function readSummary(folder: string): Promise<RunSummary> {
  const summary = await readJson<RunSummary>(path.join(folder, 'summary.json'));
  if (!summary) throw new DataError(`${folder}: holds no run, expected a summary.json`);
  return summary;
}

/** Whether a run folder holds a result of a stage, or a state to continue from: something that data have gone into. */
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

/** The weights file that a `source-only`, `segmenter` or `translator` stage leaves in a run folder. */
export function stageWeights(folder: string, stage: { name: string }): string {
  return path.join(stageFolder(folder, stage), 'weights.safetensors');
}

/** The folder of images that a `translate` or `pseudo-labels` stage leaves in a run folder. */
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

/** A stage's name as the name of a file. */
export function flat(name: string): string {
  return name.replaceAll('/', '-');
}

export function toJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** What a file of JSON in a run folder says; undefined where there is none. */
export async function readJson<T>(file: string, maxBytes = MAX_JSON_BYTES): Promise<T | undefined> {
  try {
    return JSON.parse(String(await readRegularFile(file, maxBytes))) as T;
  } catch (error) {
    if (((error as Error).cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return undefined;
    if (error instanceof DataError) throw error;
    throw new DataError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
