import sharp, { type Sharp } from 'sharp';
import { DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';
import { checkInteger, invalidArgument, shortened } from '../support/validate.js';
import { type ImageLimits, MAX_PIXELS } from './image-limits.js';
import type { ImageSize } from './image-size.js';

/* Shared by the readers of images and label maps: the bytes of a file, its header, decoding, and errors. */

/** An uncompressed PNG of 16-bit RGBA takes 8 bytes a pixel. The rest of the limit is for metadata. */
const MAX_BYTES_PER_PIXEL = 8;
const MAX_OTHER_BYTES = 2 ** 26;

/** Number of lookups that take about a millisecond. */
export const LOOKUPS_AT_ONCE = 2 ** 19;

/** File name endings of images, in lower case. */
export const IMAGE_EXTENSIONS: readonly string[] = ['.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff'];

/** First bytes of PNG, JPEG and TIFF files. A WebP begins with "RIFF", a length and "WEBP". */
const SIGNATURES = ['\x89PNG\r\n\x1a\n', '\xff\xd8\xff', 'II*\0', 'MM\0*', 'II+\0', 'MM\0+'];
const WEBP_SIGNATURE = ['RIFF', 'WEBP'] as const;
const SIGNATURE_BYTES = 12;

export async function readBytes(file: string, { maxPixels = MAX_PIXELS }: ImageLimits): Promise<Buffer> {
  checkInteger('maxPixels', maxPixels, 1, 2 ** 32);
  const bytes = await readRegularFile(file, MAX_BYTES_PER_PIXEL * maxPixels + MAX_OTHER_BYTES);
  if (bytes.length === 0) throw new DataError(`${file}: the file is empty; expected an image`);
  const start = bytes.toString('latin1', 0, SIGNATURE_BYTES);
  const isWebp = start.startsWith(WEBP_SIGNATURE[0]) && start.endsWith(WEBP_SIGNATURE[1]);
  // sharp's decoders know further formats, such as SVG. Files of these formats never reach them.
  if (!isWebp && !SIGNATURES.some((signature) => start.startsWith(signature))) {
    throw new DataError(`${file}: is not a PNG, JPEG, WebP or TIFF; expected one of these`);
  }
  return bytes;
}

export type Header = ImageSize & { space: string; depth: string; hasAlpha: boolean };

export async function readHeader(file: string, bytes: Uint8Array, limits: ImageLimits): Promise<Header> {
  const { maxPixels = MAX_PIXELS } = limits;
  // The limit is lifted here, because with it the message could not contain the size. Nothing is decoded yet.
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

/** Returns the same memory without Buffer's methods. Buffer's `slice` does not copy. */
export function plainBytes(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}
