import { native } from '../native/binding.js';
import type { TensorHandle } from '../native/binding-types.js';
import { call, callSync } from '../native/native-object.js';
import { DataError } from '../support/errors.js';

/** Types that weights can be stored in. Integers, such as `num_batches_tracked`, always keep their type. */
export const WEIGHTS_DTYPES = ['float32', 'float16', 'bfloat16'] as const;
export type WeightsDtype = (typeof WEIGHTS_DTYPES)[number];

/** Smallest float32 that rounds to infinity in float16. */
const FLOAT16_OVERFLOW = 65520;

/**
 * Casts the floating-point tensors of `entries` to `dtype`, one after the other. Each replaced tensor is disposed.
 *
 * @throws DataError that names `file` and the tensor when a finite value would become infinite
 */
export async function castWeights(
  file: string,
  entries: { name: string; tensor: TensorHandle }[],
  dtype: WeightsDtype,
  signal?: AbortSignal,
): Promise<void> {
  for (const entry of entries) {
    signal?.throwIfAborted();
    const { dtype: from } = callSync(() => native.tensorInfo(entry.tensor));
    if (from === dtype || !from.includes('float')) continue;
    if (dtype === 'float16') await checkFloat16(file, entry, from === 'float64' ? 'float64' : 'float32');
    const cast = await call(() =>
      native.tensorTo(entry.tensor, { device: 'cpu', dtype, memoryFormat: 'preserve' }),
    );
    entry.tensor.dispose();
    entry.tensor = cast;
  }
}

async function checkFloat16(
  file: string,
  { name, tensor }: { name: string; tensor: TensorHandle },
  dtype: 'float32' | 'float64',
): Promise<void> {
  const wide = await call(() => native.tensorTo(tensor, { device: 'cpu', dtype, memoryFormat: 'preserve' }));
  const values = (await call(() => native.tensorData(wide)).finally(() => wide.dispose())) as Float32Array;
  const tooLarge = values.find((value) => Number.isFinite(value) && Math.abs(value) >= FLOAT16_OVERFLOW);
  if (tooLarge !== undefined) {
    throw new DataError(`${file}: '${name}' has the value ${tooLarge}, too large for float16; use bfloat16`);
  }
}
