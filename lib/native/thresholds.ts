import { checkBoolean, checkInteger, checkNumber, checkNumbers, checkObject } from '../support/validate.js';
import { native } from './binding.js';
import type { ThresholdHistogramHandle } from './binding-types.js';
import { call, callSync, handleOf, NativeObject } from './native-object.js';
import { ProcessGroup } from './process-group.js';

/** Which thresholds a {@link ThresholdHistogram} gives. */
export interface ThresholdOptions {
  /** Share of a class's pixels that lie below its threshold, 0 to 1. Default 0.5. */
  portion?: number;
  /** Largest threshold, 0 to 1. Default 0.9. */
  cap?: number;
}

/**
 * Histogram of a whole target set's confidences for each predicted class. It yields per-class thresholds in memory that
 * does not depend on the size of the set: 8 bytes a bin, 10 MB for 19 classes.
 *
 * One pass over the pixels gives thresholds to 1/bins. Further passes over the same pixels, usually one, make them
 * exact:
 *
 *     do {
 *       for (const { labels, confidence } of predictions()) await histogram.add(labels, confidence);
 *     } while (await histogram.refine(options));
 *     const { thresholds } = await histogram.thresholds(options);
 */
export class ThresholdHistogram extends NativeObject<ThresholdHistogramHandle> {
  /** @param bins bins per class; the first pass finds thresholds to 1/bins; 2 to 2²⁴, default 65536 */
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
   * Adds the counts that the other processes of a group have made in this pass. All then hold all counts. Call it before
   * `thresholds()` and `refine()`.
   */
  async combine(group: ProcessGroup, options: { signal?: AbortSignal } = {}): Promise<void> {
    checkObject('options', options);
    await call(
      (token) => native.combineHistogram(this.handle, handleOf('group', group, ProcessGroup), token),
      options.signal,
    );
  }

  /**
   * Computes the threshold t_c = min(cap, p_sorted[round(portion · n_c)]) of each class. The n_c pixels predicted as c
   * are sorted by ascending probability. A class that never occurred has threshold 0. The threshold is the lower edge of
   * its bin. `counts` holds n_c, from the first pass.
   *
   * @throws InvalidArgumentError in a further pass with another number of pixels than the first, or with other options
   * than those of `refine()`
   */
  async thresholds(options: ThresholdOptions = {}): Promise<{ thresholds: number[]; counts: number[] }> {
    const checked = checkThresholdOptions(options);
    return call(() => native.histogramThresholds(this.handle, checked));
  }

  /**
   * Starts a further pass, in which the bins of each class divide the one that holds its threshold. All pixels must be
   * added again. Returns false, and starts none, if thresholds() is exact already.
   *
   * @throws InvalidArgumentError as thresholds() does
   */
  async refine(options: ThresholdOptions = {}): Promise<boolean> {
    const checked = checkThresholdOptions(options);
    return call(() => native.histogramRefine(this.handle, checked));
  }
}

function checkThresholdOptions(options: ThresholdOptions) {
  checkObject('options', options);
  return {
    portion: checkNumber('portion', options.portion ?? 0.5, 0, 1),
    cap: checkNumber('cap', options.cap ?? 0.9, 0, 1),
  };
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
