import { type ClassSubset, classIndices } from '../data/label-maps.js';
import { spreadPalette } from '../data/palette.js';
import { ConfigError } from '../support/errors.js';
import { CLASS_LISTS } from './class-lists.js';
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

/** Returns the indices of `segmentation.featureDistance.classes`. None without it. @throws ConfigError for an unknown name */
export function anchoredClassIndices(config: Config): number[] {
  const { featureDistance } = config.segmentation;
  return indicesOf(featureDistance?.classes ?? [], 'segmentation.featureDistance.classes', config);
}

/** Checks every list of classes in a config. @throws ConfigError that names the list and an unknown class */
export function checkClassNames(config: Config): void {
  for (const indicesIn of [meanClassIndices, pastedClassIndices, anchoredClassIndices]) indicesIn(config);
}

/** Returns the classes that should have labels, by index: those of the mean IoU and those that are pasted. */
export function expectedClasses(config: Config): Map<number, string> {
  const names = classNames(config);
  const indices = [...(meanClassIndices(config) ?? names.keys()), ...pastedClassIndices(config)];
  return new Map(indices.map((index) => [index, names[index]!]));
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
