import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { onAbort } from '../../support/abort.js';
import { DataError } from '../../support/errors.js';
import { temporaryName, writeFileAtomically } from '../../support/files.js';
import { checkInteger, checkString } from '../../support/validate.js';
import type { ImageSize } from '../image-size.js';
import type { EmbeddedDatasetJob, EmbeddedDatasetReport } from './embedded-dataset-worker.js';
import { STREET_SCENE_CLASSES } from './street-scenes.js';

/** Options of {@link createEmbeddedDataset}. */
export interface EmbeddedDatasetOptions {
  /** Seed of all scenes. Default 1. */
  seed?: number;
  /** Size of all images, each side 32–4096 pixels. Default 192×96. */
  size?: ImageSize;
  /** Number of labeled source images (day), ≥ 1. */
  sourceCount: number;
  /** Number of unlabeled target images (dusk), ≥ 1. */
  targetCount: number;
  /** Number of labeled target images (dusk) for evaluation, ≥ 1. */
  validationCount: number;
  /** Callback that is called after every image. */
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
  /** Signal that stops the work. The promise rejects with its reason, and the folder stays unchanged. */
  signal?: AbortSignal | undefined;
}

/** Version of the generator. Raise it when equal parameters give other pictures, so that old sets are made anew. */
const GENERATOR_VERSION = 1;
const GENERATOR = 'bidiseg street scenes';
const MANIFEST = 'dataset.json';

/**
 * Makes the embedded data set: generated street scenes in two looks.
 *
 *    source/images source/labels            day
 *    target/train/images                    dusk, unlabeled
 *    target/val/images target/val/labels    dusk
 *    dataset.json                           classes and parameters
 *
 * No street occurs twice. A worker thread builds the set under a temporary name beside `folder` and renames it when it
 * is complete. An existing set is kept if its parameters are equal, and replaced otherwise.
 *
 * @throws {DataError} when `folder` holds anything else, or cannot be written
 */
export async function createEmbeddedDataset(folder: string, options: EmbeddedDatasetOptions): Promise<void> {
  const { size = { width: 192, height: 96 }, onProgress, signal } = options;
  const parameters = {
    seed: checkInteger('seed', options.seed ?? 1),
    width: checkInteger('size.width', size.width, 32, 4096),
    height: checkInteger('size.height', size.height, 32, 4096),
    sourceCount: checkInteger('sourceCount', options.sourceCount, 1),
    targetCount: checkInteger('targetCount', options.targetCount, 1),
    validationCount: checkInteger('validationCount', options.validationCount, 1),
  };
  signal?.throwIfAborted();
  const final = resolve(checkString('folder', folder));
  const manifest = manifestText(parameters);
  if ((await existingManifest(final)) === manifest) return;
  await requireOwnFiles(final);

  const building = temporaryName(final);
  try {
    await mkdir(building, { recursive: true });
    await runWorker({ folder: building, ...parameters }, onProgress, signal);
    await writeFileAtomically(join(building, MANIFEST), manifest);
    await requireOwnFiles(final);
    await rm(final, { recursive: true, force: true });
    await rename(building, final);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    if (signal?.aborted || error instanceof DataError) throw error;
    throw new DataError(`${folder}: the embedded data set cannot be made: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function manifestText(parameters: object): string {
  const classes = STREET_SCENE_CLASSES;
  return `${JSON.stringify({ generator: GENERATOR, version: GENERATOR_VERSION, classes, parameters }, null, 2)}\n`;
}

/** Returns the text of the folder's manifest, or undefined if the folder is missing or empty. */
async function existingManifest(folder: string): Promise<string | undefined> {
  const files = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw new DataError(`${folder}: cannot be listed: ${error.message}`, { cause: error });
  });
  if (files.length === 0) return undefined;
  const text = await readFile(join(folder, MANIFEST), 'utf8').catch(() => '');
  // A folder that was not generated is never replaced.
  if (!text.includes(`"generator": "${GENERATOR}"`)) {
    throw new DataError(
      `${folder}: holds files that are not an embedded data set, expected a new or empty folder, or an embedded data set`,
    );
  }
  return text;
}

/** Files that the generator writes, relative to its folder. */
const OWN_FILE = /^(dataset\.json|(source|target\/train|target\/val)\/(images|labels)\/(day|dusk)-\d+\.png)$/;

/** Refuses a folder with files that were not generated. @throws DataError that names the first */
async function requireOwnFiles(folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    if (entry.isDirectory() || OWN_FILE.test(relative(folder, file))) continue;
    throw new DataError(
      `${file}: expected only files of the generated data set, which is to be replaced; move this file away`,
    );
  }
}

async function runWorker(
  job: EmbeddedDatasetJob,
  onProgress: EmbeddedDatasetOptions['onProgress'],
  signal: AbortSignal | undefined,
): Promise<void> {
  const worker = new Worker(new URL('./embedded-dataset-worker.js', import.meta.url), { workerData: job });
  // The worker stops between two images. Terminating it could interrupt native code that writes one.
  const stop = (): void => worker.postMessage('stop');
  const removeListener = onAbort(signal, stop);
  let failure: unknown;
  try {
    await new Promise<void>((ended) => {
      worker.on('message', (report: EmbeddedDatasetReport) => {
        if (report.kind === 'failed') failure = new DataError(report.message);
        else if (failure === undefined) {
          try {
            onProgress?.(report);
          } catch (error) {
            failure = error;
            stop();
          }
        }
      });
      worker.on('error', (error) => {
        failure = error;
      });
      worker.on('exit', () => ended());
    });
  } finally {
    removeListener();
  }
  signal?.throwIfAborted();
  if (failure !== undefined) throw failure;
}
