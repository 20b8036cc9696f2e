import { setImmediate as nextTurn } from 'node:timers/promises';
import sharp, { type Sharp } from 'sharp';
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
import type { ImageFile, ImageSize, RgbImage } from './image-size.js';

/**
 * Reads an image as 8-bit RGB, like Pillow's `convert('RGB')`, because published models saw such images.
 *
 * The content of the file decides between PNG, JPEG, WebP and TIFF, not its name.
 *
 * - Gray is repeated, and palette indices become their colors. 16-bit samples, gray too, keep their upper 8 bits.
 * - Alpha is dropped, not composited. Colors stay as stored.
 * - CMYK becomes (1 − C)(1 − K), (1 − M)(1 − K), (1 − Y)(1 − K).
 * - Color profiles, gamma and the EXIF orientation are ignored. Label maps are drawn on the stored pixels, and no tag
 *   would rotate them too.
 * - The first of several frames or pages is read.
 *
 * Resizing is bicubic (Catmull-Rom, a = −½). The kernel is widened when it shrinks, like Pillow's BICUBIC. See
 * docs/design/data.md#images-are-read-as-pillow-reads-them.
 *
 * @param size size to resize to. Default: the image's own
 * @throws {DataError} when the file is missing, unreadable, corrupt, truncated, too large or of another kind
 */
export async function readImage(file: string, size?: ImageSize, limits?: ImageLimits): Promise<RgbImage> {
  return (await openImage(file, limits)).decode(size && { size });
}

/**
 * Decodes an image like {@link readImage}, from the bytes of a file. The bytes are copied when you call.
 *
 * @param size size to resize to. Default: the image's own
 * @throws {DataError} when the bytes are corrupt, truncated, too large or of another kind
 */
export async function decodeImage(
  bytes: Uint8Array,
  size?: ImageSize,
  options: DecodeOptions = {},
): Promise<RgbImage> {
  return (await openImageBytes(copyBytes(bytes, options), options)).decode(size && { size });
}

/** Reads the header of an image. See {@link readImage} for conversions and errors. */
export async function openImage(file: string, limits: ImageLimits = {}): Promise<ImageFile<RgbImage>> {
  return openImageBytes(await readBytes(file, limits), limits);
}

/** Reads the header of an encoded image. */
export async function openImageBytes(image: NamedBytes, limits: ImageLimits): Promise<ImageFile<RgbImage>> {
  const { name: file, bytes } = image;
  const { width, height, space, depth, hasAlpha } = await readHeader(image, limits);
  if (!SAMPLES[space]?.includes(depth)) {
    throw new DataError(
      `${file}: found samples of type ${depth} in the color space '${space}', expected 8 or 16 bits of gray or RGB, or 8 of CMYK`,
    );
  }

  /**
   * Returns a pipeline that can feed a resizer. Resizing with alpha would weight colors by it, so such images go
   * through a buffer.
   */
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
        // Shrinking while a JPEG is decoded would be faster but not bicubic. Resizing to the image's own size changes
        // no pixel. But it makes the crop come after the flip, whether or not there is something to resize.
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

/**
 * Writes an 8-bit RGB PNG, whole or not at all. The file is written under a temporary name in the same folder, flushed,
 * then renamed.
 *
 * @throws {DataError} when it cannot be written
 */
export async function writeImage(file: string, image: RgbImage): Promise<void> {
  await writeFileAtomically(file, await encodeImage(image));
}

/** Encodes an image as an 8-bit RGB PNG. The pixels are copied when you call. */
export async function encodeImage(image: RgbImage): Promise<Uint8Array<ArrayBuffer>> {
  return plainBytes(await rawPixels('image', image, 3).png().toBuffer());
}

/** Reach of a cubic kernel beyond the border, plus one. */
const MARGIN = 3;

/**
 * Enlarges an image that is narrower or lower than `size`. Pixel centers go to x′ + ½ = s (x + ½). sharp's own resizing
 * shifts an enlarged image by half a pixel to the right and down (docs/design/data.md#sharp-resizes-images).
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

/** Runs a pipeline and starts another from its result, because sharp orders the operations of one pipeline itself. */
async function rawBuffer(pipeline: Sharp): Promise<Sharp> {
  const { data, info } = await pipeline.raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  return sharp(data, { raw: { width, height, channels } });
}

/** Sample types that are read, by color space. */
const SAMPLES: Record<string, readonly string[]> = {
  'b-w': ['uchar'],
  grey16: ['ushort'],
  srgb: ['uchar'],
  rgb16: ['ushort'],
  cmyk: ['uchar'],
};

/** Converts CMYK with Pillow's formula. A more exact formula needs a profile, and profiles of files are ignored. */
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
