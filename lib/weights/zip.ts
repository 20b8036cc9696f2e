import type { FileHandle } from 'node:fs/promises';

/**
 * An entry of a zip file that PyTorch wrote. Entries are not compressed, so tensors can be read directly from the file.
 */

export interface ZipEntry {
  name: string;
  /** Offset of the entry's own header from the start of the file. */
  headerOffset: number;
  /** Bytes in the file. */
  size: number;
  /** Tells whether the entry is stored without compression. */
  isStored: boolean;
  /** Offset where the next part of the file begins. */
  limit: number;
}

const END_BYTES = 22;
const MAX_COMMENT_BYTES = 0xffff;
const LOCATOR_BYTES = 20;
const END64_BYTES = 56;
const DIRECTORY_ENTRY_BYTES = 46;
const HEADER_BYTES = 30;
/** Largest directory, enough for half a million entries. */
const MAX_DIRECTORY_BYTES = 32 * 2 ** 20;

type Complaint = (what: string) => Error;

/** Reads all entries by name. None of them overlap. */
export async function readZipDirectory(
  file: FileHandle,
  fileSize: number,
  bad: Complaint,
): Promise<Map<string, ZipEntry>> {
  const { offset, size, count } = await findDirectory(file, fileSize, bad);
  const bytes = await readExactly(file, offset, size, bad);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; ++i) {
    const entry = bytes.subarray(at);
    if (entry.length < DIRECTORY_ENTRY_BYTES || entry.readUInt32LE() !== 0x02014b50) {
      throw bad('its zip directory is damaged');
    }
    const nameLength = entry.readUInt16LE(28);
    const extraLength = entry.readUInt16LE(30);
    const extraStart = DIRECTORY_ENTRY_BYTES + nameLength;
    const length = extraStart + extraLength + entry.readUInt16LE(32);
    if (length > entry.length) throw bad('its zip directory is damaged');
    const name = entry.toString('utf8', DIRECTORY_ENTRY_BYTES, extraStart);
    if ((entry.readUInt16LE(8) & 1) !== 0) throw bad(`its entry ${name} is encrypted`);
    const [size, compressed, headerOffset] = sizesOf(
      entry,
      entry.subarray(extraStart, extraStart + extraLength),
    );
    const isStored = entry.readUInt16LE(10) === 0 && compressed === size;
    if (entries.has(name)) throw bad(`its entry ${name} is there twice`);
    entries.set(name, { name, headerOffset, size: isStored ? size : compressed, isStored, limit: offset });
    at += length;
  }
  checkOrder([...entries.values()], bad);
  return entries;
}

/** Finds the directory. Large files have its place in the zip64 record before the end record. */
async function findDirectory(
  file: FileHandle,
  fileSize: number,
  bad: Complaint,
): Promise<{ offset: number; size: number; count: number }> {
  const tailStart = Math.max(0, fileSize - END_BYTES - MAX_COMMENT_BYTES - LOCATOR_BYTES);
  const tail = await readExactly(file, tailStart, fileSize - tailStart, bad);
  let at = tail.length - END_BYTES;
  const isEnd = () =>
    tail.readUInt32LE(at) === 0x06054b50 && at + END_BYTES + tail.readUInt16LE(at + 20) === tail.length;
  while (at >= 0 && !isEnd()) --at;
  if (at < 0) throw bad('its zip directory is missing: the file is cut off or damaged');

  let [count, size, offset] = [
    tail.readUInt16LE(at + 10),
    tail.readUInt32LE(at + 12),
    tail.readUInt32LE(at + 16),
  ];
  let limit = tailStart + at;
  if (count === 0xffff || size === 0xffffffff || offset === 0xffffffff) {
    const locator = tail.subarray(Math.max(0, at - LOCATOR_BYTES), at);
    if (locator.length < LOCATOR_BYTES || locator.readUInt32LE() !== 0x07064b50) {
      throw bad('its zip64 locator is missing');
    }
    limit = Number(locator.readBigUInt64LE(8));
    if (limit + END64_BYTES > fileSize) throw bad('its zip64 record lies past the end of the file');
    const record = await readExactly(file, limit, END64_BYTES, bad);
    if (record.readUInt32LE() !== 0x06064b50) throw bad('its zip64 record is damaged');
    [count, size, offset] = [
      Number(record.readBigUInt64LE(32)),
      Number(record.readBigUInt64LE(40)),
      Number(record.readBigUInt64LE(48)),
    ];
  }
  if (offset + size > limit || size > MAX_DIRECTORY_BYTES || count * DIRECTORY_ENTRY_BYTES > size) {
    throw bad(`its zip directory claims ${count} entries in ${size} bytes at ${offset}`);
  }
  return { offset, size, count };
}

/** Reads size, compressed size and header offset of a directory entry. 64-bit values are in its extra field. */
function sizesOf(entry: Buffer, extra: Buffer): [size: number, compressed: number, headerOffset: number] {
  let wide: Buffer = Buffer.alloc(0);
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) === 1) wide = extra.subarray(at + 4, at + 4 + extra.readUInt16LE(at + 2));
  }
  let at = 0;
  const value = (position: number) => {
    const narrow = entry.readUInt32LE(position);
    if (narrow !== 0xffffffff || at + 8 > wide.length) return narrow;
    at += 8;
    return Number(wide.readBigUInt64LE(at - 8));
  };
  return [value(24), value(20), value(42)];
}

/** Checks that entries do not overlap. Otherwise a small file could ask for any amount of memory. */
function checkOrder(entries: ZipEntry[], bad: Complaint): void {
  entries.sort((a, b) => a.headerOffset - b.headerOffset);
  for (const [i, entry] of entries.entries()) {
    entry.limit = entries[i + 1]?.headerOffset ?? entry.limit;
    if (entry.headerOffset + HEADER_BYTES + Buffer.byteLength(entry.name) + entry.size > entry.limit) {
      throw bad(`its entry ${entry.name} reaches into what follows it`);
    }
  }
}

/** Finds where the bytes of an entry begin. */
export async function locateZipEntry(file: FileHandle, entry: ZipEntry, bad: Complaint): Promise<number> {
  if (!entry.isStored) throw bad(`its entry ${entry.name} is compressed; PyTorch stores entries as they are`);
  const header = await readExactly(file, entry.headerOffset, HEADER_BYTES, bad);
  const start = entry.headerOffset + HEADER_BYTES + header.readUInt16LE(26) + header.readUInt16LE(28);
  if (header.readUInt32LE() !== 0x04034b50 || start + entry.size > entry.limit) {
    throw bad(`its entry ${entry.name} is damaged`);
  }
  return start;
}

/** Reads `length` bytes from `offset`. The caller has checked that the file has so many. */
export async function readExactly(
  file: FileHandle,
  offset: number,
  length: number,
  bad: Complaint,
): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await file.read(bytes, 0, length, offset);
  if (bytesRead < length) throw bad(`it ends before byte ${offset + length}`);
  return bytes;
}
