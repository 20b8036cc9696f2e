import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { Network, type TensorMap } from 'bidiseg';
import { randomSource } from './random.js';

/** Tensor of the tests, with numbers in row-major order. */
export interface PlainTensor {
  data: Float32Array | Float64Array | Uint8Array | BigInt64Array;
  shape: number[];
}

const DTYPES = [
  ['F32', Float32Array],
  ['F64', Float64Array],
  ['U8', Uint8Array],
  ['I64', BigInt64Array],
] as const;

/** Writes a safetensors file without the package's own writer. */
export function writeTensors(file: string, tensors: Record<string, PlainTensor>): void {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    header[name] = {
      dtype: DTYPES.find(([, array]) => data instanceof array)![0],
      shape,
      data_offsets: [offset, offset + data.byteLength],
    };
    offset += data.byteLength;
  }
  const output = openSync(file, 'w');
  try {
    writeWhole(output, encodeHeader(JSON.stringify(header)));
    for (const { data } of Object.values(tensors)) writeWhole(output, data);
  } finally {
    closeSync(output);
  }
}

/** Writes all data. One call of write() takes at most 2 GiB, and may take less than given. */
function writeWhole(output: number, data: NodeJS.ArrayBufferView): void {
  for (let at = 0; at < data.byteLength; ) at += writeSync(output, data, at);
}

/** Encodes the length and the text of a safetensors header. */
export function encodeHeader(text: string): Buffer {
  const body = Buffer.from(text);
  return Buffer.concat([lengthOf(body), body]);
}

/** Encodes the length of a safetensors header. */
export function lengthOf(header: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return length;
}

/** Reads tensors without the package's own reader. */
export function readTensors(file: string): Record<string, PlainTensor> {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const result: Record<string, PlainTensor> = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [begin, end] = entry.data_offsets;
    const copy = Uint8Array.from(bytes.subarray(start + begin, start + end)).buffer;
    const data = new (DTYPES.find(([name]) => name === entry.dtype)![1])(copy);
    result[name] = { data, shape: entry.shape };
  }
  return result;
}

/** Copies of tensors by name. */
export type Snapshot = Map<string, Float32Array | Float64Array | BigInt64Array>;

/** Copies all parameters and buffers of a network, or the whole state of a step. */
export async function snapshot(object: Network | { state(): Promise<TensorMap> }): Promise<Snapshot> {
  const copies: Snapshot = new Map();
  const all =
    object instanceof Network ? [await object.parameters(), await object.buffers()] : [await object.state()];
  for (const tensors of all) {
    for (const [name, tensor] of tensors) {
      copies.set(name, (await tensor.data()) as Float32Array | Float64Array | BigInt64Array);
      tensor.dispose();
    }
  }
  return copies;
}

/** Computes ‖a − b‖ / ‖b‖ over the tensors of `a`. It is 0 only if they are equal. */
export function relativeDifference(a: Snapshot, b: Snapshot): number {
  let difference = 0;
  let norm = 0;
  for (const [name, left] of a) {
    const right = b.get(name)!;
    for (let i = 0; i < right.length; ++i) {
      difference += (Number(left[i]) - Number(right[i])) ** 2;
      norm += Number(right[i]) ** 2;
    }
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** Gives batch normalization an affine part and running statistics that are not (1, 0) and (0, 1). */
export async function randomizeNorms(network: Network, file: string): Promise<void> {
  await changeWeights(network, file, (name, data, next) => {
    if (!/(bn\d|downsample\.1)\./.test(name)) return;
    const positive = name.endsWith('weight') || name.endsWith('running_var');
    for (let i = 0; i < data.length; ++i) data[i] = positive ? 0.5 + next() : next() - 0.5;
  });
}

/**
 * Does the same as `randomizeNorms`. FCN-8s also gets biases, and skip connections with the weight of its deepest
 * layer.
 */
export async function randomizeWeights(network: Network, file: string): Promise<void> {
  await randomizeNorms(network, file);
  await changeWeights(network, file, (name, data, next) => {
    const skip = { 'score_pool4.weight': 100, 'score_pool3.weight': 10_000 }[name] ?? 1;
    for (let i = 0; i < data.length; ++i) data[i]! *= skip;
    if (/^(conv\d_\d|fc\d|score_fr)\.bias$/.test(name))
      for (let i = 0; i < data.length; ++i) data[i] = next() - 0.5;
  });
}

/** Saves the network to `file`, changes each tensor of floats, and loads it again. */
export async function changeWeights(
  network: Network,
  file: string,
  change: (name: string, data: Float32Array, next: () => number) => void,
): Promise<void> {
  await network.save(file);
  const tensors = readTensors(file);
  const next = randomSource(7);
  for (const [name, { data }] of Object.entries(tensors)) {
    if (data instanceof Float32Array) change(name, data, next);
  }
  writeTensors(file, tensors);
  await network.load(file);
}
