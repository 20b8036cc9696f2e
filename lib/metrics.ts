import { native } from './binding.js';
import { call } from './native-object.js';
import { checkInteger } from './validate.js';

/** Counts of (true class, predicted class) over any number of label maps, and what follows from them. */
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

  /** TP / (TP + FP + FN) per class; null where a class occurs neither in truth nor in prediction. */
  iou(): (number | null)[] {
    const { classCount, counts } = this;
    return Array.from({ length: classCount }, (_, c) => {
      let row = 0;
      let column = 0;
      for (let k = 0; k < classCount; ++k) {
        row += counts[c * classCount + k]!;
        column += counts[k * classCount + c]!;
      }
      const hit = counts[c * classCount + c]!;
      const union = row + column - hit;
      return union === 0 ? null : hit / union;
    });
  }

  /** Mean of iou() over the classes that occur; 0 where none does. */
  meanIou(): number {
    const present = this.iou().filter((value) => value !== null);
    return present.length === 0 ? 0 : present.reduce((sum, value) => sum + value, 0) / present.length;
  }

  /** Share of counted pixels that are right; 0 where none counts. */
  pixelAccuracy(): number {
    let total = 0;
    let right = 0;
    for (const count of this.counts) total += count;
    for (let c = 0; c < this.classCount; ++c) right += this.counts[c * this.classCount + c]!;
    return total === 0 ? 0 : right / total;
  }
}
