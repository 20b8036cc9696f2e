import type { ImageDataset } from '../data/dataset.js';
import { type ImageSize, type LabelImage, type RgbImage, readImage } from '../data/image-files.js';
import type { Predictor } from '../evaluate.js';
import type { Translator } from '../models/translator.js';

/** Larger than this, a picture's parts are reduced (predictions) or cut (translations, which would lose their texture). */
const MAX_SIDE: ImageSize = { width: 512, height: 384 };
/** Pixels of white between the parts. */
const GAP = 4;

/** Rows of S, S′ = F(S), F⁻¹(S′), from the middle of the images. */
export async function translationPicture(
  translator: Pick<Translator, 'translate'>,
  dataset: ImageDataset,
  options: { count: number; size: ImageSize; signal?: AbortSignal | undefined },
): Promise<RgbImage> {
  const { count, size } = options;
  const signal = options.signal && { signal: options.signal };
  // A multiple of 4, as the generators like it.
  const side = (key: keyof ImageSize) => Math.min(size[key], MAX_SIDE[key]) & ~3;
  const part = { width: side('width'), height: side('height') };
  const crop = { ...part, x: (size.width - part.width) >> 1, y: (size.height - part.height) >> 1 };
  const rows: RgbImage[][] = [];
  for (const index of spread(dataset.length, count)) {
    const { image } = await dataset.read(index, { size, crop });
    const there = await translator.translate(image.data, { count: 1, ...part, ...signal });
    const direction = 'target-to-source';
    const back = await translator.translate(there, { count: 1, ...part, direction, ...signal });
    rows.push([image, { data: there, ...part }, { data: back, ...part }]);
  }
  return composeGrid(rows);
}

/** Rows of T, M(T) in colours and, where the data set has labels, the labels in colours. */
export async function predictionPicture(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: {
    count: number;
    /** Input size of the segmenter. */
    size: ImageSize;
    palette: Uint8Array;
    signal?: AbortSignal | undefined;
  },
): Promise<RgbImage> {
  const { count, size, palette } = options;
  const part = reduced(size);
  const rows: RgbImage[][] = [];
  for (const index of spread(dataset.length, count)) {
    const { image, labels } = await dataset.read(
      index,
      dataset.hasLabels ? { size, labelSize: part } : { size },
    );
    const prediction = await segmenter.predict(image.data, {
      count: 1,
      ...size,
      outputWidth: part.width,
      outputHeight: part.height,
      ...(options.signal && { signal: options.signal }),
    });
    const row = [
      await readImage(dataset.entry(index).image, part),
      colourLabels({ data: prediction.labels, ...part }, palette),
    ];
    if (labels) row.push(colourLabels(labels, palette));
    rows.push(row);
  }
  return composeGrid(rows);
}

/** Rows of T and its pseudo-label in colours, black where nothing was kept. */
export async function labelPicture(
  dataset: ImageDataset,
  options: { count: number; size: ImageSize; palette: Uint8Array },
): Promise<RgbImage> {
  const rows: RgbImage[][] = [];
  for (const index of spread(dataset.length, options.count)) {
    const { image, labels } = await dataset.read(index, { size: reduced(options.size) });
    rows.push([image, colourLabels(labels!, options.palette)]);
  }
  return composeGrid(rows);
}

/** `count` indices below `length`, evenly spread. */
export function spread(length: number, count: number): number[] {
  const taken = Math.min(length, count);
  return Array.from({ length: taken }, (_, i) => Math.floor((i * length) / taken));
}

function reduced({ width, height }: ImageSize): ImageSize {
  const scale = Math.min(1, MAX_SIDE.width / width, MAX_SIDE.height / height);
  return { width: Math.round(width * scale), height: Math.round(height * scale) };
}

/** Class indices in their colours; indices beyond the palette, and so usually the ignore index, are black. */
export function colourLabels({ data, width, height }: LabelImage, palette: Uint8Array): RgbImage {
  const colours = new Uint8Array(data.length * 3);
  for (let pixel = 0; pixel < data.length; pixel++) {
    const from = data[pixel]! * 3;
    if (from >= palette.length) continue;
    const to = pixel * 3;
    colours[to] = palette[from]!;
    colours[to + 1] = palette[from + 1]!;
    colours[to + 2] = palette[from + 2]!;
  }
  return { data: colours, width, height };
}

/** Puts images of one size beside and below each other, on white. */
export function composeGrid(rows: readonly (readonly RgbImage[])[]): RgbImage {
  const part = rows[0]![0]!;
  const columns = Math.max(...rows.map((row) => row.length));
  const width = columns * (part.width + GAP) - GAP;
  const height = rows.length * (part.height + GAP) - GAP;
  const data = new Uint8Array(width * height * 3).fill(255);
  const lineBytes = part.width * 3;
  for (const [r, row] of rows.entries()) {
    for (const [c, image] of row.entries()) {
      for (let y = 0; y < part.height; y++) {
        const line = image.data.subarray(y * lineBytes, (y + 1) * lineBytes);
        data.set(line, ((r * (part.height + GAP) + y) * width + c * (part.width + GAP)) * 3);
      }
    }
  }
  return { data, width, height };
}
