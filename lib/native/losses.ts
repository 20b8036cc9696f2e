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

export interface MaskedCrossEntropyOptions {
  /**
   * Divide by the number of pixels that count, or the sum of their weights (`valid`, the reference; default), or by N·H·W
   * (`all`, the paper).
   */
  normalize?: 'valid' | 'all';
  /** Label of pixels that do not count; default 255. */
  ignoreIndex?: number;
  /** Whether the corners of logits and labels are the same points; default true, as BDL does. */
  alignCorners?: boolean;
  /** A weight ≥ 0 for each class; default 1. */
  classWeights?: readonly number[];
  /** A weight ≥ 0 for each pixel, [N, H, W]; default 1. Constant to the derivative. */
  pixelWeights?: Tensor;
}

/** Pixels whose own prediction is confident enough to be their label. */
export interface ConfidentPixels {
  /** Of the pixels, not below those of the logits. */
  height: number;
  width: number;
  /** A pixel counts where its probability exceeds this, or that of its class; 0 to 1. The paper's is 0.9. */
  threshold: number | readonly number[];
  /** Whether a probability equal to the threshold counts (the reference) or not (the paper, default). */
  inclusive?: boolean;
  /** Whether to return labels and confidences too; default false. */
  prediction?: boolean;
  /** Takes every pixel's confidence, under its predicted class. */
  histogram?: ThresholdHistogram;
}

export interface OnlineCrossEntropy {
  loss: Tensor;
  /** Predicted class or the ignore index, uint8 [N, H, W]. Present only where asked for. */
  labels?: Tensor;
  /** Probability of the predicted class, [N, H, W]. Present only where asked for. */
  confidence?: Tensor;
}

/**
 * Softmax cross-entropy of logits [N, C, h, w], upsampled bilinearly to the size of labels [N, H, W] (uint8 or int64),
 * over pixels whose label is not the ignore index: ℓ_seg of Eq. 1, and of Eq. 3 where the labels are pseudo-labels. A scalar,
 * float32 (float64 for float64 logits); 0 where no pixel counts.
 *
 * Value and gradient come from one pass, in which the upsampled logits never exist. The same input gives the same bits,
 * whatever the number of threads. Logits are float32, float64, float16 or bfloat16, with C from 2 to 256.
 *
 * With null in place of labels they are found in the same pass: each pixel's label is its most probable class, and it counts
 * where that probability exceeds the threshold (MPT, on-line).
 *
 * @throws InvalidArgumentError naming a label outside [0, C); or where H < h or W < w.
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

export interface PseudoLabelOptions {
  /** Of the label maps, in pixels. */
  height: number;
  width: number;
  /** Whether the corners of logits and labels are the same points; default true. */
  alignCorners?: boolean;
  /** Upsample logits and then take the softmax (default), or the softmax and then upsample probabilities (the reference). */
  order?: 'logits' | 'probabilities';
  /** A pixel is kept where its probability exceeds this, or that of its class; default 0, which keeps all. */
  threshold?: number | readonly number[];
  /** Whether a probability equal to the threshold is kept (the reference) or not (the paper, default). */
  inclusive?: boolean;
  /** The label of pixels that are not kept, 0 to 255; default 255. */
  ignoreIndex?: number;
  /** Whether to return confidences too; default false. */
  confidence?: boolean;
  /** Takes every pixel's confidence, under its predicted class: a first pass over a set, to find thresholds. */
  histogram?: ThresholdHistogram;
}

/**
 * The most probable class of each pixel of logits [N, C, h, w] upsampled to [height, width], where it is confident enough:
 * Ŷ_T with its mask m_T. Among equals the first class wins. `labels` are uint8 [N, height, width], `confidence` float32. Neither
 * upsampled logits nor upsampled probabilities ever exist.
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
 * softmax(up(logits)), [N, C, h, w] → [N, C, height, width]: what D_M sees. The upsampled logits never exist, nor in the
 * derivative.
 */
export async function classProbabilities(logits: Tensor, height: number, width: number): Promise<Tensor> {
  const size = {
    height: checkInteger('height', height, 1, MAX_EXTENT),
    width: checkInteger('width', width, 1, MAX_EXTENT),
  };
  return new Tensor(await call(() => native.classProbabilities(handleOf('logits', logits, Tensor), size)));
}

/**
 * ‖μ_S − μ_T‖², the squared distance of two domains' mean features: MMD with a linear kernel (Tzeng et al. 2014, "Deep
 * Domain Confusion"). Features are [N, C, h, w] of equal C, as `Segmenter.forwardWithFeatures` gives them.
 */
export async function meanDistance(source: Tensor, target: Tensor): Promise<Tensor> {
  return new Tensor(await call(() => native.meanDistance(...domains(source, target))));
}

/**
 * ‖K_S − K_T‖²_F / 4C², the distance of two domains' feature covariances over images and positions (Sun & Saenko 2016,
 * "Deep CORAL"). Features are [N, C, h, w] of equal C, with at least two positions.
 */
export async function correlationDistance(source: Tensor, target: Tensor): Promise<Tensor> {
  return new Tensor(await call(() => native.correlationDistance(...domains(source, target))));
}

function domains(source: Tensor, target: Tensor) {
  return [handleOf('source', source, Tensor), handleOf('target', target, Tensor)] as const;
}

/**
 * −p log p / log C of class probabilities [N, C, H, W], in the same shape: what the discriminator of ADVENT (Vu et al. 2019)
 * sees in place of the probabilities.
 */
export async function selfInformation(probabilities: Tensor): Promise<Tensor> {
  return new Tensor(
    await call(() => native.selfInformation(handleOf('probabilities', probabilities, Tensor))),
  );
}

/**
 * The mean over pixels of the entropy of softmax(up(logits)), divided by its largest value log C: 0 where every pixel is
 * sure, 1 where no class is more probable than another ("MinEnt", Vu et al. 2019).
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
 * Mean binary cross-entropy of D_M's logits against "this is `domain`" (source is 0, target is 1). M's adversarial loss
 * is this on target images with `source`; D_M's own is half of it on each domain's detached probabilities.
 */
export async function domainLoss(discriminatorLogits: Tensor, domain: 'source' | 'target'): Promise<Tensor> {
  checkChoice('domain', domain, ['source', 'target']);
  return new Tensor(
    await call(() =>
      native.domainLoss(handleOf('discriminatorLogits', discriminatorLogits, Tensor), { domain }),
    ),
  );
}

export interface GanLossOptions {
  /** `least-squares` (default) or `bce`, binary cross-entropy with logits. */
  mode?: 'least-squares' | 'bce';
}

/** ℓ_GAN: how far D_F's scores are from "real" (1) or "fake" (0). */
export async function ganLoss(scores: Tensor, real: boolean, options: GanLossOptions = {}): Promise<Tensor> {
  checkObject('options', options);
  checkBoolean('real', real);
  const ganMode = checkChoice('mode', options.mode ?? 'least-squares', ['least-squares', 'bce']);
  return new Tensor(await call(() => native.ganLoss(handleOf('scores', scores, Tensor), { real, ganMode })));
}

/** E|a − b|: the cycle term ℓ_recon and the identity term. */
export async function l1Loss(input: Tensor, other: Tensor): Promise<Tensor> {
  return new Tensor(
    await call(() => native.l1Loss(handleOf('input', input, Tensor), handleOf('other', other, Tensor))),
  );
}

/**
 * ℓ_per between the segmenter's logits of an image and of its translation or reconstruction: their mean absolute
 * difference (`l1`, the paper) or the mean squared difference after instance normalization (`normalized-mse`, the
 * reference).
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
