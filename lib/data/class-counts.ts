import { readFile } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { writeFileAtomically } from '../support/files.js';
import { readAhead } from '../support/generators.js';
import type { ImageDataset } from './dataset.js';
import type { ClassCounts } from './rare-class-sampling.js';

/**
 * Counts the pixels of each class in the label files of `dataset`. Yields its progress after each image.
 *
 * @throws InvalidArgumentError when the data set has no labels
 * @throws DataError when a label file is missing or broken
 */
export async function* countClasses(
  dataset: ImageDataset,
  classCount: number,
  options: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<{ done: number; total: number }, ClassCounts> {
  const counts: number[][] = [];
  const pixels: number[] = [];
  for await (const { data } of readAhead(dataset.length, (index) => dataset.readLabels(index), options)) {
    const histogram = new Uint32Array(256);
    for (const label of data) histogram[label]!++;
    counts.push(Array.from(histogram.subarray(0, classCount)));
    pixels.push(data.length);
    yield { done: counts.length, total: dataset.length };
  }
  return { counts, pixels };
}

/** Content of a file of kept class counts. */
interface Kept extends ClassCounts {
  names: string[];
  classCount: number;
}

/**
 * Counts classes like `countClasses`, but reads the counts from `file` if it holds those of the same images. Otherwise
 * it writes them there.
 */
export async function* keptClassCounts(
  dataset: ImageDataset,
  classCount: number,
  file: string,
  options: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<{ done: number; total: number }, ClassCounts> {
  const names = Array.from({ length: dataset.length }, (_, index) => dataset.entry(index).name);
  const kept = await readKept(file);
  if (kept && kept.classCount === classCount && isDeepStrictEqual(kept.names, names)) return kept;
  const counted = yield* countClasses(dataset, classCount, options);
  await writeFileAtomically(file, `${JSON.stringify({ names, classCount, ...counted } satisfies Kept)}\n`);
  return counted;
}

/** Reads kept counts. A file that cannot be read or parsed is ignored, because its content can be counted again. */
async function readKept(file: string): Promise<Kept | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Kept;
  } catch {
    return undefined;
  }
}
