import { coveredPart, randomWindow, scaledSize } from './augmentation.js';
import type { ImageDataset, Sample } from './dataset.js';
import type { ImageArea, ImageSize, LabelImage } from './image-size.js';
import { sampleNearest } from './label-codec.js';
import type { Random } from './random.js';

/** Options for pasting objects of some images onto others. */
export interface CopyPaste {
  /** Classes whose connected areas are objects. */
  classes: readonly number[];
  /** Share of images that get an object, 0–1. */
  probability: number;
  /** Height of the pasted object as a share of the training image's height, log-uniform in this range. */
  height: readonly [min: number, max: number];
  /** Smallest share of its own image that an object covers, 0–1. */
  minimumShare: number;
}

/** Largest width and height at which objects are searched for. The search runs on the event loop. */
const LOOK_SIZE = 256;

/** Largest enlargement of an object, relative to an image of the training size. Beyond it no further detail appears. */
const LARGEST_FACTOR = 3;

/**
 * Pastes an object of another image onto `sample`, labels included (copy-paste, Ghiasi et al., CVPR 2021).
 *
 * An image of `dataset` is drawn at random. A connected area of one of the classes is cut out, resized and pasted at a
 * random place of `sample`, in place. So the network cannot learn by heart which things appear where. Label maps do not
 * separate instances, hence the connected areas. If the drawn image has no such area, nothing is pasted. See
 * docs/design/data.md#copy-paste.
 *
 * @param size the training size, to which the object's own image is resized before it is scaled further
 * @throws DataError when the drawn image or its labels cannot be read
 */
export async function pasteObject(
  sample: Sample,
  { dataset, size, flip, ...options }: CopyPaste & { dataset: ImageDataset; size: ImageSize; flip: boolean },
  random: Random,
): Promise<void> {
  if (random.next() >= options.probability) return;
  const from = random.integer(dataset.length);
  const shrinking = Math.min(1, LOOK_SIZE / Math.max(size.width, size.height));
  const look = scaledSize(size, shrinking);
  const labels = sampleNearest(await dataset.readLabels(from), { size: look });
  const objects = connectedAreas(labels, options.classes, options.minimumShare * look.width * look.height);
  if (objects.length === 0) return;
  const { label, ...found } = objects[random.integer(objects.length)]!;
  const [least, most] = options.height;
  const wanted = least * (most / least) ** random.next() * sample.image.height;
  const factor = Math.min(wanted / found.height, LARGEST_FACTOR / shrinking);
  const whole = scaledSize(look, factor);
  const crop = scaledArea(found, factor, whole);
  const piece = await dataset.read(from, { size: whole, crop, flip: flip && random.next() < 0.5 });
  paste(piece, label, sample, randomWindow(sample.image, piece.image, random));
}

/**
 * Finds the boxes of the connected areas of `classes` with at least `minimum` pixels. Pixels connect by a side. Areas
 * are in the order of their first pixels.
 */
export function connectedAreas(
  { data, width, height }: LabelImage,
  classes: readonly number[],
  minimum: number,
): (ImageArea & { label: number })[] {
  const wanted = new Set(classes);
  const seen = new Uint8Array(data.length);
  const areas: (ImageArea & { label: number })[] = [];
  const waiting: number[] = [];
  for (let first = 0; first < data.length; first++) {
    const label = data[first]!;
    if (seen[first] || !wanted.has(label)) continue;
    let [left, right, top, bottom, pixels] = [width, 0, height, 0, 0];
    const reach = (index: number) => {
      if (seen[index] || data[index] !== label) return;
      seen[index] = 1;
      waiting.push(index);
    };
    reach(first);
    for (let index = waiting.pop(); index !== undefined; index = waiting.pop()) {
      const x = index % width;
      const y = (index - x) / width;
      pixels++;
      [left, right, top, bottom] = [
        Math.min(left, x),
        Math.max(right, x),
        Math.min(top, y),
        Math.max(bottom, y),
      ];
      if (x > 0) reach(index - 1);
      if (x + 1 < width) reach(index + 1);
      if (y > 0) reach(index - width);
      if (y + 1 < height) reach(index + width);
    }
    const area = { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
    if (pixels >= minimum) areas.push({ label, ...area });
  }
  return areas;
}

/**
 * Copies the pixels of `piece` that have `label` into the sample. The top left corner of the piece is at (`x`, `y`) and
 * may lie outside.
 */
function paste(piece: Sample, label: number, { image, labels, weights }: Sample, { x, y }: ImageArea): void {
  const part = coveredPart(image, { x, y, width: piece.image.width, height: piece.image.height });
  for (let row = part.y; row < part.y + part.height; row++) {
    for (let column = part.x; column < part.x + part.width; column++) {
      const from = (row - y) * piece.image.width + column - x;
      if (piece.labels!.data[from] !== label) continue;
      const onto = row * image.width + column;
      image.data.set(piece.image.data.subarray(3 * from, 3 * from + 3), 3 * onto);
      if (labels) labels.data[onto] = label;
      if (weights) weights.data[onto] = 255;
    }
  }
}

/** Returns the pixels that an area of an image touches after the image was scaled to `size`. */
function scaledArea(area: ImageArea, factor: number, size: ImageSize): ImageArea {
  const [x, width] = scaledRange(area.x, area.width, factor, size.width);
  const [y, height] = scaledRange(area.y, area.height, factor, size.height);
  return { x, y, width, height };
}

/** Scales a range of pixels. The result has at least one pixel of `length`. */
function scaledRange(
  start: number,
  extent: number,
  factor: number,
  length: number,
): [start: number, extent: number] {
  const first = Math.min(Math.floor(start * factor), length - 1);
  return [first, Math.min(Math.ceil((start + extent) * factor), length) - first];
}
