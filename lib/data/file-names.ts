import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { DataError } from '../support/errors.js';
import { realPath } from '../support/files.js';

/** Endings of Cityscapes. FRAME_leftImg8bit.png is the image of a frame, FRAME_gtFine_labelIds.png its labels. */
const CITYSCAPES_ENDING = /_(leftImg8bit|gt(Fine|Coarse)_labelIds)$/;
const CITYSCAPES_LABELS = /_labelIds$/i;
/** Ending of FRAME_gtFine_color.png, which holds the same labels as colors. */
const CITYSCAPES_COLORS = /_gt(Fine|Coarse)_color$/;

/** Returns the name that an image and its label files share: the base name without the endings of Cityscapes. */
export function nameOf(file: string): string {
  return basename(file, extname(file)).replace(CITYSCAPES_ENDING, '');
}

/**
 * Lists the files with these endings in a folder and its subfolders by name, sorted. Hidden files and the subfolder
 * `except` are left out.
 *
 * @throws {DataError} when the folder cannot be listed or two files have the same name
 */
export async function filesByName(
  folder: string,
  extensions: readonly string[],
  { except }: { except?: string | undefined } = {},
): Promise<Map<string, string>> {
  const found = await listFolder(folder, except);
  const files = found
    .filter((file) => extensions.includes(extname(file).toLowerCase()) && !basename(file).startsWith('.'))
    .map((file) => ({ name: nameOf(file), file: join(folder, file) }))
    // By code unit, not by locale, so that the order is the same on every machine.
    .sort((one, other) => (one.name < other.name ? -1 : one.name > other.name ? 1 : 0));
  const byName = new Map<string, string>();
  for (const { name, file } of files) {
    const twin = byName.get(name);
    if (twin !== undefined) throw duplicateName(folder, name, twin, file);
    byName.set(name, file);
  }
  return byName;
}

/** Returns the file with the weights of pseudo-labels: NAME.confidence.png beside NAME.png. */
export function weightsFile(labels: string): string {
  return labels.replace(/\.png$/i, '.confidence.png');
}

/**
 * Lists the label maps of a folder and its subfolders by name. Of Cityscapes' PNGs, it takes those with label ids, or
 * with colors.
 */
export async function labelsByName(
  folder: string,
  { colors = false, except }: { colors?: boolean; except?: string | undefined } = {},
): Promise<Map<string, string>> {
  const files = await filesByName(folder, ['.png'], { except });
  const ending = colors ? CITYSCAPES_COLORS : CITYSCAPES_LABELS;
  const withEnding = new Map<string, string>();
  for (const [longName, file] of files) {
    if (!ending.test(basename(file, extname(file)))) continue;
    const name = longName.replace(CITYSCAPES_COLORS, '');
    const twin = withEnding.get(name);
    if (twin !== undefined) throw duplicateName(folder, name, twin, file);
    withEnding.set(name, file);
  }
  return withEnding.size > 0 ? withEnding : files;
}

/**
 * Requires that every one of `names` is a key of `files`. `message` receives the first few missing names.
 *
 * @throws {DataError} with that message
 */
export function requireAll(
  names: readonly string[],
  files: ReadonlyMap<string, string>,
  message: (names: string) => string,
): void {
  const missing = names.filter((name) => !files.has(name));
  if (missing.length === 0) return;
  const shown = missing.slice(0, 3).map((name) => `'${name}'`);
  if (missing.length > shown.length) shown.push(`${missing.length - shown.length} more`);
  throw new DataError(message(shown.join(', ')));
}

export function duplicateName(place: string, name: string, one: string, other: string): DataError {
  return new DataError(
    `${place}: found the name '${name}' twice (${one} and ${other}), expected each base name once`,
  );
}

/**
 * Lists the files of a folder and its subfolders, relative to it. Links are followed, because data sets often consist
 * of them. Every folder is listed once, because links may form a circle.
 */
async function listFolder(root: string, except: string | undefined): Promise<string[]> {
  const files: string[] = [];
  const listed = new Set<string>(except === undefined ? [] : [realPath(except)]);
  const list = async (subfolder: string): Promise<void> => {
    const folder = join(root, subfolder);
    const place = await realpath(folder);
    if (listed.has(place)) return;
    listed.add(place);
    const entries = await readdir(folder, { withFileTypes: true });
    entries.sort((one, other) => (one.name < other.name ? -1 : 1));
    for (const entry of entries) {
      const name = join(subfolder, entry.name);
      if (entry.isDirectory() || (entry.isSymbolicLink() && (await isFolder(join(root, name))))) {
        await list(name);
      } else files.push(name);
    }
  };
  try {
    await list('');
    return files;
  } catch (error) {
    throw new DataError(`${root}: cannot be listed: ${(error as Error).message}`, { cause: error });
  }
}

/** Tests whether a link leads to a folder. A broken link does not. */
async function isFolder(link: string): Promise<boolean> {
  return (await stat(link).catch(() => undefined))?.isDirectory() ?? false;
}
