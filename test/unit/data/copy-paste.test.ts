import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { connectedAreas } from '../../../lib/data/copy-paste.js';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { writeImage } from '../../../lib/data/image-codec.js';
import { writeLabels } from '../../../lib/data/label-codec.js';
import { type Batch, BatchLoader, type BatchLoaderOptions } from '../../../lib/data/loader.js';
import { temporaryFolder } from '../../helpers/folder.js';

const SIZE = { width: 48, height: 36 };
const GRAY = [90, 90, 90];
const THING = 3;

describe('copy-paste', () => {
  const folder = temporaryFolder();
  after(() => folder.remove());
  let dataset: ImageDataset;

  // One image is gray. The other has an object of 12 × 9 pixels, red on its left half and green on its right.
  before(async () => {
    for (const [name, hasThing] of Object.entries({ plain: false, full: true })) {
      const data = new Uint8Array(SIZE.width * SIZE.height * 3).fill(GRAY[0]!);
      const labels = new Uint8Array(SIZE.width * SIZE.height);
      for (let y = 20; hasThing && y < 29; y++) {
        for (let x = 6; x < 18; x++) {
          data.set(x < 12 ? [255, 0, 0] : [0, 255, 0], (y * SIZE.width + x) * 3);
          labels[y * SIZE.width + x] = THING;
        }
      }
      await writeImage(folder.path(`${name}.png`), { data, ...SIZE });
      await writeLabels(folder.path(`${name}_labels.png`), { data: labels, ...SIZE });
    }
    await writeFile(folder.path('list.txt'), 'plain.png plain_labels.png\nfull.png full_labels.png');
    dataset = await ImageDataset.fromList({ list: folder.path('list.txt'), classCount: 4 });
  });

  const copyPaste = { classes: [THING], probability: 1, height: [0.5, 0.5], minimumShare: 0 } as const;

  async function collect(changes: Partial<BatchLoaderOptions>): Promise<Batch[]> {
    const options = { batchSize: 8, size: SIZE, seed: 1, stage: 'test', steps: 10, ...changes };
    const batches: Batch[] = [];
    for await (const batch of new BatchLoader(dataset, options)) batches.push(batch);
    return batches;
  }

  /** Returns colors and labels by pixel for each image of `plain`, and the box of its object if it has one. */
  function plainImages(batches: Batch[]) {
    return batches.flatMap(({ images, labels, names, width, height }) =>
      names.flatMap((name, slot) => {
        if (name !== 'plain') return [];
        const pixels = Array.from({ length: width * height }, (_, i) => ({
          x: i % width,
          y: Math.floor(i / width),
          color: [...images.subarray(3 * (slot * width * height + i)).subarray(0, 3)],
          label: labels![slot * width * height + i]!,
        }));
        const thing = pixels.filter(({ label }) => label === THING);
        const range = (values: number[]) => [Math.min(...values), Math.max(...values)] as const;
        const [left, right] = range(thing.map(({ x }) => x));
        const [top, bottom] = range(thing.map(({ y }) => y));
        return [{ pixels, thing, left, right, top, bottom }];
      }),
    );
  }

  const isRed = ([red, green]: number[]) => red! > green! + 100;

  it('finds the connected areas of some classes that are large enough', () => {
    const map = ['1102', '0122', '1000', '1331'];
    const labels = { data: Uint8Array.from(map.join(''), Number), width: 4, height: 4 };
    assert.deepEqual(connectedAreas(labels, [1, 2], 1), [
      { label: 1, x: 0, y: 0, width: 2, height: 2 },
      { label: 2, x: 2, y: 0, width: 2, height: 2 },
      { label: 1, x: 0, y: 2, width: 1, height: 2 },
      { label: 1, x: 3, y: 3, width: 1, height: 1 },
    ]);
    assert.deepEqual(
      connectedAreas(labels, [1, 2, 3], 3).map(({ label }) => label),
      [1, 2],
    );
    assert.deepEqual(connectedAreas(labels, [4], 1), []);
  });

  it('pastes an object of another image, resized, with its labels and nothing around it', async () => {
    const images = plainImages(await collect({ copyPaste }));
    const pasted = images.filter(({ thing }) => thing.length > 0);
    // The other image is drawn half of the time: 40 images, standard deviation 3.2.
    assert.equal(images.length, 40);
    assert.ok(Math.abs(pasted.length - 20) < 13, `${pasted.length} of 40`);
    for (const { pixels, thing, left, right, top, bottom } of pasted) {
      assert.deepEqual([right - left + 1, bottom - top + 1, thing.length], [24, 18, 24 * 18]);
      for (const { x, color, label } of pixels) {
        if (label !== THING) assert.deepEqual(color, GRAY);
        // Bicubic resizing mixes colors near edges.
        else if (Math.abs(x - (left + right) / 2) > 2) assert.equal(isRed(color), x < (left + right) / 2);
      }
    }
    // The object lies anywhere within the image.
    const places = pasted.map(({ left, top }) => [left / 24, top / 18] as const);
    for (const axis of [0, 1] as const) {
      const along = places.map((place) => place[axis]);
      assert.ok(Math.min(...along) < 0.2 && Math.max(...along) > 0.8, along.join(' '));
    }
  });

  it('draws heights log-uniformly, and enlarges no more than three times', async () => {
    const heights = plainImages(await collect({ copyPaste: { ...copyPaste, height: [0.25, 2] }, steps: 20 }))
      .filter(({ thing }) => thing.length > 0)
      .map(({ top, bottom }) => bottom - top + 1);
    // From a quarter of 36 to three times 9.
    assert.ok(Math.min(...heights) <= 10 && Math.max(...heights) === 27, heights.join(' '));
    // From 9 to 72 were it not for that, a third of it below 18: log(18 / 9) / log(72 / 9).
    const low = heights.filter((height) => height <= 18).length / heights.length;
    assert.ok(Math.abs(low - 1 / 3) < 0.2, `${low}`);
  });

  it('mirrors objects where images are mirrored', async () => {
    const leftIsRed = async (flip: boolean) =>
      plainImages(await collect({ copyPaste, flip }))
        .filter(({ thing }) => thing.length > 0)
        .map(({ thing, left }) => isRed(thing.find(({ x }) => x === left + 3)!.color));
    assert.ok((await leftIsRed(false)).every(Boolean));
    const share = await leftIsRed(true);
    const red = share.filter(Boolean).length / share.length;
    assert.ok(red > 0.2 && red < 0.8, `${red}`);
  });

  it('pastes with its probability, the same for the same step, and leaves what else is random as it was', async () => {
    const changes = { augmentation: undefined, crop: { width: 40, height: 30 } };
    const without = await collect(changes);
    const never = await collect({ ...changes, copyPaste: { ...copyPaste, probability: 0 } });
    assert.deepEqual(never, without);
    const half = await collect({ ...changes, copyPaste: { ...copyPaste, probability: 0.5 } });
    assert.deepEqual(await collect({ ...changes, copyPaste: { ...copyPaste, probability: 0.5 } }), half);
    const pasted = plainImages(half).filter(({ thing }) => thing.length > 0);
    assert.ok(Math.abs(pasted.length - 10) < 10, `${pasted.length} of 40, 10 expected`);
    for (const [step, { names, labels, images }] of half.entries()) {
      assert.deepEqual(names, without[step]!.names);
      const same = (i: number) => labels![i] === without[step]!.labels![i];
      const kept = [...labels!.keys()].filter((i) => same(i) && labels![i] !== THING);
      assert.ok(kept.every((i) => images[3 * i] === without[step]!.images[3 * i]));
    }
  });

  it('pastes within an image that is smaller than its area, and takes no object that is too small', async () => {
    const small = { scale: [0.5, 0.5] as const, colorJitter: NO_JITTER, blur: 0 };
    for (const { pixels, thing } of plainImages(await collect({ copyPaste, augmentation: small }))) {
      assert.equal(pixels.filter(({ label }) => label !== 255).length, 24 * 18);
      if (thing.length > 0) assert.equal(thing.length, 12 * 9);
    }
    const demanding = { ...copyPaste, minimumShare: (12 * 9 + 1) / (48 * 36) };
    assert.ok(plainImages(await collect({ copyPaste: demanding })).every(({ thing }) => thing.length === 0));
  });
});

const NO_JITTER = { brightness: 0, contrast: 0, saturation: 0, hue: 0 };
