import { checkInteger, checkIntegers } from '../support/validate.js';
import { native } from './binding.js';
import { call } from './native-object.js';

/**
 * Counts of (true class, predicted class) over any number of label maps, and what follows from them.
 *
 * With TP_c, FP_c and FN_c the true positives, false positives and false negatives of class c. Means go over `classes`
 * (default: all), such as SYNTHIA_16_CLASSES: pixels of other classes still count as false positives and false negatives
 * of these, but those classes have no score of their own.
 */
export class ConfusionMatrix {
  readonly classCount: number;
  readonly ignoreIndex: number;
  /** [classCount, classCount], row-major; rows are true classes. */
  readonly counts: Float64Array;

  constructor(classCount: number, ignoreIndex = 255) {
    this.classCount = checkInteger('classCount', classCount, 2, 256);
    this.ignoreIndex = checkInteger('ignoreIndex', ignoreIndex, 0, 255);
    this.counts = new Float64Array(classCount * classCount);
  }

  /** Adds label maps of equal length; pixels whose truth is the ignore index do not count. */
  async add(truth: Uint8Array, prediction: Uint8Array): Promise<void> {
    const { classCount, ignoreIndex } = this;
    const counts = await call(() => native.confusionCounts(truth, prediction, { classCount, ignoreIndex }));
    for (let i = 0; i < counts.length; ++i) this.counts[i]! += counts[i]!;
  }

  /** The counts as one array for each true class. */
  rows(): number[][] {
    const { classCount, counts } = this;
    return Array.from({ length: classCount }, (_, c) => [
      ...counts.subarray(c * classCount, (c + 1) * classCount),
    ]);
  }

  /** Pixels that are of each class: TP + FN. */
  truePixels(): number[] {
    return this.rows().map(sum);
  }

  /** Pixels that are predicted as each class: TP + FP. */
  predictedPixels(): number[] {
    const rows = this.rows();
    return rows.map((_, c) => sum(rows.map((row) => row[c]!)));
  }

  /** Intersection over union, TP / (TP + FP + FN), of each class; null where it occurs neither in truth nor in prediction. */
  iou(): (number | null)[] {
    const predicted = this.predictedPixels();
    return this.truePixels().map((truth, c) => {
      const hits = this.#hits(c);
      return ratio(hits, truth + predicted[c]! - hits);
    });
  }

  /** Recall, TP / (TP + FN), of each class; null where the truth does not have it. */
  accuracy(): (number | null)[] {
    return this.truePixels().map((truth, c) => ratio(this.#hits(c), truth));
  }

  /** Mean of iou() over those of `classes` that occur; null where none does, or the truth has no pixel that counts. */
  meanIou(classes?: readonly number[]): number | null {
    return mean(this.#select(this.iou(), classes));
  }

  /** Mean of accuracy() over those of `classes` that the truth has; null where it has none. */
  meanAccuracy(classes?: readonly number[]): number | null {
    return mean(this.#select(this.accuracy(), classes));
  }

  /** Mean of iou() over `classes`, each weighted with the pixels that are of it; null where there are none. */
  frequencyWeightedIou(classes?: readonly number[]): number | null {
    const weights = this.#select(this.truePixels(), classes);
    const weighted = this.#select(this.iou(), classes).map((value, i) => (value ?? 0) * weights[i]!);
    return ratio(sum(weighted), sum(weights));
  }

  /** Share of counted pixels that are right; null where none counts. */
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
