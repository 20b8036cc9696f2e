import { setImmediate as nextTurn } from 'node:timers/promises';
import { DataError } from '../support/errors.js';
import { writeFileAtomically } from '../support/files.js';
import {
  copyBytes,
  decoder,
  explainFailure,
  LOOKUPS_AT_ONCE,
  type NamedBytes,
  plainBytes,
  rawPixels,
  readBytes,
  readHeader,
} from './image-bytes.js';
import type { DecodeOptions, ImageLimits } from './image-limits.js';
import type { ImageFile, ImageSize, LabelImage, View } from './image-size.js';
import { colorText, type LabelMap, UNKNOWN_ID } from './label-maps.js';
import { checkPalette } from './palette.js';
import { asSamples, withPalette } from './png.js';

/** Conversion between the ids in a label file and classes. */
export interface LabelEncoding {
  labelMap: LabelMap;
  /** Number of classes, 1–256. */
  classCount: number;
  /** Value of pixels that belong to no class, 0–255, in files and in the result. */
  ignoreIndex: number;
}

/** Reports a PNG whose samples cannot be the ids of a label map, for instance because they are colors. */
export class LabelKindError extends DataError {}

/**
 * Reads a label map from a PNG.
 *
 * - Grayscale of up to 16 bits, or a palette image. Its indices are the ids; its colors are only for display.
 * - For 'synthia': the first channel of 16-bit RGB.
 * - For a label map of colors: 8-bit RGB, RGBA or a palette image.
 *
 * Resizing takes the nearest pixel.
 *
 * @throws {DataError} when the file is missing, broken, too large, of another kind, or holds an id or a color that the
 * map does not know. The message names the file, the id, its place and what was expected
 */
export async function readLabels(
  file: string,
  options: LabelEncoding & ImageLimits & { size?: ImageSize },
): Promise<LabelImage> {
  return (await openLabels(file, options)).decode(options.size && { size: options.size });
}

/** Decodes a label map like {@link readLabels}, from the bytes of a PNG. The bytes are copied when you call. */
export async function decodeLabels(
  bytes: Uint8Array,
  options: LabelEncoding & DecodeOptions & { size?: ImageSize },
): Promise<LabelImage> {
  const opened = await openLabelBytes(copyBytes(bytes, options), options);
  return opened.decode(options.size && { size: options.size });
}

/** Reads the header of a label map. See {@link readLabels} for conversions and errors. */
export async function openLabels(
  file: string,
  options: LabelEncoding & ImageLimits,
): Promise<ImageFile<LabelImage>> {
  return openLabelBytes(await readBytes(file, options), options);
}

