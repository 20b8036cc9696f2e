// Worker thread of embedded-dataset.ts. It draws the scenes, so that the event loop of the caller stays free.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { DataError } from '../../support/errors.js';
import { writeImage } from '../image-codec.js';
import { writeLabels } from '../label-codec.js';
import { renderScene, type SceneLook } from './street-scenes.js';

/** Job of the worker. The folder exists. */
export interface EmbeddedDatasetJob {
  folder: string;
  seed: number;
  width: number;
  height: number;
  sourceCount: number;
  targetCount: number;
  validationCount: number;
}

/** Message of the worker. */
export type EmbeddedDatasetReport =
  | { kind: 'progress'; done: number; total: number }
  | { kind: 'failed'; message: string };

interface Part {
  folder: string;
  look: SceneLook;
  count: number;
  labeled: boolean;
  /** Index of its first scene. Parts are far enough apart that no two share a street. */
  firstIndex: number;
}

const job = workerData as EmbeddedDatasetJob;
const port = parentPort!;
let stopped = false;
port.on('message', () => {
  stopped = true;
});

try {
  await makeAll([
    { folder: 'source', look: 'day', count: job.sourceCount, labeled: true, firstIndex: 0 },
    { folder: 'target/train', look: 'dusk', count: job.targetCount, labeled: false, firstIndex: 1e6 },
    { folder: 'target/val', look: 'dusk', count: job.validationCount, labeled: true, firstIndex: 2e6 },
  ]);
} catch (error) {
  // Error classes do not survive the transfer between threads. Only DataErrors are converted.
  if (!(error instanceof DataError)) throw error;
  report({ kind: 'failed', message: error.message });
} finally {
  port.close();
}

async function makeAll(parts: readonly Part[]): Promise<void> {
  const total = parts.reduce((sum, { count }) => sum + count, 0);
  let done = 0;
  for (const part of parts) {
    const images = join(job.folder, part.folder, 'images');
    const labels = join(job.folder, part.folder, 'labels');
    await mkdir(images, { recursive: true });
    if (part.labeled) await mkdir(labels, { recursive: true });
    for (let index = 0; index < part.count; index++) {
      if (stopped) return;
      await makeOne(part, index, images, labels);
      report({ kind: 'progress', done: ++done, total });
    }
  }
}

async function makeOne(part: Part, index: number, images: string, labels: string): Promise<void> {
  const { seed, width, height } = job;
  const scene = renderScene({ seed, index: part.firstIndex + index, look: part.look, width, height });
  const name = `${part.look}-${String(index).padStart(5, '0')}.png`;
  await Promise.all([
    writeImage(join(images, name), { data: scene.image, width, height }),
    part.labeled && writeLabels(join(labels, name), { data: scene.labels, width, height }),
  ]);
}

function report(message: EmbeddedDatasetReport): void {
  port.postMessage(message);
}
