import path from 'node:path';
import { parseValue, readTable } from '../config/load.js';
import {
  CAMVID,
  CITYSCAPES,
  CLASS_SUBSETS,
  type ClassSubset,
  LABEL_MAP_NAMES,
  type LabelMapName,
  labelMapOption,
} from '../data/label-maps.js';
import { spreadPalette } from '../data/palette.js';
import { STREET_SCENE_CLASSES, STREET_SCENE_PALETTE } from '../data/scenes/street-scenes.js';
import { readRegularFile } from '../support/files.js';
import { describe } from '../support/validate.js';
import { UsageError } from './exit.js';

export interface Classes {
  names: readonly string[];
  /** Colors, 3 bytes (R, G, B) per class. */
  palette: Uint8Array;
}

const KNOWN: Record<string, Classes> = {
  cityscapes: CITYSCAPES,
  camvid: CAMVID,
  'street-scenes': { names: STREET_SCENE_CLASSES, palette: STREET_SCENE_PALETTE },
};

const NAMES = 'class names separated by commas, a list ["a, b", "c"], or @FILE with one name per line';

/** Help for the value of `--classes`. */
export const CLASSES_HELP = `${NAMES}; or one of ${Object.keys(KNOWN).join(', ')}`;

/** Reads `--classes`: a known list, or any names. */
export async function readClasses(text: string): Promise<Classes> {
  if (Object.hasOwn(KNOWN, text)) return KNOWN[text]!;
  const names = await readNames(text, '--classes');
  if (names.length < 2 || names.includes('') || new Set(names).size < names.length) {
    throw new UsageError(
      `Expected at least two different ${CLASSES_HELP} for --classes but received '${text}'`,
    );
  }
  return { names, palette: spreadPalette(names.length) };
}

/** Help for the value of `--mean-classes`. */
export const MEAN_CLASSES_HELP = `${NAMES}; or one of ${Object.keys(CLASS_SUBSETS).join(', ')}`;

/** Reads `--mean-classes`: a known part of Cityscapes' classes, or any names. */
export async function readMeanClasses(text: string): Promise<ClassSubset | string[]> {
  if (Object.hasOwn(CLASS_SUBSETS, text)) return text as ClassSubset;
  return readNames(text, '--mean-classes');
}

/** Largest file of names. 255 names take far less. */
const MAX_NAMES_BYTES = 2 ** 20;

async function readNames(text: string, option: string): Promise<string[]> {
  if (text.startsWith('@')) {
    const content = String(await readRegularFile(text.slice(1), MAX_NAMES_BYTES));
    const lines = content.split(/\r?\n/).map((line) => line.trim());
    return lines.filter((line) => line !== '');
  }
  if (!text.startsWith('[')) return text.split(',').map((name) => name.trim());
  const names = parseValue(text, option);
  if (Array.isArray(names) && names.every((name) => typeof name === 'string')) return names;
  throw new UsageError(`Expected a list of names such as ["a, b", "c"] for ${option} but received ${text}`);
}

/** Help for the value of `--label-map`. */
export const LABEL_MAP_HELP = `one of ${LABEL_MAP_NAMES.join(', ')}; a table such as '{0: 255, 1: 0}'; or a YAML or JSON file with one`;

/** Label map, as in a config. */
export type LabelMapChoice = LabelMapName | Record<string, number>;

/** Reads `--label-map`: a name, a table, or a file with a table. */
export async function readLabelMap(text: string): Promise<LabelMapChoice> {
  const isFile = ['.yaml', '.yml', '.json'].includes(path.extname(text).toLowerCase());
  const value = text.startsWith('{')
    ? parseValue(text, '--label-map')
    : isFile
      ? await readTable(text)
      : text;
  const result = labelMapOption().safeParse(value);
  if (result.success) return result.data;
  const [entry] =
    typeof value === 'object' ? Object.entries(value as object).filter(([, id]) => !isClass(id)) : [];
  const found = entry ? `${entry[0]}: ${describe(entry[1])}` : describe(value);
  const expected = 'a table of label id (0 to 65535) or color (R G B): class index (0 to 255)';
  throw new UsageError(
    typeof value === 'object'
      ? `${isFile ? text : '--label-map'}: found ${found}, expected ${expected}`
      : `Expected ${LABEL_MAP_HELP} for --label-map but received '${text}'`,
  );
}

/** Formats a label map: its name, or its table. */
export function labelMapText(map: LabelMapChoice): string {
  if (typeof map === 'string') return map;
  return `{${Object.entries(map)
    .map(([id, index]) => `${id}: ${index}`)
    .join(', ')}}`;
}

function isClass(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 255;
}

/** Returns the classes of a label map. undefined for 'identity' and tables, which may produce any. */
export function classesOfLabelMap(map: LabelMapChoice): Classes | undefined {
  if (map === 'identity' || typeof map !== 'string') return undefined;
  return map === 'camvid' ? CAMVID : CITYSCAPES;
}
