import { z } from 'zod';
import { integer } from '../support/options.js';

/** Width and height in pixels. */
export interface ImageSize {
  width: number;
  height: number;
}

/** A rectangle in pixels; x and y are those of its top left corner. */
export interface ImageArea extends ImageSize {
  x: number;
  y: number;
}

/** Pixels [height, width, 3], R, G, B in 0–255. */
export interface RgbImage extends ImageSize {
  data: Uint8Array;
}

/** Class indices [height, width]. */
export interface LabelImage extends ImageSize {
  data: Uint8Array;
}

/** What part of a file to give, and at what size. The order is: resize, crop, flip. */
export interface View {
  /** Resize to this; default: the file's own size. */
  size?: ImageSize;
  /** Then keep only this area; default: all. */
  crop?: ImageArea;
  /** Then mirror left and right; default false. */
  flip?: boolean;
}

/** A file whose header is read and whose pixels are still compressed. */
export interface ImageFile<Pixels> extends ImageSize {
  readonly file: string;
  /** Decodes; may be called again. Rejects with a {@link DataError} when the file is broken further down. */
  decode(view?: View): Promise<Pixels>;
}

/** A size as configs have it: [width, height] in pixels. */
export type SizePair = [width: number, height: number];

// The five stride-2 layers of the output-space discriminator leave nothing of a shorter side.
const side = integer(32, 16_384);

/** Option: a size that networks train or predict at. */
export const sizeOption = () => z.tuple([side, side], 'a size [width, height] in pixels');

/** A config's [width, height] as the library's size. */
export function toSize([width, height]: SizePair): ImageSize {
  return { width, height };
}
