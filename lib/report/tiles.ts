import { existsSync } from 'node:fs';
import sharp from 'sharp';
import { readImage } from '../data/image-codec.js';
import type { PictureColumn } from '../pipeline/events.js';
import { gridPart } from '../pipeline/picture-grid.js';
import type { StageHistory } from '../run/history.js';
import { DataError } from '../support/errors.js';

/** Part of a stage's picture, ready for an `img` element. */
export interface Tile {
  /** Name of the image. */
  name: string;
  /** Image as a data URI, WebP. */
  source: string;
  width: number;
  height: number;
}

/** Maximum width of a tile in pixels, twice its width on a wide page. */
const MAX_WIDTH = 432;

/** Columns of flat colors. They are stored without loss, and are small anyway. */
const LABELS: readonly PictureColumn[] = ['prediction', 'truth'];

/**
 * Cuts one column of a picture into tiles, one per row. Returns none if the picture no longer exists.
 *
 * @throws DataError when the picture cannot be decoded
 */
export async function cutTiles(
  { file, columns, rows }: StageHistory['pictures'][number],
  kind: PictureColumn,
): Promise<Tile[]> {
  if (!existsSync(file)) return [];
  const isLabels = LABELS.includes(kind);
  const column = columns.indexOf(kind);
  try {
    const { data, width, height } = await readImage(file);
    const raw = { width, height, channels: 3 } as const;
    const grid = { rows: rows.length, columns: columns.length };
    return await Promise.all(
      rows.map(async (name, row): Promise<Tile> => {
        const { x, y, width, height } = gridPart(raw, grid, { row, column });
        const part = sharp(data, { raw })
          .extract({ left: x, top: y, width, height })
          .resize({ width: Math.min(width, MAX_WIDTH), kernel: isLabels ? 'nearest' : 'lanczos3' })
          .webp(isLabels ? { lossless: true, effort: 6 } : { quality: 80, smartSubsample: true, effort: 6 });
        const { data: bytes, info: size } = await part.toBuffer({ resolveWithObject: true });
        const source = `data:image/webp;base64,${bytes.toString('base64')}`;
        return { name, source, width: size.width, height: size.height };
      }),
    );
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw new DataError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
