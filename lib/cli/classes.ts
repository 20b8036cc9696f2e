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
  /** 3 bytes (R, G, B) a class. */
  palette: Uint8Array;
}

const KNOWN: Record<string, Classes> = {
  cityscapes: CITYSCAPES,
  camvid: CAMVID,
  'street-scenes': { names: STREET_SCENE_CLASSES, palette: STREET_SCENE_PALETTE },
};

/** What `--classes` takes. */
export const CLASSES_HELP = `class names with commas between, or one of ${Object.keys(KNOWN).join(', ')}`;

/** `--classes`: a known list, or any names. */
export function parseClasses(text: string): Classes {
  if (Object.hasOwn(KNOWN, text)) return KNOWN[text]!;
  const names = text.split(',').map((name) => name.trim());
  if (names.length < 2 || names.includes('') || new Set(names).size < names.length) {
    throw new InvalidArgumentError(`Expected at least two different ${CLASSES_HELP}.`);
  }
  return { names, palette: spreadPalette(names.length) };
}

/** What `--mean-classes` takes. */
export const MEAN_CLASSES_HELP = `class names with commas between, or one of ${Object.keys(CLASS_SUBSETS).join(', ')}`;

/** `--mean-classes`: a known part of Cityscapes' classes, or any names. */
export function parseMeanClasses(text: string): ClassSubset | string[] {
  if (Object.hasOwn(CLASS_SUBSETS, text)) return text as ClassSubset;
  return text.split(',').map((name) => name.trim());
}

/** The classes that a label map leads to; undefined for 'identity', which leads to any. */
export function classesOfLabelMap(map: LabelMapName): Classes | undefined {
  if (map === 'identity') return undefined;
  return map === 'camvid' ? CAMVID : CITYSCAPES;
}
