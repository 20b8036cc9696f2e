import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { DataError } from '../../support/errors.js';
import { temporaryName, writeFileAtomically } from '../../support/files.js';
import { checkInteger, checkString } from '../../support/validate.js';
import type { ImageSize } from '../image-size.js';
import type { EmbeddedDatasetJob, EmbeddedDatasetReport } from './embedded-dataset-worker.js';
import { STREET_SCENE_CLASSES } from './street-scenes.js';

/** Options of {@link createEmbeddedDataset}. */
export interface EmbeddedDatasetOptions {
  /** Default 1. */
  seed?: number;
  /** Size of all images; default 192×96. Each side 32–4096 pixels. */
  size?: ImageSize;
  /** Labeled source images (day), ≥ 1. */
  sourceCount: number;
  /** Unlabeled target images (dusk), ≥ 1. */
  targetCount: number;
  /** Labeled target images for evaluation, ≥ 1. */
  validationCount: number;
  /** Told after every image. */
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
  /** Stops the work; the promise rejects with its reason and the folder stays as it was. */
  signal?: AbortSignal | undefined;
}

/** Raised when the same parameters give other pictures than before, so that old sets are made anew. */
const GENERATOR_VERSION = 1;
const GENERATOR = 'bidiseg street scenes';
const MANIFEST = 'dataset.json';

/**
 * Makes the embedded data set, generated street scenes in two looks:
 *
 *     source/images source/labels            day
 *     target/train/images                    dusk, unlabeled
 *     target/val/images target/val/labels    dusk
 *     dataset.json                           classes and parameters
 *
 * No street occurs twice. The set is built under a temporary name beside `folder`, in a worker thread, and takes
 * its name when it is whole. One that exists and was made with equal parameters is kept; one that was made with
 * others is replaced.
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

/** The text of the folder's manifest; undefined when there is nothing in the way of a new set. */
async function existingManifest(folder: string): Promise<string | undefined> {
  const files = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw new DataError(`${folder}: cannot be listed: ${error.message}`, { cause: error });
  });
  if (files.length === 0) return undefined;
  const text = await readFile(join(folder, MANIFEST), 'utf8').catch(() => '');
  // What was not generated is nobody's to replace.
  if (!text.includes(`"generator": "${GENERATOR}"`)) {
    throw new DataError(
      `${folder}: holds files that are no embedded data set, expected a new or empty folder, or an embedded data set`,
    );
  }
  return text;
}

/** What the generator makes, relative to its folder. */
const OWN_FILE = /^(dataset\.json|(source|target\/train|target\/val)\/(images|labels)\/(day|dusk)-\d+\.png)$/;

/** @throws {DataError} when there is a file in the folder that was not generated, and would be lost */
async function requireOwnFiles(folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    if (entry.isDirectory() || OWN_FILE.test(relative(folder, file))) continue;
    throw new DataError(`${file}: is no part of the generated data set that is to be replaced; move it away`);
  }
}

async function runWorker(
  job: EmbeddedDatasetJob,
  onProgress: EmbeddedDatasetOptions['onProgress'],
  signal: AbortSignal | undefined,
): Promise<void> {
  const worker = new Worker(new URL('./embedded-dataset-worker.js', import.meta.url), { workerData: job });
  // The worker stops between two images: terminating it could cut off the native code that writes one.
  const stop = (): void => worker.postMessage('stop');
  signal?.addEventListener('abort', stop, { once: true });
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
    signal?.removeEventListener('abort', stop);
  }
  signal?.throwIfAborted();
  if (failure !== undefined) throw failure;
}
