import { randomUUID } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { DataError } from '../support/errors.js';
import { readRegularFile } from '../support/regular-file.js';
import { threadsPerImage } from '../support/threads.js';
import { checkInteger, invalidArgument, shortened } from '../support/validate.js';
import { type ImageLimits, MAX_PIXELS } from './image-limits.js';
import { colorText, type LabelMap, UNKNOWN_ID } from './label-maps.js';

sharp.concurrency(threadsPerImage);

/** Width and height in pixels. */
export interface ImageSize {
  width: number;
  height: number;
}

/** A rectangle in pixels; x and y are those of its top left corner. */
export interface ImageArea extends ImageSize {
  x: number;
  y: number;
}

/** Pixels [height, width, 3], R, G, B in 0–255. */
export interface RgbImage extends ImageSize {
  data: Uint8Array;
}

/** Class indices [height, width]. */
export interface LabelImage extends ImageSize {
  data: Uint8Array;
}

/** What part of a file to give, and at what size. The order is: resize, crop, flip. */
export interface View {
  /** Resize to this; default: the file's own size. */
  size?: ImageSize;
  /** Then keep only this area; default: all. */
  crop?: ImageArea;
  /** Then mirror left and right; default false. */
  flip?: boolean;
}

/** The ids in a label file and what they become. */
export interface LabelEncoding {
  labelMap: LabelMap;
  /** Number of classes, 1–256. */
  classCount: number;
  /** The value, 0–255, of pixels that belong to no class, in files and in what is read. */
  ignoreIndex: number;
}

/** A file whose header is read and whose pixels are still compressed. */
export interface ImageFile<Pixels> extends ImageSize {
  readonly file: string;
  /** Decodes; may be called again. Rejects with a {@link DataError} when the file is broken further down. */
  decode(view?: View): Promise<Pixels>;
}

/** A PNG of 16-bit RGBA, not compressed at all, takes 8 bytes a pixel; the rest is for what else files carry. */
const MAX_BYTES_PER_PIXEL = 8;
const MAX_OTHER_BYTES = 2 ** 26;

/** About a millisecond's work. */
const LOOKUPS_AT_ONCE = 2 ** 19;

/** File name endings of the images that are looked for, lower case. */
export const IMAGE_EXTENSIONS: readonly string[] = ['.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff'];

/** How PNG, JPEG and TIFF files begin; a WebP does with these four letters, a length and another four. */
const SIGNATURES = ['\x89PNG\r\n\x1a\n', '\xff\xd8\xff', 'II*\0', 'MM\0*', 'II+\0', 'MM\0+'];
const WEBP_SIGNATURE = ['RIFF', 'WEBP'] as const;
const SIGNATURE_BYTES = 12;

/**
 * Reads an image as 8-bit RGB: what Pillow's `convert('RGB')` gives, which is what published models saw. Which of PNG,
 * JPEG, WebP and TIFF it is, its content decides, not its name.
 *
 * - grayscale is repeated, a palette replaced by its colors; of 16 bits the higher 8 are kept, of grayscale too
 * - alpha is dropped, not composited: the colors are as they are stored
 * - CMYK is (1 − C)(1 − K), (1 − M)(1 − K), (1 − Y)(1 − K)
 * - color profiles and gamma are ignored, and so is an orientation tag (EXIF): label maps are drawn on the pixels as
 *   they are stored, and have no such tag that could turn them along
 * - of several frames or pages the first is read
 *
 * Resizing is bicubic (Catmull-Rom, a = −½), with the kernel widened where it shrinks, as Pillow's BICUBIC.
 *
 * @param size default: the image's own
 * @throws {DataError} when the file is missing, unreadable, corrupt, truncated, too large or of another kind
 */
export async function readImage(file: string, size?: ImageSize, limits?: ImageLimits): Promise<RgbImage> {
  return (await openImage(file, limits)).decode(size && { size });
}

/**
 * Reads a label map from a PNG: grayscale of any depth up to 16 bits, a palette image (its indices, not its colors,
 * which are for looks), for 'synthia' the first channel of 16-bit RGB, or for a label map of colors 8-bit RGB, RGBA
 * or a palette image. Resizing takes the nearest pixel.
 *
 * @throws {DataError} when the file is missing, broken, too large, of another kind, or holds an id or a color that the
 *   map does not know; the message names the file, the id, its place and what was expected
 */
