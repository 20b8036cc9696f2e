import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { openImage, readImage, writeImage } from '../../../lib/data/image-codec.js';
import { MAX_PIXELS } from '../../../lib/data/image-limits.js';
import type { ImageArea } from '../../../lib/data/image-size.js';
import {
  openLabels,
  readLabels,
  sampleNearest,
  writeColorLabels,
  writeLabels,
} from '../../../lib/data/label-codec.js';
import { labelMap } from '../../../lib/data/label-maps.js';
import { Random } from '../../../lib/data/random.js';
import { writeFileAtomically } from '../../../lib/support/files.js';
import { encodePng, pngChunk } from '../../helpers/png.js';
import { encodeTiff } from '../../helpers/tiff.js';

const identity = { labelMap: labelMap('identity'), classCount: 256, ignoreIndex: 255 };

describe('image files', () => {
  let folder: string;
  const path = (name: string): string => join(folder, name);

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bidiseg-images-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  describe('readImage', () => {
    it('gives back what writeImage wrote', async () => {
      const image = { data: randomBytes(7 * 5 * 3), width: 7, height: 5 };
      await writeImage(path('a.png'), image);
      assert.deepEqual(await readImage(path('a.png')), image);
    });

    it('turns grayscale, alpha, palette and 16-bit into 8-bit RGB', async () => {
      const solid = (red: number, green: number, blue: number) =>
        sharp({ create: { width: 8, height: 8, channels: 3, background: { r: red, g: green, b: blue } } });
      await solid(90, 90, 90).toColorspace('b-w').png().toFile(path('gray.png'));
      await solid(90, 90, 90).ensureAlpha(0.3).png().toFile(path('alpha.png'));
      await solid(90, 90, 90).png({ palette: true }).toFile(path('palette.png'));
      const deep = new Uint16Array(8 * 8 * 3).fill(90 * 257);
      await sharp(deep, { raw: { width: 8, height: 8, channels: 3 } })
        .toColorspace('rgb16')
        .png()
        .toFile(path('deep.png'));
      for (const name of ['gray.png', 'alpha.png', 'palette.png', 'deep.png']) {
        const { data, width, height } = await readImage(path(name));
        assert.deepEqual([data.length, width, height], [192, 8, 8], name);
        assert.ok(
          data.every((value) => value === 90),
          `${name}: ${data.subarray(0, 6)}`,
        );
      }
    });

    it('keeps the higher 8 of 16 bits, of grayscale too', async () => {
      const samples = [0, 255, 256, 0x7fff, 0x8000, 0xffff];
      const png = encodePng({ width: 6, height: 1, kind: 'grayscale', bitDepth: 16, samples });
      await writeFile(path('deep.png'), png);
      const { data } = await readImage(path('deep.png'));
      const expected = samples.flatMap((sample) => [sample >> 8, sample >> 8, sample >> 8]);
      assert.deepEqual([...data], expected);
    });

    it('takes CMYK by the plain formula', async () => {
      const data = randomBytes(4 * 6 * 5);
      const tiff = encodeTiff({ width: 6, height: 5, photometric: 5, bitsPerSample: 8, data });
      await writeFile(path('cmyk.tif'), tiff);
      const image = await readImage(path('cmyk.tif'));
      for (const [index, value] of image.data.entries()) {
        const pixel = 4 * Math.floor(index / 3);
        const [ink, black] = [data[pixel + (index % 3)]!, data[pixel + 3]!];
        assert.equal(value, Math.round(255 * (1 - ink / 255) * (1 - black / 255)));
      }
      const half = await readImage(path('cmyk.tif'), { width: 3, height: 8 });
      assert.deepEqual([half.width, half.height], [3, 8]);
    });

    it('drops alpha without letting it weigh colors, at any size', async () => {
      const rgba = randomBytes(4 * 20 * 14);
      const rgb = rgba.filter((_, index) => index % 4 !== 3);
      const area = { width: 20, height: 14, bitDepth: 8 } as const;
      await writeFile(path('rgba.png'), encodePng({ ...area, kind: 'rgba', samples: rgba }));
      await writeFile(path('rgb.png'), encodePng({ ...area, kind: 'rgb', samples: rgb }));
      for (const size of [undefined, { width: 9, height: 8 }, { width: 31, height: 20 }]) {
        assert.deepEqual(await readImage(path('rgba.png'), size), await readImage(path('rgb.png'), size));
      }
    });

    it('reads pixels as they are stored: orientation, profiles and gamma are ignored', async () => {
      const image = { data: randomBytes(3 * 6 * 4), width: 6, height: 4 };
      await writeImage(path('plain.png'), image);
      const plain = sharp(path('plain.png'));
      await plain.clone().withMetadata({ orientation: 6 }).png().toFile(path('turned.png'));
      await plain.clone().withIccProfile('p3', { attach: true }).png().toFile(path('p3.png'));
      const { orientation } = await sharp(path('turned.png')).metadata();
      const { icc } = await sharp(path('p3.png')).metadata();
      assert.ok(orientation === 6 && icc, 'the files are what they are meant to be');
      assert.deepEqual(await readImage(path('turned.png')), image);
      const stored = await sharp(path('p3.png'), { ignoreIcc: true }).raw().toBuffer();
      assert.deepEqual((await readImage(path('p3.png'))).data, new Uint8Array(stored));
      const png = await readFile(path('plain.png'));
      const gamma = pngChunk('gAMA', Uint8Array.from([0, 0, 0x27, 0x10]));
      await writeFile(path('gamma.png'), Buffer.concat([png.subarray(0, 33), gamma, png.subarray(33)]));
      assert.deepEqual(await readImage(path('gamma.png')), image);
    });

    it('reads the first of several frames or pages', async () => {
      const frames = [1, 2].map((seed) => ({
        data: randomBytes(3 * 6 * (3 + seed)).subarray(0, 3 * 6 * 4),
        width: 6,
        height: 4,
      }));
      const inputs = frames.map(({ data, width, height }) => ({ input: data, width, height }));
      const parts = await Promise.all(
        inputs.map(({ input, width, height }) =>
          sharp(input, { raw: { width, height, channels: 3 } })
            .png()
            .toBuffer(),
        ),
      );
      const joined = sharp(parts, { join: { animated: true } });
      await joined.clone().webp({ lossless: true }).toFile(path('animated.webp'));
      await joined.clone().tiff({ compression: 'lzw' }).toFile(path('pages.tif'));
      for (const name of ['animated.webp', 'pages.tif']) {
        assert.equal((await sharp(path(name)).metadata()).pages, 2, name);
        assert.deepEqual(await readImage(path(name)), frames[0], name);
      }
    });

    it('goes by the content, whatever the name', async () => {
      const image = { data: randomBytes(3 * 6 * 4), width: 6, height: 4 };
      await writeImage(path('a.jpg'), image);
      assert.deepEqual(await readImage(path('a.jpg')), image);
    });

    it('refuses what is none of the formats, or has other samples', async () => {
      const rgb = sharp(randomBytes(3 * 6 * 4), { raw: { width: 6, height: 4, channels: 3 } });
      await writeFile(path('gif.png'), await rgb.clone().gif().toBuffer());
      const svg =
        '<svg xmlns="http://www.w3.org/2000/svg" width="6" height="4"><rect width="6" height="4"/></svg>';
      await writeFile(path('svg.png'), svg);
      for (const name of ['gif.png', 'svg.png']) {
        await assert.rejects(readImage(path(name)), {
          code: 'ERR_DATA',
          message: `${path(name)}: is not a PNG, JPEG, WebP or TIFF; expected one of these`,
        });
      }
      const float = { photometric: 1, bitsPerSample: 32, float: true, data: new Uint8Array(96) } as const;
      await writeFile(path('float.tif'), encodeTiff({ width: 6, height: 4, ...float }));
      await assert.rejects(readImage(path('float.tif')), {
        code: 'ERR_DATA',
        message: /float\.tif: found samples of type float in the color space 'b-w', expected 8 or 16 bits/,
      });
    });

    it('refuses more pixels than the limit before it decodes any', async () => {
      const claim = (width: number, height: number) => {
        const bomb = encodePng({ width: 1, height: 1, kind: 'rgb', bitDepth: 8, samples: [1, 2, 3] });
        const header = Buffer.alloc(13);
        header.writeUInt32BE(width, 0);
        header.writeUInt32BE(height, 4);
        header.set([8, 2], 8);
        return Buffer.concat([bomb.subarray(0, 8), pngChunk('IHDR', header), bomb.subarray(33)]);
      };
      await writeFile(path('bomb.png'), claim(65_535, 65_535));
      const refusal = {
        code: 'ERR_DATA',
        message: `${path('bomb.png')}: found 65535×65535 pixels, expected at most ${MAX_PIXELS}`,
      };
      await assert.rejects(readImage(path('bomb.png')), refusal);
      await assert.rejects(openImage(path('bomb.png')), refusal);
      const colors = { ...identity, labelMap: labelMap({ '1 2 3': 0 }) };
      await assert.rejects(openLabels(path('bomb.png'), colors), refusal);

      await writeImage(path('a.png'), { data: randomBytes(3 * 6 * 4), width: 6, height: 4 });
      assert.equal((await readImage(path('a.png'), undefined, { maxPixels: 24 })).width, 6);
      await assert.rejects(
        readImage(path('a.png'), undefined, { maxPixels: 23 }),
        /a\.png: found 6×4 pixels, expected at most 23/,
      );
      await assert.rejects(readImage(path('a.png'), undefined, { maxPixels: 0 }), {
        code: 'ERR_INVALID_ARGUMENT',
      });
      // A file with more bytes than any image within the limit is not even read.
      await writeFile(path('long.png'), '');
      await truncate(path('long.png'), 2 ** 26 + 8 * 24 + 1);
      await assert.rejects(
        readImage(path('long.png'), undefined, { maxPixels: 24 }),
        /long\.png: found 67109057 bytes, expected at most 67109056/,
      );
    });

    it('does not wait for pipes, and reads no folders', async () => {
      execFileSync('mkfifo', [path('pipe.png')]);
      await mkdir(path('folder.png'));
      await assert.rejects(readImage(path('pipe.png')), {
        code: 'ERR_DATA',
        message: `${path('pipe.png')}: is a pipe, socket or device, expected a file`,
      });
      await assert.rejects(readImage(path('folder.png')), /folder\.png: is a folder, expected a file/);
    });

    it('resizes bicubically: linear ramps stay linear, and constants constant', async () => {
      const width = 40;
      const ramp = Uint8Array.from(
        { length: width * 8 * 3 },
        (_, index) => 20 + 5 * (Math.floor(index / 3) % width),
      );
      await writeImage(path('ramp.png'), { data: ramp, width, height: 8 });
      const half = await readImage(path('ramp.png'), { width: 20, height: 8 });
      for (let column = 2; column < 18; column++) {
        // The center of output pixel c lies at 2c + ½ in input pixels.
        const expected = 20 + 5 * (2 * column + 0.5);
        assert.ok(Math.abs(half.data[column * 3]! - expected) <= 1, `column ${column}`);
      }
      const double = await readImage(path('ramp.png'), { width: 80, height: 3 });
      assert.equal(double.data.length, 80 * 3 * 3);
      for (let column = 5; column < 75; column++) {
        const expected = 20 + 5 * ((column + 0.5) / 2 - 0.5);
        assert.ok(Math.abs(double.data[column * 3]! - expected) <= 1, `column ${column}`);
      }
    });

    it('crops and mirrors after resizing', async () => {
      const image = { data: randomBytes(20 * 10 * 3), width: 20, height: 10 };
      await writeImage(path('a.png'), image);
      const file = await openImage(path('a.png'));
      const crop = { x: 3, y: 2, width: 5, height: 6 };
      for (const size of [
        { width: 14, height: 9 },
        { width: 31, height: 9 },
      ]) {
        const { data } = await file.decode({ size });
        assert.equal(data.length, size.width * size.height * 3);
        for (const flip of [false, true]) {
          const view = await file.decode({ size, crop, flip });
          assert.deepEqual(view.data, cut(data, size.width, crop, 3, flip));
        }
      }
    });

    it('names the file when it is missing, empty, truncated, corrupt or no image', async () => {
      const noise = { data: randomBytes(64 * 64 * 3), width: 64, height: 64 };
      await writeImage(path('whole.png'), noise);
      const png = await readFile(path('whole.png'));
      const jpeg = await sharp(png).jpeg().toBuffer();
      const corrupt = Buffer.from(png);
      corrupt.fill(0x55, 3000, 3400);
      await writeFile(path('empty.png'), '');
      await writeFile(path('short.png'), png.subarray(0, png.length / 2));
      await writeFile(path('nearly.png'), png.subarray(0, png.length - 30));
      await writeFile(path('short.jpg'), jpeg.subarray(0, jpeg.length / 2));
      await writeFile(path('corrupt.png'), corrupt);
      await writeFile(path('text.jpg'), 'not an image');
      for (const name of [
        'missing.png',
        'empty.png',
        'short.png',
        'nearly.png',
        'short.jpg',
        'corrupt.png',
        'text.jpg',
      ]) {
        await assert.rejects(readImage(path(name)), (error: Error & { code: string }) => {
          assert.equal(error.code, 'ERR_DATA');
          assert.ok(error.message.includes(path(name)), error.message);
          return true;
        });
      }
    });
  });

  describe('readLabels', () => {
    it('gives back what writeLabels wrote', async () => {
      const labels = { data: randomBytes(9 * 4), width: 9, height: 4 };
      await writeLabels(path('a.png'), labels);
      assert.deepEqual(await readLabels(path('a.png'), identity), labels);
      const { isPalette, channels, depth } = await sharp(path('a.png')).metadata();
      assert.deepEqual([isPalette, channels, depth], [false, 1, 'uchar']);
    });

    it('reads colored labels as indices, and they are in color', async () => {
      const labels = { data: Uint8Array.from([0, 1, 2, 255, 3, 2]), width: 3, height: 2 };
      const palette = Uint8Array.from([10, 20, 30, 40, 50, 60, 70, 80, 90]);
      await writeColorLabels(path('a.png'), labels, palette);
      assert.deepEqual(await readLabels(path('a.png'), identity), labels);
      assert.deepEqual(
        [...(await readImage(path('a.png'))).data],
        [10, 20, 30, 40, 50, 60, 70, 80, 90, 0, 0, 0, 0, 0, 0, 70, 80, 90],
      );
    });

    it('reads the indices of palette images of 1, 2, 4 and 8 bits, whatever the colors', async () => {
      for (const bitDepth of [1, 2, 4, 8] as const) {
        const { width, height } = { width: 13, height: 5 };
        const random = new Random('palette', bitDepth);
        const data = Uint8Array.from({ length: width * height }, () => random.integer(2 ** bitDepth));
        const palette = randomBytes(3 * 2 ** bitDepth);
        const png = encodePng({ width, height, kind: 'palette', bitDepth, samples: data, palette });
        await writeFile(path(`${bitDepth}.png`), png);
        assert.deepEqual(await readLabels(path(`${bitDepth}.png`), identity), { data, width, height });
      }
    });

    it('reads 16-bit grayscale and the first channel of 16-bit RGB without losing the low byte', async () => {
      const raw = { width: 4, height: 2, channels: 1 } as const;
      const ids = Uint16Array.from([256, 1, 300, 65535, 1, 1, 300, 256]);
      await sharp(ids, { raw }).toColorspace('grey16').png().toFile(path('gray.png'));
      const map = labelMap({ 1: 0, 256: 1, 300: 2, 65535: 3 });
      const gray = await readLabels(path('gray.png'), { labelMap: map, classCount: 4, ignoreIndex: 255 });
      assert.deepEqual([...gray.data], [1, 0, 2, 3, 0, 0, 2, 1]);

      // SYNTHIA: first channel the class, second the instance.
      const pixels = Uint16Array.from(
        [3, 4, 2, 21, 10, 0, 22, 259].flatMap((id, index) => [id, 1000 * index, 0]),
      );
      await sharp(pixels, { raw: { ...raw, channels: 3 } })
        .toColorspace('rgb16')
        .png()
        .toFile(path('synthia.png'));
      const synthia = await readLabels(path('synthia.png'), {
        labelMap: labelMap('synthia'),
        classCount: 19,
        ignoreIndex: 255,
      });
      assert.deepEqual([...synthia.data], [0, 1, 2, 3, 11, 255, 255, 255]);
    });

    it('does not convert colors by a gamma chunk', async () => {
      await writeLabels(path('a.png'), { data: Uint8Array.from([0, 7, 26, 255]), width: 4, height: 1 });
      const png = await readFile(path('a.png'));
      const gamma = pngChunk('gAMA', Uint8Array.from([0, 0, 0x27, 0x10]));
      await writeFile(path('a.png'), Buffer.concat([png.subarray(0, 33), gamma, png.subarray(33)]));
      assert.deepEqual([...(await readLabels(path('a.png'), identity)).data], [0, 7, 26, 255]);
    });

    it('names file, id, place and expectation for an id outside the map, even where resizing would skip it', async () => {
      const data = new Uint8Array(40);
      data[13] = 11;
      await writeLabels(path('a.png'), { data, width: 10, height: 4 });
      const options = { ...identity, classCount: 11 };
      const expected = {
        code: 'ERR_DATA',
        message: `${path('a.png')}: found label id 11 at column 3, row 1, expected a class index 0–10 or 255 (ignore)`,
      };
      await assert.rejects(readLabels(path('a.png'), options), expected);
      await assert.rejects(
        readLabels(path('a.png'), { ...options, size: { width: 1, height: 1 } }),
        expected,
      );
    });

    it('names what it found where the file is of another kind', async () => {
      const rgb = { data: randomBytes(4 * 4 * 3), width: 4, height: 4 };
      await writeImage(path('rgb.png'), rgb);
      await sharp(rgb.data, { raw: { width: 4, height: 4, channels: 3 } })
        .jpeg()
        .toFile(path('a.jpg'));
      await writeLabels(path('gray.png'), { data: new Uint8Array(4000), width: 40, height: 100 });
      const whole = await readFile(path('gray.png'));
      await writeFile(path('short.png'), whole.subarray(0, whole.length - 20));
      await assert.rejects(readLabels(path('rgb.png'), identity), {
        code: 'ERR_DATA',
        message:
          /rgb\.png: found an 8-bit RGB PNG, but the label map 'identity' expects a PNG with one channel/,
      });
      const synthia = { labelMap: labelMap('synthia'), classCount: 19, ignoreIndex: 255 };
      await assert.rejects(
        readLabels(path('rgb.png'), synthia),
        /8-bit RGB PNG.*'synthia' expects a 16-bit RGB/,
      );
      await assert.rejects(
        readLabels(path('a.jpg'), identity),
        /a\.jpg: not a PNG; expected label maps as PNG/,
      );
      await assert.rejects(readLabels(path('short.png'), identity), /short\.png: the PNG is truncated/);
      await assert.rejects(readLabels(path('none.png'), identity), /none\.png: cannot be read: ENOENT/);
    });

    it('reads colors, of palettes too, and leaves alpha out', async () => {
      const colors = [
        [128, 64, 128],
        [0, 0, 255],
        [1, 2, 3],
      ] as const;
      const indices = Uint8Array.from({ length: 40 }, (_, index) => (index * 7) % 3);
      const area = { width: 10, height: 4, bitDepth: 8 } as const;
      const rgb: number[] = [...indices].flatMap((index) => colors[index as 0 | 1 | 2]);
      const rgba = [...indices].flatMap((index, pixel) => [...colors[index as 0 | 1 | 2], pixel]);
      await writeFile(path('rgb.png'), encodePng({ ...area, kind: 'rgb', samples: rgb }));
      await writeFile(path('rgba.png'), encodePng({ ...area, kind: 'rgba', samples: rgba }));
      const palette = Uint8Array.from(colors.flat());
      await writeFile(path('8.png'), encodePng({ ...area, kind: 'palette', samples: indices, palette }));
      const two = { width: 10, height: 4, kind: 'palette', bitDepth: 2, samples: indices, palette } as const;
      await writeFile(path('2.png'), encodePng(two));
      const map = labelMap({ '128 64 128': 4, '0,0,255': 255, '1, 2, 3': 0 });
      const options = { labelMap: map, classCount: 5, ignoreIndex: 255 };
      const expected = indices.map((index) => [4, 255, 0][index]!);
      for (const name of ['rgb.png', 'rgba.png', '8.png', '2.png']) {
        const labels = await readLabels(path(name), options);
        assert.deepEqual(labels, { data: expected, width: 10, height: 4 }, name);
      }

      const gray = encodePng({ ...area, kind: 'grayscale', samples: indices });
      await writeFile(path('gray.png'), gray);
      await assert.rejects(readLabels(path('gray.png'), options), {
        code: 'ERR_DATA',
        message:
          /gray\.png: found an 8-bit grayscale PNG, but the label map 'custom' expects an 8-bit RGB, RGBA or/,
      });
      rgb.splice(3 * 23, 3, 129, 64, 128);
      await writeFile(path('rgb.png'), encodePng({ ...area, kind: 'rgb', samples: rgb }));
      await assert.rejects(readLabels(path('rgb.png'), options), {
        code: 'ERR_DATA',
        message: `${path('rgb.png')}: found the color 129 64 128 at column 3, row 2, expected a color of the label map 'custom'`,
      });
    });

    it('crops and mirrors as images are', async () => {
      const data = randomBytes(20 * 10);
      await writeLabels(path('a.png'), { data, width: 20, height: 10 });
      const file = await openLabels(path('a.png'), identity);
      const size = { width: 14, height: 9 };
      const whole = await file.decode({ size });
      const crop = { x: 3, y: 2, width: 5, height: 6 };
      assert.deepEqual((await file.decode({ size, crop })).data, cut(whole.data, 14, crop, 1, false));
      assert.deepEqual(
        (await file.decode({ size, crop, flip: true })).data,
        cut(whole.data, 14, crop, 1, true),
      );
    });
  });

  describe('sampleNearest', () => {
    it('takes the pixel that holds the center, as Pillow does', () => {
      const row = (length: number) => ({
        data: Uint8Array.from({ length }, (_, index) => index),
        width: length,
        height: 1,
      });
      const resized = (from: number, to: number): number[] => [
        ...sampleNearest(row(from), { size: { width: to, height: 1 } }).data,
      ];
      // From Pillow: Image.fromarray(np.arange(n, dtype=np.uint8)[None]).resize((m, 1), Image.NEAREST)
      assert.deepEqual(resized(4, 2), [1, 3]);
      assert.deepEqual(resized(5, 2), [1, 3]);
      assert.deepEqual(resized(10, 3), [1, 5, 8]);
      assert.deepEqual(resized(3, 7), [0, 0, 1, 1, 1, 2, 2]);
      assert.deepEqual(resized(2, 5), [0, 0, 1, 1, 1]);
    });

    it('never invents a class', () => {
      const labels = {
        data: Uint8Array.from({ length: 64 }, (_, index) => (index % 3) * 100),
        width: 8,
        height: 8,
      };
      for (const size of [
        { width: 5, height: 13 },
        { width: 3, height: 3 },
        { width: 17, height: 2 },
      ]) {
        const { data } = sampleNearest(labels, { size });
        assert.equal(data.length, size.width * size.height);
        assert.ok(data.every((value) => value % 100 === 0));
      }
    });
  });

  describe('writing', () => {
    it('leaves nothing behind when it fails, and replaces whole files only', async () => {
      await writeFileAtomically(path('a.txt'), 'one');
      await writeFileAtomically(path('a.txt'), 'two');
      assert.equal(await readFile(path('a.txt'), 'utf8'), 'two');
      await assert.rejects(writeFileAtomically(path('no/such/folder.txt'), 'x'), {
        code: 'ERR_DATA',
        message: /folder\.txt: cannot be written: ENOENT/,
      });
      // A folder has the name of the file, so the rename fails after all bytes were written.
      await mkdir(path('b.txt'));
      await assert.rejects(writeFileAtomically(path('b.txt'), 'x'), { code: 'ERR_DATA' });
      assert.deepEqual((await readdir(folder)).sort(), ['a.txt', 'b.txt']);
      assert.ok((await stat(path('b.txt'))).isDirectory());
    });

    it('replaces a link, and leaves what it leads to', async () => {
      await writeFile(path('precious.png'), 'mine');
      await symlink(path('precious.png'), path('a.png'));
      const labels = { data: Uint8Array.of(1, 2), width: 2, height: 1 };
      await writeLabels(path('a.png'), labels);
      assert.equal(await readFile(path('precious.png'), 'utf8'), 'mine');
      assert.deepEqual(await readLabels(path('a.png'), identity), labels);
    });

    it('refuses data of the wrong length', async () => {
      const data = new Uint8Array(10);
      const code = { code: 'ERR_INVALID_ARGUMENT' };
      await assert.rejects(writeImage(path('a.png'), { data, width: 2, height: 2 }), code);
      await assert.rejects(writeLabels(path('a.png'), { data, width: 2, height: 2 }), code);
      const labels = { data: data.subarray(0, 4), width: 2, height: 2 };
      await assert.rejects(writeColorLabels(path('a.png'), labels, new Uint8Array(4)), code);
      assert.deepEqual(await readdir(folder), []);
    });
  });
});

function randomBytes(length: number): Uint8Array {
  const random = new Random('bytes', length);
  return Uint8Array.from({ length }, () => random.integer(256));
}

/** Crops interleaved pixels, and mirrors them if asked. Pixel by pixel, as plainly as possible. */
function cut(data: Uint8Array, width: number, crop: ImageArea, channels: number, flip: boolean): Uint8Array {
  const result: number[] = [];
  for (let row = 0; row < crop.height; row++) {
    for (let column = 0; column < crop.width; column++) {
      const x = crop.x + (flip ? crop.width - 1 - column : column);
      for (let channel = 0; channel < channels; channel++) {
        result.push(data[((crop.y + row) * width + x) * channels + channel]!);
      }
    }
  }
  return Uint8Array.from(result);
}
