import { checkNumber, invalidArgument } from '../support/validate.js';
import type { LabelImage, RgbImage } from './image-size.js';
import { CAMVID, CITYSCAPES, type ClassList } from './label-maps.js';

/**
 * Returns names and colors of a segmenter's classes, such as those of `segmenter.options`. Where they are unknown, it
 * takes CITYSCAPES or CAMVID, if the number of classes is theirs. Otherwise the names are `class 0`, `class 1`, … and the
 * colors distinct.
 */
export function classesOf(segmenter: {
  classCount: number;
  classNames?: readonly string[];
  palette?: Uint8Array;
}): ClassList {
  const { classCount, classNames = [], palette = new Uint8Array() } = segmenter;
  const known = [CITYSCAPES, CAMVID].find(({ names }) => names.length === classCount);
  const unnamed = () => known?.names ?? Array.from({ length: classCount }, (_, index) => `class ${index}`);
  return {
    names: classNames.length > 0 ? classNames : unnamed(),
    palette: palette.length > 0 ? palette : (known?.palette ?? spreadPalette(classCount)),
  };
}

/** Makes a palette for classes without colors of their own: 3 bytes (R, G, B) a class. */
export function spreadPalette(count: number): Uint8Array {
  return Uint8Array.from(Array.from({ length: count }, (_, index) => spreadColor(index)).flat());
}

/**
 * Draws class indices in their colors. Indices beyond the palette, usually also the ignore index, become black.
 *
 * @param palette 3 bytes (R, G, B) a class
 */
export function colorLabels(labels: LabelImage, palette: Uint8Array): RgbImage {
  return paintLabels(labels, palette, new Uint8Array(labels.data.length * 3));
}

/** Draws class indices in their colors. Indices beyond the palette show the image in pale gray. */
export function labelsOverGray(labels: LabelImage, palette: Uint8Array, image: RgbImage): RgbImage {
  const gray = new Uint8Array(image.data.length);
  for (let pixel = 0; pixel < gray.length; pixel += 3) {
    const [red, green, blue] = image.data.subarray(pixel, pixel + 3) as unknown as [number, number, number];
    // Luma, lighter and with less contrast, so that it is not mistaken for a class.
    gray.fill(120 + (0.299 * red + 0.587 * green + 0.114 * blue) * 0.45, pixel, pixel + 3);
  }
  return paintLabels(labels, palette, gray);
}

function paintLabels({ data, width, height }: LabelImage, palette: Uint8Array, onto: Uint8Array): RgbImage {
  for (let pixel = 0; pixel < data.length; pixel++) {
    const from = data[pixel]! * 3;
    if (from >= palette.length) continue;
    const to = pixel * 3;
    onto[to] = palette[from]!;
    onto[to + 1] = palette[from + 1]!;
    onto[to + 2] = palette[from + 2]!;
  }
  return { data: onto, width, height };
}

/** Returns `palette` if it has 3 bytes a class and at most 256 classes. */
export function checkPalette(palette: Uint8Array): Uint8Array {
  if (!(palette instanceof Uint8Array) || palette.length % 3 !== 0 || palette.length > 768) {
    throw invalidArgument('palette', 'a Uint8Array of 3 bytes a class, at most 256 classes', palette);
  }
  return palette;
}

/**
 * Mixes each pixel of an image with the color of its class: (1 − opacity) · image + opacity · color, rounded down.
 *
 * @param palette 3 bytes (R, G, B) a class. Pixels of classes beyond it, such as 255, keep the image's color
 * @param opacity share of the class's color, 0–1. Default 0.5
 * @throws InvalidArgumentError when image and labels differ in size
 */
export function overlay(image: RgbImage, labels: LabelImage, palette: Uint8Array, opacity = 0.5): RgbImage {
  const pixels = image.width * image.height;
  if (image.data.length !== 3 * pixels || labels.data.length !== pixels || labels.width !== image.width) {
    throw invalidArgument('labels', `class indices for ${image.width}×${image.height} pixels`, labels.data);
  }
  checkPalette(palette);
  checkNumber('opacity', opacity, 0, 1);
  const data = Uint8Array.from(image.data);
  const classCount = palette.length / 3;
  for (let i = 0; i < pixels; i++) {
    const label = labels.data[i]!;
    if (label >= classCount) continue;
    for (let channel = 0; channel < 3; channel++) {
      const below = data[3 * i + channel]!;
      data[3 * i + channel] = below + (palette[3 * label + channel]! - below) * opacity;
    }
  }
  return { width: image.width, height: image.height, data };
}

/**
 * Computes a color of PASCAL VOC: the bits of the index go in turn to red, green and blue, from the highest bit down.
 */
function spreadColor(index: number): [number, number, number] {
  const color: [number, number, number] = [0, 0, 0];
  for (let bits = index + 1, shift = 7; bits > 0; bits >>= 3, shift--) {
    for (let channel = 0; channel < 3; channel++) color[channel]! |= ((bits >> channel) & 1) << shift;
  }
  return color;
}
