import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { ImageDataset } from '../data/dataset.js';
import { resultFile } from '../data/file-names.js';
import { matchHistograms } from '../data/histogram-matching.js';
import { writeImage } from '../data/image-codec.js';
import type { ImageSize, RgbImage } from '../data/image-size.js';
import { Random } from '../data/random.js';
import type { Translator } from '../models/translator.js';
import { checkGroup, doneTogether, ownIndices } from '../native/group-values.js';
import type { ProcessGroup } from '../native/process-group.js';
import { DataError } from '../support/errors.js';
import { listFiles } from '../support/folders.js';
import { readAhead } from '../support/generators.js';

/** Options for translating a data set to files. */
export interface TranslateDatasetOptions {
  /** Size of the images before and after translation. */
  size: ImageSize;
  /** Keeps images that are already in the folder. Default false: such an image is an error. */
  resume?: boolean;
  /**
   * Processes that translate together, each its own images, into one folder that all see. All end when the last image is
   * written. Default null: this process alone.
   */
  group?: ProcessGroup | null | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Writes S′ = F(S): the translation of every image of `dataset` to `folder` as NAME.png, each whole or not at all. A name
 * with '/' makes subfolders. Then `dataset.withImages(folder)` is S′ with the labels of S. Yields the progress after each
 * image.
 *
 * @throws DataError when an image cannot be read or written, or is there already and `resume` is not set
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
 * Replaces a translator by histogram matching. It writes files like {@link translateDataset}. Each image is matched to
 * one image of `target`, which is drawn by (seed, stage, the image's name). See docs/design/data.md#histogram-matching.
 *
 * @throws DataError when an image cannot be read or written, or is there already and `resume` is not set
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

/** Reads the target image to whose histograms the source image `name` is matched. */
export function drawReference(
  target: ImageDataset,
  name: string,
  { seed, stage, targetSize }: { seed: number; stage: string; targetSize: ImageSize },
): Promise<RgbImage> {
  const index = new Random(seed, stage, 'reference', name).integer(target.length);
  return target.readImage(index, targetSize);
}

/** Writes the result of `make` for each image to `folder`. The result has the size of the image. */
async function* writeEach(
  dataset: ImageDataset,
  folder: string,
  { size, resume = false, group, signal }: TranslateDatasetOptions,
  make: (image: RgbImage, name: string) => Promise<Uint8Array>,
): AsyncGenerator<{ done: number; total: number }, void> {
  checkGroup(group);
  await mkdir(folder, { recursive: true });
  const present = new Set((await listFiles(folder)).map((file) => file.normalize('NFC')));
  const indices = ownIndices(dataset.length, group);
  const isMissing = (index: number) => !present.has(`${dataset.entry(index).name}.png`);
  const missing = dataset.subset(indices.filter(isMissing));
  if (!resume && missing.length < indices.length) {
    const { name } = dataset.entry(indices.find((index) => !isMissing(index))!);
    const file = path.join(folder, `${name}.png`);
    throw new DataError(`${file}: exists; expected a folder without it, or \`resume\``);
  }
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
      const done = indices.length - missing.length + written;
      yield { done: doneTogether(done, dataset.length, group), total: dataset.length };
    }
    await writing;
    await group?.barrier(signal ? { signal } : {});
  } finally {
    await Promise.allSettled([writing]);
  }
}
