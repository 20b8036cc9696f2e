import assert from 'node:assert/strict';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { meanClassIndices } from '../../../lib/config/classes.js';
import { createConfig } from '../../../lib/config/load.js';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { writeImage } from '../../../lib/data/image-codec.js';
import { writeLabels } from '../../../lib/data/label-codec.js';
import { type DatasetLayout, findDataset } from '../../../lib/data/layouts.js';
import { openDatasets } from '../../../lib/pipeline/datasets.js';
import { temporaryFolder } from '../../helpers/folder.js';
import {
  CITYSCAPES_IDS,
  colorOf,
  type Frame,
  SYNTHIA_IDS,
  writeCamvid,
  writeCityscapes,
  writeFolderPair,
  writeGta5,
  writeSynthia,
} from '../../helpers/published-layouts.js';
import { randomBytes } from '../../helpers/random.js';

const CAMVID_IDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

const SIZE = { width: 24, height: 16 };

/** Generates a frame with every id below `limit`. */
function frame(seed: number, limit: number): Frame {
  const ids = randomBytes(SIZE.width * SIZE.height, seed, limit);
  for (let id = 0; id < limit; id++) ids[id] = id;
  return { ...SIZE, image: randomBytes(3 * SIZE.width * SIZE.height, seed + 1), ids };
}

function classesOf({ ids }: Frame, known: number[]): number[] {
  return Array.from(ids, (id) => (known.includes(id) ? known.indexOf(id) : 255));
}

