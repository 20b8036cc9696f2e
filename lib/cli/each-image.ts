import { openImage } from '../data/image-codec.js';
import type { ImageLimits } from '../data/image-limits.js';
import type { ImageFile, RgbImage } from '../data/image-size.js';
import { counted, duration } from '../support/format.js';
import { readAhead } from '../support/generators.js';
import type { InputImage } from './inputs.js';
import type { CommandContext } from './run-command.js';

/** Input whose header has been read. */
export interface OpenInput extends InputImage {
  image: ImageFile<RgbImage>;
}

/** Work for each image: `read`, `compute` and `write`, in this order. */
export interface ImageTask<Pixels, Result> {
  /** Label of the progress display. */
  label: string;
  images: InputImage[];
  limits: ImageLimits;
  /** Folder that `write` writes into. */
  output: string;
  read: (input: OpenInput) => Promise<Pixels>;
  compute: (pixels: Pixels, input: OpenInput) => Promise<Result>;
  write: (result: Result, input: OpenInput, pixels: Pixels) => Promise<void>;
}

/**
 * Runs a task for a list of images with a progress display. Keeps `context.kept` up to date. While one image is
 * computed, the next ones are read and the previous one is written. So any number of images needs the memory of a few.
 *
 * @returns the time in seconds
 */
export async function forEachImage<Pixels, Result>(
  context: CommandContext,
  task: ImageTask<Pixels, Result>,
): Promise<number> {
  const { label, images, limits, output, read, compute, write } = task;
  const started = performance.now();
  const progress = context.console.progress(label, images.length);
  let done = 0;
  context.kept = () => `${done} of ${counted(images.length, 'image')} finished in ${output}`;

  const open = async (index: number) => {
    const input = images[index]!;
    const opened = { ...input, image: await openImage(input.file, limits) };
    return { opened, pixels: await read(opened) };
  };
  const { signal } = context;
  const finish = async (input: OpenInput, pixels: Pixels, result: Result) => {
    await write(result, input, pixels);
    done++;
    progress.update(done, input.name);
    context.console.event('image', { name: input.name, file: input.file, done, total: images.length });
  };
  let writing = Promise.resolve();
  try {
    for await (const { opened, pixels } of readAhead(images.length, open, { signal })) {
      const [result] = await Promise.all([compute(pixels, opened), writing]);
      writing = finish(opened, pixels, result);
      // A failure is reported after the next image. Until then nothing awaits this promise.
      writing.catch(() => {});
    }
    await writing;
  } finally {
    await Promise.allSettled([writing]);
  }
  progress.stop();
  return (performance.now() - started) / 1000;
}

/** Formats the summary of a command: 'Wrote 12 images to out in 8 s'. */
export function summary(count: number, noun: string, output: string, seconds: number): string {
  return `Wrote ${counted(count, noun)} to ${output} in ${duration(seconds)}`;
}
