export const CONVOLUTIONS = ['auto', 'direct'] as const;

/**
 * How convolutions on the CPU are computed.
 *
 * - `auto`: wide 3×3 ones in float32 by Winograd's algorithm, forward and backward, where it is faster. Their rounding
 *   errors are up to three times as large. Those of a step's gradients are less than twice as large.
 * - `direct`: all of them as LibTorch does.
 */
export type Convolutions = (typeof CONVOLUTIONS)[number];
