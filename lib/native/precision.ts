export const PRECISIONS = ['fp32', 'tf32', 'bf16', 'fp16'] as const;

/**
 * Precision of the convolutions in a step. `buildInfo()` reports which precisions a device has instructions for.
 *
 * - `fp32`: the networks' own dtype.
 * - `tf32` (CUDA): float32 with products of shorter operands.
 * - `bf16`: bfloat16 by autocasting. Weights, their gradients, running statistics and losses stay float32.
 * - `fp16` (CUDA): the same in float16, with `lossScaling`.
 */
export type Precision = (typeof PRECISIONS)[number];
