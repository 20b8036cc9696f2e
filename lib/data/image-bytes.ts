import sharp, { type Sharp } from 'sharp';
import { DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';
import { threadsPerImage } from '../support/threads.js';
import { checkInteger, invalidArgument, shortened } from '../support/validate.js';
import { type ImageLimits, MAX_PIXELS } from './image-limits.js';
import type { ImageSize } from './image-size.js';

/* What the readers of images and of label maps share: bytes of a file, its header, decoding, and the words for failures. */

sharp.concurrency(threadsPerImage);

/** A PNG of 16-bit RGBA, not compressed at all, takes 8 bytes a pixel; the rest is for what else files carry. */
const MAX_BYTES_PER_PIXEL = 8;
const MAX_OTHER_BYTES = 2 ** 26;

/** About a millisecond's work. */
export const LOOKUPS_AT_ONCE = 2 ** 19;

/** File name endings of the images that are looked for, lower case. */
export const IMAGE_EXTENSIONS: readonly string[] = ['.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff'];

/** How PNG, JPEG and TIFF files begin; a WebP does with these four letters, a length and another four. */
const SIGNATURES = ['\x89PNG\r\n\x1a\n', '\xff\xd8\xff', 'II*\0', 'MM\0*', 'II+\0', 'MM\0+'];
const WEBP_SIGNATURE = ['RIFF', 'WEBP'] as const;
const SIGNATURE_BYTES = 12;

export async function readBytes(file: string, { maxPixels = MAX_PIXELS }: ImageLimits): Promise<Buffer> {
  checkInteger('maxPixels', maxPixels, 1, 2 ** 32);
  const bytes = await readRegularFile(file, MAX_BYTES_PER_PIXEL * maxPixels + MAX_OTHER_BYTES);
  if (bytes.length === 0) throw new DataError(`${file}: the file is empty; expected an image`);
  const start = bytes.toString('latin1', 0, SIGNATURE_BYTES);
  const isWebp = start.startsWith(WEBP_SIGNATURE[0]) && start.endsWith(WEBP_SIGNATURE[1]);
  // Whatever else the decoders know, SVG among it, does not get as far as them.
  if (!isWebp && !SIGNATURES.some((signature) => start.startsWith(signature))) {
    throw new DataError(`${file}: begins like no PNG, JPEG, WebP or TIFF; expected one of these`);
  }
  return bytes;
}

export type Header = ImageSize & { space: string; depth: string; hasAlpha: boolean };

export async function readHeader(file: string, bytes: Uint8Array, limits: ImageLimits): Promise<Header> {
  const { maxPixels = MAX_PIXELS } = limits;
  // Without the limit, which would keep the size from the message; nothing is decoded here.
  const header = decoder(bytes, { maxPixels: Number.MAX_SAFE_INTEGER }).metadata();
  const { width, height, space, depth, hasAlpha } = await explainFailure(file, header);
  if (width * height > maxPixels) {
    throw new DataError(`${file}: found ${width}×${height} pixels, expected at most ${maxPixels}`);
  }
  return { width, height, space, depth, hasAlpha };
}

export function decoder(bytes: Uint8Array, { maxPixels = MAX_PIXELS }: ImageLimits): Sharp {
  return sharp(bytes, { failOn: 'error', limitInputPixels: maxPixels, ignoreIcc: true });
}

export async function explainFailure<T>(file: string, decoding: Promise<T>): Promise<T> {
  try {
    return await decoding;
  } catch (error) {
    const reason = (error as Error).message.trim().replaceAll(/\s*\n\s*/g, '; ');
    throw new DataError(
      `${file}: cannot be decoded (${shortened(reason)}); expected a whole PNG, JPEG, WebP or TIFF image`,
      { cause: error },
    );
  }
}

export function rawPixels(name: string, image: ImageSize & { data: Uint8Array }, channels: 1 | 3): Sharp {
  const { data, width, height } = image;
  checkInteger(`${name}.width`, width, 1);
  checkInteger(`${name}.height`, height, 1);
  if (data.length !== width * height * channels) {
    throw invalidArgument(
      `${name}.data`,
      `a Uint8Array of ${width * height * channels} bytes (${height}×${width}×${channels})`,
      data,
    );
  }
  return sharp(data, { raw: { width, height, channels } });
}

/** The same memory, without Buffer's methods (whose `slice` does not copy). */
export function plainBytes(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}
