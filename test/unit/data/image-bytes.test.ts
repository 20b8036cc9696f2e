import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import {
  colorLabels,
  decodeImage,
  decodeLabels,
  encodeColorLabels,
  encodeImage,
  encodeLabels,
  type ImageLimits,
  labelMap,
  overlay,
  readImage,
  readLabels,
  writeColorLabels,
  writeImage,
  writeLabels,
} from 'bidiseg';
import sharp from 'sharp';
import { temporaryFolder } from '../../helpers/folder.js';
import { pngChunk } from '../../helpers/png.js';
import { randomBytes } from '../../helpers/random.js';
import { encodeTiff } from '../../helpers/tiff.js';

const identity = { labelMap: labelMap('identity'), classCount: 4, ignoreIndex: 255 };
const image = { data: randomBytes(7 * 5 * 3, 1), width: 7, height: 5 };
const labels = { data: randomBytes(7 * 5, 2).map((value) => value % 4), width: 7, height: 5 };
const PALETTE = Uint8Array.of(0, 0, 0, 200, 0, 50, 0, 90, 0, 9, 9, 9);

/** Returns the error of a promise as name and message. */
async function failure(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => assert.fail('expected an error'),
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

describe('images as bytes', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  let files = 0;
  const fileOf = (bytes: Uint8Array): string => {
    const file = folder.path(`odd name ${files++} «é».png`);
    writeFileSync(file, bytes);
    return file;
  };

  it('are encoded as files are written', async () => {
    const file = folder.path('written.png');
    await writeImage(file, image);
    assert.deepEqual(Buffer.from(await encodeImage(image)), readFileSync(file));
    await writeLabels(file, labels);
    assert.deepEqual(Buffer.from(await encodeLabels(labels)), readFileSync(file));
    await writeColorLabels(file, labels, PALETTE);
    assert.deepEqual(Buffer.from(await encodeColorLabels(labels, PALETTE)), readFileSync(file));
  });

  it('are decoded as files are read, at any size', async () => {
    const png = await encodeImage(image);
    for (const size of [undefined, { width: 3, height: 9 }]) {
      assert.deepEqual(await decodeImage(png, size), await readImage(fileOf(png), size));
    }
    assert.deepEqual(await decodeImage(png), image);
    const color = await encodeColorLabels(labels, PALETTE);
    assert.deepEqual(await decodeLabels(color, identity), labels);
    const options = { ...identity, size: { width: 4, height: 4 } };
    assert.deepEqual(await decodeLabels(color, options), await readLabels(fileOf(color), options));
  });

  it('fail as files do, under the name that the caller gives', async () => {
    const png = Buffer.from(await encodeImage(image));
    const gray = Buffer.from(await encodeLabels(labels));
    const header = Buffer.from(png.subarray(16, 29));
    header.writeUInt32BE(20_000, 0);
    header.writeUInt32BE(20_000, 4);
    const huge = Buffer.concat([png.subarray(0, 8), pngChunk('IHDR', header), png.subarray(33)]);
    const float = { photometric: 1, bitsPerSample: 32, float: true, data: new Uint8Array(96) } as const;
    const deep = encodeTiff({ width: 6, height: 4, ...float });
    const cases: [what: string, bytes: Uint8Array, limits?: ImageLimits][] = [
      ['nothing', Buffer.alloc(0)],
      ['text', Buffer.from('hello')],
      ['SVG', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')],
      ['a truncated PNG', png.subarray(0, png.length - 30)],
      ['a header alone', png.subarray(0, 33)],
      ['too many pixels', huge],
      ['a lower limit', png, { maxPixels: 34 }],
      ['many bytes for few pixels', Buffer.alloc(2 ** 26 + 9), { maxPixels: 1 }],
      ['floats', deep],
    ];
    for (const [what, bytes, limits = {}] of cases) {
      const file = fileOf(bytes);
      const expected = await failure(readImage(file, undefined, limits));
      assert.match(expected, /^DataError: .*expected/s, what);
      assert.equal(await failure(decodeImage(bytes, undefined, { ...limits, name: file })), expected, what);
    }
    const labelCases: [string, Uint8Array, classCount: number][] = [
      ['an image', png, 4],
      ['an unknown id', gray, 2],
      ['a truncated PNG', gray.subarray(0, 60), 4],
      ['a JPEG', await sharp(png).jpeg().toBuffer(), 4],
    ];
    for (const [what, bytes, classCount] of labelCases) {
      const file = fileOf(bytes);
      const options = { ...identity, classCount };
      const expected = await failure(readLabels(file, options));
      assert.equal(await failure(decodeLabels(bytes, { ...options, name: file })), expected, what);
    }
    assert.match(await failure(decodeImage(Buffer.from('hello'))), /^DataError: image: is not a PNG/);
  });

  it('reject arguments of another type', async () => {
    const wrong = /^InvalidArgumentError: Expected a Uint8Array for bytes/;
    for (const bytes of [undefined, null, 'a.png', new ArrayBuffer(8), [1, 2], new Float32Array(4)]) {
      assert.match(await failure(decodeImage(bytes as never)), wrong);
      assert.match(await failure(decodeLabels(bytes as never, identity)), wrong);
    }
    assert.match(await failure(decodeImage(Buffer.from('a'), undefined, { name: '' })), /for name/);
    assert.match(await failure(encodeImage({ ...image, width: 6 })), /a Uint8Array of 90 bytes/);
    assert.match(await failure(encodeLabels(image)), /a Uint8Array of 35 bytes/);
    assert.match(await failure(encodeColorLabels(labels, new Uint8Array(4))), /3 bytes a class/);
  });

  it('may be changed or transferred right after the call', async () => {
    const png = await encodeImage(image);
    const given = Uint8Array.from(png);
    const decoded = decodeImage(given);
    structuredClone(given.buffer, { transfer: [given.buffer] });
    assert.deepEqual(await decoded, image);

    const pixels = Uint8Array.from(image.data);
    const encoded = encodeImage({ ...image, data: pixels });
    pixels.fill(0);
    structuredClone(pixels.buffer, { transfer: [pixels.buffer] });
    assert.deepEqual(await encoded, png);

    const colors = Uint8Array.from(PALETTE);
    const colored = encodeColorLabels(labels, colors);
    colors.fill(0);
    const result = await colored;
    assert.deepEqual(result, await encodeColorLabels(labels, PALETTE));
    structuredClone(result, { transfer: [result.buffer] });
  });

  it('overlay mixes colors by their opacity, and leaves unlabeled pixels alone', () => {
    const below = { data: Uint8Array.of(100, 100, 100, 10, 20, 30), width: 2, height: 1 };
    const classes = { data: Uint8Array.of(1, 255), width: 2, height: 1 };
    const mixed = (opacity?: number) => [...overlay(below, classes, PALETTE, opacity).data];
    assert.deepEqual(mixed(), [150, 50, 75, 10, 20, 30]);
    assert.deepEqual(mixed(0), [...below.data]);
    assert.deepEqual(mixed(1), [200, 0, 50, 10, 20, 30]);
    assert.deepEqual(mixed(0.25), [125, 75, 87, 10, 20, 30]);
    assert.deepEqual(overlay(image, labels, PALETTE, 1), colorLabels(labels, PALETTE));
    const name = 'InvalidArgumentError';
    assert.throws(() => overlay(image, classes, PALETTE), { name, message: /7×5 pixels for labels/ });
    assert.throws(() => overlay(below, classes, new Uint8Array(5)), { name, message: /for palette/ });
    for (const opacity of [-0.1, 1.1, Number.NaN]) assert.throws(() => mixed(opacity), { name });
  });
});
