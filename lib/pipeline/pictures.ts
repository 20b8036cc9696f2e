import type { ImageDataset } from '../data/dataset.js';
import { matchHistograms } from '../data/histogram-matching.js';
import type { ImageSize, RgbImage } from '../data/image-size.js';
import { colorLabels, labelsOverGray } from '../data/palette.js';
import type { Predictor } from '../inference/evaluate.js';
import { drawReference } from '../inference/translate-dataset.js';
import type { TranslateOptions, Translator } from '../models/translator.js';
import { applyThresholds } from '../native/thresholds.js';
import { spread } from '../support/spread.js';
import { predictionOptions } from '../training/self-training.js';
import type { PseudoLabelChoice } from '../training/self-training-options.js';
import type { PictureColumn } from './events.js';
import { composeGrid } from './picture-grid.js';

/**
 * Maximum size of a picture's parts. Larger predictions are reduced. Larger translations are cropped, because reducing
 * would hide their texture.
 */
const MAX_SIDE: ImageSize = { width: 512, height: 384 };

/** A picture of a stage's results: a grid of equal parts, and the content of its rows and columns. */
export interface Picture {
  image: RgbImage;
  columns: readonly PictureColumn[];
  /** Names of the images, one per row. */
  rows: readonly string[];
}

interface PictureOptions {
  /**
   * Number of images to show, at most the size of the data set. They are spread evenly over it, so every stage shows
   * the same ones.
   */
  count: number;
  /** Size of the network's input. */
  size: ImageSize;
  signal?: AbortSignal | undefined;
}

/**
 * Makes rows of S, S′ = F(S), F⁻¹(S′). With the direction 'target-to-source', makes rows of T, T′ = F⁻¹(T), F(T′). Both
 * are cropped from the middle. A paired translator has no inverse, so its rows are S, S′.
 */
export async function translationPicture(
  translator: Pick<Translator, 'translate' | 'options'>,
  dataset: ImageDataset,
  options: PictureOptions & { direction: NonNullable<TranslateOptions['direction']> },
): Promise<Picture> {
  const { count, size, direction, signal } = options;
  // The generators need multiples of 4.
  const side = (key: keyof ImageSize) => Math.min(size[key], MAX_SIDE[key]) & ~3;
  const part = { width: side('width'), height: side('height') };
  const crop = { ...part, x: (size.width - part.width) >> 1, y: (size.height - part.height) >> 1 };
  const job = { count: 1, ...part, ...(signal && { signal }) };
  const opposite = direction === 'source-to-target' ? 'target-to-source' : 'source-to-target';
  const isPaired = translator.options.pairing === 'paired';
  const columns: PictureColumn[] = ['image', 'translated', ...(isPaired ? [] : ['reconstructed' as const])];
  return pictureOf(dataset, count, columns, async (index) => {
    const { image } = await dataset.read(index, { size, crop });
    const there = await translator.translate(image.data, { ...job, direction });
    if (isPaired) return [image, { data: there, ...part }];
    const back = await translator.translate(there, { ...job, direction: opposite });
    return [image, { data: there, ...part }, { data: back, ...part }];
  });
}

/** Makes rows of S, S′ by histogram matching, and the target image that S was matched to. */
export async function matchedPicture(
  { source, target }: { source: ImageDataset; target: ImageDataset },
  options: PictureOptions & { targetSize: ImageSize; seed: number; stage: string },
): Promise<Picture> {
  const part = reduced(options.size);
  return pictureOf(source, options.count, ['image', 'translated', 'reference'], async (index) => {
    const image = await source.readImage(index, part);
    const { name } = source.entry(index);
    const reference = await drawReference(target, name, { ...options, targetSize: part });
    return [image, matchHistograms(image, reference), reference];
  });
}

/** Makes rows of T, M(T) in colors and, if the data set has labels, the labels in colors. */
export async function predictionPicture(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: PictureOptions & { palette: Uint8Array },
): Promise<Picture> {
  const { count, size, palette, signal } = options;
  const part = reduced(size);
  const columns: PictureColumn[] = ['image', 'prediction', ...(dataset.hasLabels ? ['truth' as const] : [])];
  return pictureOf(dataset, count, columns, async (index) => {
    const { image, labels } = await dataset.read(index, { size, labelSize: part });
    const { labels: data } = await segmenter.predict(image.data, {
      count: 1,
      ...size,
      outputWidth: part.width,
      outputHeight: part.height,
      // The same order as in evaluation, so the pictures show what the numbers measure.
      order: 'probabilities',
      ...(signal && { signal }),
    });
    return [
      await dataset.readImage(index, part),
      colorLabels({ data, ...part }, palette),
      ...(labels ? [colorLabels(labels, palette)] : []),
    ];
  });
}

/** Makes rows of T and the pseudo-labels that self-training keeps of M(T), in colors on the gray image. */
export async function pseudoLabelPicture(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: PictureOptions & {
    palette: Uint8Array;
    /** Thresholds per class, computed over the whole target set. */
    thresholds: number[];
    choice: Pick<PseudoLabelChoice, 'method' | 'order' | 'inclusive'>;
  },
): Promise<Picture> {
  const { count, size, palette, thresholds, choice, signal } = options;
  const part = reduced(size);
  return pictureOf(dataset, count, ['image', 'pseudo-label'], async (index) => {
    const { data } = await dataset.readImage(index, size);
    const { labels, confidence } = await segmenter.predict(data, {
      count: 1,
      ...size,
      outputWidth: part.width,
      outputHeight: part.height,
      confidence: true,
      ...predictionOptions(choice, thresholds),
      ...(signal && { signal }),
    });
    const kept = await applyThresholds(labels, confidence!, { thresholds, inclusive: choice.inclusive });
    const image = await dataset.readImage(index, part);
    return [image, labelsOverGray({ data: kept.labels, ...part }, palette, image)];
  });
}

async function pictureOf(
  dataset: ImageDataset,
  count: number,
  columns: readonly PictureColumn[],
  row: (index: number) => Promise<RgbImage[]>,
): Promise<Picture> {
  const indices = spread(dataset.length, count);
  const rows: RgbImage[][] = [];
  for (const index of indices) rows.push(await row(index));
  return { image: composeGrid(rows), columns, rows: indices.map((index) => dataset.entry(index).name) };
}

function reduced({ width, height }: ImageSize): ImageSize {
  const scale = Math.min(1, MAX_SIDE.width / width, MAX_SIDE.height / height);
  return { width: Math.round(width * scale), height: Math.round(height * scale) };
}
