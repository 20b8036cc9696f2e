import type { ImageFile, ImageSize, LabelImage, RgbImage } from '../data/image-size.js';
import { sampleNearest } from '../data/label-codec.js';
import { colorLabels } from '../data/palette.js';
import { composeGrid } from '../pipeline/picture-grid.js';

/** Longer side of a picture, in pixels. */
const SIDE = 240;
const PICTURES_IN_A_ROW = 6;

/** Contact sheet: rows of images on white, each beside its labels in colors. */
export class ContactSheet {
  readonly #palette: Uint8Array;
  readonly #rows: RgbImage[][] = [[]];
  /** Shape of the first image. The others are fitted into it. */
  #tile: ImageSize | undefined;

  /**
   * Creates an empty sheet.
   *
   * @param palette 3 bytes (R, G, B) per class
   */
  constructor(palette: Uint8Array) {
    this.#palette = palette;
  }

  async add(image: ImageFile<RgbImage>, labels: LabelImage | undefined): Promise<void> {
    this.#tile ??= fitted(image, { width: SIDE, height: SIDE });
    const size = fitted(image, this.#tile);
    const row = this.#rows.at(-1)!;
    row.push(centered(await image.decode({ size }), this.#tile));
    if (labels) row.push(centered(colorLabels(sampleNearest(labels, { size }), this.#palette), this.#tile));
    if (row.length >= PICTURES_IN_A_ROW) this.endRow();
  }

  endRow(): void {
    if (this.#rows.at(-1)!.length > 0) this.#rows.push([]);
  }

  /** Composes the sheet. null: nothing was added. */
  compose(): RgbImage | null {
    const rows = this.#rows.filter((row) => row.length > 0);
    return rows.length > 0 ? composeGrid(rows) : null;
  }
}

function fitted({ width, height }: ImageSize, within: ImageSize): ImageSize {
  const scale = Math.min(within.width / width, within.height / height);
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** Centers an image on a white one. */
function centered(image: RgbImage, { width, height }: ImageSize): RgbImage {
  if (image.width === width && image.height === height) return image;
  const data = new Uint8Array(width * height * 3).fill(255);
  const [left, top] = [(width - image.width) >> 1, (height - image.height) >> 1];
  for (let y = 0; y < image.height; y++) {
    const line = image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3);
    data.set(line, ((top + y) * width + left) * 3);
  }
  return { data, width, height };
}
