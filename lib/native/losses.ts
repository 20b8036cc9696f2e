import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkNumber,
  checkNumbers,
  checkObject,
} from '../support/validate.js';
import { native } from './binding.js';
import type {
  NativeCrossEntropyOptions,
  NativeOnlineCrossEntropyOptions,
  NativePseudoLabelOptions,
} from './binding-types.js';
import { call, handleOf } from './native-object.js';
import { Tensor } from './tensor.js';
import { ThresholdHistogram } from './thresholds.js';

/** Options of {@link maskedCrossEntropy}. */
export interface MaskedCrossEntropyOptions {
  /**
   * Divisor of the loss. `valid` (default, the reference): the number of pixels that count, or the sum of their
   * weights. `all` (the paper): N·H·W.
   */
  normalize?: 'valid' | 'all';
  /** Label of pixels that do not count. Default 255. */
  ignoreIndex?: number;
  /** Aligns the corners of logits and labels. Default true, as in BDL. */
  alignCorners?: boolean;
  /** Weight ≥ 0 of each class. Default 1. */
  classWeights?: readonly number[];
  /** Weight ≥ 0 of each pixel, [N, H, W]. Default 1. No gradient flows into it. */
  pixelWeights?: Tensor;
}

/** Selects the pixels whose own prediction is confident enough to serve as their label. */
export interface ConfidentPixels {
  /** Height and width of the label map in pixels, at least those of the logits. */
  height: number;
  width: number;
  /**
   * A pixel counts if its probability exceeds this threshold, 0 to 1: one for all classes or one per class. The paper
   * uses 0.9.
   */
  threshold: number | readonly number[];
  /** Counts a probability equal to the threshold too, as in the reference. Default false, as in the paper. */
  inclusive?: boolean;
  /** Returns labels and confidences too. Default false. */
  prediction?: boolean;
  /** Histogram that receives every pixel's confidence under its predicted class. */
  histogram?: ThresholdHistogram;
}

/** Result of {@link maskedCrossEntropy} without labels. */
export interface OnlineCrossEntropy {
  /** Loss, a scalar. */
  loss: Tensor;
  /** Predicted class or the ignore index, uint8 [N, H, W]. Present if `prediction` is set. */
  labels?: Tensor;
  /** Probability of the predicted class, [N, H, W]. Present if `prediction` is set. */
  confidence?: Tensor;
}

/**
 * Computes the softmax cross-entropy of logits [N, C, h, w] that are upsampled bilinearly to the size of the labels.
 *
 * Labels are [N, H, W], uint8 or int64. Pixels with the ignore index do not count. This is ℓ_seg of Eq. 1, and of Eq. 3
 * if the labels are pseudo-labels. Logits are float32, float64, float16 or bfloat16, with C from 2 to 256. The result
 * is a scalar in float32 (float64 for float64 logits), and 0 if no pixel counts.
 *
 * One pass computes value and gradient without ever storing the upsampled logits. Equal inputs give equal bits for any
 * number of threads. See docs/design/kernels-and-speed.md#losses-on-upsampled-logits.
 *
 * If `labels` is null, the same pass finds them (on-line MPT). The label of a pixel is its most probable class. The
 * pixel counts if that probability exceeds the threshold.
 *
 * @throws InvalidArgumentError that names a label outside [0, C), or when H < h or W < w
 */
export async function maskedCrossEntropy(
  logits: Tensor,
  labels: Tensor,
  options?: MaskedCrossEntropyOptions,
): Promise<Tensor>;
export async function maskedCrossEntropy(
  logits: Tensor,
  labels: null,
  options: MaskedCrossEntropyOptions & ConfidentPixels,
): Promise<OnlineCrossEntropy>;
export async function maskedCrossEntropy(
  logits: Tensor,
  labels: Tensor | null,
  options: MaskedCrossEntropyOptions & Partial<ConfidentPixels> = {},
): Promise<Tensor | OnlineCrossEntropy> {
  checkObject('options', options);
  const input = handleOf('logits', logits, Tensor);
  const checked = {
    normalize: checkChoice('normalize', options.normalize ?? 'valid', ['valid', 'all']),
    ignoreIndex: checkInteger('ignoreIndex', options.ignoreIndex ?? 255),
    alignCorners: checkBoolean('alignCorners', options.alignCorners ?? true),
    classWeights: checkNumbers('classWeights', options.classWeights ?? [], 0),
    pixelWeights: options.pixelWeights && handleOf('pixelWeights', options.pixelWeights, Tensor),
  } satisfies NativeCrossEntropyOptions;
  if (labels !== null) {
    return new Tensor(
      await call(() => native.maskedCrossEntropy(input, handleOf('labels', labels, Tensor), checked)),
    );
  }
  const online = {
    ...checked,
    ...confidentPixels(options),
    prediction: checkBoolean('prediction', options.prediction ?? false),
  } satisfies NativeOnlineCrossEntropyOptions;
  checkInteger('ignoreIndex', checked.ignoreIndex, 0, 255);
  const found = await call(() =>
    native.maskedCrossEntropyOnline(input, online, histogramHandle(options.histogram)),
  );
  return {
    loss: new Tensor(found.loss),
    ...(found.labels && { labels: new Tensor(found.labels) }),
    ...(found.confidence && { confidence: new Tensor(found.confidence) }),
  };
}

