import { mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import type { ImageDataset } from '../data/dataset.js';
import { type ImageSize, readImage, writeImage } from '../data/image-files.js';
import type { Translator } from '../models/translator.js';
import { readAhead } from './generators.js';

/**
 * S′ = F(S): writes the translation of every image of `dataset` to `folder` as NAME.png, each whole or not at all.
 * `dataset.withImages(folder)` is then S′ with the labels of S. Tells after each image how many are done.
 *
 * @param options.size size to which images are resized before, and which the translations have
 * @param options.resume leave the images that are in `folder` already as they are; default false
 * @throws DataError when an image cannot be read or written
 */
export async function* translateDataset(
  translator: Pick<Translator, 'translate'>,
  dataset: ImageDataset,
  folder: string,
  options: {
    size: ImageSize;
    direction?: 'source-to-target' | 'target-to-source';
    resume?: boolean;
    signal?: AbortSignal | undefined;
  },
): AsyncGenerator<{ done: number; total: number }, void> {
  const { size, direction = 'source-to-target', resume = false, signal } = options;
  await mkdir(folder, { recursive: true });
  const present = new Set(resume ? await readdir(folder) : []);
  const entries = Array.from({ length: dataset.length }, (_, index) => dataset.entry(index));
  const missing = entries.filter(({ name }) => !present.has(`${name}.png`));
  const images = readAhead(missing.length, (index) => readImage(missing[index]!.image, size), { signal });
  // One image is compressed and written while the next is translated.
  let writing = Promise.resolve();
  let written = 0;
  try {
    for await (const image of images) {
      const [data] = await Promise.all([
        translator.translate(image.data, { count: 1, ...size, direction, ...(signal && { signal }) }),
        writing,
      ]);
      const file = path.join(folder, `${missing[written]!.name}.png`);
      writing = writeImage(file, { data, ...size });
      writing.catch(() => {});
      written++;
      yield { done: entries.length - missing.length + written, total: entries.length };
    }
    await writing;
  } finally {
    await Promise.allSettled([writing]);
  }
}
