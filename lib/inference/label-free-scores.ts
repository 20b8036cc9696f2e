import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ImageDataset } from '../data/dataset.js';
import type { ImageSize, RgbImage } from '../data/image-size.js';
import { Random } from '../data/random.js';
import { Segmenter } from '../models/segmenter.js';
import { checkGroup, doneTogether, gatherJson, ownIndices } from '../native/group-values.js';
import { ConfusionMatrix } from '../native/metrics.js';
import { segmenterInput } from '../native/pixels.js';
import type { ProcessGroup } from '../native/process-group.js';
import { Tensor } from '../native/tensor.js';
import { InvalidArgumentError } from '../support/errors.js';
import { drain, readAhead } from '../support/generators.js';
import { checkInteger } from '../support/validate.js';
import type { EvaluationProgress, Predictor } from './evaluate.js';
import { scaledSizes } from './views.js';

/** Options of {@link labelFreeScores}. */
export interface LabelFreeOptions {
  /** Size of the images that enter the segmenter. */
  size: ImageSize;
  /** Number of images, ≥ 1. They are drawn by the seed, and all are taken if there are fewer. Default 32. */
  count?: number;
  /** Seed of the images and pixels that are drawn, ≥ 0. Segmenters are comparable only with one seed. Default 1. */
  seed?: number;
  /** Segmenter to compare predictions with, such as the one that made the pseudo-labels. Default none. */
  teacher?: Predictor | null | undefined;
  /** Shares of the classes in labels of the source, as of {@link classSharesOf}. Default null: they are unknown. */
  sourceShares?: readonly number[] | null | undefined;
  /**
   * Processes that score together. Each predicts its own images, and all get the scores of all. Default null: this
   * process alone.
   */
  group?: ProcessGroup | null | undefined;
  signal?: AbortSignal | undefined;
}

/** Scores of a segmenter from images without labels. They compare segmenters of the same classes on the same images. */
export interface LabelFreeScores {
  /** Number of images. */
  images: number;
  /** Number of pixels for `neighborhoodDensity`. */
  pixels: number;
  /** Mean entropy of the predicted probabilities, divided by log C, 0 … 1. Lower is better. */
  entropy: number;
  /** Soft neighborhood density, 0 … log(pixels − 1). Higher is better. */
  neighborhoodDensity: number;
  /** Share of pixels whose class stays the same in a mirrored and in a smaller view, 0 … 1. Higher is better. */
  viewAgreement: number;
  /** Share of the pixels that each class is predicted for. They add up to 1. */
  classShares: number[];
  /**
   * Kullback-Leibler divergence of these shares from those in the source's labels, in nats, ≥ 0. Lower is better where the
   * domains have about the same classes equally often. null: the latter are unknown.
   */
  classDivergence: number | null;
  /** Shares of the classes in labels of the source. null: they are unknown. */
  sourceShares: number[] | null;
  /** Share of pixels with the class of the teacher, 0 … 1. Higher is better. null: there is no teacher. */
  teacherAgreement: number | null;
}

/** Factor of the smaller view. */
const VIEW_SCALE = 0.75;

/** Most pixels for the neighborhood density. Its time grows with their square. */
const MAX_PIXELS = 2000;

/** Temperature of the similarities, as Saito et al. have it. */
const TEMPERATURE = 0.05;

/** Time after which other work gets a turn, in milliseconds. */
const SLICE_MS = 20;

/**
 * Scores a segmenter on images without labels, to choose among segmenters where no label can. Labels of the data set are
 * not read. Equal weights, images and options give equal scores. Memory does not grow with the number of images.
 *
 * See docs/design/method.md#scores-without-labels.
 *
 * @throws InvalidArgumentError when the data set is empty or an option is out of range
 * @throws DataError when an image cannot be read
 */
export function labelFreeScores(
  segmenter: Segmenter,
  dataset: ImageDataset,
  options: LabelFreeOptions & { onProgress?: (progress: EvaluationProgress) => void },
): Promise<LabelFreeScores> {
  return drain(scoreImages(segmenter, dataset, options), options.onProgress);
}

