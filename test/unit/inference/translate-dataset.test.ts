import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { readImage, writeImage } from '../../../lib/data/image-codec.js';
import { matchDatasetHistograms, translateDataset } from '../../../lib/inference/translate-dataset.js';
import { drain } from '../../../lib/support/generators.js';

const size = { width: 8, height: 6 };

describe('translating a data set', () => {
  let folder: string;
  let dataset: ImageDataset;

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-translate-'));
    await mkdir(path.join(folder, 'images'));
    for (const gray of [10, 20, 30, 40]) {
      const data = new Uint8Array(8 * 6 * 3).fill(gray);
      await writeImage(path.join(folder, 'images', `image-${gray}.png`), { data, ...size });
    }
    dataset = await ImageDataset.fromFolder({ images: path.join(folder, 'images') });
  });

  afterEach(() => rm(folder, { recursive: true }));

  /** Creates a translator that adds 1 to every byte and records its images. */
  function fakeTranslator() {
    const asked: number[] = [];
    const translate = async (images: Uint8Array) => {
      asked.push(images[0]!);
      return images.map((byte) => byte + 1);
    };
    return { asked, translator: { translate } };
  }

  async function translate(output: string, resume: boolean) {
    const { asked, translator } = fakeTranslator();
    const done: number[] = [];
    await drain(translateDataset(translator, dataset, output, { size, resume }), (event) => {
      assert.equal(event.total, 4);
      done.push(event.done);
    });
    return { asked, done };
  }

  it('writes a PNG of each image', async () => {
    const output = path.join(folder, 'out');
    assert.deepEqual(await translate(output, false), { asked: [10, 20, 30, 40], done: [1, 2, 3, 4] });
    const { data, width, height } = await readImage(path.join(output, 'image-30.png'));
    assert.deepEqual([width, height, data[0], data.at(-1)], [8, 6, 31, 31]);
  });

  it('keeps subfolders, resumed too', async () => {
    const data = new Uint8Array(8 * 6 * 3).fill(50);
    await mkdir(path.join(folder, 'images/day/1'), { recursive: true });
    await mkdir(path.join(folder, 'images/night'));
    for (const name of ['day/1/frame', 'night/frame']) {
      await writeImage(path.join(folder, `images/${name}.png`), { data, ...size });
    }
    const deep = (await ImageDataset.fromFolder({ images: path.join(folder, 'images') })).subset([0, 5]);
    const { asked, translator } = fakeTranslator();
    const output = path.join(folder, 'out');
    for (const resume of [false, true]) {
      await drain(translateDataset(translator, deep, output, { size, resume }));
      assert.deepEqual(asked, [50, 50]);
    }
    assert.equal((await deep.withImages(output)).entry(1).image, path.join(output, 'night/frame.png'));
    assert.equal((await readImage(path.join(output, 'day/1/frame.png'))).data[0], 51);
  });

  it('resumed, translates what is missing and nothing else', async () => {
    const whole = path.join(folder, 'whole');
    await translate(whole, false);
    const output = path.join(folder, 'out');
    await translate(output, false);
    for (const name of ['image-20.png', 'image-40.png']) await rm(path.join(output, name));
    // The remains of an interrupted writer are not an image.
    await writeFile(path.join(output, '.image-40.png.0815.tmp'), 'half');
    assert.deepEqual(await translate(output, true), { asked: [20, 40], done: [3, 4] });
    for (const name of await readdir(whole)) {
      const [one, other] = await Promise.all(
        [whole, output].map((place) => readFile(path.join(place, name))),
      );
      assert(one!.equals(other!), name);
    }
    assert.deepEqual(await translate(output, true), { asked: [], done: [] });
  });

  it('not resumed, refuses to write over an image, and writes none', async () => {
    await assert.rejects(translate(path.join(folder, 'images'), false), {
      code: 'ERR_DATA',
      message: /images\/image-10\.png: exists; expected a folder without it, or `resume`$/,
    });
    const { data } = await readImage(path.join(folder, 'images', 'image-10.png'));
    assert.equal(data[0], 10);
    const output = path.join(folder, 'out');
    await mkdir(output);
    await writeFile(path.join(output, 'image-40.png'), 'mine');
    await assert.rejects(translate(output, false), /image-40\.png: exists;/);
    assert.deepEqual(await readdir(output), ['image-40.png']);
    const matching = matchDatasetHistograms(dataset, dataset, output, {
      ...{ size, targetSize: size, seed: 1, stage: 'test' },
    });
    await assert.rejects(drain(matching), /image-40\.png: exists;/);
  });
});
