import { randomUUID } from 'node:crypto';
import { type Dirent, readdirSync, rmSync } from 'node:fs';
import { open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { DataError } from './errors.js';

/**
 * Throws unless `file` is a file with a size. Reading a named pipe would wait without end, and a device may never end.
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

/**
 * A new temporary name in the folder of `file`. It is short whatever `file` is called, since file systems limit the length
 * of names. It is hidden, so that nothing takes it for data.
 */
export function temporaryName(file: string): string {
  return path.join(path.dirname(file), `.${randomUUID()}.tmp`);
}

const TEMPORARY = /\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp$/;

export function isTemporary(name: string): boolean {
  return TEMPORARY.test(name);
}

/**
 * Removes what writers left under a temporary name in `folder` when they were cut off. Whole files are never touched, and
 * links are not followed.
 */
export function removeTemporaryFiles(folder: string): void {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  } catch {
    return;
  }
  for (const { parentPath, name } of entries) {
    if (isTemporary(name)) rmSync(path.join(parentPath, name), { force: true, recursive: true });
  }
}

/**
 * Has `write` make a file under a temporary name beside `file`, then renames it. A reader finds the old file or the new
 * one, whole. When `write` fails, what it left is removed.
 *
 * @param write makes the temporary file and flushes it; where the final name depends on the content, returns that name
 * @returns the name of the file
 * @throws DataError naming `file` when it cannot be written; whatever else `write` throws
 */
export async function writeAtomically(
  file: string,
  write: (temporary: string) => Promise<string> | Promise<void>,
): Promise<string> {
  const temporary = temporaryName(file);
  try {
    const name = await write(temporary);
    const final = typeof name === 'string' ? name : file;
    await rename(temporary, final);
    return final;
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw writeError(error, temporary, file);
  }
}

/** A failure of the file system as a DataError; in any message, the name that the file would have had in the end. */
function writeError(error: unknown, temporary: string, file: string): unknown {
  if (!(error instanceof Error)) return error;
  const message = error.message.replaceAll(temporary, file);
  if (error instanceof DataError) {
    return message === error.message ? error : new DataError(message, { cause: error });
  }
  const isOfTheSystem = typeof (error as NodeJS.ErrnoException).syscall === 'string';
  return isOfTheSystem ? new DataError(`${file}: cannot be written: ${message}`, { cause: error }) : error;
}

/**
 * Writes and flushes a file, whole or not at all; see `writeAtomically`.
 *
 * @throws DataError when it cannot be written
 */
export async function writeFileAtomically(file: string, bytes: Uint8Array | string): Promise<void> {
  await writeAtomically(file, async (temporary) => {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
}

/** Makes the names of a folder's files survive a power cut, as `fsync` does for what is in a file. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } catch (error) {
    // Some network file systems have no such thing for folders.
    if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
  } finally {
    await handle.close();
  }
}

/** As `syncFolder`, for the folder and all folders in it. */
export async function syncFolders(folder: string): Promise<void> {
  await syncFolder(folder);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await syncFolders(path.join(folder, entry.name));
  }
}