/** Scores like {@link labelFreeScores} and yields the progress after each image. */
export async function* scoreImages(
  segmenter: Segmenter,
  dataset: ImageDataset,
  options: LabelFreeOptions,
): AsyncGenerator<EvaluationProgress, LabelFreeScores> {
  const { size, teacher = null, sourceShares = null, signal } = options;
  const group = checkGroup(options.group);
  const count = checkInteger('count', options.count ?? 32, 1);
  const seed = checkInteger('seed', options.seed ?? 1, 0);
  const { classCount } = segmenter.options;
  if (sourceShares !== null && sourceShares.length !== classCount) {
    throw new InvalidArgumentError(
      `Expected ${classCount} sourceShares, one per class, but received ${sourceShares.length}`,
    );
  }
  if (dataset.length === 0) throw new InvalidArgumentError('Expected a data set of images to score on');
  const drawn = drawImages(dataset.length, count, seed);
  const pixelsEach = Math.max(1, Math.floor(MAX_PIXELS / drawn.length));
  const own = ownIndices(drawn.length, group);
  const [smaller] = scaledSizes(size, [VIEW_SCALE]);
  const read = async (place: number) => {
    const index = drawn[own[place]!]!;
    return { image: await dataset.readImage(index, size), small: await dataset.readImage(index, smaller) };
  };
  using copy = await frozenCopy(segmenter);
  const found: ImageScores[] = [];
  const views = new ConfusionMatrix(classCount);
  for await (const { image, small } of readAhead(own.length, read, { signal })) {
    const place = own[found.length]!;
    const random = new Random(seed, 'label-free-scores', 'pixels', place);
    const { entropy, rows } = await probabilityScores(copy, image, { pixels: pixelsEach, random, signal });
    const teaching = await addViews(views, copy, { image, small, teacher, signal });
    found.push({ place, entropy, rows, teaching });
    yield { done: doneTogether(found.length, drawn.length, group), total: drawn.length };
  }
  const all = group ? (await gatherJson(group, found, signal)).flat() : found;
  if (group) {
    const counts = await gatherJson(group, [...views.counts], signal);
    views.counts.set(views.counts.map((_, index) => counts.reduce((sum, own) => sum + own[index]!, 0)));
  }
  // The order of the images does not depend on the number of processes, so neither do the sums.
  all.sort((one, other) => one.place - other.place);
  const rows = all.flatMap((image) => image.rows);
  return {
    images: all.length,
    pixels: rows.length,
    entropy: mean(all.map(({ entropy }) => entropy)),
    neighborhoodDensity: await softNeighborhoodDensity(rows, signal),
    ...viewScores(views, sourceShares),
    sourceShares: sourceShares && [...sourceShares],
    teacherAgreement: teacher && mean(all.map(({ teaching }) => teaching!)),
  };
}

/** Scores the classes of the images (rows) against those of their views (columns). Each pixel counts once a view. */
function viewScores(
  views: ConfusionMatrix,
  sourceShares: readonly number[] | null,
): Pick<LabelFreeScores, 'viewAgreement' | 'classShares' | 'classDivergence'> {
  const own = views.truePixels();
  const total = own.reduce((sum, count) => sum + count, 0);
  const classShares = own.map((count) => count / total);
  return {
    viewAgreement: views.pixelAccuracy() ?? 0,
    classShares,
    classDivergence: sourceShares && divergence(classShares, sourceShares),
  };
}

/**
 * Computes the Kullback-Leibler divergence Σ p_c log(p_c / q_c) of shares p from shares q, in nats. A q_c below 1e-6 counts as
 * that, so that a class that the source does not have leaves the divergence finite.
 *
 * @internal
 */
export function divergence(p: readonly number[], q: readonly number[]): number {
  const terms = p.map((share, index) =>
    share > 0 ? share * Math.log(share / Math.max(q[index]!, 1e-6)) : 0,
  );
  return terms.reduce((sum, term) => sum + term, 0);
}

/** What is kept of an image. */
interface ImageScores {
  place: number;
  entropy: number;
  /** Probabilities of the pixels that were drawn. */
  rows: number[][];
  teaching: number | null;
}

/** Draws images by the seed. Returns their indices in ascending order. */
export function drawImages(length: number, count: number, seed: number): number[] {
  const order = new Random(seed, 'label-free-scores', 'images').permutation(length);
  return [...order.subarray(0, count)].sort((one, other) => one - other);
}

/** Copies a segmenter, because forward() would need changes of the caller's: evaluation mode, and no gradients. */
async function frozenCopy(segmenter: Segmenter): Promise<Segmenter> {
  const copy = await Segmenter.create(segmenter.options);
  try {
    await copy.copyFrom(segmenter);
    await copy.eval();
    await copy.freeze();
    return copy;
  } catch (error) {
    copy.dispose();
    throw error;
  }
}

/** Computes the mean entropy of an image, and draws pixels. Both at the network's own resolution. */
async function probabilityScores(
  segmenter: Segmenter,
  { data, width, height }: RgbImage,
  { pixels, random, signal }: { pixels: number; random: Random; signal: AbortSignal | undefined },
): Promise<{ entropy: number; rows: number[][] }> {
  using bytes = Tensor.from(data, [1, height, width, 3]);
  using input = await segmenterInput(bytes, { dtype: segmenter.dtype });
  using placed = await input.to({ device: segmenter.options.device });
  using logits = await segmenter.forward(placed, signal ? { signal } : {});
  using softmax = await logits.softmax();
  using probabilities = await softmax.to({ device: 'cpu', dtype: 'float32', memoryFormat: 'contiguous' });
  const [, classes, rows, columns] = probabilities.shape as [number, number, number, number];
  const values = (await probabilities.data()) as Float32Array;
  const positions = rows * columns;
  const chosen = random.permutation(positions).subarray(0, pixels);
  return {
    entropy: await meanEntropy(values, classes, signal),
    rows: Array.from(chosen, (position) =>
      Array.from({ length: classes }, (_, index) => values[index * positions + position]!),
    ),
  };
}

