import type { Dirent } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { DataError } from './errors.js';

/**
 * Whether files and folders of this name are looked at. Hidden ones are not: `.ipynb_checkpoints`, `.AppleDouble`, and the
 * `._` files of macOS hold copies and leftovers. Neither is `@eaDir`, where a Synology disk keeps thumbnails.
 */
export function isVisible(name: string): boolean {
  return !name.startsWith('.') && name !== '@eaDir';
}

/**
 * The visible files of a folder and its subfolders, relative to it, with '/' between names, in the order of code units.
 *
 * Links to folders are followed, because data sets are often made of them. Each folder is listed once, by its real path if
 * it has one below `root`, otherwise by the first link to it. So links may lead in circles.
 *
 * @param options.leaveOut a folder that is not listed
 * @throws DataError when a folder cannot be listed
 */
export async function listFiles(root: string, options: { leaveOut?: string } = {}): Promise<string[]> {
  const files: string[] = [];
  const leaveOut = options.leaveOut === undefined ? undefined : await realPath(options.leaveOut);
  const listed = new Set<string>(leaveOut === undefined ? [] : [leaveOut]);
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
    // Links that are found on the way come after all that has a real path.
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

/** The names of a folder's visible folders, links to folders included, in order. */
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
 * Finds files whose names are stored in another Unicode form than they are given in. An accented letter is one character
 * (NFC) or a letter and a mark (NFD). macOS and archives made there often have the latter.
 */
export class UnicodeNames {
  readonly #names = new Map<string, Promise<string[]>>();

  /** The path as the file system has it; undefined where there is no such file or folder. */
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

/** Two names for a message that would say the same thing twice: what is not ASCII is escaped where they look alike. */
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

/** Whether a link leads to a folder; one that leads nowhere does not. */
async function isFolder(link: string): Promise<boolean> {
  return (await stat(link).catch(() => undefined))?.isDirectory() ?? false;
}

async function exists(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined)) !== undefined;
}

function realPath(file: string): Promise<string | undefined> {
  return realpath(file).catch(() => undefined);
}
