export const PRECISIONS = ['fp32', 'tf32', 'bf16', 'fp16'] as const;

/**
 * What the convolutions of a step compute in. `bf16`: bfloat16 by autocasting; weights, their gradients, running statistics
 * and losses stay float32. `fp16` (CUDA): the same in float16, with `lossScaling`. `tf32` (CUDA): float32 with shorter
 * products. `fp32`: none of these; the networks' own dtype. `buildInfo()` tells what a device has instructions for.
 */
export type Precision = (typeof PRECISIONS)[number];