describe('data set layouts', () => {
  let folder: ReturnType<typeof temporaryFolder>;
  let root = '';
  beforeEach(() => {
    folder = temporaryFolder();
    root = folder.path('root');
  });
  afterEach(() => folder.remove());

  /** Finds the data set and checks its parts: [name, frames in order]. */
  async function check(
    expected: Omit<DatasetLayout, 'parts'>,
    parts: [name: string, frames: Frame[]][],
    known: number[],
  ): Promise<void> {
    const found = await findDataset(root);
    assert.deepEqual({ layout: found.layout, labelMap: found.labelMap }, expected);
    assert.deepEqual(
      found.parts.map(({ name }) => name),
      parts.map(([name]) => name),
    );
    for (const [index, { images, labels }] of found.parts.entries()) {
      const frames = parts[index]![1];
      const dataset = await ImageDataset.fromFolder({ images, labels: labels!, labelMap: found.labelMap });
      assert.equal(dataset.length, frames.length);
      for (const [i, { image, ...rest }] of frames.entries()) {
        const sample = await dataset.read(i);
        assert.deepEqual(sample.image.data, image);
        assert.deepEqual([...sample.labels!.data], classesOf({ image, ...rest }, known));
      }
    }
  }

  it('GTA5: palette PNGs of five digits', async () => {
    const frames = [frame(1, 35), frame(2, 35)];
    writeGta5(root, frames);
    await check({ layout: 'gta5', labelMap: 'gta5' }, [['', frames]], CITYSCAPES_IDS);
  });

  it('GTA5 accepts a label file of another size than its image, as two of the published have', async () => {
    writeGta5(root, [frame(1, 35)]);
    const data = new Uint8Array(20 * 10).fill(7);
    await writeLabels(folder.path('root/labels/00001.png'), { data, width: 20, height: 10 });
    const folders = { images: folder.path('root/images'), labels: folder.path('root/labels') };
    const dataset = await ImageDataset.fromFolder({ ...folders, labelMap: 'gta5' });
    const { image, labels } = await dataset.read(0, { size: { width: 12, height: 8 } });
    assert.deepEqual([image.width, labels!.width, labels!.data[0]], [12, 12, 0]);
    const others = await ImageDataset.fromFolder({ ...folders, labelMap: 'cityscapes' });
    await assert.rejects(others.read(0), /found labels of 20×10, expected 24×16/);
  });

  it('SYNTHIA-RAND-CITYSCAPES: label ids in the first channel of 16-bit PNGs', async () => {
    const frames = [frame(3, 23), frame(4, 23)];
    writeSynthia(root, frames);
    await check({ layout: 'synthia', labelMap: 'synthia' }, [['', frames]], SYNTHIA_IDS);
  });

  it('Cityscapes: splits and cities, and label ids among other PNGs', async () => {
    const [a, b, c, d] = [frame(5, 35), frame(6, 35), frame(7, 35), frame(8, 35)];
    writeCityscapes(root, { train: { aachen: [a, b], zurich: [c] }, val: { frankfurt: [d] } });
    await check(
      { layout: 'cityscapes', labelMap: 'cityscapes' },
      [
        ['train', [a, b, c]],
        ['val', [d]],
      ],
      CITYSCAPES_IDS,
    );
    const val = await ImageDataset.fromFolder({
      images: folder.path('root/leftImg8bit/val'),
      labels: folder.path('root/gtFine/val'),
      labelMap: 'cityscapes',
    });
    const name = 'frankfurt_000000_000019';
    assert.deepEqual(val.entry(0), {
      name: `frankfurt/${name}`,
      image: folder.path(`root/leftImg8bit/val/frankfurt/${name}_leftImg8bit.png`),
      label: folder.path(`root/gtFine/val/frankfurt/${name}_gtFine_labelIds.png`),
    });
    // Results for the images belong to them under either name.
    for (const [output, ending] of [
      ['short', ''],
      ['long', '_leftImg8bit'],
    ]) {
      mkdirSync(folder.path(output!));
      const pixels = { data: new Uint8Array(24 * 16), ...SIZE };
      await writeLabels(folder.path(`${output}/${name}${ending}.png`), pixels);
      assert.equal((await val.withLabels(folder.path(output!))).length, 1);
      assert.equal((await val.withImages(folder.path(output!))).length, 1);
    }
  });

  it('Cityscapes by its colors, where the label map is one of colors', async () => {
    const frames = [frame(5, 35), frame(6, 35)];
    writeCityscapes(root, { val: { aachen: [frames[0]!], zurich: [frames[1]!] } });
    const ids = Array.from({ length: 35 }, (_, id) => id);
    const classes = ids.map((id) => [
      colorOf(id).join(' '),
      CITYSCAPES_IDS.includes(id) ? CITYSCAPES_IDS.indexOf(id) : 255,
    ]);
    const dataset = await ImageDataset.fromFolder({
      images: folder.path('root/leftImg8bit'),
      labels: folder.path('root/gtFine'),
      labelMap: Object.fromEntries(classes),
      classCount: 19,
    });
    for (const [index, expected] of frames.entries()) {
      const { labels } = await dataset.read(index);
      assert.deepEqual([...labels!.data], classesOf(expected, CITYSCAPES_IDS));
    }
  });

  it('Cityscapes without labels', async () => {
    writeCityscapes(root, { train: { aachen: [frame(5, 35)] } });
    rmSync(folder.path('root/gtFine'), { recursive: true });
    const { parts } = await findDataset(root);
    assert.deepEqual(
      parts.map(({ name, labels }) => [name, labels]),
      [['train', null]],
    );
  });

  it('CamVid: 11 classes, and void', async () => {
    const [train, val] = [[frame(9, 12), frame(10, 12)], [frame(11, 12)]];
    writeCamvid(root, { train, val });
    await check(
      { layout: 'camvid', labelMap: 'camvid' },
      [
        ['train', train],
        ['val', val],
      ],
      CAMVID_IDS,
    );
  });

  it('any folders of images and labels, at some depth, links and images alone included', async () => {
    const [source, val] = [[frame(12, 5)], [frame(13, 5)]];
    writeFolderPair(folder.path('root/source'), source);
    writeFolderPair(folder.path('elsewhere'), val);
    mkdirSync(folder.path('root/target'));
    symlinkSync(folder.path('elsewhere'), folder.path('root/target/val'));
    await check(
      { layout: 'folders', labelMap: 'identity' },
      [
        ['source', source],
        ['target/val', val],
      ],
      [0, 1, 2, 3, 4],
    );
    rmSync(folder.path('root/source/labels'), { recursive: true });
    assert.equal((await findDataset(root)).parts[0]!.labels, null);

    const photos = folder.path('photos');
    mkdirSync(photos);
    await writeImage(folder.path('photos/a.png'), { data: new Uint8Array(12), width: 2, height: 2 });
    assert.deepEqual(await findDataset(photos), {
      layout: 'folders',
      labelMap: 'identity',
      parts: [{ name: '', images: photos, labels: null }],
    });
  });

  it('five digits alone do not make a GTA5', async () => {
    writeGta5(root, [frame(1, 19)]);
    const data = new Uint8Array(SIZE.width * SIZE.height);
    await writeLabels(folder.path('root/labels/00001.png'), { data, ...SIZE });
    assert.equal((await findDataset(root)).layout, 'folders');
  });

  it('says what it expected where there is nothing', async () => {
    mkdirSync(folder.path('root/empty/deep'), { recursive: true });
    writeFileSync(folder.path('root/notes.txt'), '');
    await assert.rejects(findDataset(root), {
      code: 'ERR_DATA',
      message: /root: holds no data set; expected images/,
    });
    await assert.rejects(findDataset(folder.path('none')), /none: cannot be listed: ENOENT/);
  });

  it('opens from a config as the data sets of a run', async () => {
    writeSynthia(folder.path('root/synthia'), [frame(14, 23)]);
    writeCityscapes(folder.path('root/cityscapes'), {
      train: { aachen: [frame(15, 35), frame(16, 35)] },
      val: { frankfurt: [frame(17, 35)] },
    });
    const data = {
      root,
      classes: 'cityscapes',
      source: { images: 'synthia/RGB', labels: 'synthia/GT/LABELS', labelMap: 'synthia' },
      target: {
        train: { images: 'cityscapes/leftImg8bit/train' },
        val: {
          images: 'cityscapes/leftImg8bit/val',
          labels: 'cityscapes/gtFine/val',
          labelMap: 'cityscapes',
        },
      },
    } as const;
    const config = createConfig({ output: folder.path('run'), data: { ...data, meanClasses: 'synthia-13' } });
    const { source, target, validation } = await openDatasets(config);
    assert.deepEqual([source.length, target.length, validation!.length], [1, 2, 1]);
    assert.deepEqual([source.hasLabels, target.hasLabels, validation!.hasLabels], [true, false, true]);
    assert.deepEqual(meanClassIndices(config), [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]);
    const tight = createConfig({ output: folder.path('run'), data: { ...data, maxPixels: 24 * 16 - 1 } });
    const { target: large } = await openDatasets(tight);
    await assert.rejects(large.read(0), { code: 'ERR_DATA', message: /24×16 pixels, expected at most 383$/ });
    const wrong = createConfig({
      output: folder.path('run'),
      data: { ...data, meanClasses: ['road', 'sea'] },
    });
    await assert.rejects(openDatasets(wrong), {
      code: 'ERR_CONFIG',
      message: /^data\.meanClasses: There is no class 'sea'; expected some of road, sidewalk,/,
    });
    const segmentation = { copyPaste: { classes: ['car', 'boat'] } };
    await assert.rejects(openDatasets(createConfig({ output: folder.path('run'), data, segmentation })), {
      code: 'ERR_CONFIG',
      message: /^segmentation\.copyPaste\.classes: There is no class 'boat'; expected some of road,/,
    });
  });
});
