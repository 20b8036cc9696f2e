import { randomUUID } from 'node:crypto';
import { type Dirent, readdirSync, realpathSync, rmSync } from 'node:fs';
import { open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { DataError } from './errors.js';

/**
 * Throws unless `file` is a regular file. Reading a named pipe could wait forever, and a device may never end.
 *
 * @returns its size in bytes
 * @throws DataError that names the file
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
 * Reads a whole file into memory.
 *
 * @throws DataError that names the file when it cannot be read or is larger than `maxBytes`
 */
export async function readRegularFile(file: string, maxBytes: number): Promise<Buffer> {
  const size = await requireRegularFile(file);
  if (size > maxBytes) throw new DataError(`${file}: found ${size} bytes, expected at most ${maxBytes}`);
  return readFile(file).catch((cause: Error) => {
    throw new DataError(`${file}: cannot be read: ${cause.message}`, { cause });
  });
}

/**
 * Returns a new temporary name in the folder of `file`. It is short whatever `file` is called, because file systems
 * limit the length of names. It is hidden, so that nothing takes it for data.
 */
export function temporaryName(file: string): string {
  const name = path.join(path.dirname(file), `.${randomUUID()}.tmp`);
  unfinished.add(name);
  return name;
}

/** Temporary files of this process. */
const unfinished = new Set<string>();

/** Removes the temporary files of this process. For a process that ends in the middle of its work. */
export function removeUnfinishedFiles(): void {
  for (const name of unfinished) rmSync(name, { force: true, recursive: true });
}

const TEMPORARY = /\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp$/;

export function isTemporary(name: string): boolean {
  return TEMPORARY.test(name);
}

/**
 * Removes the temporary files and folders that interrupted writers left in `folder`. Finished files are never touched,
 * and links are not followed.
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
 * Lets `write` make a file under a temporary name beside `file`, then renames it. A reader finds the whole old file or
 * the whole new one. When `write` fails, the temporary file is removed.
 *
 * @param write makes the temporary file and flushes it; may return the final name if that depends on the content
 * @returns the final name of the file
 * @throws DataError that names `file` when it cannot be written, or any other error of `write`
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
  } finally {
    unfinished.delete(temporary);
  }
}

/** Turns a failure of the file system into a DataError. Messages get the final name instead of the temporary one. */
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
 * Writes and flushes a file, whole or not at all (see `writeAtomically`).
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

/** Flushes a folder, so that the names of its files survive a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } catch (error) {
    // Some network file systems cannot flush folders.
    if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
  } finally {
    await handle.close();
  }
}

/** Resolves a path and follows all links. Parts that do not exist stay as they are. */
export function realPath(file: string): string {
  const absolute = path.resolve(file);
  try {
    return realpathSync.native(absolute);
  } catch {
    const parent = path.dirname(absolute);
    return parent === absolute ? absolute : path.join(realPath(parent), path.basename(absolute));
  }
}

/** Tells whether a path is `folder` or lies in it, at any depth. Both must be real paths. */
export function liesIn(file: string, folder: string): boolean {
  return file === folder || file.startsWith(folder.endsWith(path.sep) ? folder : folder + path.sep);
}

/**
 * Throws unless a folder is new or empty. Hidden files do not count: they are no data, and nothing is written over them.
 *
 * @throws DataError naming some of what the folder holds
 */
export async function requireEmptyFolder(folder: string): Promise<void> {
  const names = await readdir(folder).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return [];
    throw new DataError(`${folder}: cannot be listed: ${cause.message}`, { cause });
  });
  const visible = names.filter((name) => !name.startsWith('.')).sort();
  if (visible.length === 0) return;
  const shown = visible.slice(0, 3).join(', ') + (visible.length > 3 ? ', …' : '');
  throw new DataError(`${folder}: holds other files (${shown}), expected a new or empty folder`);
}
/** As `syncFolder`, for the folder and all folders in it. */
export async function syncFolders(folder: string): Promise<void> {
  await syncFolder(folder);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await syncFolders(path.join(folder, entry.name));
  }
}
