import { readFile } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { writeFileAtomically } from '../support/files.js';
import { readAhead } from '../support/generators.js';
import { classShares } from './class-weights.js';
import type { ImageDataset } from './dataset.js';
import type { ClassCounts } from './rare-class-sampling.js';

/**
 * Counts the pixels of each class in the label files of `dataset`. Yields its progress after each image.
 *
 * @throws InvalidArgumentError when the data set has no labels
 * @throws DataError when a label file is missing or broken
 */
export function countClasses(
  dataset: ImageDataset,
  classCount: number,
  options: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<{ done: number; total: number }, ClassCounts> {
  return countShared(dataset, classCount, options);
}

/**
 * Computes the share of each class of all labeled pixels of some images, which are given by their indices. All shares are 0 if
 * no pixel has a label.
 *
 * @throws DataError when a label file is missing or broken
 */
export async function classSharesOf(
  dataset: ImageDataset,
  indices: readonly number[],
  classCount: number,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<number[]> {
  const sums = new Array<number>(classCount).fill(0);
  const read = (place: number) => dataset.readLabels(indices[place]!);
  for await (const { data } of readAhead(indices.length, read, options)) {
    for (const label of data) if (label < classCount) sums[label]!++;
  }
  return classShares({ counts: [sums] });
}

/** Counts like `countClasses`, among the processes that share the work. */
async function* countShared(
  dataset: ImageDataset,
  classCount: number,
  options: CountingOptions,
): AsyncGenerator<{ done: number; total: number }, ClassCounts> {
  const { rank, size, gather } = options.sharing ?? ALONE;
  const counts: number[][] = [];
  const pixels: number[] = [];
  const indices = Array.from({ length: dataset.length }, (_, i) => i).filter((i) => i % size === rank);
  const read = (place: number) => dataset.readLabels(indices[place]!);
  for await (const { data } of readAhead(indices.length, read, options)) {
    const histogram = new Uint32Array(256);
    for (const label of data) histogram[label]!++;
    counts.push(Array.from(histogram.subarray(0, classCount)));
    pixels.push(data.length);
    yield { done: Math.min(dataset.length, counts.length * size), total: dataset.length };
  }
  const found = await gather({ counts, pixels });
  const places = Array.from({ length: dataset.length }, (_, i) => [i % size, Math.floor(i / size)] as const);
  return {
    counts: places.map(([of, place]) => found[of]!.counts[place]!),
    pixels: places.map(([of, place]) => found[of]!.pixels[place]!),
  };
}

interface CountingOptions {
  signal?: AbortSignal | undefined;
  /** Processes that count together, each its own files. All get all counts. Default none. */
  sharing?: Sharing | undefined;
}

/** Place of this process among those that share work, and how they exchange results. */
interface Sharing {
  rank: number;
  size: number;
  /** Returns the values of all processes, by rank. */
  gather<T>(value: T): Promise<T[]>;
}

const ALONE: Sharing = { rank: 0, size: 1, gather: async (value) => [value] };

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
  options: CountingOptions = {},
): AsyncGenerator<{ done: number; total: number }, ClassCounts> {
  const { rank, gather } = options.sharing ?? ALONE;
  const names = Array.from({ length: dataset.length }, (_, index) => dataset.entry(index).name);
  // Rank 0 decides, because a file may appear on the other machines later.
  const [kept] = await gather((rank === 0 && (await readKept(file))) || null);
  if (kept && kept.classCount === classCount && isDeepStrictEqual(kept.names, names)) return kept;
  const counted = yield* countShared(dataset, classCount, options);
  if (rank === 0) {
    await writeFileAtomically(file, `${JSON.stringify({ names, classCount, ...counted } satisfies Kept)}\n`);
  }
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
