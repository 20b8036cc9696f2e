import { CAMVID, CITYSCAPES, type ClassList, type ClassSubset, classIndices } from '../data/label-maps.js';
import { spreadPalette } from '../data/palette.js';
import { STREET_SCENE_CLASSES, STREET_SCENE_PALETTE } from '../data/scenes/street-scenes.js';
import { ConfigError } from '../support/errors.js';
import type { Config } from './schema.js';

/** Returns the names of the config's classes in the order of their indices. */
export function classNames({ data: { classes } }: Config): string[] {
  return typeof classes === 'string' ? [...CLASS_LISTS[classes].names] : classes;
}

/** Returns the indices of the classes that means are taken over. undefined: all classes. */
export function meanClassIndices(config: Config): number[] | undefined {
  const { meanClasses } = config.data;
  return meanClasses === null ? undefined : indicesOf(meanClasses, 'data.meanClasses', config);
}

/** Returns the indices of the classes whose objects are pasted onto source images. Empty without copy-paste. */
export function pastedClassIndices(config: Config): number[] {
  return indicesOf(config.segmentation.copyPaste?.classes ?? [], 'segmentation.copyPaste.classes', config);
}

function indicesOf(classes: ClassSubset | readonly string[], key: string, config: Config): number[] {
  try {
    return classIndices(classes, classNames(config));
  } catch (error) {
    throw new ConfigError(`${key}: ${(error as Error).message}`, { cause: error });
  }
}

/** Returns the colors of the config's classes, 3 bytes (R, G, B) per class. */
export function classPalette({ data: { classes, palette } }: Config): Uint8Array {
  if (palette) return Uint8Array.from(palette.flat());
  if (typeof classes === 'string') return CLASS_LISTS[classes].palette;
  return spreadPalette(classes.length);
}

const CLASS_LISTS: Record<'cityscapes' | 'camvid' | 'street-scenes', ClassList> = {
  cityscapes: CITYSCAPES,
  camvid: CAMVID,
  'street-scenes': { names: STREET_SCENE_CLASSES, palette: STREET_SCENE_PALETTE },
};
