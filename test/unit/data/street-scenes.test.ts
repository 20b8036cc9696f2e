import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { createEmbeddedDataset } from '../../../lib/data/scenes/embedded-dataset.js';
import {
  renderScene,
  STREET_SCENE_CLASSES,
  STREET_SCENE_PALETTE,
} from '../../../lib/data/scenes/street-scenes.js';

const SIZE = { width: 192, height: 96 };

describe('street scenes', () => {
  const scenes = (look: 'day' | 'dusk', count: number) =>
    Array.from({ length: count }, (_, index) => renderScene({ seed: 1, index, look, ...SIZE }));

  it('are equal for equal options and differ for others', () => {
    const base = { seed: 1, index: 0, look: 'dusk', ...SIZE } as const;
    const scene = renderScene(base);
    assert.deepEqual(renderScene(base), scene);
    assert.notDeepEqual(renderScene({ ...base, index: 1 }).labels, scene.labels);
    assert.notDeepEqual(renderScene({ ...base, seed: 2 }).labels, scene.labels);
  });

  it('show the same street in both looks, in other colors', () => {
    const day = scenes('day', 5);
    const dusk = scenes('dusk', 5);
    for (const [index, scene] of day.entries()) {
      assert.deepEqual(scene.labels, dusk[index]!.labels);
      let difference = 0;
      for (const [byte, value] of scene.image.entries())
        difference += Math.abs(value - dusk[index]!.image[byte]!);
      assert.ok(difference / scene.image.length > 40, `mean difference ${difference / scene.image.length}`);
    }
  });

  it('hold every class, each in most pictures, and nothing else', () => {
    assert.equal(STREET_SCENE_CLASSES.length, 10);
    assert.equal(STREET_SCENE_PALETTE.length, 30);
    const pictures = new Array<number>(10).fill(0);
    for (const { labels, image } of scenes('day', 60)) {
      assert.equal(labels.length, 192 * 96);
      assert.equal(image.length, 192 * 96 * 3);
      for (const classIndex of new Set(labels)) pictures[classIndex]!++;
    }
    assert.equal(pictures.length, 10);
    for (const [index, count] of pictures.entries())
      assert.ok(count > 30, `${STREET_SCENE_CLASSES[index]}: ${count}`);
  });

  it('have sky above and road below', () => {
    for (const { labels } of scenes('day', 20)) {
      const rows = new Map<number, number[]>();
      for (const [pixel, classIndex] of labels.entries()) {
        const list = rows.get(classIndex) ?? [];
        list.push(Math.floor(pixel / 192));
        rows.set(classIndex, list);
      }
      const mean = (name: string): number => {
        const list = rows.get(STREET_SCENE_CLASSES.indexOf(name)) ?? [];
        return list.reduce((sum, row) => sum + row, 0) / list.length;
      };
      assert.ok(!(mean('sky') > mean('road')));
      assert.ok(mean('road') > 58);
    }
  });

  it('differ in the color of every class between the looks by more than within one', () => {
    const day = classColors(scenes('day', 40));
    const dusk = classColors(scenes('dusk', 40));
    for (const name of ['road', 'sidewalk', 'building', 'vegetation', 'sky']) {
      const index = STREET_SCENE_CLASSES.indexOf(name);
      const distance = Math.hypot(...day[index]!.map((value, channel) => value - dusk[index]![channel]!));
      assert.ok(distance > 45, `${name}: ${distance}`);
    }
  });

  it('come in any size', () => {
    for (const [width, height] of [
      [32, 32],
      [61, 97],
      [640, 160],
    ] as const) {
      const { image, labels } = renderScene({ seed: 3, index: 2, look: 'dusk', width, height });
      assert.equal(labels.length, width * height);
      assert.equal(image.length, width * height * 3);
      assert.ok(new Set(labels).size >= 4);
    }
    assert.throws(() => renderScene({ seed: 1, index: 0, look: 'day', width: 8, height: 96 }), {
      code: 'ERR_INVALID_ARGUMENT',
    });
    assert.throws(() => renderScene({ seed: 1, index: 0, look: 'night' as 'dusk', ...SIZE }), /day, dusk/);
  });
});

