import { open } from 'node:fs/promises';
import { native } from '../native/binding.js';
import type { Dtype, StateEntry } from '../native/binding-types.js';
import { call, callSync } from '../native/native-object.js';
import { DataError } from '../support/errors.js';
import { writeAtomically } from '../support/files.js';
import { shortened } from '../support/validate.js';

/**
 * The safetensors format: the header's length in 8 little-endian bytes, a JSON header, then the tensors' bytes. This
 * module handles the header. Native code reads and writes the bytes, off the event loop.
 */

const DTYPES: Record<string, { name: Dtype; bytes: number }> = {
  F32: { name: 'float32', bytes: 4 },
  F64: { name: 'float64', bytes: 8 },
  F16: { name: 'float16', bytes: 2 },
  BF16: { name: 'bfloat16', bytes: 2 },
  U8: { name: 'uint8', bytes: 1 },
  I32: { name: 'int32', bytes: 4 },
  I64: { name: 'int64', bytes: 8 },
};
/** Dtypes that bidiseg does not have, with the bytes of an element. Such tensors are left out. */
const LACKING_DTYPES: Record<string, number> = {
  ...{ BOOL: 1, I8: 1, I16: 2, U16: 2, U32: 4, U64: 8, C64: 8 },
  ...{ F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1, F8_E4M3FNUZ: 1, F8_E5M2FNUZ: 1 },
  ...{ F6_E2M3: 0.75, F6_E3M2: 0.75, F4: 0.5 },
};
const CODES = new Map(Object.entries(DTYPES).map(([code, { name }]) => [name, code]));

/**
 * Largest header, enough for 40,000 tensors. The format allows 100 MB, but hostile JSON can take 50 times its length in
 * memory and seconds to parse. See docs/design/files-and-safety.md#at-most-4-mib-of-safetensors-header.
 */
const MAX_HEADER_BYTES = 4 * 2 ** 20;
const MAX_DIMENSIONS = 64;

/** Name, type and place of one tensor. */
export interface TensorHeader {
  name: string;
  dtype: Dtype;
  shape: number[];
  /** Offset in bytes from the start of the file. */
  offset: number;
  bytes: number;
}

/** Entry of a weights file that was left out. */
export interface Skipped {
  /** Name of the entry. */
  name: string;
  /** Reason, such as `int8, a type that bidiseg does not have`. */
  reason: string;
}

/** Reason for leaving out a tensor of this type. */
export function lacking(dtype: string): string {
  return `${dtype}, a type that bidiseg does not have`;
}

/** Header of a safetensors file. */
export interface SafetensorsHeader {
  metadata: Record<string, string>;
  tensors: TensorHeader[];
  /** Tensors of types that bidiseg does not have. */
  skipped: Skipped[];
}

type Complaint = (what: string, cause?: unknown) => DataError;

/** Reads and checks the header of a file. @throws DataError that names the file and what is wrong with it */
export async function readSafetensorsHeader(file: string): Promise<SafetensorsHeader> {
  const bad: Complaint = (what, cause) =>
    new DataError(`${file} is not a usable safetensors file: ${shortened(what, 1000)}`, { cause });
  try {
    const handle = await open(file, 'r');
    try {
      const { size } = await handle.stat();
      const prefix = Buffer.alloc(8);
      const { bytesRead } = await handle.read(prefix, 0, 8, 0);
      if (bytesRead < 8) throw bad('it is shorter than 8 bytes');
      const length = Number(prefix.readBigUInt64LE());
      if (length + 8 > size) throw bad(`its header claims ${length} bytes, the file has ${size}`);
      if (length > MAX_HEADER_BYTES) {
        throw bad(`its header has ${length} bytes, more than the ${MAX_HEADER_BYTES} that are read`);
      }
      const header = Buffer.alloc(length);
      await handle.read(header, 0, length, 8);
      return parseHeader(header, 8 + length, size, bad);
    } finally {
      await handle.close();
    }
  } catch (cause) {
    if (cause instanceof DataError) throw cause;
    throw new DataError(`${file} cannot be read: ${(cause as Error).message}`, { cause });
  }
}

