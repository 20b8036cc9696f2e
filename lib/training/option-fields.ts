import { z } from 'zod';
import { CONVOLUTIONS } from '../native/convolutions.js';
import { PRECISIONS } from '../native/precision.js';
import { boolean, choice, integer, number } from '../support/options.js';

/* Option fields that several trainings share. */

export const betas = () => {
  const beta = number(0, 1).refine((value) => value < 1, 'a number ≥ 0 and below 1');
  return z.tuple([beta, beta], 'two numbers [beta1, beta2]');
};

/** What Adam divides by: `pytorch` √(v / c) + ε for the bias correction c, `pytorch-0.4` (√v + ε) / √c. */
export const adamForm = () => choice('pytorch', 'pytorch-0.4').default('pytorch');

export const learningRate = () => number(0, 10);
export const weight = () => number(0, Infinity);
export const steps = () => integer(1, 1_000_000_000);
export const seed = () => integer(0).default(1);

/** Options for how the passes of a step compute. Every training has them. */
export const computationFields = {
  /**
   * Precision of the convolutions. `fp32`: the networks' own type. `tf32` (CUDA): float32 with shorter products. `bf16`:
   * bfloat16 by autocasting. Weights, gradients, running statistics and losses stay float32. `fp16` (CUDA): the same in
   * float16 with scaled losses. `bidiseg info` reports what a device has instructions for.
   */
  precision: choice(...PRECISIONS).default('fp32'),
  /**
   * How convolutions on the CPU are computed. `auto`: wide 3×3 ones in float32 by Winograd's algorithm, forward and
   * backward, where it is faster. Their rounding errors are up to three times as large, but a step's losses
   * and gradients have less than twice PyTorch's errors. `direct`: all of them as LibTorch does.
   */
  convolutions: choice(...CONVOLUTIONS).default('auto'),
  /**
   * Computes blocks again in the backward pass instead of keeping their activations (activation checkpointing). It takes a
   * third more time and much less memory. The results are the same bits.
   */
  activationCheckpointing: boolean().default(false),
  /**
   * CUDA: records the forward and backward passes as CUDA graphs after three steps and replays them from then on. The
   * results are the same, with fewer launches and more memory. Batches of another shape are recorded again. Checks,
   * updates, image pools and the draws of ClassMix stay outside. Not for FCN-8s, and not with `microBatchSize`.
   */
  cudaGraphs: boolean().default(false),
};

/** Option that every step has but configs do not. */
export const lossScalingFields = {
  /**
   * Multiplies losses by a scale before the backward pass and divides the gradients by it afterward, so that small ones do
   * not become 0 in float16. The rule is that of `torch.amp.GradScaler`. The scale starts at 65536, doubles after 2000
   * consecutive finite steps and halves after an overflow. An overflowing step returns its losses but updates nothing. It
   * is an error only if the scale is 1 or below, or if the 20 steps before it overflowed too. null: in `fp16` only.
   */
  lossScaling: boolean().nullable().default(null),
};
