import { basename, join, relative } from 'node:path';
import { DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';
import { subfolders } from '../support/folders.js';
import { filesByName, labelsByName } from './file-names.js';
import { IMAGE_EXTENSIONS } from './image-bytes.js';
import type { LabelMapName } from './label-maps.js';

/** A folder of images and its folder of label maps, or null. */
export interface DatasetPart {
  /** Name such as 'train'. Empty if the data set has only one part. */
  name: string;
  images: string;
  labels: string | null;
}

/** Layout of a data set on disk. */
export interface DatasetLayout {
  layout: 'cityscapes' | 'gta5' | 'synthia' | 'camvid' | 'folders';
  /** Meaning of its label ids. */
  labelMap: LabelMapName;
  parts: DatasetPart[];
}

/** Depth of folders to which pairs are searched for. */
const DEPTH = 4;

/**
 * Finds the parts of a data set by its published folders.
 *
 * - Cityscapes: `leftImg8bit/SPLIT/CITY/`, `gtFine/SPLIT/CITY/`
 * - SYNTHIA-RAND-CITYSCAPES: `RGB/`, `GT/LABELS/`
 * - CamVid, in its 11-class version: `SPLIT/`, `SPLITannot/`
 * - GTA5: `images/`, `labels/` with palette PNGs 00001.png …
 * - Any folders `images/`, with or without `labels/` beside them, such as `source/images`, `target/val/labels`
 * - A folder of images
 *
 * @throws {DataError} when the folder cannot be listed or holds none of these
 */
export async function findDataset(root: string): Promise<DatasetLayout> {
  const folders = await subfolders(root);
  const has = (name: string) => folders.includes(name);
  const at = (name: string) => join(root, name);

  if (has('leftImg8bit')) {
    const splits = await subfolders(at('leftImg8bit'));
    const labeled = has('gtFine') ? await subfolders(at('gtFine')) : [];
    const parts = splits.map((name) => ({
      name,
      images: join(root, 'leftImg8bit', name),
      labels: labeled.includes(name) ? join(root, 'gtFine', name) : null,
    }));
    if (parts.length > 0) return { layout: 'cityscapes', labelMap: 'cityscapes', parts };
  }
  if (has('RGB') && has('GT') && (await subfolders(at('GT'))).includes('LABELS')) {
    const part = { name: '', images: at('RGB'), labels: join(root, 'GT', 'LABELS') };
    return { layout: 'synthia', labelMap: 'synthia', parts: [part] };
  }
  const annotated = folders.filter((name) => has(`${name}annot`));
  if (annotated.length > 0) {
    const parts = annotated.map((name) => ({ name, images: at(name), labels: at(`${name}annot`) }));
    return { layout: 'camvid', labelMap: 'camvid', parts };
  }
  const parts = await folderPairs(root);
  const [first] = parts;
  if (first?.labels && parts.length === 1 && (await looksLikeGta5(first.labels))) {
    return { layout: 'gta5', labelMap: 'gta5', parts };
  }
  if (parts.length > 0) return { layout: 'folders', labelMap: 'identity', parts };
  if ((await filesByName(root, IMAGE_EXTENSIONS)).size > 0) {
    return { layout: 'folders', labelMap: 'identity', parts: [{ name: '', images: root, labels: null }] };
  }
  throw new DataError(
    `${root}: holds no data set; expected images, folders images and labels, or the folders of Cityscapes, GTA5, SYNTHIA or CamVid`,
  );
}

/** Finds every folder `images` below `root`, and the folder `labels` beside it if there is one. */
async function folderPairs(root: string, folder = root, depth = DEPTH): Promise<DatasetPart[]> {
  const names = await subfolders(folder);
  if (names.includes('images')) {
    const labels = names.includes('labels') ? join(folder, 'labels') : null;
    return [{ name: relative(root, folder), images: join(folder, 'images'), labels }];
  }
  if (depth === 0) return [];
  const parts = await Promise.all(names.map((name) => folderPairs(root, join(folder, name), depth - 1)));
  return parts.flat();
}

/** Color type of palette PNGs. */
const PALETTE = 3;
const MAX_LABEL_BYTES = 2 ** 26;

/**
 * Tests for GTA5: five digits name a frame, and the label ids are indices of a palette. Only the first file is tested.
 */
async function looksLikeGta5(folder: string): Promise<boolean> {
  const [first] = (await labelsByName(folder)).values();
  if (first === undefined || !/^\d{5}\.png$/.test(basename(first))) return false;
  const bytes = await readRegularFile(first, MAX_LABEL_BYTES).catch(() => null);
  return bytes !== null && bytes.toString('latin1', 12, 16) === 'IHDR' && bytes[25] === PALETTE;
}
