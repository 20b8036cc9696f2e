import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { DataError } from './errors.js';

/**
 * Has `write` make a file under a temporary name beside `file`, then renames it: `file` is the old one or the whole new
 * one. Where `write` fails, what it left is removed.
 */
export async function writeWhole(file: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${file}.${randomUUID()}.tmp`; // others, in this process too, may write to the same name
  try {
    await write(temporary);
    try {
      await rename(temporary, file);
    } catch (cause) {
      throw new DataError(`${file} cannot be written: ${(cause as Error).message}`, { cause });
    }
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
