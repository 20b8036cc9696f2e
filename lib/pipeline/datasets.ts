import path from 'node:path';
import type { Config, SizePair } from '../config/schema.js';
import { ImageDataset, type LabelOptions } from '../data/dataset.js';
import type { ImageSize } from '../data/image-files.js';
import { CAMVID, CITYSCAPES, type ClassList, type ClassSubset, classIndices } from '../data/label-maps.js';
import { createEmbeddedDataset } from '../data/scenes/embedded-dataset.js';
import { STREET_SCENE_CLASSES, STREET_SCENE_PALETTE } from '../data/scenes/street-scenes.js';
import { ConfigError } from '../support/errors.js';

/** The image sets of a run. */
export interface Datasets {
  /** S with Y_S. */
  source: ImageDataset;
  /** T. */
  target: ImageDataset;
  /** Labeled target images, for reporting only; null: none. */
  validation: ImageDataset | null;
}

/**
 * Opens the data sets that the config names, after generating the embedded one where it asks for that.
 *
 * @throws DataError when a folder, a list or a label file is missing
 * @throws ConfigError when a list names no labels, or the config names classes that there are not
 */
export async function openDatasets(
  config: Config,
  options: {
    signal?: AbortSignal;
    /** Called while the embedded data set is generated. */
    onProgress?: (progress: { done: number; total: number }) => void;
  } = {},
): Promise<Datasets> {
  const { data } = config;
  const root = dataRoot(config);
  meanClassIndices(config);
  pastedClassIndices(config);
  if (data.embedded) {
    const { size, ...counts } = data.embedded;
    await createEmbeddedDataset(root, { ...counts, size: toSize(size), ...options });
  }
  const { ignoreIndex, maxPixels } = data;
  const labels = { classCount: classNames(config).length, ignoreIndex };
  const open = async (source: ImageSource, key: string): Promise<ImageDataset> => {
    const dataset = await openWhole(source);
    return source.part ? partOf(dataset, source.part, key) : dataset;
  };
  const openWhole = ({ images, list, ...labeled }: ImageSource): Promise<ImageDataset> => {
    const encoding: LabelOptions = { ...labels, labelMap: labeled.labelMap ?? 'identity' };
    if (list !== null) {
      return ImageDataset.fromList({ list: path.resolve(root, list), root, maxPixels, ...encoding });
    }
    const folders = {
      images: path.resolve(root, images!),
      ...(labeled.labels && { labels: path.resolve(root, labeled.labels) }),
    };
    return ImageDataset.fromFolder({ ...folders, maxPixels, ...encoding });
  };
  const [source, target, validation] = await Promise.all([
    open(data.source, 'source'),
    open(data.target.train, 'target.train'),
    data.target.val && open(data.target.val, 'target.val'),
  ]);
  requireLabels(source, 'source');
  if (validation) requireLabels(validation, 'target.val');
  return { source, target, validation };
}

/** Absolute; generated data live in the run folder unless the config says otherwise. */
function dataRoot({ data, output }: Config): string {
  return data.root ?? path.join(output, 'data');
}

type ImageSource = {
  images: string | null;
  list: string | null;
  part: [number, number] | null;
  labels?: string | null;
  labelMap?: Config['data']['source']['labelMap'];
};

function partOf(dataset: ImageDataset, [from, to]: [number, number], key: string): ImageDataset {
  const [first, end] = [Math.round(from * dataset.length), Math.round(to * dataset.length)];
  if (first === end) {
    throw new ConfigError(
      `data.${key}.part: expected a part with an image in it but found [${from}, ${to}] of ${dataset.length}`,
    );
  }
  return dataset.subset(Array.from({ length: end - first }, (_, index) => first + index));
}

function requireLabels(dataset: ImageDataset, key: string): void {
  if (!dataset.hasLabels) {
    throw new ConfigError(`data.${key}.list: expected lines 'image label' but its lines name no label`);
  }
}

/** The names of the config's classes, in the order of their indices. */
export function classNames({ data: { classes } }: Config): string[] {
  return typeof classes === 'string' ? [...CLASS_LISTS[classes].names] : classes;
}

/** The indices of the classes that means are taken over; undefined: all. */
export function meanClassIndices(config: Config): number[] | undefined {
  const { meanClasses } = config.data;
  return meanClasses === null ? undefined : indicesOf(meanClasses, 'data.meanClasses', config);
}

/** The indices of the classes whose objects are pasted onto source images; none without copy-paste. */
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

/** The colors of the config's classes: 3 bytes (R, G, B) a class. */
export function classPalette({ data: { classes, palette } }: Config): Uint8Array {
  if (palette) return Uint8Array.from(palette.flat());
  if (typeof classes === 'string') return CLASS_LISTS[classes].palette;
  return spreadPalette(classes.length);
}

/** Colors for that many classes that have none: 3 bytes (R, G, B) a class. */
export function spreadPalette(count: number): Uint8Array {
  return Uint8Array.from(Array.from({ length: count }, (_, index) => spreadColor(index)).flat());
}

/** A config's [width, height] as the library's size. */
export function toSize([width, height]: SizePair): ImageSize {
  return { width, height };
}

const CLASS_LISTS: Record<'cityscapes' | 'camvid' | 'street-scenes', ClassList> = {
  cityscapes: CITYSCAPES,
  camvid: CAMVID,
  'street-scenes': { names: STREET_SCENE_CLASSES, palette: STREET_SCENE_PALETTE },
};

/** PASCAL VOC's colors: the bits of the index, dealt out to red, green and blue from the highest down. */
function spreadColor(index: number): [number, number, number] {
  const color: [number, number, number] = [0, 0, 0];
  for (let bits = index + 1, shift = 7; bits > 0; bits >>= 3, shift--) {
    for (let channel = 0; channel < 3; channel++) color[channel]! |= ((bits >> channel) & 1) << shift;
  }
  return color;
}
