import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import type { Network } from 'bidiseg';

/** A tensor as the tests hand it over: numbers in row-major order. */
export interface PlainTensor {
  data: Float32Array | Float64Array | Uint8Array | BigInt64Array;
  shape: number[];
}

/** Writes a safetensors file without the package's own writer. */
export function writeTensors(file: string, tensors: Record<string, PlainTensor>): void {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    header[name] = { dtype: dtypeOf(data), shape, data_offsets: [offset, offset + data.byteLength] };
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

/** One call of write() takes at most 2 GiB, and may take less than it was given. */
function writeWhole(output: number, data: NodeJS.ArrayBufferView): void {
  for (let at = 0; at < data.byteLength; ) at += writeSync(output, data, at);
}

function dtypeOf(data: PlainTensor['data']): string {
  if (data instanceof Float32Array) return 'F32';
  if (data instanceof Float64Array) return 'F64';
  return data instanceof Uint8Array ? 'U8' : 'I64';
}

/** The length and the text of a safetensors header. */
export function encodeHeader(text: string): Buffer {
  const body = Buffer.from(text);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(body.length));
  return Buffer.concat([length, body]);
}

/** Reads float32, float64 and int64 tensors without the package's own reader. */
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
    const ArrayType = { I64: BigInt64Array, F64: Float64Array, F32: Float32Array }[entry.dtype]!;
    result[name] = { data: new ArrayType(copy), shape: entry.shape };
  }
  return result;
}

/** Parameters and buffers by name. */
export type Snapshot = Map<string, Float32Array | Float64Array | BigInt64Array>;

/** A copy of all parameters and buffers of a network. */
export async function snapshot(network: Network): Promise<Snapshot> {
  const copies: Snapshot = new Map();
  for (const tensors of [await network.parameters(), await network.buffers()]) {
    for (const [name, tensor] of tensors) {
      copies.set(name, (await tensor.data()) as Float32Array | Float64Array | BigInt64Array);
      tensor.dispose();
    }
  }
  return copies;
}

/** ‖a − b‖ / ‖b‖ over the tensors of `a`; 0 only where they are equal. */
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
