import type { ImageDataset } from '../data/dataset.js';
import { filesByName, labelsByName, requireAll } from '../data/file-names.js';
import type { ImageLimits } from '../data/image-limits.js';
import type { ImageSize } from '../data/image-size.js';
import { openLabels } from '../data/label-codec.js';
import {
  type LabelMap,
  type LabelMapName,
  type LabelTable,
  labelMap as labelMapOf,
} from '../data/label-maps.js';
import type { Segmenter } from '../models/segmenter.js';
import { ConfusionMatrix } from '../native/metrics.js';
import type { Precision } from '../native/precision.js';
import { DataError, InvalidArgumentError } from '../support/errors.js';
import { drain, readAhead } from '../support/generators.js';
import { averagedOver, scaledSizes } from './views.js';

/** All that is needed of a segmenter to use it. */
export type Predictor = Pick<Segmenter, 'predict'>;

/** What scores are taken over. */
export interface ScoreOptions {
  /** Number of classes, 2–256. */
  classCount: number;
  /** The label that does not count, 0–255; default 255. */
  ignoreIndex?: number;
  /** The classes that means are taken over, such as SYNTHIA_16_CLASSES; default all. See {@link ConfusionMatrix}. */
  meanClasses?: readonly number[] | undefined;
  signal?: AbortSignal | undefined;
}

export interface EvaluationOptions extends ScoreOptions {
  /** Size to which images are resized before they enter the segmenter. */
  size: ImageSize;
  /** Where predictions meet the truth: 'label', the label file's own size (default), or one size for all. */
  outputSize?: ImageSize | 'label';
  /** What is upsampled to the output size: the softmax (default), as in the published numbers, or the logits. */
  order?: 'logits' | 'probabilities';
  /** Average the probabilities with those of the mirrored image. Default false. */
  flip?: boolean;
  /** Average the probabilities over inputs of these multiples of `size`, each ⅛–8, from the image file itself. Default [1]. */
  scales?: readonly number[];
  /** What convolutions compute in, as `Segmenter.predict` has it; default `fp32`. */
  precision?: Precision;
}

/** How well predictions agree with the truth. A number is null where no pixel of the truth counts for it. */
export interface Evaluation {
  /** Mean of `iou` over the classes that occur, or over those of `meanClasses` that do, 0 … 1. */
  meanIou: number | null;
  /** TP / (TP + FP + FN) per class; null for a class that neither truth nor prediction has. */
  iou: (number | null)[];
  /** Share of labeled pixels that are right, 0 … 1. */
  pixelAccuracy: number | null;
  /** Mean of `accuracy` over the same classes as `meanIou`, where the truth has them. */
  meanAccuracy: number | null;
  /** TP / (TP + FN) per class; null for a class that the truth does not have. */
  accuracy: (number | null)[];
  /** Mean of `iou` over the same classes, each weighted with its labeled pixels. */
  frequencyWeightedIou: number | null;
  confusion: ConfusionMatrix;
  images: number;
  seconds: number;
}

/** Images that are done, and of how many. */
export interface EvaluationProgress {
  done: number;
  total: number;
}
interface WithProgress {
  /** Called after each image. */
  onProgress?: (progress: EvaluationProgress) => void;
}

/**
 * Compares a segmenter's predictions with the labels of a data set: one confusion matrix over all images.
 *
 * @throws InvalidArgumentError when the data set is empty or has no labels
 * @throws DataError when an image or label map cannot be read
 */
export function evaluate(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: EvaluationOptions & WithProgress,
): Promise<Evaluation> {
  return drain(evaluateImages(segmenter, dataset, options), options.onProgress);
}

/** As `evaluate`, telling after each image how many are done. */
export async function* evaluateImages(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: EvaluationOptions,
): AsyncGenerator<EvaluationProgress, Evaluation> {
  const { size, outputSize = 'label', order = 'probabilities', flip, precision, signal } = options;
  if (dataset.length === 0 || !dataset.hasLabels) {
    throw new InvalidArgumentError('Expected a data set of labeled images to evaluate on');
  }
  const [inputSize, ...otherSizes] = scaledSizes(size, options.scales);
  const labelSize = outputSize === 'label' ? 'file' : outputSize;
  const read = async (index: number) => {
    const { image, labels } = await dataset.read(index, { size: inputSize!, labelSize });
    const others = otherSizes.map((other) => dataset.readImage(index, other));
    return { image, truth: labels!, others: await Promise.all(others) };
  };
  const score = new Score(options);
  for await (const { image, truth, others } of readAhead(dataset.length, read, { signal })) {
    const prediction = await segmenter.predict(image.data, {
      count: 1,
      ...inputSize!,
      outputWidth: truth.width,
      outputHeight: truth.height,
      order,
      ...averagedOver({ flip, others }),
      ...(precision && { precision }),
      ...(signal && { signal }),
    });
    await score.add(truth.data, prediction.labels);
    yield { done: score.images, total: dataset.length };
  }
  return score.result();
}