/** Options of {@link pseudoLabels}. */
export interface PseudoLabelOptions {
  /** Height and width of the label maps in pixels. */
  height: number;
  width: number;
  /** Aligns the corners of logits and labels. Default true. */
  alignCorners?: boolean;
  /**
   * Order of operations. `logits` (default): upsample the logits, then take the softmax. `probabilities` (the
   * reference): take the softmax, then upsample the probabilities.
   */
  order?: 'logits' | 'probabilities';
  /**
   * A pixel is kept if its probability exceeds this threshold, 0 to 1: one for all classes or one per class. Default 0,
   * which keeps all.
   */
  threshold?: number | readonly number[];
  /** Keeps a probability equal to the threshold too, as in the reference. Default false, as in the paper. */
  inclusive?: boolean;
  /** Label of pixels that are not kept, 0 to 255. Default 255. */
  ignoreIndex?: number;
  /** Returns confidences too. Default false. */
  confidence?: boolean;
  /**
   * Histogram that receives every pixel's confidence under its predicted class. A first pass over a data set uses it to
   * find thresholds.
   */
  histogram?: ThresholdHistogram;
}

/**
 * Finds the most probable class of each pixel of logits [N, C, h, w] upsampled to [height, width].
 *
 * Pixels that are not confident enough become the ignore index: Ŷ_T with its mask m_T. If classes are equally probable,
 * the first wins. `labels` are uint8 [N, height, width], `confidence` is float32. Upsampled logits or probabilities are
 * never stored.
 */
export async function pseudoLabels(
  logits: Tensor,
  options: PseudoLabelOptions,
): Promise<{ labels: Tensor; confidence?: Tensor }> {
  checkObject('options', options);
  const checked = {
    ...confidentPixels({ threshold: 0, ...options }),
    alignCorners: checkBoolean('alignCorners', options.alignCorners ?? true),
    order: checkChoice('order', options.order ?? 'logits', ['logits', 'probabilities']),
    ignoreIndex: checkInteger('ignoreIndex', options.ignoreIndex ?? 255, 0, 255),
    confidence: checkBoolean('confidence', options.confidence ?? false),
  } satisfies NativePseudoLabelOptions;
  const found = await call(() =>
    native.pseudoLabels(handleOf('logits', logits, Tensor), checked, histogramHandle(options.histogram)),
  );
  return {
    labels: new Tensor(found.labels),
    ...(found.confidence && { confidence: new Tensor(found.confidence) }),
  };
}

/**
 * Computes softmax(up(logits)), [N, C, h, w] → [N, C, height, width]: the input of D_M. Neither the value nor the
 * derivative stores the upsampled logits.
 */
export async function classProbabilities(logits: Tensor, height: number, width: number): Promise<Tensor> {
  const size = {
    height: checkInteger('height', height, 1, MAX_EXTENT),
    width: checkInteger('width', width, 1, MAX_EXTENT),
  };
  return new Tensor(await call(() => native.classProbabilities(handleOf('logits', logits, Tensor), size)));
}

/**
 * Computes ‖μ_S − μ_T‖², the squared distance between two domains' mean features. It is MMD with a linear kernel (Tzeng
 * et al. 2014, "Deep Domain Confusion"). Features are [N, C, h, w] of equal C, as `Segmenter.forwardWithFeatures`
 * returns them.
 */
export async function meanDistance(source: Tensor, target: Tensor): Promise<Tensor> {
  return new Tensor(await call(() => native.meanDistance(...domains(source, target))));
}

/**
 * Computes ‖K_S − K_T‖²_F / 4C², the distance between two domains' feature covariances over images and positions (Sun &
 * Saenko 2016, "Deep CORAL"). Features are [N, C, h, w] of equal C, with at least two positions.
 */
