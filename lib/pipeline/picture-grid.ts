import type { ImageArea, ImageSize, LabelImage, RgbImage } from '../data/image-files.js';

/** Pixels of white between the parts. */
const GAP = 4;

/** Puts images of one size beside and below each other, on white. */
export function composeGrid(rows: readonly (readonly RgbImage[])[]): RgbImage {
  const part = rows[0]![0]!;
  const columns = Math.max(...rows.map((row) => row.length));
  const width = columns * (part.width + GAP) - GAP;
  const height = rows.length * (part.height + GAP) - GAP;
  const data = new Uint8Array(width * height * 3).fill(255);
  const lineBytes = part.width * 3;
  for (const [r, row] of rows.entries()) {
    for (const [c, image] of row.entries()) {
      for (let y = 0; y < part.height; y++) {
        const line = image.data.subarray(y * lineBytes, (y + 1) * lineBytes);
        data.set(line, ((r * (part.height + GAP) + y) * width + c * (part.width + GAP)) * 3);
      }
    }
  }
  return { data, width, height };
}

/** Where `composeGrid` has put the part in `row` and `column` of a picture with that many rows and columns. */
export function gridPart(
  picture: ImageSize,
  grid: { rows: number; columns: number },
  { row, column }: { row: number; column: number },
): ImageArea {
  const width = (picture.width + GAP) / grid.columns - GAP;
  const height = (picture.height + GAP) / grid.rows - GAP;
  return { x: column * (width + GAP), y: row * (height + GAP), width, height };
}

/** Class indices in their colors; indices beyond the palette, and so usually the ignore index, are black. */
export function colorLabels(labels: LabelImage, palette: Uint8Array): RgbImage {
  return paintLabels(labels, palette, new Uint8Array(labels.data.length * 3));
}

/** Class indices in their colors, and the image in pale gray where the index is beyond the palette. */
export function labelsOverGray(labels: LabelImage, palette: Uint8Array, image: RgbImage): RgbImage {
  const gray = new Uint8Array(image.data.length);
  for (let pixel = 0; pixel < gray.length; pixel += 3) {
    const [red, green, blue] = image.data.subarray(pixel, pixel + 3) as unknown as [number, number, number];
    // Luma, with less contrast and lighter, so that no class can be taken for it.
    gray.fill(120 + (0.299 * red + 0.587 * green + 0.114 * blue) * 0.45, pixel, pixel + 3);
  }
  return paintLabels(labels, palette, gray);
}

function paintLabels({ data, width, height }: LabelImage, palette: Uint8Array, onto: Uint8Array): RgbImage {
  for (let pixel = 0; pixel < data.length; pixel++) {
    const from = data[pixel]! * 3;
    if (from >= palette.length) continue;
    const to = pixel * 3;
    onto[to] = palette[from]!;
    onto[to + 1] = palette[from + 1]!;
    onto[to + 2] = palette[from + 2]!;
  }
  return { data: onto, width, height };
}
