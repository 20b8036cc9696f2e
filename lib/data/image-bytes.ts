import sharp, { type Sharp } from 'sharp';
import { DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';
import { checkInteger, checkString, invalidArgument, shortened } from '../support/validate.js';
import { type DecodeOptions, type ImageLimits, MAX_PIXELS } from './image-limits.js';
import type { ImageSize } from './image-size.js';

/* Shared by the readers of images and label maps: the bytes of an image, its header, decoding, and errors. */

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

/** Encoded image and the name that messages give it: the path of its file, or the name that a caller chose. */
export interface NamedBytes {
  name: string;
  bytes: Buffer;
}

/** Reads the file of an image. */
export async function readBytes(file: string, limits: ImageLimits): Promise<NamedBytes> {
  const bytes = await readRegularFile(file, maxBytes(limits));
  requireImage(file, bytes);
  return { name: file, bytes };
}

/** Takes a copy of a caller's bytes, because decoders read them while the caller may change or transfer them. */
export function copyBytes(given: Uint8Array, options: DecodeOptions): NamedBytes {
  const most = maxBytes(options);
  const name = checkString('name', options.name ?? 'image');
  if (!(given instanceof Uint8Array)) throw invalidArgument('bytes', 'a Uint8Array', given);
  if (given.length > most)
    throw new DataError(`${name}: found ${given.length} bytes, expected at most ${most}`);
  const bytes = Buffer.from(given);
  requireImage(name, bytes);
  return { name, bytes };
}

function maxBytes({ maxPixels = MAX_PIXELS }: ImageLimits): number {
  return MAX_BYTES_PER_PIXEL * checkInteger('maxPixels', maxPixels, 1, 2 ** 32) + MAX_OTHER_BYTES;
}

function requireImage(name: string, bytes: Buffer): void {
  if (bytes.length === 0) throw new DataError(`${name}: the file is empty; expected an image`);
  const start = bytes.toString('latin1', 0, SIGNATURE_BYTES);
  const isWebp = start.startsWith(WEBP_SIGNATURE[0]) && start.endsWith(WEBP_SIGNATURE[1]);
  // sharp's decoders know further formats, such as SVG. Files of these formats never reach them.
  if (!isWebp && !SIGNATURES.some((signature) => start.startsWith(signature))) {
    throw new DataError(`${name}: is not a PNG, JPEG, WebP or TIFF; expected one of these`);
  }
}

export type Header = ImageSize & { space: string; depth: string; hasAlpha: boolean };

export async function readHeader({ name, bytes }: NamedBytes, limits: ImageLimits): Promise<Header> {
  const { maxPixels = MAX_PIXELS } = limits;
  // The limit is lifted here, because with it the message could not contain the size. Nothing is decoded yet.
  const header = decoder(bytes, { maxPixels: Number.MAX_SAFE_INTEGER }).metadata();
  const { width, height, space, depth, hasAlpha } = await explainFailure(name, header);
  if (width * height > maxPixels) {
    throw new DataError(`${name}: found ${width}×${height} pixels, expected at most ${maxPixels}`);
  }
  return { width, height, space, depth, hasAlpha };
}

export function decoder(bytes: Uint8Array, { maxPixels = MAX_PIXELS }: ImageLimits): Sharp {
  return sharp(bytes, { failOn: 'error', limitInputPixels: maxPixels, ignoreIcc: true });
}

export async function explainFailure<T>(name: string, decoding: Promise<T>): Promise<T> {
  try {
    return await decoding;
  } catch (error) {
    const reason = (error as Error).message.trim().replaceAll(/\s*\n\s*/g, '; ');
    throw new DataError(
      `${name}: cannot be decoded (${shortened(reason)}); expected a whole PNG, JPEG, WebP or TIFF image`,
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
  // A copy, because sharp reads the pixels later, and the caller may change or transfer them.
  return sharp(Buffer.from(data), { raw: { width, height, channels } });
}

/** Returns the same memory without Buffer's methods. Buffer's `slice` does not copy. */
export function plainBytes(buffer: Buffer): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.byteLength);
}
