import { mkdir } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { DataError } from '../support/errors.js';
import { byCodeUnit, distinguished, listFiles, UnicodeNames } from '../support/folders.js';

/** Endings of Cityscapes. FRAME_leftImg8bit.png is the image of a frame, FRAME_gtFine_labelIds.png its labels. */
const CITYSCAPES_ENDING = /_(leftImg8bit|gt(Fine|Coarse)_labelIds)$/i;
const CITYSCAPES_LABELS = /_labelIds$/i;
/** Ending of FRAME_gtFine_color.png, which holds the same labels as colors. */
const CITYSCAPES_COLORS = /_gt(Fine|Coarse)_color$/i;

/**
 * Returns the name that an image and its label files share: the path relative to the data set's folder, without the
 * extension and Cityscapes' endings, in Unicode's composed form (NFC).
 */
export function nameOf(file: string): string {
  return withoutExtension(file).replace(CITYSCAPES_ENDING, '').normalize('NFC');
}

function withoutExtension(file: string): string {
  return file.slice(0, file.length - extname(file).length);
}

/**
 * Lists the files with these endings in a folder and its subfolders by name, sorted. Leaves out what `listFiles` leaves
 * out, and the subfolder `except`.
 *
 * @throws {DataError} when the folder cannot be listed or two files have the same name
 */
export async function filesByName(
  folder: string,
  extensions: readonly string[],
  { except }: { except?: string | undefined } = {},
): Promise<Map<string, string>> {
  const root = (await new UnicodeNames().stored(folder)) ?? folder;
  const files = (await listFiles(root, { leaveOut: except }))
    .filter((file) => extensions.includes(extname(file).toLowerCase()))
    .map((file) => ({ name: nameOf(file), file: join(root, file) }))
    // By code unit, not by locale, so that the order is the same on every machine.
    .sort((one, other) => byCodeUnit(one.name, other.name));
  const byName = new Map<string, string>();
  for (const { name, file } of files) addFile(byName, name, file, folder);
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
  for (const [name, file] of files) {
    if (!ending.test(withoutExtension(file))) continue;
    addFile(withEnding, name.replace(CITYSCAPES_COLORS, ''), file, folder);
  }
  return withEnding.size > 0 ? withEnding : files;
}

function addFile(byName: Map<string, string>, name: string, file: string, place: string): void {
  const twin = byName.get(name);
  if (twin !== undefined) throw duplicateName(place, name, twin, file);
  byName.set(name, file);
}

/**
 * Finds the partner of each of `names` among `others`: the same name, which is the path in both folders. Otherwise the
 * same base name, provided that both have it once. So folders of different structure match too.
 */
export function partners<Other>(
  names: readonly string[],
  others: ReadonlyMap<string, Other>,
): Map<string, Other> {
  const found = new Map<string, Other>();
  const rest = names.filter((name) => !others.has(name));
  const own = byUniqueBase(rest.length > 0 ? names : []);
  const theirs = byUniqueBase(rest.length > 0 ? others.keys() : []);
  for (const name of names) {
    const base = basename(name);
    const partner = others.has(name) ? name : own.get(base) === name ? theirs.get(base) : undefined;
    if (partner !== undefined) found.set(name, others.get(partner)!);
  }
  return found;
}

/** Maps base names to names. Leaves out base names that occur several times. */
function byUniqueBase(names: Iterable<string>): Map<string, string> {
  const byBase = new Map<string, string>();
  const several = new Set<string>();
  for (const name of names) {
    const base = basename(name);
    if (byBase.has(base)) several.add(base);
    byBase.set(base, name);
  }
  for (const base of several) byBase.delete(base);
  return byBase;
}

/**
 * Finds partners as `partners` does, and requires one for each of `names`. `message` receives the first few without one.
 *
 * @throws {DataError} with that message
 */
export function requireAll<Other>(
  names: readonly string[],
  others: ReadonlyMap<string, Other>,
  message: (names: string) => string,
): Map<string, Other> {
  const found = partners(names, others);
  const missing = names.filter((name) => !found.has(name));
  const [first] = missing;
  if (first === undefined) return found;
  const shown = missing.slice(0, 3).map((name) => `'${name}'`);
  if (missing.length > shown.length) shown.push(`${missing.length - shown.length} more`);
  const similar = [...others.keys()].find((name) => plain(name) === plain(first));
  const [one, other] = distinguished(first, similar ?? '');
  const hint = similar === undefined ? '' : `; '${one}' and '${other}' are different names`;
  throw new DataError(`${message(shown.join(', '))}${hint}`);
}

/** Returns a form that is equal for names that look alike or differ only in case. */
function plain(name: string): string {
  return name.normalize('NFKC').toLowerCase();
}

export function duplicateName(place: string, name: string, one: string, other: string): DataError {
  const [first, second] = distinguished(one, other);
  return new DataError(
    `${place}: found the name '${name}' twice (${first} and ${second}), expected each name once in a folder`,
  );
}

/** Returns `folder/name.png` and creates its folder. */
export async function resultFile(folder: string, name: string): Promise<string> {
  const file = join(folder, `${name}.png`);
  await mkdir(dirname(file), { recursive: true });
  return file;
}
