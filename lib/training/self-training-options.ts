import type { z } from 'zod';
import { boolean, choice, number, section } from '../support/options.js';

/** Choice of the pseudo-labels Ŷ_T. */
export const selfTrainingSchema = section({
  /**
   * `mpt`: one threshold for all pixels ("max probability threshold"). `per-class`: a threshold t_c for each class, from
   * the whole target set. `class-balanced` (CBST, Zou et al. 2018): the same without an upper bound. A pixel's class is then
   * argmax_c p_c / t_c, so that a rare class wins where it is surer than usual.
   */
  method: choice('mpt', 'per-class', 'class-balanced').default('mpt'),
  /** Confidence threshold of `mpt`. With `per-class`, the highest that a class may get. Not for `class-balanced`. */
  threshold: number(0, 1).default(0.9),
  /** t_c is the probability below which this share of the pixels predicted as c lies (CBST's 1 − p). Not for `mpt`. */
  portion: number(0, 1).default(0.5),
  /** Weight of a kept pixel in the loss: 1 (`hard`) or its confidence (`soft`). */
  weighting: choice('hard', 'soft').default('hard'),
  /** Values that are upsampled from the network's resolution: its logits, or their softmax. */
  order: choice('logits', 'probabilities').default('logits'),
  /** Keeps a pixel exactly at its threshold too. */
  inclusive: boolean().default(false),
});

/** Options for choosing pseudo-labels, with defaults filled in. */
export interface PseudoLabelChoice extends z.output<typeof selfTrainingSchema> {}
