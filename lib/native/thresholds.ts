import { checkBoolean, checkInteger, checkNumber, checkNumbers, checkObject } from '../support/validate.js';
import { native } from './binding.js';
import type { ThresholdHistogramHandle } from './binding-types.js';
import { call, callSync, NativeObject } from './native-object.js';

/**
 * Confidences of a whole target set as one histogram per predicted class, for per-class thresholds in memory that does
 * not depend on the set's size (8 bytes a bin: 10 MB for 19 classes).
 */
export class ThresholdHistogram extends NativeObject<ThresholdHistogramHandle> {
  /** `bins` is the resolution: thresholds are exact to 1/bins. Default 65536. */
  constructor(classCount: number, bins = 65536) {
    checkInteger('classCount', classCount, 1, 256);
    checkInteger('bins', bins, 2, 2 ** 24);
    super(callSync(() => native.createThresholdHistogram({ classCount, bins })));
  }

  /** Adds pixels: their predicted classes and the probabilities of those, in [0, 1]. */
  async add(labels: Uint8Array, confidence: Float32Array): Promise<void> {
    await call(() => native.histogramAdd(this.handle, labels, confidence));
  }

  /**
   * t_c = min(cap, p_sorted[round(portion · n_c)]) over the n_c pixels predicted as c, ascending; 0 for a class that
   * never occurred. Also n_c itself.
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
 * Keeps a pixel of class c where its confidence exceeds `thresholds[c]` (or, `inclusive`, reaches it: the reference);
 * all others become `ignoreIndex`.
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
