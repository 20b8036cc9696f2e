import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ImageSize,
  type RgbImage,
  readImage,
  renderScene,
  Segmenter,
  segmenterInput,
  Tensor,
  writeImage,
} from 'bidiseg';
import sharp from 'sharp';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { randomSource } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { writeTrainedSegmenter } from '../helpers/trained-segmenter.js';
import { findPython } from '../helpers/twin.js';

/*
 * Published weights were trained on images resized by Pillow. These tests measure how far our images differ from
 * Pillow's, in gray levels (0–255), and how that affects a segmenter.
 */

/**
 * Bounds of the bicubic kernel. From a factor of 4 on, libvips averages blocks of pixels first.
 *
 * `timesNoise` bounds changes of logits and of labels. The segmenter is small and not confident, so any change of its
 * input shows. The reference is our own image with the same differences at random places. Eight segmenters had 0.8 to
 * 1.2 times that, and 1.0 to 1.7 times where blocks are averaged: there, differences of neighboring pixels are alike.
 */
const BICUBIC = { mean: 0.3, max: 16, timesNoise: 1.5 };
const AVERAGED_FIRST = { mean: 1, max: 16, timesNoise: 2.5 };

interface Case {
  size: ImageSize;
  bounds: typeof BICUBIC;
}

describe("preprocessing: sharp's bicubic beside Pillow's", () => {
  const folder = temporaryFolder();
  let python = '';
  let segmenter: Segmenter | undefined;

  before(async function () {
    const found = findPython('PIL');
    if ('reason' in found) {
      console.log(`    skipped: ${found.reason}`);
      this.skip();
    }
    python = found.python;
    segmenter = await Segmenter.fromFile(await writeTrainedSegmenter(folder.path('weights')));
    await segmenter.eval();
    await segmenter.freeze();
  });
  after(() => {
    segmenter?.dispose();
    folder.remove();
  });

  /** Resizes images with Pillow to each size. null: the original size. */
  function withPillow(files: string[], sizes: (ImageSize | null)[]): Uint8Array[][] {
    const output = (i: number, k: number) => folder.path(`pillow-${i}-${k}`);
    const jobs = files.flatMap((file, i) =>
      sizes.map((size, k) => [file, size?.width ?? 0, size?.height ?? 0, output(i, k)]),
    );
    const script = join(ROOT, 'test/parity/pillow_resize.py');
    const { status, stderr } = spawnSync(python, ['-B', script], { input: JSON.stringify(jobs) });
    assert.equal(status, 0, String(stderr));
    return files.map((_, i) => sizes.map((_, k) => new Uint8Array(readFileSync(output(i, k)))));
  }

  async function logitsOf({ data, width, height }: RgbImage): Promise<Float32Array> {
    using images = Tensor.from(data, [1, height, width, 3]);
    using input = await segmenterInput(images);
    using logits = await segmenter!.forward(input);
    return (await logits.data()) as Float32Array;
  }

  const labelsOf = async ({ data, width, height }: RgbImage) =>
    (await segmenter!.predict(data, { count: 1, width, height, order: 'probabilities' })).labels;

  async function compare(title: string, from: string, files: string[], cases: Case[]): Promise<void> {
    const rows: Measurement[] = [];
    const pillow = withPillow(files, [null, ...cases.map(({ size }) => size)]);
    const decoded = new Differences();
    for (const [i, file] of files.entries()) decoded.add((await readImage(file)).data, pillow[i]![0]!);
    rows.push({ item: `${from}, decoded alone: mean`, error: decoded.mean, bound: 0.1 });
    for (const [k, { size, bounds }] of cases.entries()) {
      const pixels = new Differences();
      const logits = new Differences();
      const argmax = new Differences();
      const noise = { logits: new Differences(), argmax: new Differences() };
      for (const [i, file] of files.entries()) {
        const ours = await readImage(file, size);
        const theirs = { ...size, data: pillow[i]![k + 1]! };
        pixels.add(ours.data, theirs.data);
        const [ourLogits, ourLabels] = [await logitsOf(ours), await labelsOf(ours)];
        logits.add(ourLogits, await logitsOf(theirs));
        argmax.add(ourLabels, await labelsOf(theirs));
        const noisy = withDifferencesMoved(ours, theirs, i);
        noise.logits.add(ourLogits, await logitsOf(noisy));
        noise.argmax.add(ourLabels, await labelsOf(noisy));
      }
      const item = `${from} to ${size.width}×${size.height}`;
      rows.push(
        { item: `${item}: mean difference`, error: pixels.mean, bound: bounds.mean },
        { item: `${item}: largest difference`, error: pixels.max, bound: bounds.max },
        {
          item: `${item}: logits, relative`,
          error: logits.relative,
          bound: bounds.timesNoise * noise.logits.relative,
        },
        {
          item: `${item}: share of argmax changed`,
          error: argmax.share,
          bound: bounds.timesNoise * noise.argmax.share,
        },
      );
    }
    printAndCheck(title, rows);
  }

  it('generated scenes', async () => {
    const [width, height] = [640, 320];
    const files = await Promise.all(
      [0, 1, 2].map(async (index) => {
        const { image: data } = renderScene({ seed: 3, index, look: 'dusk', width, height });
        const file = folder.path(`scene-${index}.png`);
        await writeImage(file, { data, width, height });
        return file;
      }),
    );
    await compare("generated dusk scenes: readImage beside Pillow's BICUBIC", '640×320', files, [
      { size: { width: 320, height: 160 }, bounds: BICUBIC }, // as Cityscapes: 2048×1024 to 1024×512
      { size: { width: 428, height: 219 }, bounds: BICUBIC }, // as GTA5: 1914×1052 to 1280×720
      { size: { width: 160, height: 80 }, bounds: AVERAGED_FIRST },
      { size: { width: 800, height: 400 }, bounds: BICUBIC },
      { size: { width: 701, height: 201 }, bounds: BICUBIC }, // wider and lower
    ]);
  });

  it('photographs', async function () {
    const root = join(ROOT, '../shared/data/camvid-day2dusk');
    if (!existsSync(root)) {
      console.log(`      skipped: no photographs at ${root}`);
      this.skip();
    }
    const files = ['source/images', 'target/val/images'].flatMap((name) => {
      const names = readdirSync(join(root, name)).sort();
      return [0.1, 0.5, 0.9].map((part) => join(root, name, names[Math.floor(part * names.length)]!));
    });
    await compare("CamVid photographs: readImage beside Pillow's BICUBIC", '480×360', files, [
      { size: { width: 240, height: 180 }, bounds: BICUBIC },
      { size: { width: 321, height: 241 }, bounds: BICUBIC },
      { size: { width: 160, height: 120 }, bounds: BICUBIC },
      { size: { width: 96, height: 72 }, bounds: AVERAGED_FIRST },
      { size: { width: 640, height: 480 }, bounds: BICUBIC },
    ]);
  });

  it('no other kernel of sharp comes closer', async () => {
    const full = { width: 480, height: 360 };
    const { image: data } = renderScene({ seed: 4, index: 0, look: 'dusk', ...full });
    const file = folder.path('kernels.png');
    await writeImage(file, { data, ...full });
    const size = { width: 321, height: 241 };
    const [[pillow]] = withPillow([file], [size]) as [[Uint8Array]];
    const differenceOf = async (kernel: keyof typeof sharp.kernel) => {
      const pixels = await sharp(file)
        .resize(size.width, size.height, { fit: 'fill', kernel })
        .raw()
        .toBuffer();
      const differences = new Differences();
      differences.add(pixels, pillow);
      return differences.mean;
    };
    const rows: Measurement[] = [];
    const cubic = await differenceOf('cubic');
    for (const kernel of [
      'mitchell',
      'linear',
      'nearest',
      'lanczos2',
      'lanczos3',
      'mks2013',
      'mks2021',
    ] as const) {
      rows.push({ item: `cubic / ${kernel}`, error: cubic / (await differenceOf(kernel)), bound: 1 });
    }
    printAndCheck("mean difference from Pillow's BICUBIC, sharp's kernels, 480×360 to 321×241", rows);
  });
});

