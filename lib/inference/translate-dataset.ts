import { mkdir } from 'node:fs/promises';
import type { ImageDataset } from '../data/dataset.js';
import { resultFile } from '../data/file-names.js';
import { matchHistograms } from '../data/histogram-matching.js';
import { writeImage } from '../data/image-codec.js';
import type { ImageSize, RgbImage } from '../data/image-size.js';
import { Random } from '../data/random.js';
import type { Translator } from '../models/translator.js';
import { listFiles } from '../support/folders.js';
import { readAhead } from '../support/generators.js';

/** How a data set is translated to files. */
export interface TranslateDatasetOptions {
  /** Size to which images are resized before, and which the translations have. */
  size: ImageSize;
  /** Leave the images that are in the folder already as they are; default false. */
  resume?: boolean;
  signal?: AbortSignal | undefined;
}

/**
 * S′ = F(S): writes the translation of every image of `dataset` to `folder` as NAME.png, in subfolders where names have them, each whole or not at all.
 * `dataset.withImages(folder)` is then S′ with the labels of S. Tells after each image how many are done.
 *
 * @throws DataError when an image cannot be read or written
 */
export async function* translateDataset(
  translator: Pick<Translator, 'translate'>,
  dataset: ImageDataset,
  folder: string,
  options: TranslateDatasetOptions & { direction?: 'source-to-target' | 'target-to-source' },
): AsyncGenerator<{ done: number; total: number }, void> {
  const { size, direction = 'source-to-target', signal } = options;
  const job = { count: 1, ...size, direction, ...(signal && { signal }) };
  yield* writeEach(dataset, folder, options, ({ data }) => translator.translate(data, job));
}

/**
 * In place of a translator: as `translateDataset`, but each image has its histograms matched to those of one image of
 * `target`, which is drawn by (seed, stage, the image's name).
 *
 * @throws DataError when an image cannot be read or written
 */
export async function* matchDatasetHistograms(
  target: ImageDataset,
  dataset: ImageDataset,
  folder: string,
  options: TranslateDatasetOptions & { targetSize: ImageSize; seed: number; stage: string },
): AsyncGenerator<{ done: number; total: number }, void> {
  yield* writeEach(dataset, folder, options, async (image, name) => {
    return matchHistograms(image, await drawReference(target, name, options)).data;
  });
}

/** The target image to which the histograms of the source image `name` are matched. */
export function drawReference(
  target: ImageDataset,
  name: string,
  { seed, stage, targetSize }: { seed: number; stage: string; targetSize: ImageSize },
): Promise<RgbImage> {
  const index = new Random(seed, stage, 'reference', name).integer(target.length);
  return target.readImage(index, targetSize);
}

/** Writes what `make` makes of each image, as large as that, to `folder`. */
async function* writeEach(
  dataset: ImageDataset,
  folder: string,
  { size, resume = false, signal }: TranslateDatasetOptions,
  make: (image: RgbImage, name: string) => Promise<Uint8Array>,
): AsyncGenerator<{ done: number; total: number }, void> {
  await mkdir(folder, { recursive: true });
  const present = new Set(resume ? (await listFiles(folder)).map((file) => file.normalize('NFC')) : []);
  const indices = Array.from({ length: dataset.length }, (_, index) => index);
  const missing = dataset.subset(indices.filter((index) => !present.has(`${dataset.entry(index).name}.png`)));
  const images = readAhead(missing.length, (index) => missing.readImage(index, size), { signal });
  // One image is compressed and written while the next is made.
  let writing = Promise.resolve();
  let written = 0;
  try {
    for await (const image of images) {
      const { name } = missing.entry(written);
      const [data, file] = await Promise.all([make(image, name), resultFile(folder, name), writing]);
      writing = writeImage(file, { data, ...size });
      writing.catch(() => {});
      written++;
      yield { done: dataset.length - missing.length + written, total: dataset.length };
    }
    await writing;
  } finally {
    await Promise.allSettled([writing]);
  }
}