export async function readLabels(
  file: string,
  options: LabelEncoding & ImageLimits & { size?: ImageSize },
): Promise<LabelImage> {
  return (await openLabels(file, options)).decode(options.size && { size: options.size });
}

/** Reads an image's header; see {@link readImage} for conversions and errors. */
export async function openImage(file: string, limits: ImageLimits = {}): Promise<ImageFile<RgbImage>> {
  const bytes = await readBytes(file, limits);
  const { width, height, space, depth, hasAlpha } = await readHeader(file, bytes, limits);
  if (!SAMPLES[space]?.includes(depth)) {
    throw new DataError(
      `${file}: found samples of type ${depth} in the color space '${space}', expected 8 or 16 bits of gray or RGB, or 8 of CMYK`,
    );
  }

  /** Only what can go straight from the decoder to a resizer: that of images with alpha weighs colors by it. */
  async function decodeRgb(): Promise<Sharp> {
    const source = decoder(bytes, limits);
    if (space === 'cmyk') return explainFailure(file, cmykToRgb(source));
    const rgb = source.toColorspace('srgb');
    return hasAlpha ? explainFailure(file, rawBuffer(rgb.removeAlpha())) : rgb;
  }

  return {
    file,
    width,
    height,
    async decode({ size = { width, height }, crop, flip = false } = {}) {
      let pipeline = await decodeRgb();
      if (size.width > width || size.height > height) {
        pipeline = await explainFailure(file, enlarge(pipeline, { width, height }, size));
      }
      pipeline = pipeline
        // Shrinking while a JPEG is decoded would be quicker but not bicubic. Asking for the image's own size
        // changes no pixel, but makes the crop come after mirroring whether or not there is something to resize.
        .resize(size.width, size.height, { fit: 'fill', kernel: 'cubic', fastShrinkOnLoad: false })
        .flop(flip);
      if (crop) {
        const left = flip ? size.width - crop.x - crop.width : crop.x;
        pipeline = pipeline.extract({ left, top: crop.y, width: crop.width, height: crop.height });
      }
      const { data, info } = await explainFailure(file, pipeline.raw().toBuffer({ resolveWithObject: true }));
      return { data: plainBytes(data), width: info.width, height: info.height };
    },
  };
}

/** Reads a label map's header; see {@link readLabels} for conversions and errors. */
export async function openLabels(
  file: string,
  options: LabelEncoding & ImageLimits,
): Promise<ImageFile<LabelImage>> {
  const { labelMap, classCount, ignoreIndex } = options;
  const { idsFrom } = labelMap;
  const table = labelMap.table(classCount, ignoreIndex);
  const bytes = await readBytes(file, options);
  const { png, kind, bitDepth, indexScale } = asSamples(file, bytes, { keepColors: idsFrom === 'color' });
  const { fits, expected } = LABEL_PNGS[idsFrom];
  if (!fits(kind, bitDepth)) {
    throw new DataError(
      `${file}: found a ${bitDepth}-bit ${kind} PNG, but the label map '${labelMap.name}' expects ${expected}`,
    );
  }
  const { width, height } = await readHeader(file, png, options);

  async function decodeIds(): Promise<ArrayLike<number>> {
    const pipeline = decoder(png, options);
    if (idsFrom === 'color') {
      const rgb = await explainFailure(file, pipeline.removeAlpha().toColorspace('srgb').raw().toBuffer());
      return packColors(rgb);
    }
    if (bitDepth < 16) {
      const data = await explainFailure(file, pipeline.toColorspace('b-w').raw().toBuffer());
      // The decoder stretches samples of 1, 2 and 4 bits over 0–255: gray levels should be, indices not.
      return indexScale === 1 ? data : data.map((sample) => sample / indexScale);
    }
    const deep =
      idsFrom === 'first-channel'
        ? pipeline.toColorspace('rgb16').extractChannel(0)
        : pipeline.toColorspace('grey16');
    const data = plainBytes(await explainFailure(file, deep.raw({ depth: 'ushort' }).toBuffer()));
    return new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
  }

  return {
    file,
    width,
    height,
    async decode(view = {}) {
      const ids = await decodeIds();
      const classes = new Uint8Array(ids.length);
      // Every pixel is looked up before any is left out, so that a bad id shows at every size and crop; in parts,
      // so that large files do not hold up the event loop.
      for (let start = 0; start < ids.length; start += LOOKUPS_AT_ONCE) {
        const end = Math.min(start + LOOKUPS_AT_ONCE, ids.length);
        for (let index = start; index < end; index++) {
          const classIndex = table[ids[index]!]!;
          if (classIndex === UNKNOWN_ID) throw unknownId(file, ids[index]!, index, width, options);
          classes[index] = classIndex;
        }
        await nextTurn();
      }
      return sampleNearest({ data: classes, width, height }, view);
    },
  };
}