/** Where predictions and the truth lie that {@link evaluatePredictions} compares. */
export interface PredictionFolders extends ImageLimits {
  /** Class indices as PNGs, as `bidiseg segment` writes them, of the names and sizes of the labels. */
  predictions: string;
  /** Label PNGs. */
  labels: string;
  /** From the ids or colors in the label files to classes; default 'identity'. */
  labelMap?: LabelMapName | LabelTable | LabelMap;
}

/**
 * Compares a folder of predictions with a folder of labels, in subfolders too, as {@link evaluate} does. Every label map
 * needs a prediction, and predictions without one are left alone.
 *
 * @throws DataError when a prediction is missing or of another size, a file cannot be read, or a prediction holds
 *   something else than a class where there is truth
 */
export function evaluatePredictions(
  folders: PredictionFolders,
  options: ScoreOptions & WithProgress,
): Promise<Evaluation> {
  return drain(comparePredictions(folders, options), options.onProgress);
}

async function* comparePredictions(
  { predictions, labels, labelMap = 'identity', ...limits }: PredictionFolders,
  options: ScoreOptions,
): AsyncGenerator<EvaluationProgress, Evaluation> {
  const { classCount, ignoreIndex = 255, signal } = options;
  const map = labelMapOf(labelMap);
  const truths = await labelsByName(labels, { colors: map.idsFrom === 'color' });
  const names = [...truths.keys()];
  if (names.length === 0) throw new DataError(`${labels}: holds no label PNG`);
  const found = requireAll(
    names,
    await filesByName(predictions, ['.png']),
    (missing) => `${predictions}: holds no prediction for ${missing} of ${labels}`,
  );
  const encoding = { classCount, ignoreIndex, ...limits };
  const read = async (index: number) => {
    const name = names[index]!;
    const truth = await openLabels(truths.get(name)!, { labelMap: map, ...encoding });
    const prediction = await openLabels(found.get(name)!, { labelMap: labelMapOf('identity'), ...encoding });
    if (truth.width !== prediction.width || truth.height !== prediction.height) {
      throw new DataError(
        `${prediction.file}: found a prediction of ${prediction.width}×${prediction.height}, expected ${truth.width}×${truth.height} as ${truth.file}`,
      );
    }
    return {
      file: prediction.file,
      truth: (await truth.decode()).data,
      predicted: (await prediction.decode()).data,
    };
  };
  const score = new Score(options);
  for await (const { file, truth, predicted } of readAhead(names.length, read, { signal })) {
    try {
      await score.add(truth, predicted);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      // What is no class is found where the pixels are counted.
      throw new DataError(`${file}: ${error.message}`, { cause: error });
    }
    yield { done: score.images, total: names.length };
  }
  return score.result();
}

/** Gathers predictions and the truth. */
class Score {
  images = 0;
  readonly #options: ScoreOptions;
  readonly #confusion: ConfusionMatrix;
  readonly #start = performance.now();

  constructor(options: ScoreOptions) {
    this.#options = options;
    this.#confusion = new ConfusionMatrix(options.classCount, options.ignoreIndex);
    // Finds out now that one of the classes does not exist, not after all the images.
    this.#confusion.meanIou(options.meanClasses);
  }

  async add(truth: Uint8Array, predicted: Uint8Array): Promise<void> {
    await this.#confusion.add(truth, predicted);
    this.images++;
  }

  result(): Evaluation {
    const { meanClasses } = this.#options;
    const confusion = this.#confusion;
    return {
      meanIou: confusion.meanIou(meanClasses),
      iou: confusion.iou(),
      pixelAccuracy: confusion.pixelAccuracy(),
      meanAccuracy: confusion.meanAccuracy(meanClasses),
      accuracy: confusion.accuracy(),
      frequencyWeightedIou: confusion.frequencyWeightedIou(meanClasses),
      confusion,
      images: this.images,
      seconds: (performance.now() - this.#start) / 1000,
    };
  }
}
