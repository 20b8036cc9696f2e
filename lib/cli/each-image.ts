import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { type ImageFile, openImage, type RgbImage } from '../data/image-files.js';
import { counted, duration } from '../format.js';
import { readAhead } from '../training/generators.js';
import type { InputImage } from './inputs.js';
import type { CommandContext } from './run-command.js';

/** An input whose header is read. */
export interface OpenInput extends InputImage {
  image: ImageFile<RgbImage>;
}

/**
 * Does `work` for each image in turn with a progress display, and keeps the context informed about how much is done.
 * Returns the seconds it took.
 */
export async function forEachImage<T>(
  context: CommandContext,
  task: { label: string; images: InputImage[]; output: string; read: (input: OpenInput) => Promise<T> },
  work: (pixels: T, input: OpenInput) => Promise<void>,
): Promise<number> {
  const { label, images, output, read } = task;
  const started = performance.now();
  const progress = context.console.progress(label, images.length);
  let done = 0;
  context.kept = () => `${done} of ${counted(images.length, 'image')} finished in ${output}`;

  const open = async (index: number) => {
    const input = images[index]!;
    const opened = { ...input, image: await openImage(input.file) };
    return { opened, pixels: await read(opened) };
  };
  const { signal } = context;
  for await (const { opened, pixels } of readAhead(images.length, open, { signal })) {
    await work(pixels, opened);
    done++;
    progress.update(done, opened.name);
    context.console.event('image', { name: opened.name, file: opened.file, done, total: images.length });
  }
  progress.stop();
  return (performance.now() - started) / 1000;
}

/** `folder/name.png`, after making the folders on the way. */
export async function resultFile(folder: string, name: string): Promise<string> {
  const file = path.join(folder, `${name}.png`);
  await mkdir(path.dirname(file), { recursive: true });
  return file;
}

/** 'Wrote 12 images to out in 8 s'. */
export function summary(count: number, noun: string, output: string, seconds: number): string {
  return `Wrote ${counted(count, noun)} to ${output} in ${duration(seconds)}`;
}