/**
 * The view of a label map, every pixel taken from the one whose area holds its center: for output column x,
 * input column ⌊(x + ½) · in / out⌋, and likewise for rows (Pillow's NEAREST).
 */
export function sampleNearest(labels: LabelImage, { size = labels, crop, flip = false }: View): LabelImage {
  const resized = size.width !== labels.width || size.height !== labels.height;
  if (!resized && !crop && !flip) return labels;
  const { x, y, width, height } = crop ?? { x: 0, y: 0, width: size.width, height: size.height };
  const columns = Uint32Array.from({ length: width }, (_, column) =>
    nearest(x + (flip ? width - 1 - column : column), labels.width, size.width),
  );
  const data = new Uint8Array(width * height);
  for (let row = 0, target = 0; row < height; row++) {
    const start = nearest(y + row, labels.height, size.height) * labels.width;
    for (let column = 0; column < width; column++) data[target++] = labels.data[start + columns[column]!]!;
  }
  return { data, width, height };
}

/**
 * Writes an 8-bit RGB PNG. The file appears whole or not at all: it is written under a temporary name in the
 * same folder, flushed, then renamed.
 *
 * @throws {DataError} when it cannot be written
 */
export async function writeImage(file: string, image: RgbImage): Promise<void> {
  const bytes = await rawPixels('image', image, 3).png().toBuffer();
  await writeFileAtomically(file, bytes);
}

/** Writes class indices as an 8-bit grayscale PNG, as {@link writeImage} does. */
export async function writeLabels(file: string, labels: LabelImage): Promise<void> {
  await writeFileAtomically(file, await encodeLabels(labels));
}

/**
 * Writes class indices as an 8-bit palette PNG, as {@link writeImage} does: it looks colored, and read as
 * labels it gives the class indices again.
 *
 * @param palette 3 bytes (R, G, B) for each class, at most 256 classes; classes beyond it, and so usually the
 *   ignore index, are black
 */
export async function writeColorLabels(file: string, labels: LabelImage, palette: Uint8Array): Promise<void> {
  if (palette.length % 3 !== 0 || palette.length > 768) {
    throw invalidArgument('palette', 'a Uint8Array of 3 bytes a class, at most 256 classes', palette);
  }
  const colors = new Uint8Array(768);
  colors.set(palette);
  const gray = await encodeLabels(labels);
  const afterHeader = 8 + chunkLength(13);
  const header = Buffer.from(gray.subarray(16, 29));
  header[9] = PALETTE;
  await writeFileAtomically(
    file,
    Buffer.concat([
      PNG_SIGNATURE,
      pngChunk('IHDR', header),
      pngChunk('PLTE', colors),
      gray.subarray(afterHeader),
    ]),
  );
}

/**
 * Writes a file under a temporary name in the same folder, flushes it, then renames it: a reader finds the old
 * file or the new one, whole. On failure the temporary file is removed.
 *
 * @throws {DataError} when it cannot be written
 */
export async function writeFileAtomically(file: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = join(dirname(file), `.${basename(file)}.${randomUUID()}.tmp`);
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, 'wx');
    await handle.writeFile(bytes);
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, file);
  } catch (error) {
    await handle?.close().catch(() => {});
    await rm(temporary, { force: true }).catch(() => {});
    throw new DataError(`${file}: cannot be written: ${(error as Error).message}`, { cause: error });
  }
}

/** How far a cubic kernel reaches beyond the border, and one more. */
const MARGIN = 3;

/**
 * The image, where it is narrower or lower than `size`, enlarged to that, with pixel centers where they belong:
 * x′ + ½ = s (x + ½). sharp's own resizing puts an enlarged image half a pixel too far to the right and below.
 */
