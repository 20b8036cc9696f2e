import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { encodePng } from './png.js';

/** Label ids of the 19 classes in Cityscapes and GTA5, and in SYNTHIA, in the order of the classes. */
export const CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];
export const SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11];

/** Returns a color for a label id, different for each. */
export function colorOf(id: number): [red: number, green: number, blue: number] {
  return [3 * id, 255 - id, (7 * id) % 256];
}

/** Image and its label ids as in the files of a data set. */
export interface Frame {
  width: number;
  height: number;
  /** RGB. */
  image: Uint8Array;
  ids: Uint8Array | Uint16Array;
}

function write(file: string, bytes: Buffer | string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, bytes);
}

function rgb({ width, height, image }: Frame): Buffer {
  return encodePng({ width, height, kind: 'rgb', bitDepth: 8, samples: image });
}

function grayscale({ width, height, ids }: Frame): Buffer {
  return encodePng({ width, height, kind: 'grayscale', bitDepth: 8, samples: ids });
}

/** Writes GTA5: images/00001.png and labels/00001.png, a palette image whose indices are Cityscapes' label ids. */
export function writeGta5(root: string, frames: Frame[]): void {
  for (const [index, frame] of frames.entries()) {
    const name = `${String(index + 1).padStart(5, '0')}.png`;
    const { width, height, ids: samples } = frame;
    const palette = Uint8Array.from({ length: 3 * 256 }, (_, i) => (37 * i) % 256);
    write(join(root, 'images', name), rgb(frame));
    const labels = encodePng({ width, height, kind: 'palette', bitDepth: 8, samples, palette });
    write(join(root, 'labels', name), labels);
  }
}

/**
 * Writes SYNTHIA-RAND-CITYSCAPES: RGB/0000000.png, and a 16-bit RGB image of that name in GT/LABELS. Its first channel
 * is the class, its second the instance. GT/COLOR exists too.
 */
export function writeSynthia(root: string, frames: Frame[]): void {
  for (const [index, frame] of frames.entries()) {
    const name = `${String(index).padStart(7, '0')}.png`;
    const { width, height, ids } = frame;
    const samples = new Uint16Array(3 * ids.length);
    for (const [pixel, id] of ids.entries()) samples.set([id, (259 * pixel) % 65536, 0], 3 * pixel);
    write(join(root, 'RGB', name), rgb(frame));
    write(join(root, 'GT/LABELS', name), encodePng({ width, height, kind: 'rgb', bitDepth: 16, samples }));
    write(join(root, 'GT/COLOR', name), rgb(frame));
  }
}

/**
 * Writes Cityscapes: leftImg8bit/SPLIT/CITY/CITY_000000_000019_leftImg8bit.png. gtFine/SPLIT/CITY holds the label ids,
 * instance ids, colors and polygons of the frame.
 */
export function writeCityscapes(root: string, splits: Record<string, Record<string, Frame[]>>): void {
  for (const [split, cities] of Object.entries(splits)) {
    for (const [city, frames] of Object.entries(cities)) {
      for (const [index, frame] of frames.entries()) {
        const name = `${city}_${String(index).padStart(6, '0')}_000019`;
        const { width, height, ids } = frame;
        const truth = join(root, 'gtFine', split, city, `${name}_gtFine`);
        const instances = Uint16Array.from(ids, (id) => (id >= 24 ? 1000 * id : id));
        const colors = Uint8Array.from(Array.from(ids, (id) => [...colorOf(id), 255]).flat());
        write(join(root, 'leftImg8bit', split, city, `${name}_leftImg8bit.png`), rgb(frame));
        write(`${truth}_labelIds.png`, grayscale(frame));
        write(
          `${truth}_instanceIds.png`,
          encodePng({ width, height, kind: 'grayscale', bitDepth: 16, samples: instances }),
        );
        write(`${truth}_color.png`, encodePng({ width, height, kind: 'rgba', bitDepth: 8, samples: colors }));
        write(`${truth}_polygons.json`, '{}');
      }
    }
  }
}

/** Writes the 11-class version of CamVid: train/0001TP_006690.png and trainannot/0001TP_006690.png. 11 means void. */
export function writeCamvid(root: string, splits: Record<string, Frame[]>): void {
  for (const [split, frames] of Object.entries(splits)) {
    for (const [index, frame] of frames.entries()) {
      const name = `0001TP_${String(6690 + 30 * index).padStart(6, '0')}.png`;
      write(join(root, split, name), rgb(frame));
      write(join(root, `${split}annot`, name), grayscale(frame));
    }
  }
}

/** Writes images/ and labels/ with the same base names. The labels hold class indices. */
export function writeFolderPair(root: string, frames: Frame[]): void {
  for (const [index, frame] of frames.entries()) {
    write(join(root, 'images', `frame ${index}.png`), rgb(frame));
    write(join(root, 'labels', `frame ${index}.png`), grayscale(frame));
  }
}