async function openLabelBytes(
  { name: file, bytes }: NamedBytes,
  options: LabelEncoding & ImageLimits,
): Promise<ImageFile<LabelImage>> {
  const { labelMap, classCount, ignoreIndex } = options;
  const { idsFrom } = labelMap;
  const table = labelMap.table(classCount, ignoreIndex);
  const { png, kind, bitDepth, indexScale } = asSamples(file, bytes, { keepColors: idsFrom === 'color' });
  const { fits, expected } = LABEL_PNGS[idsFrom];
  if (!fits(kind, bitDepth)) {
    throw new LabelKindError(
      `${file}: found ${bitDepth === 8 ? 'an' : 'a'} ${bitDepth}-bit ${kind} PNG, but the label map '${labelMap.name}' expects ${expected}`,
    );
  }
  const { width, height } = await readHeader({ name: file, bytes: png }, options);

  async function decodeIds(): Promise<ArrayLike<number>> {
    const pipeline = decoder(png, options);
    if (idsFrom === 'color') {
      const rgb = await explainFailure(file, pipeline.removeAlpha().toColorspace('srgb').raw().toBuffer());
      return packColors(rgb);
    }
    if (bitDepth < 16) {
      const data = await explainFailure(file, pipeline.toColorspace('b-w').raw().toBuffer());
      // The decoder stretches samples of 1, 2 and 4 bits to 0–255. That is right for gray levels but not for indices.
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
      // Every pixel is looked up before any is left out, so that a bad id is found at every size and crop. It is done
      // in parts, so that large files do not block the event loop.
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
 * Resizes, crops and flips a label map. Each pixel is copied from the input pixel whose area holds its center: output
 * column x takes input column ⌊(x + ½) · in / out⌋, and rows likewise (Pillow's NEAREST).
 */
export function sampleNearest(labels: LabelImage, { size = labels, crop, flip = false }: View): LabelImage {
  const resized = size.width !== labels.width || size.height !== labels.height;
  if (!resized && !crop && !flip) return labels;
  const { x, y, width, height } = crop ?? { x: 0, y: 0, width: size.width, height: size.height };
  const columns = nearestPositions(labels.width, size.width).subarray(x, x + width);
  if (flip) columns.reverse();
  const rows = nearestPositions(labels.height, size.height).subarray(y, y + height);
  const data = new Uint8Array(width * height);
  for (let row = 0, target = 0; row < height; row++) {
    const start = rows[row]! * labels.width;
    for (let column = 0; column < width; column++) data[target++] = labels.data[start + columns[column]!]!;
  }
  return { data, width, height };
}

/** Writes class indices as an 8-bit grayscale PNG, whole or not at all, like {@link writeImage}. */
export async function writeLabels(file: string, labels: LabelImage): Promise<void> {
  await writeFileAtomically(file, await encodeLabels(labels));
}

/**
 * Writes class indices as an 8-bit palette PNG, whole or not at all, like {@link writeImage}. Viewers show colors, and
 * reading the file as labels returns the class indices.
 *
 * @param palette 3 bytes (R, G, B) a class, at most 256 classes. Classes beyond it, usually also the ignore index, are
 * black
 */
export async function writeColorLabels(file: string, labels: LabelImage, palette: Uint8Array): Promise<void> {
  await writeFileAtomically(file, await encodeColorLabels(labels, palette));
}

/** Encodes class indices as an 8-bit grayscale PNG. They are copied when you call. */
export async function encodeLabels(labels: LabelImage): Promise<Uint8Array<ArrayBuffer>> {
  return plainBytes(await grayPng(labels));
}

/** Encodes class indices as an 8-bit palette PNG, like {@link writeColorLabels}. They are copied when you call. */
export async function encodeColorLabels(
  labels: LabelImage,
  palette: Uint8Array,
): Promise<Uint8Array<ArrayBuffer>> {
  const colors = Uint8Array.from(checkPalette(palette));
  // A copy, because Node puts small buffers into memory that they share.
  return new Uint8Array(withPalette(await grayPng(labels), colors));
}

/**
 * Returns the input position of each of `to` output positions: ⌊(x + ½) · from / to⌋. The product is a sum of steps, as in
 * Pillow. If a center lies on a border between pixels, the rounding of that sum decides.
 */
function nearestPositions(from: number, to: number): Uint32Array {
  const step = from / to;
  let center = step * 0.5;
  return Uint32Array.from({ length: to }, () => {
    const position = Math.min(Math.floor(center), from - 1);
    center += step;
    return position;
  });
}

/** Packs each pixel into R · 2¹⁶ + G · 2⁸ + B, the index into the table of a label map of colors. */
function packColors(rgb: Uint8Array): Uint32Array {
  const colors = new Uint32Array(rgb.length / 3);
  for (let pixel = 0, at = 0; pixel < colors.length; pixel++, at += 3) {
    colors[pixel] = (rgb[at]! << 16) | (rgb[at + 1]! << 8) | rgb[at + 2]!;
  }
  return colors;
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

function grayPng(labels: LabelImage): Promise<Buffer> {
  return rawPixels('labels', labels, 1).toColorspace('b-w').png().toBuffer();
}

/** Kinds of PNG that labels can be read from, and the expectation that errors state. */
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