describe('createEmbeddedDataset', () => {
  let parent: string;
  const options = {
    seed: 5,
    size: { width: 64, height: 32 },
    sourceCount: 4,
    targetCount: 3,
    validationCount: 2,
  };

  beforeEach(async () => {
    parent = await mkdtemp(join(tmpdir(), 'bidiseg-embedded-'));
  });
  afterEach(() => rm(parent, { recursive: true }));

  it('writes what data sets are opened from, in a folder that did not exist', async () => {
    const folder = join(parent, 'new/data');
    const progress: number[] = [];
    await createEmbeddedDataset(folder, {
      ...options,
      onProgress: ({ done, total }) => progress.push(done / total),
    });
    assert.deepEqual(
      progress,
      Array.from({ length: 9 }, (_, index) => (index + 1) / 9),
    );
    assert.deepEqual((await readdir(folder)).sort(), ['dataset.json', 'source', 'target']);
    const open = (images: string, labels?: string) =>
      ImageDataset.fromFolder({
        images: join(folder, images),
        ...(labels && { labels: join(folder, labels) }),
        classCount: 10,
      });
    const source = await open('source/images', 'source/labels');
    const target = await open('target/train/images');
    const validation = await open('target/val/images', 'target/val/labels');
    assert.deepEqual([source.length, target.length, validation.length], [4, 3, 2]);
    const { image, labels } = await source.read(1);
    const scene = renderScene({ seed: 5, index: 1, look: 'day', ...options.size });
    assert.deepEqual([image.data, labels?.data], [scene.image, scene.labels]);
    const streets = new Set<string>();
    for (const [dataset, count] of [
      [source, 4],
      [validation, 2],
    ] as const) {
      for (let index = 0; index < count; index++)
        streets.add((await dataset.read(index)).labels!.data.join());
    }
    assert.equal(streets.size, 6);
  });

  it('keeps an equal set, replaces another one, and never touches what it did not make', async () => {
    const folder = join(parent, 'data');
    await createEmbeddedDataset(folder, options);
    const { ino } = await stat(join(folder, 'dataset.json'));
    await createEmbeddedDataset(folder, options);
    assert.equal((await stat(join(folder, 'dataset.json'))).ino, ino);
    await createEmbeddedDataset(folder, { ...options, sourceCount: 2 });
    assert.equal((await readdir(join(folder, 'source/images'))).length, 2);

    const own = join(parent, 'own');
    await mkdir(own);
    await writeFile(join(own, 'dataset.json'), '{}');
    await assert.rejects(createEmbeddedDataset(own, options), {
      code: 'ERR_DATA',
      message: /own: holds files/,
    });
    assert.equal(await readFile(join(own, 'dataset.json'), 'utf8'), '{}');
  });

  it('leaves nothing behind when it is aborted, and the set that was there', async () => {
    const folder = join(parent, 'data');
    await createEmbeddedDataset(folder, options);
    const reason = new Error('enough');
    const abort = async (after: number): Promise<void> => {
      const controller = new AbortController();
      if (after === 0) controller.abort(reason);
      const onProgress = ({ done }: { done: number }) => done === after && controller.abort(reason);
      await assert.rejects(
        createEmbeddedDataset(folder, {
          ...options,
          seed: 6,
          sourceCount: 500,
          onProgress,
          signal: controller.signal,
        }),
        (error) => error === reason,
      );
    };
    await abort(0);
    await abort(3);
    assert.deepEqual(await readdir(parent), ['data']);
    assert.equal((await readdir(join(folder, 'source/images'))).length, 4);
  });

  it('passes on errors', async () => {
    await writeFile(join(parent, 'file'), '');
    await assert.rejects(createEmbeddedDataset(join(parent, 'file/data'), options), { code: 'ERR_DATA' });
    const error = new Error('mine');
    const onProgress = () => {
      throw error;
    };
    await assert.rejects(createEmbeddedDataset(join(parent, 'data'), { ...options, onProgress }), {
      code: 'ERR_DATA',
      cause: error,
    });
    assert.deepEqual(await readdir(parent), ['file']);
  });

  it('leaves the event loop free', async () => {
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 1);
    await createEmbeddedDataset(join(parent, 'data'), { ...options, size: { width: 512, height: 256 } });
    clearInterval(timer);
    // Generating all images takes seconds. Another test may hold both cores for a moment.
    assert.ok(longest < 250, `blocked for ${longest} ms`);
  });
});

function classColors(scenes: { image: Uint8Array; labels: Uint8Array }[]): number[][] {
  const sums = Array.from({ length: 10 }, () => [0, 0, 0, 0]);
  for (const { image, labels } of scenes) {
    for (const [pixel, classIndex] of labels.entries()) {
      const sum = sums[classIndex]!;
      for (let channel = 0; channel < 3; channel++) sum[channel]! += image[pixel * 3 + channel]!;
      sum[3]!++;
    }
  }
  return sums.map(([red, green, blue, count]) => [red! / count!, green! / count!, blue! / count!]);
}
