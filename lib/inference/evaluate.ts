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
import { addCounts, checkGroup, doneTogether, type Group, ownIndices } from '../native/group-values.js';
import { ConfusionMatrix } from '../native/metrics.js';
import type { Precision } from '../native/precision.js';
import type { ProcessGroup } from '../native/process-group.js';
import { DataError, InvalidArgumentError } from '../support/errors.js';
import { drain, readAhead } from '../support/generators.js';
import { averagedOver, scaledSizes } from './views.js';

/** The part of a segmenter that inference needs. */
export type Predictor = Pick<Segmenter, 'predict'>;

/** Options of scores. */
export interface ScoreOptions {
  /** Number of classes, 2–256. */
  classCount: number;
  /** Label of pixels that do not count, 0–255. Default 255. */
  ignoreIndex?: number;
  /** Classes that means are taken over, such as SYNTHIA_16_CLASSES. Default all. See {@link ConfusionMatrix}. */
  meanClasses?: readonly number[] | undefined;
  signal?: AbortSignal | undefined;
}

/** Options of {@link evaluate}. */
export interface EvaluationOptions extends ScoreOptions {
  /** Size of the images that enter the segmenter. */
  size: ImageSize;
  /**
   * Size at which predictions are compared with labels: one size for all, or 'label' (default), the size of the label
   * file.
   */
  outputSize?: ImageSize | 'label';
  /**
   * Values that are upsampled to the output size: `probabilities` (default), as in the published numbers, or `logits`.
   */
  order?: 'logits' | 'probabilities';
  /** Averages the probabilities with those of the mirrored image. Default false. */
  flip?: boolean;
  /**
   * Multiples of `size`, each ⅛–8. Probabilities are averaged over inputs of these sizes, made from the image file.
   * Default [1].
   */
  scales?: readonly number[];
  /** Precision of the convolutions, as in {@link PredictOptions.precision}. Default `fp32`. */
  precision?: Precision;
  /**
   * Processes that evaluate together. Each predicts its own images, and all get the result of all. Default null: this
   * process alone.
   */
  group?: ProcessGroup | null | undefined;
}

/** Agreement of predictions with labels. A number is null if no labeled pixel counts for it. */
export interface Evaluation {
  /** Mean of `iou` over the classes of `meanClasses` (default: all) that occur, 0 … 1. */
  meanIou: number | null;
  /** Intersection over union TP / (TP + FP + FN) of each class. Null for a class without true or predicted pixels. */
  iou: (number | null)[];
  /** Share of labeled pixels with the right class, 0 … 1. */
  pixelAccuracy: number | null;
  /** Mean of `accuracy` over the classes of `meanClasses` that have true pixels, 0 … 1. */
  meanAccuracy: number | null;
  /** Recall TP / (TP + FN) of each class. Null for a class without true pixels. */
  accuracy: (number | null)[];
  /** Mean of `iou` over the same classes, weighted by their labeled pixels. */
  frequencyWeightedIou: number | null;
  /** Confusion matrix over all images. */
  confusion: ConfusionMatrix;
  /** Number of images. */
  images: number;
  /** Duration of the evaluation in seconds. */
  seconds: number;
}

/** Number of finished images and of all images. */
export interface EvaluationProgress {
  done: number;
  total: number;
}
interface WithProgress {
  /** Called after each image. */
  onProgress?: (progress: EvaluationProgress) => void;
}

/**
 * Compares a segmenter's predictions with the labels of a data set, in one confusion matrix over all images.
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

/** Evaluates like {@link evaluate} and yields the progress after each image. */
export async function* evaluateImages(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: EvaluationOptions,
): AsyncGenerator<EvaluationProgress, Evaluation> {
  const { size, outputSize = 'label', order = 'probabilities', flip, precision, signal } = options;
  const group = checkGroup(options.group);
  if (dataset.length === 0 || !dataset.hasLabels) {
    throw new InvalidArgumentError('Expected a data set of labeled images to evaluate on');
  }
  const [inputSize, ...otherSizes] = scaledSizes(size, options.scales);
  const labelSize = outputSize === 'label' ? 'file' : outputSize;
  const own = ownIndices(dataset.length, group);
  const read = async (place: number) => {
    const index = own[place]!;
    const { image, labels } = await dataset.read(index, { size: inputSize!, labelSize });
    const others = otherSizes.map((other) => dataset.readImage(index, other));
    return { image, truth: labels!, others: await Promise.all(others) };
  };
  const score = new Score(options);
  for await (const { image, truth, others } of readAhead(own.length, read, { signal })) {
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
    yield { done: doneTogether(score.images, dataset.length, group), total: dataset.length };
  }
  await score.combine(group);
  return score.result();
}

/** Folders that {@link evaluatePredictions} compares. */
export interface PredictionFolders extends ImageLimits {
  /** Folder of PNGs with class indices, as `bidiseg segment` writes them. Names and sizes are those of the labels. */
  predictions: string;
  /** Folder of label PNGs. */
  labels: string;
  /** Label map that converts ids or colors in the label files to classes. Default 'identity'. */
  labelMap?: LabelMapName | LabelTable | LabelMap;
}

/**
 * Compares a folder of predictions with a folder of labels, including subfolders, like {@link evaluate}. Every label
 * map needs a prediction. Predictions without a label map are ignored.
 *
 * @throws DataError when a prediction is missing or of another size, a file cannot be read, or a labeled pixel is
 * predicted as something that is not a class
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
      // Values that are not classes are found when the pixels are counted.
      throw new DataError(`${file}: ${error.message}`, { cause: error });
    }
    yield { done: score.images, total: names.length };
  }
  return score.result();
}

/** Accumulates predictions and labels. */
class Score {
  images = 0;
  readonly #options: ScoreOptions;
  readonly #confusion: ConfusionMatrix;
  readonly #start = performance.now();

  constructor(options: ScoreOptions) {
    this.#options = options;
    this.#confusion = new ConfusionMatrix(options.classCount, options.ignoreIndex);
    // Fails now, not after all images, if one of the classes does not exist.
    this.#confusion.meanIou(options.meanClasses);
  }

  async add(truth: Uint8Array, predicted: Uint8Array): Promise<void> {
    await this.#confusion.add(truth, predicted);
    this.images++;
  }

  /** Adds what the other processes of a group have counted. */
  async combine(group: Group): Promise<void> {
    if (!group) return;
    const images = [this.images];
    await addCounts(group, images);
    await addCounts(group, this.#confusion.counts);
    this.images = images[0]!;
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
