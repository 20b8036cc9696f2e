import { InvalidArgumentError } from 'commander';
import {
  CAMVID,
  CITYSCAPES,
  CLASS_SUBSETS,
  type ClassSubset,
  type LabelMapName,
} from '../data/label-maps.js';
import { spreadPalette } from '../data/palette.js';
import { STREET_SCENE_CLASSES, STREET_SCENE_PALETTE } from '../data/scenes/street-scenes.js';

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

/** Help for the value of `--classes`. */
export const CLASSES_HELP = `class names separated by commas, or one of ${Object.keys(KNOWN).join(', ')}`;

/** Parses `--classes`: a known list, or any names. */
export function parseClasses(text: string): Classes {
  if (Object.hasOwn(KNOWN, text)) return KNOWN[text]!;
  const names = text.split(',').map((name) => name.trim());
  if (names.length < 2 || names.includes('') || new Set(names).size < names.length) {
    throw new InvalidArgumentError(`Expected at least two different ${CLASSES_HELP}.`);
  }
  return { names, palette: spreadPalette(names.length) };
}

/** Help for the value of `--mean-classes`. */
export const MEAN_CLASSES_HELP = `class names separated by commas, or one of ${Object.keys(CLASS_SUBSETS).join(', ')}`;

/** Parses `--mean-classes`: a known part of Cityscapes' classes, or any names. */
export function parseMeanClasses(text: string): ClassSubset | string[] {
  if (Object.hasOwn(CLASS_SUBSETS, text)) return text as ClassSubset;
  return text.split(',').map((name) => name.trim());
}

/** Returns the classes of a label map. undefined for 'identity', which may produce any. */
export function classesOfLabelMap(map: LabelMapName): Classes | undefined {
  if (map === 'identity') return undefined;
  return map === 'camvid' ? CAMVID : CITYSCAPES;
}