async function enlarge(pipeline: Sharp, from: ImageSize, size: ImageSize): Promise<Sharp> {
  const [width, height] = [Math.max(from.width, size.width), Math.max(from.height, size.height)];
  const [x, y] = [width / from.width, height / from.height];
  const margins = { left: MARGIN, right: MARGIN, top: MARGIN, bottom: MARGIN };
  const framed = await rawBuffer(pipeline.extend({ ...margins, extendWith: 'copy' }));
  const offsets = { idx: 0.5 - 0.5 / x - MARGIN, idy: 0.5 - 0.5 / y - MARGIN };
  const enlarged = await rawBuffer(framed.affine([x, 0, 0, y], { interpolator: 'bicubic', ...offsets }));
  return enlarged.extract({ left: 0, top: 0, width, height });
}

/** Carries out a pipeline, as the start of another: sharp does its operations in an order of its own. */
async function rawBuffer(pipeline: Sharp): Promise<Sharp> {
  const { data, info } = await pipeline.raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  return sharp(data, { raw: { width, height, channels } });
}

function nearest(position: number, from: number, to: number): number {
  return Math.floor(((position + 0.5) * from) / to);
}

function decoder(bytes: Uint8Array, { maxPixels = MAX_PIXELS }: ImageLimits): Sharp {
  return sharp(bytes, { failOn: 'error', limitInputPixels: maxPixels, ignoreIcc: true });
}

/** The types of samples that are read in each color space. */
const SAMPLES: Record<string, readonly string[]> = {
  'b-w': ['uchar'],
  grey16: ['ushort'],
  srgb: ['uchar'],
  rgb16: ['ushort'],
  cmyk: ['uchar'],
};

/** The formula of Pillow: what would be more exact takes a profile, and the ones of files are ignored. */
async function cmykToRgb(pipeline: Sharp): Promise<Sharp> {
  const cmyk = pipeline.pipelineColorspace('cmyk').toColorspace('cmyk').raw();
  const { data, info } = await cmyk.toBuffer({ resolveWithObject: true });
  const { width, height } = info;
  const rgb = new Uint8Array(3 * width * height);
  for (let start = 0; start < width * height; start += LOOKUPS_AT_ONCE) {
    const end = Math.min(start + LOOKUPS_AT_ONCE, width * height);
    for (let pixel = start; pixel < end; pixel++) {
      const white = 255 - data[4 * pixel + 3]!;
      for (let channel = 0; channel < 3; channel++) {
        rgb[3 * pixel + channel] = Math.round(((255 - data[4 * pixel + channel]!) * white) / 255);
      }
    }
    await nextTurn();
  }
  return sharp(rgb, { raw: { width, height, channels: 3 } });
}

/** R · 2¹⁶ + G · 2⁸ + B of each pixel, as tables of label maps of colors have it. */
function packColors(rgb: Uint8Array): Uint32Array {
  const colors = new Uint32Array(rgb.length / 3);
  for (let pixel = 0, at = 0; pixel < colors.length; pixel++, at += 3) {
    colors[pixel] = (rgb[at]! << 16) | (rgb[at + 1]! << 8) | rgb[at + 2]!;
  }
  return colors;
}

