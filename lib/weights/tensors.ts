import { native } from '../native/binding.js';
import { call } from '../native/native-object.js';
import { Tensor, type TensorMap } from '../native/tensor.js';
import { readSafetensorsHeader, writeSafetensors } from './safetensors.js';

/** Writes tensors and metadata into one safetensors file, whole or not at all. */
export async function saveTensors(
  file: string,
  tensors: TensorMap,
  metadata: Record<string, string>,
): Promise<void> {
  const entries = [...tensors].map(([name, tensor]) => ({ name, tensor: tensor.handle }));
  await writeSafetensors(file, entries, metadata);
}

/** Reads a file that `saveTensors` wrote. @throws DataError that names the file and what is wrong with it */
export async function loadTensors(
  file: string,
): Promise<{ tensors: TensorMap; metadata: Record<string, string> }> {
  const { tensors: headers, metadata } = await readSafetensorsHeader(file);
  const places = headers.map(({ dtype, shape, offset }) => ({ dtype, shape, offset }));
  const handles = await call(() => native.readTensorFile(file, places));
  return { tensors: new Map(headers.map(({ name }, i) => [name, new Tensor(handles[i]!)])), metadata };
}
