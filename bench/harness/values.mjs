// Exchanges tensors between the processes of a trial: raw files in row-major order, described by { file, dtype, shape }
// with numpy's names of dtypes.
import { readFileSync, writeFileSync } from 'node:fs';

const ARRAYS = {
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float32: Float32Array,
  float64: Float64Array,
};

export function readValue(value) {
  if (typeof value === 'string') return value;
  const bytes = readFileSync(value.file);
  // A Buffer may start at any offset in a larger one, but a typed array must be aligned.
  return { data: new ARRAYS[value.dtype](Uint8Array.from(bytes).buffer), shape: value.shape };
}

export function readValues(described) {
  return Object.fromEntries(Object.entries(described).map(([name, value]) => [name, readValue(value)]));
}

/** Writes values of the form { data, shape }. */
export function writeValues(values, prefix) {
  const described = {};
  for (const [name, { data, shape }] of Object.entries(values)) {
    const file = `${prefix}-${name}.raw`;
    writeFileSync(file, data);
    const [dtype] = Object.entries(ARRAYS).find(([, array]) => data instanceof array);
    described[name] = { file, dtype, shape };
  }
  return described;
}