async function readBytes(file: string, { maxPixels = MAX_PIXELS }: ImageLimits): Promise<Buffer> {
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

type Header = ImageSize & { space: string; depth: string; hasAlpha: boolean };

async function readHeader(file: string, bytes: Uint8Array, limits: ImageLimits): Promise<Header> {
  const { maxPixels = MAX_PIXELS } = limits;
  // Without the limit, which would keep the size from the message; nothing is decoded here.
  const header = decoder(bytes, { maxPixels: Number.MAX_SAFE_INTEGER }).metadata();
  const { width, height, space, depth, hasAlpha } = await explainFailure(file, header);
  if (width * height > maxPixels) {
    throw new DataError(`${file}: found ${width}×${height} pixels, expected at most ${maxPixels}`);
  }
  return { width, height, space, depth, hasAlpha };
}

async function explainFailure<T>(file: string, decoding: Promise<T>): Promise<T> {
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

function unknownId(
  file: string,
  id: number,
  index: number,
  width: number,
  encoding: LabelEncoding,
): DataError {
  const { labelMap, classCount, ignoreIndex } = encoding;
  const place = `column ${index % width}, row ${Math.floor(index / width)}`;
  if (labelMap.idsFrom === 'color') {
    return new DataError(
      `${file}: found the color ${colorText(id)} at ${place}, expected a color of the label map '${labelMap.name}'`,
    );
  }
  const expected =
    labelMap.name === 'identity'
      ? `a class index 0–${classCount - 1}`
      : `an id of the label map '${labelMap.name}'`;
  return new DataError(
    `${file}: found label id ${id} at ${place}, expected ${expected} or ${ignoreIndex} (ignore)`,
  );
}

function rawPixels(name: string, image: ImageSize & { data: Uint8Array }, channels: 1 | 3): Sharp {
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

function encodeLabels(labels: LabelImage): Promise<Buffer> {
  return rawPixels('labels', labels, 1).toColorspace('b-w').png().toBuffer();
}

/** The same memory, without Buffer's methods (whose `slice` does not copy). */
function plainBytes(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

// PNG: a signature, then chunks of length, type, data and CRC-32 over type and data.
const PNG_SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const GRAYSCALE = 0;
const PALETTE = 3;
const COLOR_KINDS: Record<number, string> = {
  [GRAYSCALE]: 'grayscale',
  2: 'RGB',
  [PALETTE]: 'palette',
  4: 'grayscale with alpha',
  6: 'RGB with alpha',
};

function chunkLength(dataLength: number): number {
  return dataLength + 12;
}

function pngChunk(type: string, data: Uint8Array): Buffer {
  const chunk = Buffer.alloc(chunkLength(data.length));
  chunk.writeUInt32BE(data.length, 0);
  chunk.write(type, 4, 'latin1');
  chunk.set(data, 8);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, -4)), chunk.length - 4);
  return chunk;
}

/** The kinds of PNG that labels can be read from, and what to say of others. */
const LABEL_PNGS: Record<
  LabelMap['idsFrom'],
  { fits: (kind: string, bitDepth: number) => boolean; expected: string }
> = {
  'one-channel': {
    fits: (kind) => kind === 'grayscale',
    expected: 'a PNG with one channel (grayscale or palette) that holds the label id',
  },
  'first-channel': {
    fits: (kind, bitDepth) => kind === 'RGB' && bitDepth === 16,
    expected: 'a 16-bit RGB PNG with the label id in its first channel',
  },
  color: {
    fits: (kind, bitDepth) => ['RGB', 'RGB with alpha', 'palette'].includes(kind) && bitDepth <= 8,
    expected: 'an 8-bit RGB, RGBA or palette PNG that holds colors',
  },
};

interface PngSamples {
  png: Buffer;
  kind: string;
  bitDepth: number;
  /** By how much the decoder multiplies palette indices of less than 8 bits. */
  indexScale: number;
}

/**
 * A PNG reduced to its samples: header, compressed data and end, nothing that could make a decoder convert
 * colors. A palette image becomes a grayscale one, since decoders replace indices by colors; unless these are kept.
 */
function asSamples(file: string, bytes: Buffer, { keepColors }: { keepColors: boolean }): PngSamples {
  if (!bytes.subarray(0, 8).equals(PNG_SIGNATURE)) {
    throw new DataError(`${file}: not a PNG; expected label maps as PNG`);
  }
  const kept = ['IHDR', 'IDAT', 'IEND', ...(keepColors ? ['PLTE'] : [])];
  const chunks: Buffer[] = [PNG_SIGNATURE];
  let kind = '';
  let bitDepth = 0;
  let indexScale = 1;
  let type = '';
  for (let start = 8; type !== 'IEND'; ) {
    const length = start + 8 <= bytes.length ? bytes.readUInt32BE(start) : 0;
    const end = start + chunkLength(length);
    if (end > bytes.length) {
      throw new DataError(`${file}: the PNG is truncated after ${bytes.length} bytes; expected a whole file`);
    }
    type = bytes.toString('latin1', start + 4, start + 8);
    let chunk = bytes.subarray(start, end);
    if (type === 'IHDR') {
      bitDepth = chunk[16]!;
      kind = COLOR_KINDS[chunk[17]!] ?? 'unknown';
      if (kind === 'palette' && !keepColors) {
        kind = 'grayscale';
        indexScale = 255 / (2 ** bitDepth - 1);
        const header = Buffer.from(chunk.subarray(8, -4));
        header[9] = GRAYSCALE;
        chunk = pngChunk('IHDR', header);
      }
    }
    if (kept.includes(type)) chunks.push(chunk);
    start = end;
  }
  return { png: Buffer.concat(chunks), kind, bitDepth, indexScale };
}
