import type { ImageArea, ImageSize, RgbImage } from '../data/image-size.js';

/** White gap between the parts, in pixels. */
const GAP = 4;

/** Composes images of one size into a grid on white. */
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

/**
 * Returns the rectangle of the part in `row` and `column` of a picture that `composeGrid` made with that many rows and
 * columns.
 */
export function gridPart(
  picture: ImageSize,
  grid: { rows: number; columns: number },
  { row, column }: { row: number; column: number },
): ImageArea {
  const width = (picture.width + GAP) / grid.columns - GAP;
  const height = (picture.height + GAP) / grid.rows - GAP;
  return { x: column * (width + GAP), y: row * (height + GAP), width, height };
}
