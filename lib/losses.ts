import { native } from './binding.js';
import { call, handleOf } from './native-object.js';
import { Tensor } from './tensor.js';
import { checkChoice, checkInteger } from './validate.js';

export interface MaskedCrossEntropyOptions {
  /** Divide by the pixels that count (`valid`, the reference; default) or by N·H·W (`all`, the paper). */
  normalise?: 'valid' | 'all';
  /** Label of pixels that do not count; default 255. */
  ignoreIndex?: number;
}

/**
 * Softmax cross-entropy of logits [N, C, h, w], upsampled bilinearly (aligned corners) to the size of labels
 * [N, H, W] (uint8 or int64), over pixels whose label is not the ignore index: ℓ_seg of Eq. 1, and of Eq. 3 where the
 * labels are pseudo-labels. A scalar; 0 where no pixel counts.
 *
 * @throws InvalidArgumentError naming a label outside [0, C).
 */
export async function maskedCrossEntropy(
  logits: Tensor,
  labels: Tensor,
  options: MaskedCrossEntropyOptions = {},
): Promise<Tensor> {
  const checked = {
    normalise: checkChoice('normalise', options.normalise ?? 'valid', ['valid', 'all']),
    ignoreIndex: checkInteger('ignoreIndex', options.ignoreIndex ?? 255),
  };
  return new Tensor(
    await call(() =>
      native.maskedCrossEntropy(
        handleOf('logits', logits, Tensor),
        handleOf('labels', labels, Tensor),
        checked,
      ),
    ),
  );
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
 * difference (`l1`, the paper) or the mean squared difference after instance normalisation (`normalised-mse`, the
 * reference).
 */
export async function perceptualLoss(
  logits: Tensor,
  other: Tensor,
  form: 'l1' | 'normalised-mse',
): Promise<Tensor> {
  const perceptualForm = checkChoice('form', form, ['l1', 'normalised-mse']);
  return new Tensor(
    await call(() =>
      native.perceptualLoss(handleOf('logits', logits, Tensor), handleOf('other', other, Tensor), {
        perceptualForm,
      }),
    ),
  );
}
