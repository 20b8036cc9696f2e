import { crc32, deflateSync } from 'node:zlib';

export interface PngSamples {
  width: number;
  height: number;
  kind: 'grayscale' | 'palette' | 'rgb' | 'rgba';
  bitDepth: 1 | 2 | 4 | 8 | 16;
  /** Samples row by row, with the channels of a pixel interleaved. */
  samples: ArrayLike<number>;
  /** Palette, 3 bytes per color. */
  palette?: Uint8Array;
}

const COLOR_TYPES = { grayscale: 0, rgb: 2, palette: 3, rgba: 6 };
const CHANNELS = { grayscale: 1, rgb: 3, palette: 1, rgba: 4 };

/** Encodes a PNG by its specification, without the package's own writer or sharp. */
export function encodePng({ width, height, kind, bitDepth, samples, palette }: PngSamples): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([bitDepth, COLOR_TYPES[kind], 0, 0, 0], 8);
  const inRow = width * CHANNELS[kind];
  const rowBytes = 1 + Math.ceil((inRow * bitDepth) / 8);
  const rows = Buffer.alloc(rowBytes * height);
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < inRow; i++) {
      const value = samples[y * inRow + i]!;
      const byte = y * rowBytes + 1 + ((i * bitDepth) >> 3);
      if (bitDepth === 16) rows.writeUInt16BE(value, byte);
      else rows[byte]! |= value << (8 - bitDepth - ((i * bitDepth) & 7));
    }
  }
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    pngChunk('IHDR', header),
    ...(palette ? [pngChunk('PLTE', palette)] : []),
    pngChunk('IDAT', deflateSync(rows, { level: 1 })),
    pngChunk('IEND', new Uint8Array()),
  ]);
}

export function pngChunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const result = Buffer.alloc(body.length + 8);
  result.writeUInt32BE(data.length);
  body.copy(result, 4);
  result.writeUInt32BE(crc32(body), body.length + 4);
  return result;
}