/** `ours` with its differences from `theirs` in random order. */
function withDifferencesMoved(ours: RgbImage, theirs: RgbImage, seed: number): RgbImage {
  const next = randomSource(seed);
  const differences = Array.from(ours.data, (level, i) => theirs.data[i]! - level);
  for (let i = differences.length - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [differences[i], differences[j]] = [differences[j]!, differences[i]!];
  }
  const data = ours.data.map((level, i) => Math.min(255, Math.max(0, level + differences[i]!)));
  return { ...ours, data };
}

/** Differences between pairs of arrays of numbers. */
class Differences {
  max = 0;
  #count = 0;
  #differing = 0;
  #sum = 0;
  #squares = 0;
  #norm = 0;

  add(ours: ArrayLike<number>, theirs: ArrayLike<number>): void {
    assert.equal(ours.length, theirs.length);
    for (let i = 0; i < ours.length; i++) {
      const difference = Math.abs(ours[i]! - theirs[i]!);
      if (difference > this.max) this.max = difference;
      if (difference > 0) this.#differing++;
      this.#sum += difference;
      this.#squares += difference ** 2;
      this.#norm += theirs[i]! ** 2;
    }
    this.#count += ours.length;
  }

  get mean(): number {
    return this.#sum / this.#count;
  }

  /** Share of the elements that differ. */
  get share(): number {
    return this.#differing / this.#count;
  }

  /** ‖ours − theirs‖ / ‖theirs‖. */
  get relative(): number {
    return Math.sqrt(this.#squares / this.#norm);
  }
}