export async function correlationDistance(source: Tensor, target: Tensor): Promise<Tensor> {
  return new Tensor(await call(() => native.correlationDistance(...domains(source, target))));
}

function domains(source: Tensor, target: Tensor) {
  return [handleOf('source', source, Tensor), handleOf('target', target, Tensor)] as const;
}

/**
 * Computes −p log p / log C of class probabilities [N, C, H, W], in the same shape. The discriminator of ADVENT (Vu et
 * al. 2019) sees it instead of the probabilities.
 */
export async function selfInformation(probabilities: Tensor): Promise<Tensor> {
  return new Tensor(
    await call(() => native.selfInformation(handleOf('probabilities', probabilities, Tensor))),
  );
}

/**
 * Computes the mean over pixels of the entropy of softmax(up(logits)), divided by its largest value log C ("MinEnt", Vu
 * et al. 2019). It is 0 if every pixel is certain, and 1 if all classes are equally probable.
 */
export async function entropyLoss(logits: Tensor, height: number, width: number): Promise<Tensor> {
  const size = {
    height: checkInteger('height', height, 1, MAX_EXTENT),
    width: checkInteger('width', width, 1, MAX_EXTENT),
  };
  return new Tensor(await call(() => native.entropyLoss(handleOf('logits', logits, Tensor), size)));
}

const MAX_EXTENT = 2 ** 20;

function confidentPixels(options: Partial<ConfidentPixels>) {
  const { threshold } = options;
  return {
    height: checkInteger('height', options.height, 1, MAX_EXTENT),
    width: checkInteger('width', options.width, 1, MAX_EXTENT),
    thresholds: Array.isArray(threshold)
      ? checkNumbers('threshold', threshold, 0, 1)
      : [checkNumber('threshold', threshold, 0, 1)],
    inclusive: checkBoolean('inclusive', options.inclusive ?? false),
  };
}

function histogramHandle(histogram: ThresholdHistogram | undefined) {
  return histogram && handleOf('histogram', histogram, ThresholdHistogram);
}

/**
 * Computes the mean binary cross-entropy of D_M's logits against one domain (source is 0, target is 1).
 *
 * M's adversarial loss is this value on target images with `source`. D_M's own loss is half of it, on each domain's
 * detached probabilities.
 */
export async function domainLoss(discriminatorLogits: Tensor, domain: 'source' | 'target'): Promise<Tensor> {
  checkChoice('domain', domain, ['source', 'target']);
  return new Tensor(
    await call(() =>
      native.domainLoss(handleOf('discriminatorLogits', discriminatorLogits, Tensor), { domain }),
    ),
  );
}

/** Options of {@link ganLoss}. */
export interface GanLossOptions {
  /** Form of the loss: `least-squares` (default) or `bce`, binary cross-entropy with logits. */
  mode?: 'least-squares' | 'bce';
}

/** Computes ℓ_GAN: the distance of D_F's scores from "real" (1) or "fake" (0). */
export async function ganLoss(scores: Tensor, real: boolean, options: GanLossOptions = {}): Promise<Tensor> {
  checkObject('options', options);
  checkBoolean('real', real);
  const ganMode = checkChoice('mode', options.mode ?? 'least-squares', ['least-squares', 'bce']);
  return new Tensor(await call(() => native.ganLoss(handleOf('scores', scores, Tensor), { real, ganMode })));
}

/** Computes the mean absolute difference E|a − b|, for the cycle term ℓ_recon and the identity term. */
export async function l1Loss(input: Tensor, other: Tensor): Promise<Tensor> {
  return new Tensor(
    await call(() => native.l1Loss(handleOf('input', input, Tensor), handleOf('other', other, Tensor))),
  );
}

/**
 * Computes ℓ_per between the segmenter's logits of an image and of its translation or reconstruction.
 *
 * @param form `l1` (the paper): mean absolute difference. `normalized-mse` (the reference): mean squared difference
 * after instance normalization
 */
export async function perceptualLoss(
  logits: Tensor,
  other: Tensor,
  form: 'l1' | 'normalized-mse',
): Promise<Tensor> {
  const perceptualForm = checkChoice('form', form, ['l1', 'normalized-mse']);
  return new Tensor(
    await call(() =>
      native.perceptualLoss(handleOf('logits', logits, Tensor), handleOf('other', other, Tensor), {
        perceptualForm,
      }),
    ),
  );
}
