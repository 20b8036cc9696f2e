import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { writeImage } from '../../../lib/data/image-codec.js';
import { writeLabels } from '../../../lib/data/label-codec.js';
import { Random } from '../../../lib/data/random.js';

describe('ImageDataset', () => {
  let folder: string;
  const path = (name: string): string => join(folder, name);

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bidiseg-dataset-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  async function addImage(name: string, width = 6, height = 4): Promise<void> {
    await mkdir(dirname(path(name)), { recursive: true });
    const random = new Random('image', name);
    const data = Uint8Array.from({ length: width * height * 3 }, () => random.integer(256));
    await writeImage(path(name), { data, width, height });
  }

  async function addLabels(name: string, width = 6, height = 4): Promise<void> {
    await mkdir(dirname(path(name)), { recursive: true });
    const random = new Random('labels', name);
    const data = Uint8Array.from({ length: width * height }, () => random.integer(3));
    await writeLabels(path(name), { data, width, height });
  }

  describe('fromFolder', () => {
    it('pairs by path, or by base name across subfolders, in the order of names, across endings', async () => {
      for (const name of ['images/b.png', 'images/city/a.PNG', 'images/c.webp']) await addImage(name);
      for (const name of ['labels/a.png', 'labels/x/b.png', 'labels/c.png', 'labels/unused.png'])
        await addLabels(name);
      await writeFile(path('images/notes.txt'), 'not an image');
      await writeFile(path('images/.half-written.png'), 'not an image');
      const dataset = await ImageDataset.fromFolder({
        images: path('images'),
        labels: path('labels'),
        classCount: 3,
      });
      assert.equal(dataset.length, 3);
      assert.equal(dataset.hasLabels, true);
      assert.deepEqual(dataset.entry(0), {
        name: 'b',
        image: path('images/b.png'),
        label: path('labels/x/b.png'),
      });
      assert.deepEqual(
        [0, 1, 2].map((index) => [dataset.entry(index).name, dataset.entry(index).label]),
        [
          ['b', path('labels/x/b.png')],
          ['c', path('labels/c.png')],
          ['city/a', path('labels/a.png')],
        ],
      );
      const { image, labels } = await dataset.read(0);
      assert.deepEqual([image.width, image.height, labels?.width, labels?.height], [6, 4, 6, 4]);
      assert.throws(() => dataset.entry(3), { code: 'ERR_INVALID_ARGUMENT' });
    });

    it('follows links, each folder once, so that circles end', async () => {
      await addImage('elsewhere/b.png');
      await addImage('images/a.png');
      await symlink(path('elsewhere'), path('images/more'));
      await symlink(path('elsewhere/b.png'), path('images/c.png'));
      for (const name of ['circle', 'another', 'more/third'])
        await symlink(path('images'), path(`images/${name}`));
      await symlink(path('nowhere'), path('images/d'));
      const dataset = await ImageDataset.fromFolder({ images: path('images') });
      const entries = [0, 1, 2].map((index) => dataset.entry(index));
      assert.deepEqual(
        [dataset.length, entries.map(({ name }) => name), entries[1]!.image],
        [3, ['a', 'c', 'more/b'], path('images/c.png')],
      );
    });

    it('says what is wrong with the folders', async () => {
      await mkdir(path('empty'));
      for (const name of ['a', 'b', 'c', 'd', 'e']) await addImage(`images/${name}.png`);
      await addLabels('labels/b.png');
      const fails = (options: Parameters<typeof ImageDataset.fromFolder>[0], message: RegExp) =>
        assert.rejects(ImageDataset.fromFolder(options), { code: 'ERR_DATA', message });
      await fails({ images: path('none') }, /none: cannot be listed: ENOENT/);
      await fails({ images: path('empty') }, /empty: holds no image/);
      await fails(
        { images: path('images'), labels: path('labels') },
        /labels: holds no label PNG for 'a', 'c', 'd', 1 more of .*images/,
      );
      await addImage('images/a.jpg');
      await fails({ images: path('images') }, /images: found the name 'a' twice \(.*a\.jpg and .*a\.png\)/);
    });

    it('tells frames apart that are numbered anew in each sequence', async () => {
      const names = ['seq1/000000', 'seq1/000001', 'seq2/000000', 'seq2/000001'];
      for (const name of names) {
        await addImage(`images/${name}.jpg`);
        await addLabels(`labels/${name}.png`);
        await addLabels(`pseudo/${name}.png`);
        await addImage(`translated/${name}.png`);
      }
      await rm(path('pseudo/seq2/000001.png'));
      const folders = { images: path('images'), labels: path('labels') };
      const dataset = await ImageDataset.fromFolder(folders);
      const namesOf = (set: ImageDataset) =>
        Array.from({ length: set.length }, (_, index) => set.entry(index).name);
      assert.deepEqual(namesOf(dataset), names);
      assert.equal(dataset.entry(2).label, path('labels/seq2/000000.png'));
      assert.deepEqual(namesOf(await dataset.withLabels(path('pseudo'))), names.slice(0, 3));
      const translated = await dataset.withImages(path('translated'));
      assert.equal(translated.entry(3).image, path('translated/seq2/000001.png'));
      const [pairs] = dataset.pairsWith(await ImageDataset.fromFolder({ images: path('translated/seq1') }));
      // The base names stand twice here, so they do not say what belongs together.
      assert.equal(pairs.length, 0);

      await rm(path('labels/seq2'), { recursive: true });
      await assert.rejects(ImageDataset.fromFolder(folders), {
        code: 'ERR_DATA',
        message: /labels: holds no label PNG for 'seq2\/000000', 'seq2\/000001' of/,
      });
    });

    it('pairs trees of other structure by base names that stand once', async () => {
      for (const name of ['day/a', 'night/b', 'night/c']) await addImage(`images/${name}.png`);
      for (const name of ['a', 'x/b', 'night/c']) await addLabels(`labels/${name}.png`);
      const dataset = await ImageDataset.fromFolder({ images: path('images'), labels: path('labels') });
      assert.deepEqual(
        [0, 1, 2].map((index) => dataset.entry(index).label),
        ['a', 'x/b', 'night/c'].map((name) => path(`labels/${name}.png`)),
      );
    });

    it('meets names in both Unicode forms, and says which two are one', async () => {
      const [composed, decomposed] = ['gr\u00fcn', 'gru\u0308n'];
      await addImage(`images/${composed}.png`);
      await addLabels(`labels/${decomposed}.png`);
      const dataset = await ImageDataset.fromFolder({ images: path('images'), labels: path('labels') });
      assert.equal(dataset.entry(0).label, path(`labels/${decomposed}.png`));
      assert.equal(dataset.entry(0).name, composed);
      await writeFile(path('list.txt'), `images/${decomposed}.png labels/${composed}.png\n`);
      const listed = await ImageDataset.fromList({ list: path('list.txt') });
      assert.deepEqual(
        [listed.entry(0).image, listed.entry(0).label],
        [dataset.entry(0).image, dataset.entry(0).label],
      );

      await addImage(`images/${decomposed}.png`);
      await assert.rejects(ImageDataset.fromFolder({ images: path('images') }), {
        code: 'ERR_DATA',
        message: /twice \(.*gru\\u\{308\}n\.png and .*gr\\u\{fc\}n\.png\)/,
      });
    });

    it('knows the endings of Cityscapes in any case', async () => {
      await addImage('images/0/x_leftImg8bit.png');
      await addLabels('labels/0/x_gtFine_labelids.png');
      await addImage('labels/0/x_gtFine_color.png');
      const dataset = await ImageDataset.fromFolder({ images: path('images'), labels: path('labels') });
      assert.deepEqual(dataset.entry(0), {
        name: '0/x',
        image: path('images/0/x_leftImg8bit.png'),
        label: path('labels/0/x_gtFine_labelids.png'),
      });
    });

    it('says where two names differ in case', async () => {
      await addImage('images/Frame.png');
      await addLabels('labels/frame.png');
      await assert.rejects(
        ImageDataset.fromFolder({ images: path('images'), labels: path('labels') }),
        /holds no label PNG for 'Frame' of .*images; 'Frame' and 'frame' are different names$/,
      );
    });

    it('looks at nothing hidden', async () => {
      for (const name of ['a', '.ipynb_checkpoints/a-checkpoint', '.AppleDouble/a', '@eaDir/a']) {
        await addImage(`images/${name}.png`);
      }
      const dataset = await ImageDataset.fromFolder({ images: path('images') });
      assert.deepEqual([dataset.length, dataset.entry(0).name], [1, 'a']);
    });

    it('finds out at once that a label map needs more classes', async () => {
      await addImage('images/a.png');
      await addLabels('labels/a.png');
      const options = { images: path('images'), labels: path('labels'), classCount: 11 };
      await assert.rejects(ImageDataset.fromFolder({ ...options, labelMap: 'gta5' }), {
        code: 'ERR_INVALID_ARGUMENT',
      });
    });
  });

  describe('fromList', () => {
    it('reads lines of one or two paths, with comments, blank lines, BOM and CRLF, and keeps their order', async () => {
      for (const name of ['x/b.png', 'y/b_ids.png', 'x/a.png', 'y/a_ids.png', 'my images/c d.png']) {
        await addImage(name);
      }
      const text = '\uFEFF# images\r\n\r\nx/b.png  y/b_ids.png\r\n ./x/../x/a.png\ty/a_ids.png\r\n';
      await writeFile(path('list.txt'), text);
      const dataset = await ImageDataset.fromList({ list: path('list.txt') });
      assert.equal(dataset.length, 2);
      assert.deepEqual(dataset.entry(0), { name: 'b', image: path('x/b.png'), label: path('y/b_ids.png') });
      assert.deepEqual(dataset.entry(1).image, path('x/a.png'));
      await writeFile(path('list.txt'), '\uFEFFb.png');
      const plain = await ImageDataset.fromList({ list: path('list.txt'), root: path('x') });
      assert.deepEqual(plain.entry(0), { name: 'b', image: path('x/b.png') });
      assert.equal(plain.hasLabels, false);
      await writeFile(path('list.txt'), `"my images/c d.png"\n${path('x/a.png')}\n`);
      const spaces = await ImageDataset.fromList({ list: path('list.txt') });
      assert.deepEqual(
        [spaces.entry(0), spaces.entry(1).name],
        [{ name: 'my images/c d', image: path('my images/c d.png') }, 'x/a'],
      );
    });

    it('says what is wrong with the list, and in which line', async () => {
      const fails = async (text: string, message: RegExp): Promise<void> => {
        await writeFile(path('list.txt'), text, 'latin1');
        await assert.rejects(ImageDataset.fromList({ list: path('list.txt') }), {
          code: 'ERR_DATA',
          message,
        });
      };
      await fails('', /list\.txt: lists no image/);
      await fails('# nothing\n', /list\.txt: lists no image/);
      await fails('a.png\n./a.png\n', /list\.txt, line 2: found the name 'a' twice/);
      await fails(
        'my image.png my label.png\n',
        /line 1: found 4 fields, .* \(a path with spaces in double quotes\)/,
      );
      await fails('"a.png\n', /line 1: found no fields, expected 'image' or 'image label'/);
      await fails('x/.a.png\n', /line 1: found the hidden file .*x\/\.a\.png/);
      await fails('caf\xe9.png\n', /list\.txt: is not UTF-8/);
      await fails('a\0.png\n', /line 1: there is no file/);
      await fails(`${'a'.repeat(20_000)}.png\n`, /line 1: found no fields/);
      const out = /line 1: found (.*), which leads out of .*; expected a path below it/;
      for (const file of ['../a.png', 'x/../../a.png', '/etc/passwd', '.', `${path('')}s/a.png`]) {
        await fails(`${file}\n`, out);
      }
      await fails('a.png ../labels/a.png\n', out);
      await addImage('there.png');
      await fails('there.png\n\ngone.png\n', /line 3: there is no file .*gone\.png/);
      await fails('a b c\n', /list\.txt, line 1: found 3 fields/);
      await fails('a.png a_l.png\n\nb.png\n', /list\.txt, line 3: found no label, unlike the lines before/);
      await fails('x/a.png\nx/a.jpg\n', /list\.txt, line 2: found the name 'a' twice/);
      await fails('x/a.png\n.y/a.jpg\n', /line 2: found the hidden file .*\.y\/a\.jpg/);
      await assert.rejects(
        ImageDataset.fromList({ list: path('none.txt') }),
        /none\.txt: cannot be read: ENOENT/,
      );
      execFileSync('mkfifo', [path('pipe.txt')]);
      await assert.rejects(ImageDataset.fromList({ list: path('pipe.txt') }), /pipe\.txt: is a pipe, socket/);
    });
  });

  describe('read', () => {
    it('compares the sizes of image and labels before resizing', async () => {
      await addImage('images/a.png', 12, 8);
      await addLabels('labels/a.png', 6, 4);
      const folders = { images: path('images'), labels: path('labels') };
      const size = { width: 3, height: 2 };
      const strict = await ImageDataset.fromFolder(folders);
      await assert.rejects(strict.read(0, { size }), {
        code: 'ERR_DATA',
        message: `${path('labels/a.png')}: found labels of 6×4, expected 12×8 as ${path('images/a.png')}`,
      });
      const free = await ImageDataset.fromFolder({ ...folders, sameSize: false });
      const { labels } = await free.read(0);
      assert.deepEqual([labels?.width, labels?.height], [12, 8]);
    });

    it('keeps to the limit of pixels, for labels and for what is derived too', async () => {
      await addImage('images/a.png', 12, 8);
      await addLabels('labels/a.png', 12, 9);
      const folders = { images: path('images'), labels: path('labels'), sameSize: false };
      const dataset = await ImageDataset.fromFolder({ ...folders, maxPixels: 96 });
      await assert.rejects(dataset.read(0), /labels\/a\.png: found 12×9 pixels, expected at most 96/);
      assert.equal((await dataset.readImage(0)).height, 8);
      const small = await ImageDataset.fromFolder({ ...folders, maxPixels: 95 });
      const refusal = { code: 'ERR_DATA', message: /a\.png: found 12×8 pixels, expected at most 95/ };
      await assert.rejects(small.readImage(0), refusal);
      await assert.rejects(small.openImage(0), refusal);
      await assert.rejects(small.subset([0]).readImage(0), refusal);
      await assert.rejects((await small.withImages(path('images'))).read(0), refusal);
      await assert.rejects((await small.withLabels(path('labels'))).read(0), refusal);
    });

    it('gives labels at a size of their own when asked', async () => {
      await addImage('images/a.png', 12, 8);
      await addLabels('labels/a.png', 12, 8);
      const dataset = await ImageDataset.fromFolder({ images: path('images'), labels: path('labels') });
      const size = { width: 3, height: 2 };
      const own = await dataset.read(0, { size, labelSize: 'file' });
      assert.deepEqual([own.image.width, own.labels?.width, own.labels?.height], [3, 12, 8]);
      const other = await dataset.read(0, { size, labelSize: { width: 6, height: 6 } });
      assert.deepEqual([other.image.width, other.labels?.width, other.labels?.height], [3, 6, 6]);
    });

    it('refuses a crop that sticks out', async () => {
      await addImage('images/a.png', 12, 8);
      const dataset = await ImageDataset.fromFolder({ images: path('images') });
      const size = { width: 6, height: 4 };
      const whole = await dataset.read(0, { size, crop: { x: 0, y: 0, width: 6, height: 4 } });
      assert.equal(whole.image.width, 6);
      await assert.rejects(dataset.read(0, { size, crop: { x: 1, y: 0, width: 6, height: 4 } }), {
        code: 'ERR_DATA',
        message: /a\.png: a crop of 6×4 at \(1, 0\) does not lie within the image of 6×4/,
      });
      await assert.rejects(dataset.read(0, { crop: { x: -1, y: 0, width: 6, height: 4 } }), /crop\.x/);
    });
  });

  describe('derived data sets', () => {
    it('take a subset, other labels for some, and other images for all', async () => {
      for (const name of ['a', 'b', 'c']) {
        await addImage(`images/${name}.png`, 12, 8);
        await addImage(`translated/${name}.png`, 10, 6);
        await addLabels(`labels/${name}.png`, 12, 8);
      }
      await addLabels('pseudo/c.png', 6, 4);
      await mkdir(path('nothing'));
      const dataset = await ImageDataset.fromFolder({ images: path('images'), labels: path('labels') });
      const subset = dataset.subset([2, 0]);
      assert.deepEqual([subset.length, subset.entry(0).name, subset.entry(1).name], [2, 'c', 'a']);
      assert.equal(subset.hasLabels, true);

      const pseudo = await dataset.withLabels(path('pseudo'), { classCount: 3 });
      assert.deepEqual([pseudo.length, pseudo.entry(0).label], [1, path('pseudo/c.png')]);
      assert.equal((await pseudo.read(0)).labels?.width, 12);
      assert.equal((await dataset.withLabels(path('nothing'))).length, 0);

      const translated = await dataset.withImages(path('translated'));
      const { image, labels } = await translated.read(0, { size: { width: 5, height: 3 } });
      assert.deepEqual([image.width, labels?.width, labels?.height], [5, 5, 3]);
      await assert.rejects(dataset.withImages(path('pseudo')), /pseudo: holds no image named 'a', 'b'/);
    });
  });

  it('reads CamVid', async function () {
    const root = join(import.meta.dirname, '../../../../shared/data/camvid-day2dusk');
    if (!existsSync(root)) {
      console.log(`      skipped: no data set at ${root}`);
      this.skip();
    }
    const dataset = await ImageDataset.fromFolder({
      images: join(root, 'source/images'),
      labels: join(root, 'source/labels'),
      classCount: 11,
    });
    assert.equal(dataset.length, 577);
    const seen = new Set<number>();
    for (let index = 0; index < dataset.length; index += 40) {
      const { image, labels } = await dataset.read(index);
      assert.deepEqual([image.width, image.height, labels?.width, labels?.height], [480, 360, 480, 360]);
      for (const value of labels!.data) seen.add(value);
    }
    assert.deepEqual(
      [...seen].sort((one, other) => one - other),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255],
    );
  });
});
