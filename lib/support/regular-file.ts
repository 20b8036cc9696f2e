import { readFile, stat } from 'node:fs/promises';
import { DataError } from './errors.js';

/**
 * Throws unless `file` is a file with a size: a named pipe would be waited for without end, and a device may never end.
 *
 * @returns its size in bytes
 * @throws DataError naming the file
 */
export async function requireRegularFile(file: string): Promise<number> {
  const info = await stat(file).catch((cause: Error) => {
    throw new DataError(`${file}: cannot be read: ${cause.message}`, { cause });
  });
  if (info.isDirectory()) throw new DataError(`${file}: is a folder, expected a file`);
  if (!info.isFile()) throw new DataError(`${file}: is a pipe, socket or device, expected a file`);
  return info.size;
}

/**
 * The bytes of a file that is expected to be small enough to be held in memory.
 *
 * @throws DataError naming the file when it cannot be read or is larger than `maxBytes`
 */
export async function readRegularFile(file: string, maxBytes: number): Promise<Buffer> {
  const size = await requireRegularFile(file);
  if (size > maxBytes) throw new DataError(`${file}: found ${size} bytes, expected at most ${maxBytes}`);
  return readFile(file).catch((cause: Error) => {
    throw new DataError(`${file}: cannot be read: ${cause.message}`, { cause });
  });
}
