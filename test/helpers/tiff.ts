export interface TiffSamples {
  width: number;
  height: number;
  /** 1: black is 0; 5: CMYK. */
  photometric: 1 | 5;
  bitsPerSample: 8 | 16 | 32;
  float?: boolean;
  /** Bytes row by row, with the channels of a pixel interleaved. */
  data: Uint8Array;
}

const SHORT = 3;
const LONG = 4;
const HEADER_BYTES = 8;

/** Encodes a little-endian TIFF of one uncompressed strip by its specification. */
export function encodeTiff({ width, height, photometric, bitsPerSample, float, data }: TiffSamples): Buffer {
  const channels = photometric === 5 ? 4 : 1;
  const bits = Buffer.alloc(2 * channels);
  for (let channel = 0; channel < channels; channel++) bits.writeUInt16LE(bitsPerSample, 2 * channel);
  const bitsAt = HEADER_BYTES + data.length;
  const tags: [tag: number, type: number, count: number, value: number][] = [
    [256, LONG, 1, width],
    [257, LONG, 1, height],
    // Two of them fit into the entry itself.
    [258, SHORT, channels, channels > 2 ? bitsAt : bitsPerSample],
    [259, SHORT, 1, 1],
    [262, SHORT, 1, photometric],
    [273, LONG, 1, HEADER_BYTES],
    [277, SHORT, 1, channels],
    [278, LONG, 1, height],
    [279, LONG, 1, data.length],
    [339, SHORT, 1, float ? 3 : 1],
  ];
  const directoryAt = bitsAt + bits.length;
  const header = Buffer.from('II*\0\0\0\0\0', 'latin1');
  header.writeUInt32LE(directoryAt, 4);
  const directory = Buffer.alloc(2 + 12 * tags.length + 4);
  directory.writeUInt16LE(tags.length);
  for (const [index, [tag, type, count, value]] of tags.entries()) {
    const at = 2 + 12 * index;
    directory.writeUInt16LE(tag, at);
    directory.writeUInt16LE(type, at + 2);
    directory.writeUInt32LE(count, at + 4);
    directory.writeUInt32LE(value, at + 8);
  }
  return Buffer.concat([header, data, bits, directory]);
}