function parseHeader(header: Buffer, dataStart: number, size: number, bad: Complaint): SafetensorsHeader {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header));
  } catch (cause) {
    throw bad('its header is not JSON in UTF-8', cause);
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw bad('its header is not a JSON object');
  }
  const metadata: Record<string, string> = Object.create(null); // names may be `__proto__`
  const tensors: TensorHeader[] = [];
  const skipped: Skipped[] = [];
  const places: Place[] = [];
  for (const [name, entry] of Object.entries(json)) {
    if (name === '__metadata__') {
      for (const [key, value] of Object.entries(entry ?? {})) metadata[key] = String(value);
      continue;
    }
    const { dtype, ...place } = parseEntry(currentName(name), entry, dataStart, bad);
    places.push(place);
    const known = Object.hasOwn(DTYPES, dtype) ? DTYPES[dtype]!.name : null;
    if (known === null) skipped.push({ name: place.name, reason: lacking(dtype) });
    else tensors.push({ ...place, dtype: known });
  }
  // The format requires that the tensors fill the file. If they could overlap, a small file could ask for any amount of
  // memory.
  let end = dataStart;
  for (const { name, offset, bytes } of places.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (offset !== end)
      throw bad(`tensor '${name}' ${offset < end ? 'overlaps another' : 'has a gap before it'}`);
    end += bytes;
  }
  if (end !== size) throw bad(`its tensors end at byte ${end}, the file has ${size}`);
  return { metadata, tensors, skipped };
}

/** Converts names of bidiseg 0.1, which called the discriminators of a translator critics. */
function currentName(name: string): string {
  return name.replace(/\b(target|source)_critic\./, '$1_discriminator.');
}

type Place = Omit<TensorHeader, 'dtype'>;

/** Reads the place of a tensor, and its dtype in the words of the format. */
function parseEntry(
  name: string,
  entry: unknown,
  dataStart: number,
  bad: Complaint,
): Place & { dtype: string } {
  const { dtype, shape, data_offsets } = (entry ?? {}) as Record<string, unknown>;
  const elementBytes = typeof dtype === 'string' ? bytesOf(dtype) : undefined;
  if (elementBytes === undefined) {
    throw bad(`tensor '${name}' has the unsupported dtype ${JSON.stringify(dtype)}`);
  }
  const isExtent = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  if (!Array.isArray(shape) || shape.length > MAX_DIMENSIONS || !shape.every(isExtent))
    throw bad(`tensor '${name}' has no valid shape`);
  if (!Array.isArray(data_offsets) || data_offsets.length !== 2 || !data_offsets.every(isExtent)) {
    throw bad(`tensor '${name}' has no valid data_offsets`);
  }
  const [begin, end] = data_offsets as [number, number];
  const bytes = Math.ceil(shape.reduce((product, extent) => product * extent, elementBytes));
  // Also of a tensor that is empty: LibTorch multiplies the extents beside the 0.
  const largest = Math.ceil(shape.reduce((product, extent) => product * Math.max(1, extent), elementBytes));
  if (!Number.isSafeInteger(largest)) throw bad(`tensor '${name}' has the too large shape [${shape}]`);
  if (end - begin !== bytes) {
    throw bad(`tensor '${name}' takes ${end - begin} bytes but its shape and dtype need ${bytes}`);
  }
  return { name, dtype: dtype as string, shape, offset: dataStart + begin, bytes };
}

function bytesOf(dtype: string): number | undefined {
  if (Object.hasOwn(DTYPES, dtype)) return DTYPES[dtype]!.bytes;
  return Object.hasOwn(LACKING_DTYPES, dtype) ? LACKING_DTYPES[dtype] : undefined;
}

/**
 * Writes all tensors under a temporary name, then renames it. `file` is either the old file or the whole new one.
 *
 * @returns the bytes that the tensors take
 */
export async function writeSafetensors(
  file: string,
  entries: Pick<StateEntry, 'name' | 'tensor'>[],
  metadata: Record<string, string>,
  signal?: AbortSignal,
): Promise<number> {
  const header: Record<string, unknown> = Object.assign(Object.create(null), { __metadata__: metadata });
  let offset = 0;
  for (const { name, tensor } of entries) {
    const { shape, dtype } = callSync(() => native.tensorInfo(tensor));
    if (name === '__metadata__') {
      throw new DataError(`${file} cannot be written: safetensors files have no tensor named '__metadata__'`);
    }
    const code = CODES.get(dtype)!;
    const end = offset + shape.reduce((product, extent) => product * extent, DTYPES[code]!.bytes);
    header[name] = { dtype: code, shape, data_offsets: [offset, end] };
    offset = end;
  }
  let json = JSON.stringify(header);
  json += ' '.repeat((8 - (Buffer.byteLength(json) % 8)) % 8); // aligns the tensors for mmap
  const bytes = Buffer.alloc(8 + Buffer.byteLength(json));
  bytes.writeBigUInt64LE(BigInt(bytes.length - 8));
  bytes.write(json, 8);

  const tensors = entries.map(({ tensor }) => tensor);
  await writeAtomically(file, (temporary) =>
    call((token) => native.writeTensorFile(temporary, bytes, tensors, token), signal),
  );
  return offset;
}
