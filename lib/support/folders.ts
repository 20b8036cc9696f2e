import type { Dirent } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { DataError } from './errors.js';
import { realPath } from './files.js';

/**
 * Tells whether files and folders of this name are listed. Hidden ones are not: `.ipynb_checkpoints`, `.AppleDouble` and
 * the `._` files of macOS hold copies. Neither is `@eaDir`, where a Synology disk keeps thumbnails.
 */
export function isVisible(name: string): boolean {
  return !name.startsWith('.') && name !== '@eaDir';
}

/**
 * Lists the visible files of a folder and its subfolders, relative to it, with '/' between names, by code unit.
 *
 * Follows links to folders, because data sets often consist of them. Lists each folder once, because links may form a
 * circle: by its real path if that lies below `root`, otherwise by the first link to it.
 *
 * @param options.leaveOut folder to leave out
 * @throws DataError when a folder cannot be listed
 */
export async function listFiles(
  root: string,
  options: { leaveOut?: string | undefined } = {},
): Promise<string[]> {
  const files: string[] = [];
  const listed = new Set<string>(options.leaveOut === undefined ? [] : [realPath(options.leaveOut)]);
  const list = async (subfolder: string): Promise<string[]> => {
    const folder = path.join(root, subfolder);
    const place = await realpath(folder);
    if (listed.has(place)) return [];
    listed.add(place);
    const links: string[] = [];
    for (const entry of await visibleEntries(folder)) {
      const name = path.posix.join(subfolder, entry.name);
      if (entry.isDirectory()) links.push(...(await list(name)));
      else if (entry.isSymbolicLink() && (await isFolder(path.join(root, name)))) links.push(name);
      else files.push(name);
    }
    return links;
  };
  try {
    // Links come after everything with a real path.
    for (let links = ['']; links.length > 0; ) {
      const next: string[] = [];
      for (const link of links) next.push(...(await list(link)));
      links = next;
    }
  } catch (error) {
    throw new DataError(`${root}: cannot be listed: ${(error as Error).message}`, { cause: error });
  }
  return files.sort(byCodeUnit);
}

/** Lists the names of a folder's visible subfolders, sorted. Includes links to folders. */
export async function subfolders(folder: string): Promise<string[]> {
  const entries = await visibleEntries(folder).catch((error: Error) => {
    throw new DataError(`${folder}: cannot be listed: ${error.message}`, { cause: error });
  });
  const areFolders = await Promise.all(
    entries.map((entry) =>
      entry.isSymbolicLink() ? isFolder(path.join(folder, entry.name)) : entry.isDirectory(),
    ),
  );
  return entries.filter((_, index) => areFolders[index]).map(({ name }) => name);
}

/** Compares by code unit, not by locale, so that an order is the same on every machine. */
export function byCodeUnit(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}

/**
 * Finds files whose names are stored in another Unicode form. An accented letter is one character (NFC) or a letter and a
 * mark (NFD). macOS and archives from there often have NFD.
 */
export class UnicodeNames {
  readonly #names = new Map<string, Promise<string[]>>();

  /** Returns the path as stored. undefined: no such file or folder. */
  async stored(file: string): Promise<string | undefined> {
    if (await exists(file)) return file;
    const parent = path.dirname(file);
    if (parent === file || isAscii(file)) return undefined;
    const folder = await this.stored(parent);
    if (folder === undefined) return undefined;
    const wanted = path.basename(file).normalize('NFC');
    const name = (await this.#namesIn(folder)).find((other) => other.normalize('NFC') === wanted);
    return name === undefined ? undefined : path.join(folder, name);
  }

  #namesIn(folder: string): Promise<string[]> {
    const known = this.#names.get(folder) ?? readdir(folder).catch(() => []);
    this.#names.set(folder, known);
    return known;
  }
}

/** Returns two names for a message. If they look alike, escapes what is not ASCII. */
export function distinguished(one: string, other: string): [string, string] {
  if (one.normalize('NFKC') !== other.normalize('NFKC')) return [one, other];
  return [escaped(one), escaped(other)];
}

function escaped(text: string): string {
  return text.replace(/[^ -~]/gu, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

function isAscii(text: string): boolean {
  return /^[ -~]*$/.test(text);
}

async function visibleEntries(folder: string): Promise<Dirent[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  return entries.filter(({ name }) => isVisible(name)).sort((one, other) => byCodeUnit(one.name, other.name));
}

/** Tells whether a link leads to a folder. A broken link does not. */
async function isFolder(link: string): Promise<boolean> {
  return (await stat(link).catch(() => undefined))?.isDirectory() ?? false;
}

async function exists(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined)) !== undefined;
}
