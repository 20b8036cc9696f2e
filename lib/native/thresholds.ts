import { checkBoolean, checkInteger, checkNumber, checkNumbers, checkObject } from '../support/validate.js';
import { native } from './binding.js';
import type { ThresholdHistogramHandle } from './binding-types.js';
import { call, callSync, NativeObject } from './native-object.js';

/** Which thresholds a {@link ThresholdHistogram} gives. */
export interface ThresholdOptions {
  /** Share of a class's pixels that lie below its threshold, 0 to 1. Default 0.5. */
  portion?: number;
  /** Largest threshold, 0 to 1. Default 0.9. */
  cap?: number;
}

/**
 * Confidences of a whole target set as one histogram per predicted class, for per-class thresholds in memory that does
 * not depend on the set's size (8 bytes a bin: 10 MB for 19 classes).
 *
 * One pass over the pixels gives thresholds to 1/bins. Further passes over the same pixels make them exact, usually one:
 *
 *     do {
 *       for (const { labels, confidence } of predictions()) await histogram.add(labels, confidence);
 *     } while (await histogram.refine(options));
 *     const { thresholds } = await histogram.thresholds(options);
 */
export class ThresholdHistogram extends NativeObject<ThresholdHistogramHandle> {
  /** `bins` is the number of bins per class, 2 to 2²⁴. The first pass finds thresholds to 1/bins. Default 65536. */
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
   * never occurred. It is the lower edge of the bin that holds it. Also n_c itself, as in the first pass.
   *
   * @throws InvalidArgumentError in a further pass that did not have as many pixels as the first, or with other options
   *   than refine() had
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
