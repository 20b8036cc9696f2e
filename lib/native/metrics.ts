import { checkInteger, checkIntegers } from '../support/validate.js';
import { native } from './binding.js';
import { call } from './native-object.js';

/**
 * Counts of (true class, predicted class) over any number of label maps, and the metrics that follow from them.
 *
 * TP_c, FP_c and FN_c are the true positives, false positives and false negatives of class c. Means are taken over
 * `classes` (default: all), such as SYNTHIA_16_CLASSES. Pixels of other classes still count as false positives and
 * false negatives of these classes. The other classes themselves have no score.
 */
export class ConfusionMatrix {
  readonly classCount: number;
  readonly ignoreIndex: number;
  /** Counts [classCount, classCount] in row-major order. Rows are true classes. */
  readonly counts: Float64Array;

  /**
   * @param classCount number of classes, 2 to 256
   * @param ignoreIndex label of pixels that do not count, 0 to 255. Default 255
   * @throws InvalidArgumentError when a parameter is out of range
   */
  constructor(classCount: number, ignoreIndex = 255) {
    this.classCount = checkInteger('classCount', classCount, 2, 256);
    this.ignoreIndex = checkInteger('ignoreIndex', ignoreIndex, 0, 255);
    this.counts = new Float64Array(classCount * classCount);
  }

  /** Adds label maps of equal length. Pixels whose true label is the ignore index do not count. */
  async add(truth: Uint8Array, prediction: Uint8Array): Promise<void> {
    const { classCount, ignoreIndex } = this;
    const counts = await call(() => native.confusionCounts(truth, prediction, { classCount, ignoreIndex }));
    for (let i = 0; i < counts.length; ++i) this.counts[i]! += counts[i]!;
  }

  /** Returns the counts as one array per true class. */
  rows(): number[][] {
    const { classCount, counts } = this;
    return Array.from({ length: classCount }, (_, c) => [
      ...counts.subarray(c * classCount, (c + 1) * classCount),
    ]);
  }

  /** Returns the number of pixels that belong to each class, TP + FN. */
  truePixels(): number[] {
    return this.rows().map(sum);
  }

  /** Returns the number of pixels that are predicted as each class, TP + FP. */
  predictedPixels(): number[] {
    const rows = this.rows();
    return rows.map((_, c) => sum(rows.map((row) => row[c]!)));
  }

  /**
   * Returns the intersection over union of each class, TP / (TP + FP + FN). A class without true or predicted pixels
   * has null.
   */
  iou(): (number | null)[] {
    const predicted = this.predictedPixels();
    return this.truePixels().map((truth, c) => {
      const hits = this.#hits(c);
      return ratio(hits, truth + predicted[c]! - hits);
    });
  }

  /** Returns the recall of each class, TP / (TP + FN). A class without true pixels has null. */
  accuracy(): (number | null)[] {
    return this.truePixels().map((truth, c) => ratio(this.#hits(c), truth));
  }

  /**
   * Returns the mean of iou() over those of `classes` that occur. null if none does, or if no labeled pixel counts.
   */
  meanIou(classes?: readonly number[]): number | null {
    return mean(this.#select(this.iou(), classes));
  }

  /** Returns the mean of accuracy() over those of `classes` that have true pixels. null if none has. */
  meanAccuracy(classes?: readonly number[]): number | null {
    return mean(this.#select(this.accuracy(), classes));
  }

  /** Returns the mean of iou() over `classes`, weighted by their numbers of true pixels. null if there are none. */
  frequencyWeightedIou(classes?: readonly number[]): number | null {
    const weights = this.#select(this.truePixels(), classes);
    const weighted = this.#select(this.iou(), classes).map((value, i) => (value ?? 0) * weights[i]!);
    return ratio(sum(weighted), sum(weights));
  }

  /** Returns the share of counted pixels with the right class. null if no pixel counts. */
  pixelAccuracy(): number | null {
    const hits = Array.from({ length: this.classCount }, (_, c) => this.#hits(c));
    return ratio(sum(hits), sum(this.truePixels()));
  }

  #hits(c: number): number {
    return this.counts[c * this.classCount + c]!;
  }

  #select<T>(values: readonly T[], classes?: readonly number[]): T[] {
    if (classes === undefined) return [...values];
    return checkIntegers('classes', classes, 0, this.classCount - 1).map((c) => values[c]!);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function ratio(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole;
}

function mean(values: readonly (number | null)[]): number | null {
  const present = values.filter((value) => value !== null);
  return ratio(sum(present), present.length);
}
