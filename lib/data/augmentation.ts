import sharp from 'sharp';
import type { Sample } from './dataset.js';
import type { ImageArea, ImageSize, RgbImage } from './image-size.js';
import type { Random } from './random.js';

/** Ranges of random color changes. 0 leaves colors unchanged. */
export interface ColorJitter {
  /** Colors are multiplied by a factor from 1 − brightness to 1 + brightness. 0 to 1. */
  brightness: number;
  /** Distances from the mean color are multiplied by a factor from 1 − contrast to 1 + contrast. 0 to 1. */
  contrast: number;
  /**
   * Distances from the gray of the same luma are multiplied by a factor from 1 − saturation to 1 + saturation. 0 to 1.
   */
  saturation: number;
  /** Colors turn about the gray axis by up to this share of a circle, 0 to 0.5, either way. */
  hue: number;
}

/** Random changes to training images besides cropping and mirroring. All factors are uniform in their range. */
export interface Augmentation {
  /** Images are resized to the training size times a factor from this range. null: to the training size. */
  scale: readonly [min: number, max: number] | null;
  colorJitter: ColorJitter;
  /** Largest σ of a Gaussian blur in pixels. The smallest is 0. */
  blur: number;
}

export const NO_AUGMENTATION: Augmentation = {
  scale: null,
  colorJitter: { brightness: 0, contrast: 0, saturation: 0, hue: 0 },
  blur: 0,
};

/** Row of a 3 × 3 matrix for R, G, B. */
type Row = [number, number, number];
type Matrix = [Row, Row, Row];

/** Smallest σ that sharp accepts. A weaker blur hardly changes a pixel. */
const MIN_SIGMA = 0.3;

/** Mean R, G, B that a segmenter subtracts from its input, rounded. */
const MEAN_COLOR = [123, 117, 104];

/** Multiplies a size by a factor. The result is at least 1 × 1. */
export function scaledSize({ width, height }: ImageSize, factor: number): ImageSize {
  return { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) };
}

/**
 * Draws a window at a random place. Along each axis, a window smaller than the image lies within it, and a larger
 * window lies around it. x and y are negative if the window begins before the image.
 */
export function randomWindow(size: ImageSize, { width, height }: ImageSize, random: Random): ImageArea {
  const start = (room: number) => (room >= 0 ? random.integer(room + 1) : -random.integer(1 - room));
  return { x: start(size.width - width), y: start(size.height - height), width, height };
}

/** Returns the part of a window that an image of `size` covers. */
export function coveredPart(size: ImageSize, { x, y, width, height }: ImageArea): ImageArea {
  const [left, top] = [Math.max(x, 0), Math.max(y, 0)];
  const [right, bottom] = [Math.min(x + width, size.width), Math.min(y + height, size.height)];
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/**
 * Places `sample` in a window that is at least as large, its top left corner at (`x`, `y`). The space around it has the
 * mean color and the label `ignoreIndex`.
 */
export function padded(
  { name, image, labels, weights }: Sample,
  { x, y }: { x: number; y: number },
  { width, height }: ImageSize,
  ignoreIndex: number,
): Sample {
  if (image.width === width && image.height === height) {
    return { name, image, ...(labels && { labels }), ...(weights && { weights }) };
  }
  const around = Uint8Array.from({ length: 3 * width * height }, (_, i) => MEAN_COLOR[i % 3]!);
  const paste = (from: RgbImage, onto: Uint8Array, channels: number) => {
    for (let row = 0; row < from.height; row++) {
      const line = from.data.subarray(row * from.width * channels, (row + 1) * from.width * channels);
      onto.set(line, ((y + row) * width + x) * channels);
    }
    return { data: onto, width, height };
  };
  return {
    name,
    image: paste(image, around, 3),
    ...(labels && { labels: paste(labels, new Uint8Array(width * height).fill(ignoreIndex), 1) }),
    ...(weights && { weights: paste(weights, new Uint8Array(width * height), 1) }),
  };
}

/** True if colors or sharpness change. */
export function jitters({ colorJitter, blur }: Augmentation): boolean {
  return blur > 0 || Object.values(colorJitter).some((spread) => spread > 0);
}

/** Changes the colors and sharpness of an image at random. It draws equally many numbers whichever options are 0. */
export async function jittered(
  image: RgbImage,
  { colorJitter, blur }: Pick<Augmentation, 'colorJitter' | 'blur'>,
  random: Random,
): Promise<RgbImage> {
  const { brightness, contrast, saturation, hue } = colorJitter;
  const factor = (spread: number) => random.range(1 - spread, 1 + spread);
  const [light, distance, colorfulness] = [factor(brightness), factor(contrast), factor(saturation)];
  const turn = random.range(-hue, hue);
  const sigma = random.range(0, blur);
  const changesColors = Object.values(colorJitter).some((spread) => spread > 0);
  if (!changesColors && sigma < MIN_SIGMA) return image;
  const { width, height, data } = image;
  let pipeline = sharp(data, { raw: { width, height, channels: 3 } });
  if (sigma >= MIN_SIGMA) pipeline = pipeline.blur(sigma);
  if (changesColors) {
    // Brightness and contrast are x ↦ distance · light · x + (1 − distance) · mean. Together with saturation and hue
    // this is one affine map (docs/design/data.md#color-jitter-is-one-affine-map).
    const change = product(turnedHue(turn), saturated(colorfulness));
    const matrix = change.map((row) => row.map((value) => distance * light * value)) as Matrix;
    // libvips rounds down.
    const offsets = change.map((row) => (1 - distance) * dot(row, MEAN_COLOR) + 0.5);
    pipeline = pipeline.recomb(matrix).linear([1, 1, 1], offsets);
  }
  return { width, height, data: new Uint8Array(await pipeline.raw().toBuffer()) };
}

/** Makes the matrix that adds `factor` times the chroma to the Rec. 601 luma. */
function saturated(factor: number): Matrix {
  const luma = [0.299, 0.587, 0.114];
  const row = (channel: number) =>
    luma.map((share, other) => (1 - factor) * share + (other === channel ? factor : 0)) as Row;
  return [row(0), row(1), row(2)];
}

/** Makes the matrix of a rotation about (1, 1, 1), which keeps R + G + B (Rodrigues). */
function turnedHue(circle: number): Matrix {
  const [cos, sin] = [Math.cos(2 * Math.PI * circle), Math.sin(2 * Math.PI * circle)];
  const a = cos + (1 - cos) / 3;
  const b = (1 - cos) / 3 - sin / Math.sqrt(3);
  const c = (1 - cos) / 3 + sin / Math.sqrt(3);
  return [
    [a, b, c],
    [c, a, b],
    [b, c, a],
  ];
}

function product(one: Matrix, other: Matrix): Matrix {
  const column = (index: number) => other.map((row) => row[index]!);
  return one.map((row) => [0, 1, 2].map((index) => dot(row, column(index)))) as Matrix;
}

function dot(one: readonly number[], other: readonly number[]): number {
  return one.reduce((sum, value, index) => sum + value * other[index]!, 0);
}
