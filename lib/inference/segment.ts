import { setImmediate as nextTurn } from 'node:timers/promises';
import { copyBytes } from '../data/image-bytes.js';
import { encodeImage, openImage, openImageBytes } from '../data/image-codec.js';
import type { DecodeOptions } from '../data/image-limits.js';
import type { ImageFile, ImageSize, LabelImage, RgbImage } from '../data/image-size.js';
import { encodeColorLabels, encodeLabels } from '../data/label-codec.js';
import { checkPalette, classesOf, colorLabels, overlay, spreadPalette } from '../data/palette.js';
import type { PredictOptions, Segmenter, SegmenterPrediction } from '../models/segmenter.js';
import { unlessAborted } from '../support/abort.js';
import {
  checkChoice,
  checkInteger,
  checkNumber,
  checkObject,
  checkPath,
  checkSignal,
} from '../support/validate.js';
import type { BatchedPredictor } from './batched-predictor.js';

const OUTPUTS = ['labels', 'color', 'overlay'] as const;
const FORMATS = ['pixels', 'png'] as const;

/** Predictor that {@link segment} can use: a {@link Segmenter}, a {@link BatchedPredictor}, or an object like them. */
export type SegmentPredictor = Pick<Segmenter, 'predict'> &
  Partial<Pick<BatchedPredictor, 'options' | 'requireRoom'>>;

type Job = Pick<PredictOptions, 'confidence' | 'order' | 'classThresholds' | 'precision' | 'flip'>;

/** Options of {@link segment}. `order` is `probabilities` by default, as in evaluation and `bidiseg segment`. */
export interface SegmentOptions extends DecodeOptions, Job, Pick<PredictOptions, 'signal'> {
  /** Size of the network's input. Use the size that it was trained at. Default: the image's own. */
  size?: ImageSize;
  /**
   * What to make: `labels` (default), the class of each pixel; `color`, the color of each pixel's class; `overlay`, this
   * color over the image.
   */
  output?: (typeof OUTPUTS)[number];
  /** Form of the output: `pixels` (default), or `png`, the bytes of a PNG file. */
  format?: (typeof FORMATS)[number];
  /** Colors of the classes, 3 bytes (R, G, B) each. Default: colors of the weights, or else of {@link classesOf}. */
  palette?: Uint8Array;
  /** Share of the class's color in an overlay, 0–1. Default 0.5. */
  opacity?: number;
}

/** Result of {@link segment}. */
export interface Segmentation extends SegmenterPrediction, ImageSize {
  /**
   * Output as pixels or PNG. Pixels are class indices [height, width] or RGB bytes [height, width, 3]. A PNG of `labels`
   * is grayscale, a PNG of `color` has a palette whose indices are the classes, a PNG of `overlay` is RGB.
   */
  data: Uint8Array<ArrayBuffer>;
}

/**
 * Segments one image: decodes it, resizes it to the input size of the network, predicts, and draws the result in the
 * image's own size.
 *
 *     const { data } = await segment(segmenter, jpeg, { output: 'overlay', format: 'png' });
 *
 * An abort is answered at once, in whatever stage the work is.
 *
 * @param input bytes of a PNG, JPEG, WebP or TIFF, or the path of such a file. Bytes are copied when you call
 * @throws DataError when the image cannot be decoded. The message begins with the path, or with `name`
 * @throws QueueFullError when the queue of a {@link BatchedPredictor} is full. Nothing has been decoded yet, usually
 */
export async function segment(
  predictor: SegmentPredictor,
  input: Uint8Array | string,
  options: SegmentOptions = {},
): Promise<Segmentation> {
  const {
    size,
    output = 'labels',
    format = 'pixels',
    palette,
    opacity = 0.5,
    ...more
  } = checkObject('options', options);
  const { name, maxPixels, signal, ...job } = more;
  checkChoice('output', output, OUTPUTS);
  checkChoice('format', format, FORMATS);
  checkNumber('opacity', opacity, 0, 1);
  if (size !== undefined) {
    checkInteger('size.width', checkObject('size', size).width, 1);
    checkInteger('size.height', size.height, 1);
  }
  const colors = palette === undefined ? paletteOf(predictor) : Uint8Array.from(checkPalette(palette));
  checkSignal(signal)?.throwIfAborted();
  predictor.requireRoom?.(1);

  const work = async (): Promise<Segmentation> => {
    const image = await open(input, { name, maxPixels });
    signal?.throwIfAborted();
    const prediction = await predictImage(predictor, image, {
      ...(size && { size }),
      ...(signal && { signal }),
      ...job,
    });
    signal?.throwIfAborted();
    const { width, height } = image;
    const labels = { data: prediction.labels, width, height };
    const draw = { output, format, colors, opacity };
    const data = await drawn(labels, () => image.decode(), draw);
    return { ...prediction, width, height, data };
  };
  return unlessAborted(work(), signal);
}

function paletteOf({ options }: SegmentPredictor): Uint8Array {
  return options ? classesOf(options).palette : spreadPalette(256);
}

async function open(input: Uint8Array | string, options: DecodeOptions): Promise<ImageFile<RgbImage>> {
  if (typeof input === 'string') return openImage(checkPath('input', input), options);
  return openImageBytes(copyBytes(input, options), options);
}

async function predictImage(
  predictor: SegmentPredictor,
  image: ImageFile<RgbImage>,
  options: Pick<SegmentOptions, 'size' | 'signal' | keyof Job>,
): Promise<SegmenterPrediction> {
  const { size, signal, order = 'probabilities', ...job } = options;
  const { data, width, height } = await image.decode(size && { size });
  signal?.throwIfAborted();
  return predictor.predict(data, {
    ...job,
    order,
    ...(signal && { signal }),
    count: 1,
    width,
    height,
    outputWidth: image.width,
    outputHeight: image.height,
  });
}

interface Drawing {
  output: (typeof OUTPUTS)[number];
  format: (typeof FORMATS)[number];
  colors: Uint8Array;
  opacity: number;
}

async function drawn(
  labels: LabelImage,
  readImage: () => Promise<RgbImage>,
  { output, format, colors, opacity }: Drawing,
): Promise<Uint8Array<ArrayBuffer>> {
  if (output === 'labels') {
    return format === 'png' ? encodeLabels(labels) : (labels.data as Uint8Array<ArrayBuffer>);
  }
  if (output === 'color') {
    if (format === 'png') return encodeColorLabels(labels, colors);
    return inStrips(labels, (strip) => colorLabels(strip, colors));
  }
  const image = await readImage();
  const data = await inStrips(labels, (strip, first) => {
    const { width, height } = strip;
    const below = image.data.subarray(3 * width * first, 3 * width * (first + height));
    return overlay({ data: below, width, height }, strip, colors, opacity);
  });
  return format === 'png' ? encodeImage({ ...image, data }) : data;
}

/** Pixels that are drawn within about a millisecond. */
const PIXELS_AT_ONCE = 2 ** 17;

/** Draws a few rows at a time, so that a large image does not block the event loop. */
async function inStrips(
  labels: LabelImage,
  draw: (strip: LabelImage, firstRow: number) => RgbImage,
): Promise<Uint8Array<ArrayBuffer>> {
  const { width, height } = labels;
  const data = new Uint8Array(3 * width * height);
  const rows = Math.max(1, Math.floor(PIXELS_AT_ONCE / width));
  for (let first = 0; first < height; first += rows) {
    const strip = {
      data: labels.data.subarray(width * first, width * (first + rows)),
      width,
      height: Math.min(rows, height - first),
    };
    data.set(draw(strip, first).data, 3 * width * first);
    await nextTurn();
  }
  return data;
}
