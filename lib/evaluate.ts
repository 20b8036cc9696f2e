import type { ImageDataset } from './data/dataset.js';
import type { ImageSize } from './data/image-files.js';
import { InvalidArgumentError } from './errors.js';
import { ConfusionMatrix } from './metrics.js';
import type { Segmenter } from './models/segmenter.js';
import { drain, readAhead } from './training/generators.js';

/** All that is needed of a segmenter to use it. */
export type Predictor = Pick<Segmenter, 'predict'>;

export interface EvaluationOptions {
  /** Number of classes, 2–256. */
  classCount: number;
  /** Size to which images are resized before they enter the segmenter. */
  size: ImageSize;
  /** Where predictions meet the truth: 'label', the label file's own size (default), or one size for all. */
  outputSize?: ImageSize | 'label';
  /** The label that does not count, 0–255; default 255. */
  ignoreIndex?: number;
  /** What is upsampled to the output size: the softmax (default), as in the published numbers, or the logits. */
  order?: 'logits' | 'probabilities';
  signal?: AbortSignal | undefined;
}

/** How well a segmenter does on a data set. */
export interface Evaluation {
  /** Mean of `iou` over the classes that occur, 0 … 1. */
  meanIou: number;
  /** TP / (TP + FP + FN) per class; null for a class that neither truth nor prediction has. */
  iou: (number | null)[];
  /** Share of labelled pixels that are right, 0 … 1. */
  pixelAccuracy: number;
  confusion: ConfusionMatrix;
  images: number;
  seconds: number;
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
  options: EvaluationOptions & { onProgress?: (progress: { done: number; total: number }) => void },
): Promise<Evaluation> {
  return drain(evaluateImages(segmenter, dataset, options), options.onProgress);
}

/** As `evaluate`, telling after each image how many are done. */
export async function* evaluateImages(
  segmenter: Predictor,
  dataset: ImageDataset,
  options: EvaluationOptions,
): AsyncGenerator<{ done: number; total: number }, Evaluation> {
  const {
    classCount,
    size,
    outputSize = 'label',
    ignoreIndex = 255,
    order = 'probabilities',
    signal,
  } = options;
  if (dataset.length === 0 || !dataset.hasLabels) {
    throw new InvalidArgumentError('Expected a data set of labelled images to evaluate on');
  }
  const start = performance.now();
  const confusion = new ConfusionMatrix(classCount, ignoreIndex);
  const labelSize = outputSize === 'label' ? 'file' : outputSize;
  const samples = readAhead(dataset.length, (index) => dataset.read(index, { size, labelSize }), { signal });
  let done = 0;
  for await (const { image, labels } of samples) {
    const truth = labels!;
    const prediction = await segmenter.predict(image.data, {
      count: 1,
      ...size,
      outputWidth: truth.width,
      outputHeight: truth.height,
      order,
      ...(signal && { signal }),
    });
    await confusion.add(truth.data, prediction.labels);
    yield { done: ++done, total: dataset.length };
  }
  return {
    meanIou: confusion.meanIou(),
    iou: confusion.iou(),
    pixelAccuracy: confusion.pixelAccuracy(),
    confusion,
    images: done,
    seconds: (performance.now() - start) / 1000,
  };
}
