import { checkBoolean, checkInteger, checkNumber, checkNumbers, checkObject } from '../support/validate.js';
import { native } from './binding.js';
import type { ThresholdHistogramHandle } from './binding-types.js';
import { call, callSync, NativeObject } from './native-object.js';

/**
 * Histogram of a whole target set's confidences for each predicted class. It yields per-class thresholds in memory that
 * does not depend on the size of the set: 8 bytes a bin, 10 MB for 19 classes.
 */
export class ThresholdHistogram extends NativeObject<ThresholdHistogramHandle> {
  /** @param bins resolution of the thresholds, which are exact to 1/bins; 2 to 2²⁴, default 65536 */
  constructor(classCount: number, bins = 65536) {
    checkInteger('classCount', classCount, 1, 256);
    checkInteger('bins', bins, 2, 2 ** 24);
    super(callSync(() => native.createThresholdHistogram({ classCount, bins })));
  }

  /** Adds pixels: their predicted classes and the probabilities of these classes, in [0, 1]. */
  async add(labels: Uint8Array, confidence: Float32Array): Promise<void> {
    await call(() => native.histogramAdd(this.handle, labels, confidence));
  }

  /**
   * Computes the threshold t_c = min(cap, p_sorted[round(portion · n_c)]) of each class. The n_c pixels predicted as c
   * are sorted by ascending probability. A class that never occurred has threshold 0. `counts` holds n_c.
   */
  async thresholds(
    options: { portion?: number; cap?: number } = {},
  ): Promise<{ thresholds: number[]; counts: number[] }> {
    checkObject('options', options);
    const portion = checkNumber('portion', options.portion ?? 0.5, 0, 1);
    const cap = checkNumber('cap', options.cap ?? 0.9, 0, 1);
    return call(() => native.histogramThresholds(this.handle, { portion, cap }));
  }
}

/**
 * Keeps a pixel of class c if its confidence exceeds `thresholds[c]`. With `inclusive`, an equal confidence is kept
 * too, as in the reference. All other pixels become `ignoreIndex`.
 */
export async function applyThresholds(
  labels: Uint8Array,
  confidence: Float32Array,
  options: { thresholds: number[]; inclusive?: boolean; ignoreIndex?: number },
): Promise<{ labels: Uint8Array; keptPerClass: number[] }> {
  const { inclusive = false, ignoreIndex = 255 } = checkObject('options', options);
  const thresholds = checkNumbers('thresholds', options.thresholds, 0, 1);
  checkBoolean('inclusive', inclusive);
  checkInteger('ignoreIndex', ignoreIndex, 0, 255);
  return call(() => native.applyThresholds(labels, confidence, { thresholds, inclusive, ignoreIndex }));
}
