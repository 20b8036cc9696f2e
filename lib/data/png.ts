import { crc32 } from 'node:zlib';
import { DataError } from '../support/errors.js';

// A PNG is a signature followed by chunks of length, type, data and the CRC-32 of type and data.
const PNG_SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const GRAYSCALE = 0;
const PALETTE = 3;
const COLOR_KINDS: Record<number, string> = {
  [GRAYSCALE]: 'grayscale',
  2: 'RGB',
  [PALETTE]: 'palette',
  4: 'grayscale with alpha',
  6: 'RGB with alpha',
};

function chunkLength(dataLength: number): number {
  return dataLength + 12;
}

function pngChunk(type: string, data: Uint8Array): Buffer {
  const chunk = Buffer.alloc(chunkLength(data.length));
  chunk.writeUInt32BE(data.length, 0);
  chunk.write(type, 4, 'latin1');
  chunk.set(data, 8);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, -4)), chunk.length - 4);
  return chunk;
}

/**
 * Turns an 8-bit grayscale PNG into a palette image of the same indices.
 *
 * @param palette 3 bytes (R, G, B) a color, at most 256 colors
 */
export function withPalette(gray: Buffer, palette: Uint8Array): Buffer {
  const colors = new Uint8Array(768);
  colors.set(palette);
  const afterHeader = 8 + chunkLength(13);
  const header = Buffer.from(gray.subarray(16, 29));
  header[9] = PALETTE;
  return Buffer.concat([
    PNG_SIGNATURE,
    pngChunk('IHDR', header),
    pngChunk('PLTE', colors),
    gray.subarray(afterHeader),
  ]);
}

export interface PngSamples {
  png: Buffer;
  kind: string;
  bitDepth: number;
  /** Factor by which the decoder multiplies palette indices of less than 8 bits. */
  indexScale: number;
}

/**
 * Reduces a PNG to its samples: header, compressed data and end. Nothing is left that could make a decoder convert
 * colors. A palette image becomes a grayscale image, since decoders replace indices by colors, unless `keepColors` is
 * set.
 */
export function asSamples(file: string, bytes: Buffer, { keepColors }: { keepColors: boolean }): PngSamples {
  if (!bytes.subarray(0, 8).equals(PNG_SIGNATURE)) {
    throw new DataError(`${file}: not a PNG; expected label maps as PNG`);
  }
  const kept = ['IHDR', 'IDAT', 'IEND', ...(keepColors ? ['PLTE'] : [])];
  const chunks: Buffer[] = [PNG_SIGNATURE];
  let kind = '';
  let bitDepth = 0;
  let indexScale = 1;
  let type = '';
  for (let start = 8; type !== 'IEND'; ) {
    const length = start + 8 <= bytes.length ? bytes.readUInt32BE(start) : 0;
    const end = start + chunkLength(length);
    if (end > bytes.length) {
      throw new DataError(`${file}: the PNG is truncated after ${bytes.length} bytes; expected a whole file`);
    }
    type = bytes.toString('latin1', start + 4, start + 8);
    let chunk = bytes.subarray(start, end);
    if (type === 'IHDR') {
      bitDepth = chunk[16]!;
      kind = COLOR_KINDS[chunk[17]!] ?? 'unknown';
      if (kind === 'palette' && !keepColors) {
        kind = 'grayscale';
        indexScale = 255 / (2 ** bitDepth - 1);
        const header = Buffer.from(chunk.subarray(8, -4));
        header[9] = GRAYSCALE;
        chunk = pngChunk('IHDR', header);
      }
    }
    if (kept.includes(type)) chunks.push(chunk);
    start = end;
  }
  return { png: Buffer.concat(chunks), kind, bitDepth, indexScale };
}
