import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type ColorJitter, NO_AUGMENTATION } from '../../../lib/data/augmentation.js';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { readImage, writeImage } from '../../../lib/data/image-codec.js';
import { writeLabels } from '../../../lib/data/label-codec.js';
import { type Batch, BatchLoader, type BatchLoaderOptions } from '../../../lib/data/loader.js';

const IMAGES = 7;
const SIZE = { width: 16, height: 12 };

describe('BatchLoader', () => {
  let folder: string;
  let dataset: ImageDataset;

  // In image n, pixel (x, y) is (n, x, y) and its label is (x + y + n) % 8. So a pixel shows where it comes from.
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bidiseg-loader-'));
    for (let image = 0; image < IMAGES; image++) {
      const data = new Uint8Array(SIZE.width * SIZE.height * 3);
      const labels = new Uint8Array(SIZE.width * SIZE.height);
      for (let pixel = 0; pixel < labels.length; pixel++) {
        const x = pixel % SIZE.width;
        const y = Math.floor(pixel / SIZE.width);
        data.set([image, x, y], pixel * 3);
        labels[pixel] = (x + y + image) % 8;
      }
      await writeImage(join(folder, `${image}.png`), { data, ...SIZE });
      await writeLabels(join(folder, `${image}_labels.png`), { data: labels, ...SIZE });
    }
    const lines = Array.from({ length: IMAGES }, (_, image) => `${image}.png ${image}_labels.png`);
    await writeFile(join(folder, 'list.txt'), lines.join('\n'));
    dataset = await ImageDataset.fromList({ list: join(folder, 'list.txt'), classCount: 8 });
  });
  after(() => rm(folder, { recursive: true }));

  const options = (changes: Partial<BatchLoaderOptions> = {}): BatchLoaderOptions => ({
    batchSize: 3,
    size: SIZE,
    seed: 1,
    stage: 'test',
    steps: 10,
    ...changes,
  });

  async function collect(changes?: Partial<BatchLoaderOptions>): Promise<Batch[]> {
    const batches: Batch[] = [];
    for await (const batch of new BatchLoader(dataset, options(changes))) batches.push(batch);
    return batches;
  }

  it('gives places to another data set by its share, and the others keep their images', async () => {
    const few = dataset.subset([2, 4]);
    const rest = dataset.subset([0, 1, 3, 5, 6]);
    const load = async (changes: Partial<BatchLoaderOptions>) => {
      const found: string[] = [];
      const loader = new BatchLoader(rest, options({ steps: 200, batchSize: 4, ...changes }));
      for await (const { names } of loader) found.push(...names);
      return found;
    };
    const [plain, mixed] = [await load({}), await load({ beside: { dataset: few, share: 0.25 } })];
    const isFew = (name: string) => ['2', '4'].includes(name);
    const count = mixed.filter(isFew).length;
    // 200 of 800 are expected, with a standard deviation of 12.
    assert(count > 160 && count < 240, String(count));
    assert(new Set(mixed.filter(isFew)).size === 2);
    for (const [index, name] of mixed.entries()) if (!isFew(name)) assert.equal(name, plain[index]);
    // A part of the places of a later step has what the whole has there.
    const part = await load({ beside: { dataset: few, share: 0.25 }, firstStep: 150, places: [1, 3] });
    const expected = Array.from({ length: 50 }, (_, step) =>
      mixed.slice((150 + step) * 4 + 1, (150 + step) * 4 + 3),
    );
    assert.deepEqual(part, expected.flat());
    assert.deepEqual(await load({ beside: { dataset: few, share: 0 }, steps: 20 }), plain.slice(0, 80));
    assert((await load({ beside: { dataset: few, share: 1 }, steps: 20 })).every(isFew));
    const none = { dataset: few.withoutLabels(), share: 0.5 };
    assert.throws(
      () => new BatchLoader(rest, options({ beside: none })),
      /Expected images with labels beside/,
    );
  });

  it('takes other versions of the images by their share, and keeps order, labels and random changes', async () => {
    const other = join(folder, 'other');
    await mkdir(other);
    for (let image = 0; image < IMAGES; image++) {
      const { data } = await readImage(join(folder, `${image}.png`));
      for (let at = 0; at < data.length; at += 3) data[at] = data[at]! + 100;
      await writeImage(join(other, `${image}.png`), { data, ...SIZE });
    }
    const versions = await dataset.withImages(other);
    const changes = { steps: 100, flip: true, crop: { width: 5, height: 4 } };
    const load = (share: number, more: Partial<BatchLoaderOptions> = {}) =>
      collect({ ...changes, versions: { dataset: versions, share }, ...more });
    const [plain, mixed] = [await collect(changes), await load(0.3)];
    let count = 0;
    for (const [step, { images, labels, names }] of mixed.entries()) {
      const before = plain[step]!;
      assert.deepEqual([names, labels], [before.names, before.labels]);
      for (let at = 0; at < images.length; at += 60) {
        const isOther = images[at]! >= 100;
        if (isOther) count++;
        for (let i = at; i < at + 60; i++) {
          assert.equal(images[i], before.images[i]! + (isOther && i % 3 === 0 ? 100 : 0));
        }
      }
    }
    // 90 of 300 are expected, with a standard deviation of 8.
    assert(count > 60 && count < 120, String(count));
    assert.deepEqual(await load(0), plain);
    assert.deepEqual(await load(0.3, { firstStep: 60 }), mixed.slice(60));
    for (const { images } of await load(1)) assert(images.every((value, at) => at % 3 !== 0 || value >= 100));
    const few = { dataset: versions.subset([0, 1]), share: 0.5 };
    assert.throws(
      () => new BatchLoader(dataset, options({ versions: few })),
      /versions of all 7 images but received 2/,
    );
  });

  it('goes through every image once an epoch, in a new order each time', async () => {
    const batches = await collect({ steps: 14 });
    assert.deepEqual(
      batches.map(({ step }) => step),
      Array.from({ length: 14 }, (_, step) => step),
    );
    const names = batches.flatMap((batch) => batch.names);
    const epochs = Array.from({ length: 6 }, (_, epoch) => names.slice(epoch * IMAGES, (epoch + 1) * IMAGES));
    for (const epoch of epochs) assert.deepEqual([...epoch].sort(), ['0', '1', '2', '3', '4', '5', '6']);
    assert.ok(new Set(epochs.map((epoch) => epoch.join())).size > 3);
  });

  it('keeps images, labels and names together, cropped and mirrored alike', async () => {
    const batches = await collect({ crop: { width: 5, height: 4 }, flip: true, steps: 40 });
    const corners = new Set<string>();
    for (const { images, labels, count, width, height, names } of batches) {
      assert.deepEqual([count, width, height, images.length], [3, 5, 4, 3 * 5 * 4 * 3]);
      for (let slot = 0; slot < count; slot++) {
        const at = (pixel: number) => images.subarray((slot * 20 + pixel) * 3, (slot * 20 + pixel + 1) * 3);
        const [, x0, y0] = at(0);
        const direction = Math.sign(at(1)[1]! - x0!);
        corners.add(`${Math.min(x0!, x0! + 4 * direction)} ${y0} ${direction}`);
        for (let pixel = 0; pixel < 20; pixel++) {
          const [image, x, y] = at(pixel);
          assert.equal(String(image), names[slot]);
          assert.deepEqual([x, y], [x0! + direction * (pixel % 5), y0! + Math.floor(pixel / 5)]);
          assert.equal(labels![slot * 20 + pixel], (x! + y! + image!) % 8);
        }
      }
    }
    const parts = [...corners].map((corner) => corner.split(' ').map(Number));
    const range = (part: number) => [
      Math.min(...parts.map((p) => p[part]!)),
      Math.max(...parts.map((p) => p[part]!)),
    ];
    assert.deepEqual(
      [range(0), range(1), range(2)],
      [
        [0, 11],
        [0, 8],
        [-1, 1],
      ],
    );
  });

  it('repeats from any step what an uninterrupted run gives, whatever the prefetch', async () => {
    const changes = { crop: { width: 5, height: 4 }, flip: true };
    const whole = await collect(changes);
    assert.deepEqual(await collect({ ...changes, prefetch: 1 }), whole);
    for (const firstStep of [1, 4, 9, 10]) {
      assert.deepEqual(await collect({ ...changes, firstStep, prefetch: 2 }), whole.slice(firstStep));
    }
  });

  it('scales at random, then cuts or pads, images and labels alike', async () => {
    const augmentation = { ...NO_AUGMENTATION, scale: [0.25, 2] as const };
    const crop = { width: 14, height: 9 };
    const changes = { augmentation, crop, flip: true, steps: 40, ignoreIndex: 99 };
    const batches = await collect(changes);
    const covered: number[] = [];
    for (const { images, labels, width, height, names } of batches) {
      assert.deepEqual([width, height, labels!.length], [14, 9, 3 * 14 * 9]);
      for (let slot = 0; slot < 3; slot++) {
        let inside = 0;
        for (let pixel = slot * 126; pixel < (slot + 1) * 126; pixel++) {
          const [image, x, y] = images.subarray(3 * pixel, 3 * pixel + 3);
          if (labels![pixel] === 99) {
            assert.deepEqual([image, x, y], [123, 117, 104]);
            continue;
          }
          inside++;
          assert.equal(String(image), names[slot]);
          // Red is the number of the image. The nearest label lies within the pixels that contribute to the bicubic
          // one.
          const near = [-1, 0, 1].flatMap((dx) =>
            [-1, 0, 1].map((dy) => (x! + dx + y! + dy + image! + 8) % 8),
          );
          assert(near.includes(labels![pixel]!), `${x} ${y} has label ${labels![pixel]}`);
        }
        covered.push(inside / 126);
      }
    }
    assert(covered.some((share) => share < 0.1) && covered.some((share) => share === 1));
    assert.deepEqual(await collect({ ...changes, firstStep: 17, prefetch: 1 }), batches.slice(17));
  });

  it('places what is smaller than the area anywhere within it', async () => {
    const augmentation = { ...NO_AUGMENTATION, scale: [0.5, 0.5] as const };
    const corners = (await collect({ augmentation, steps: 200 })).flatMap(({ labels }) =>
      [0, 1, 2].map((slot) => labels!.subarray(slot * 192, (slot + 1) * 192).findIndex((id) => id !== 255)),
    );
    const columns = corners.map((corner) => corner % SIZE.width);
    const rows = corners.map((corner) => Math.floor(corner / SIZE.width));
    assert.deepEqual([Math.min(...columns), Math.max(...columns)], [0, 8]);
    assert.deepEqual([Math.min(...rows), Math.max(...rows)], [0, 6]);
  });

  it('moves colors as asked and nothing else, the same for the same step', async () => {
    const plain = await collect({ steps: 20 });
    const jitter = async (colorJitter: Partial<ColorJitter>) => {
      const none = NO_AUGMENTATION.colorJitter;
      const changes = { augmentation: { ...NO_AUGMENTATION, colorJitter: { ...none, ...colorJitter } } };
      const batches = await collect({ ...changes, steps: 20 });
      assert.deepEqual(await collect({ ...changes, steps: 20, firstStep: 7 }), batches.slice(7));
      assert.deepEqual(
        batches.map(({ labels, names }) => [labels, names]),
        plain.map(({ labels, names }) => [labels, names]),
      );
      return batches;
    };
    const factors = new Set<string>();
    for (const [step, { images }] of (await jitter({ brightness: 0.5 })).entries()) {
      for (let slot = 0; slot < 3; slot++) {
        // Pixel (15, 11) has the most in green and blue; all pixels of an image have one factor.
        const at = 3 * ((slot + 1) * 192 - 1);
        const factor = images[at + 1]! / plain[step]!.images[at + 1]!;
        assert(factor >= 7 / 15 && factor <= 23 / 15, `${factor}`);
        factors.add(factor.toFixed(2));
      }
    }
    assert(factors.size > 8);
    const changed = (batches: Batch[]) =>
      batches.some(({ images }, step) => Buffer.compare(images, plain[step]!.images) !== 0);
    for (const key of ['contrast', 'saturation', 'hue'] as const)
      assert(changed(await jitter({ [key]: 0.5 })));
    assert(!changed(await jitter({})));
  });

  it('gives images also as they were before colors and sharpness changed', async () => {
    const geometry = { flip: true, crop: { width: 9, height: 7 } };
    const scale = [0.7, 1.3] as const;
    const plain = await collect({ ...geometry, augmentation: { ...NO_AUGMENTATION, scale }, weak: true });
    assert(
      plain.every(({ weakImages }) => weakImages === undefined),
      'nothing changes, so no copy is made',
    );
    const colorJitter = { ...NO_AUGMENTATION.colorJitter, contrast: 0.9 };
    for (const changes of [{ colorJitter }, { blur: 3 }]) {
      const augmentation = { ...NO_AUGMENTATION, scale, ...changes };
      const strong = await collect({ ...geometry, augmentation, weak: true });
      assert.deepEqual(
        strong.map(({ weakImages }) => weakImages),
        plain.map(({ images }) => images),
      );
      assert(strong.some(({ images, weakImages }) => Buffer.compare(images, weakImages!) !== 0));
      const without = await collect({ ...geometry, augmentation });
      assert(without.every(({ weakImages }) => weakImages === undefined));
    }
  });

  it('depends on seed and stage', async () => {
    const names = async (changes: Partial<BatchLoaderOptions>): Promise<string> =>
      (await collect(changes)).flatMap((batch) => batch.names).join();
    const all = await Promise.all([names({}), names({ seed: 2 }), names({ stage: 'other' })]);
    assert.equal(new Set(all).size, 3);
    assert.equal(await names({}), all[0]);
  });

  it('serves batches larger than the data set, and data sets without labels', async () => {
    const plain = await ImageDataset.fromFolder({ images: folder });
    const loader = new BatchLoader(plain.subset([0, 2]), options({ batchSize: 5, steps: 3 }));
    for await (const batch of loader) {
      assert.equal(batch.count, 5);
      assert.equal('labels' in batch, false);
      assert.equal(new Set(batch.names).size, 2);
    }
  });

  it('decodes ahead no further than asked', async () => {
    let reads = 0;
    const counting = countReads(dataset, () => reads++);
    const iterator = new BatchLoader(counting, options({ batchSize: 2, prefetch: 3, steps: 50 }))[
      Symbol.asyncIterator
    ]();
    await iterator.next();
    await delay(100);
    assert.equal(reads, 2 * (1 + 3));
    await iterator.next();
    await delay(100);
    assert.equal(reads, 2 * (2 + 3));
    await iterator.return();
  });

  it('stops working when the consumer leaves', async () => {
    let reads = 0;
    const counting = countReads(dataset, () => reads++);
    for await (const batch of new BatchLoader(counting, options({ steps: 1000, prefetch: 50 }))) {
      if (batch.step === 1) break;
    }
    const readsAtEnd = reads;
    assert.ok(readsAtEnd < 3 * 52, `${readsAtEnd} reads`);
    await delay(50);
    assert.equal(reads, readsAtEnd);
  });

  it('rejects with the reason of its signal, before and during the iteration', async () => {
    const reason = new Error('enough');
    await assert.rejects(collect({ signal: AbortSignal.abort(reason) }), (error) => error === reason);
    const controller = new AbortController();
    const steps: number[] = [];
    await assert.rejects(
      async () => {
        for await (const { step } of new BatchLoader(dataset, options({ signal: controller.signal }))) {
          steps.push(step);
          if (step === 2) controller.abort(reason);
        }
      },
      (error) => error === reason,
    );
    assert.deepEqual(steps, [0, 1, 2]);
    const late = new AbortController();
    const pending = collect({ steps: 100_000, signal: late.signal });
    await delay(20);
    late.abort(reason);
    await assert.rejects(pending, (error) => error === reason);
  });

  it('reports a bad file at the step that needs it, and only there', async () => {
    const order = (await collect()).map((batch) => batch.names);
    const step = order.findIndex((names) => names.includes('3'));
    const broken = await mkdtemp(join(tmpdir(), 'bidiseg-loader-broken-'));
    try {
      const lines = Array.from({ length: IMAGES }, (_, image) =>
        join(image === 3 ? broken : folder, `${image}.png`),
      );
      await writeFile(join(broken, '3.png'), 'broken');
      await writeFile(join(broken, 'list.txt'), lines.join('\n'));
      const data = await ImageDataset.fromList({ list: join(broken, 'list.txt'), root: tmpdir() });
      const steps: number[] = [];
      const unhandled: unknown[] = [];
      const note = (error: unknown) => unhandled.push(error);
      process.on('unhandledRejection', note);
      await assert.rejects(
        async () => {
          for await (const batch of new BatchLoader(data, options())) {
            steps.push(batch.step);
            await delay(20);
          }
        },
        { code: 'ERR_DATA', message: /3\.png: is not a PNG/ },
      );
      await delay(20);
      process.off('unhandledRejection', note);
      assert.equal(steps.length, step);
      assert.deepEqual(unhandled, []);
    } finally {
      await rm(broken, { recursive: true });
    }
  });

  it('counts the time its consumer waits', async () => {
    const loader = new BatchLoader(dataset, options({ steps: 3 }));
    assert.equal(loader.waitMs, 0);
    // The consumer's own 450 ms do not count.
    for await (const _ of loader) await delay(150);
    assert.ok(loader.waitMs > 0 && loader.waitMs < 400, `${loader.waitMs} ms`);
  });

  it('refuses options out of range', () => {
    const code = { code: 'ERR_INVALID_ARGUMENT' };
    for (const changes of [
      { batchSize: 0 },
      { prefetch: 0 },
      { steps: -1 },
      { firstStep: 11 },
      { seed: 0.5 },
      { stage: '' },
      { crop: { width: 17, height: 4 } },
      { ignoreIndex: 256 },
      { size: { width: 0, height: 4 } },
    ]) {
      assert.throws(() => new BatchLoader(dataset, options(changes)), code, JSON.stringify(changes));
    }
    assert.throws(() => new BatchLoader(dataset.subset([]), options()), /it is empty/);
  });
});

/** Returns the same data set with a callback for each read. */
function countReads(dataset: ImageDataset, onRead: () => void): ImageDataset {
  return new Proxy(dataset, {
    get(target, key) {
      if (key === 'read') onRead();
      const value = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