/**
 * Computes the mean entropy over the positions of probabilities [C, positions], divided by log C.
 *
 * @internal
 */
export async function meanEntropy(
  probabilities: Float32Array,
  classes: number,
  signal?: AbortSignal,
): Promise<number> {
  const turns = new Turns(signal);
  const positions = probabilities.length / classes;
  let sum = 0;
  for (let index = 0; index < classes; index++) {
    await turns.take();
    for (const p of probabilities.subarray(index * positions, (index + 1) * positions)) {
      if (p > 0) sum -= p * Math.log(p);
    }
  }
  return sum / positions / Math.log(classes);
}

/**
 * Computes the soft neighborhood density of pixels (Saito et al., ICCV 2021). Rows of probabilities are divided by their
 * length. The similarities of a row to all others, by temperature 0.05, have a softmax with an entropy. The density is the
 * mean of these entropies, in nats. 0 for fewer than two pixels.
 *
 * @internal
 */
export async function softNeighborhoodDensity(
  rows: readonly (readonly number[])[],
  signal?: AbortSignal,
): Promise<number> {
  if (rows.length < 2) return 0;
  const turns = new Turns(signal);
  const classes = rows[0]!.length;
  const unit = Float64Array.from(
    rows.flatMap((row) => {
      const length = Math.hypot(...row);
      return row.map((value) => value / length);
    }),
  );
  let sum = 0;
  for (let row = 0; row < rows.length; row++) {
    await turns.take();
    let total = 0;
    let weighted = 0;
    for (let other = 0; other < rows.length; other++) {
      if (other === row) continue;
      let product = 0;
      for (let index = 0; index < classes; index++) {
        product += unit[row * classes + index]! * unit[other * classes + index]!;
      }
      // Similarities are at most 1, so the largest exponent is 0.
      const exponent = (product - 1) / TEMPERATURE;
      const weight = Math.exp(exponent);
      total += weight;
      weighted += weight * exponent;
    }
    sum += Math.log(total) - weighted / total;
  }
  return sum / rows.length;
}

/** Counts the classes of an image and its other views. Returns the share of pixels that have the teacher's class. */
async function addViews(
  views: ConfusionMatrix,
  segmenter: Predictor,
  {
    image,
    small,
    teacher,
    signal,
  }: { image: RgbImage; small: RgbImage; teacher: Predictor | null; signal: AbortSignal | undefined },
): Promise<number | null> {
  const { width, height } = image;
  const classes = async (predictor: Predictor, view: RgbImage) => {
    const output = { outputWidth: width, outputHeight: height };
    const options = {
      count: 1,
      width: view.width,
      height: view.height,
      ...output,
      ...(signal && { signal }),
    };
    return (await predictor.predict(view.data, options)).labels;
  };
  const own = await classes(segmenter, image);
  const mirrored = await classes(segmenter, { ...image, data: mirror(image.data, { width, bytes: 3 }) });
  await views.add(own, mirror(mirrored, { width, bytes: 1 }));
  await views.add(own, await classes(segmenter, small));
  return teacher && sameShare(own, await classes(teacher, image));
}

/** Mirrors rows of pixels with `bytes` bytes each. */
function mirror(data: Uint8Array, { width, bytes }: { width: number; bytes: number }): Uint8Array {
  const mirrored = new Uint8Array(data.length);
  for (let pixel = 0; pixel < data.length / bytes; pixel++) {
    const column = pixel % width;
    const other = pixel - column + (width - 1 - column);
    for (let byte = 0; byte < bytes; byte++) mirrored[pixel * bytes + byte] = data[other * bytes + byte]!;
  }
  return mirrored;
}

function sameShare(one: Uint8Array, other: Uint8Array): number {
  let same = 0;
  for (const [index, label] of one.entries()) if (label === other[index]) same++;
  return same / one.length;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Gives other work a turn now and then, so that the event loop stays free. */
class Turns {
  readonly #signal: AbortSignal | undefined;
  #end = performance.now() + SLICE_MS;

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  async take(): Promise<void> {
    if (performance.now() < this.#end) return;
    await nextTurn();
    this.#signal?.throwIfAborted();
    this.#end = performance.now() + SLICE_MS;
  }
}
