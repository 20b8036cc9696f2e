import { z } from 'zod';
import { integer } from '../support/options.js';

/** Width and height in pixels. */
export interface ImageSize {
  width: number;
  height: number;
}

/** Rectangle in pixels. x and y are the top left corner. */
export interface ImageArea extends ImageSize {
  x: number;
  y: number;
}

/** Pixels [height, width, 3]: R, G, B in 0–255. */
export interface RgbImage extends ImageSize {
  data: Uint8Array;
}

/** Class indices [height, width]. */
export interface LabelImage extends ImageSize {
  data: Uint8Array;
}

/** Part and size of the image to return. The order is resize, crop, flip. */
export interface View {
  /** Size to resize to. Default: the file's own size. */
  size?: ImageSize;
  /** Area to keep after resizing. Default: all. */
  crop?: ImageArea;
  /** Mirrors left and right after cropping. Default false. */
  flip?: boolean;
}

/** Image file whose header has been read and whose pixels are still compressed. */
export interface ImageFile<Pixels> extends ImageSize {
  readonly file: string;
  /** Decodes the pixels. It may be called again. Rejects with a {@link DataError} when the pixel data is broken. */
  decode(view?: View): Promise<Pixels>;
}

/** Size as configs write it: [width, height] in pixels. */
export type SizePair = [width: number, height: number];

// The five stride-2 layers of the output-space discriminator leave nothing of a shorter side.
const side = integer(32, 16_384);

/** Declares the option for a size at which networks train or predict. Each side is 32 to 16384 pixels. */
export const sizeOption = () => z.tuple([side, side], 'a size [width, height] in pixels');

/** Converts a config's [width, height] to the library's size. */
export function toSize([width, height]: SizePair): ImageSize {
  return { width, height };
}
