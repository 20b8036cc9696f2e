import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { readImage, writeImage } from '../../lib/data/image-codec.js';
import { writeLabels } from '../../lib/data/label-codec.js';
import { evaluatePredictions } from '../../lib/inference/evaluate.js';
import {
  CITYSCAPES_IDS,
  type Frame,
  writeCityscapes,
  writeFolderPair,
} from '../helpers/published-layouts.js';
import { randomBytes } from '../helpers/random.js';
import { bidiseg, jsonLines, temporaryFolder } from './command-line.js';

interface PartJson {
  name: string;
  imageCount: number;
  labelCount: number | null;
  checked: number;
  sizes: Record<string, number>;
  classes: { class: string; pixels: number; share: number; labelMaps: number }[] | null;
  ignored: { pixels: number; share: number } | null;
  problems: string[];
}

const SIZE = { width: 40, height: 24 };

function frame(seed: number, limit: number): Frame {
  const { width, height } = SIZE;
  return {
    ...SIZE,
    image: randomBytes(3 * width * height, seed),
    ids: randomBytes(width * height, seed + 100, limit),
  };
}

describe('command line: data sets', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const run = (args: string[]) => bidiseg(args, { cwd: folder.path });
  const train = [frame(1, 34), frame(2, 34), frame(3, 34)];

  before(() => {
    writeCityscapes(at('cityscapes'), { train: { aachen: train }, val: { lindau: [frame(4, 34)] } });
    rmSync(at('cityscapes/gtFine/val'), { recursive: true });
    writeFolderPair(at('pair'), [frame(5, 3), frame(6, 3)]);
  });

  it('info shows parts, counts, sizes and class shares, for people and for programs', async () => {
    const text = await run(['info', 'cityscapes', '--contact-sheet', 'sheet.png']);
    assert.equal(text.code, 0, text.stderr);
    assert.match(text.stdout, /^layout {5}cityscapes$/m);
    assert.match(text.stdout, /^train +3 +3 +3 {2}40×24$/m);
    assert.match(text.stdout, /^val +1 +– +1 {2}40×24$/m);
    assert.match(text.stdout, /^4 images checked, no problem found$/m);
    // Three images with their labels in a row, then one without.
    const sheet = await readImage(at('sheet.png'));
    assert.deepEqual([sheet.width, sheet.height], [6 * 240 + 5 * 4, 2 * 144 + 4]);

    const { code, stdout } = await run(['info', 'cityscapes', '--sample', '2', '--json']);
    assert.equal(code, 0);
    const result = jsonLines(stdout).at(-1)! as unknown as { parts: PartJson[] };
    assert.deepEqual(
      result.parts.map(({ name, imageCount, labelCount, checked, sizes }) => [
        name,
        imageCount,
        labelCount,
        checked,
        sizes,
      ]),
      [
        ['train', 3, 3, 2, { '40×24': 2 }],
        ['val', 1, null, 1, { '40×24': 1 }],
      ],
    );
    // Two evenly spread images of three are the first two.
    const ids = [...train[0]!.ids, ...train[1]!.ids];
    const { classes, ignored } = result.parts[0]!;
    assert.equal(classes!.length, 19);
    for (const [index, { pixels, share, labelMaps }] of classes!.entries()) {
      const expected = ids.filter((id) => id === CITYSCAPES_IDS[index]).length;
      assert.deepEqual([pixels, share, labelMaps], [expected, expected / ids.length, 2]);
    }
    const without = ids.filter((id) => !CITYSCAPES_IDS.includes(id)).length;
    assert.deepEqual(ignored, { pixels: without, share: without / ids.length });
    assert.equal(result.parts[1]!.classes, null);
  });

  it('info takes any folder pair, and class names', async () => {
    const plain = await run(['info', 'pair']);
    assert.equal(plain.code, 0, plain.stderr);
    assert.match(plain.stdout, /^class 2 +\d+\.\d\d$/m);
    assert.doesNotMatch(plain.stdout, /class 3/);
    const named = await run(['info', 'pair/images', '--labels', 'pair/labels', '--classes', 'road,sky,car']);
    assert.equal(named.code, 0, named.stderr);
    assert.match(named.stdout, /^car +\d+\.\d\d$/m);
    assert.match(named.stdout, /^no class +0\.00$/m);
  });

  it('info lists what is wrong with a sample and ends with code 1', async () => {
    writeFolderPair(at('bad'), [frame(7, 3), frame(8, 3), frame(9, 3), frame(10, 3), frame(11, 3)]);
    rmSync(at('bad/labels/frame 0.png'));
    await writeLabels(at('bad/labels/frame 1.png'), { data: new Uint8Array(8), width: 4, height: 2 });
    await writeLabels(at('bad/labels/frame 2.png'), { data: new Uint8Array(960).fill(77), ...SIZE });
    writeFileSync(at('bad/images/frame 3.png'), 'no image');
    const { code, stdout, stderr } = await run(['info', 'bad', '--classes', 'a,b,c', '--json']);
    assert.equal(code, 1);
    const [part] = (jsonLines(stdout).at(-1)! as unknown as { parts: PartJson[] }).parts;
    assert.deepEqual([part!.imageCount, part!.labelCount, part!.checked], [5, 4, 1]);
    const expected = [
      /labels: holds no label PNG for 'frame 0' of bad\/images$/,
      /frame 1\.png: found labels of 4×2, expected 40×24 as .*frame 1\.png$/,
      /frame 2\.png: found label id 77 at column 0, row 0, expected a class index 0–2 or 255 \(ignore\)$/,
      /frame 3\.png: is not a PNG, JPEG, WebP or TIFF/,
    ];
    assert.equal(part!.problems.length, expected.length, part!.problems.join('\n'));
    for (const [i, pattern] of expected.entries()) assert.match(part!.problems[i]!, pattern);
    assert.match(stderr, /^bidiseg: 4 problems in bad; the first: [^\n]*\n$/);
  });

  it('info warns of classes without labels, which is no failure', async () => {
    const mask = (value: number) => ({ ...frame(7, 2), ids: new Uint8Array(960).fill(value, 0, 480) });
    writeFolderPair(at('masks'), [mask(255), mask(0)]);
    const { code, stdout, stderr } = await run(['info', 'masks', '--classes', 'background,object']);
    assert.deepEqual([code, stderr], [0, '']);
    const warning =
      /no pixel is of 'object' in any of its 2 label files; .* the label map is \{0: 0, 255: 1\}$/;
    assert.match(stdout, new RegExp(`^Warnings\n  labels: ${warning.source}`, 'm'));
    assert.match(stdout, /^2 images checked, no problem found$/m);
    const json = await run(['info', 'masks', '--json']);
    const result = jsonLines(json.stdout).at(-1)! as unknown as { parts: { warnings: string[] }[] };
    assert.equal(result.parts[0]!.warnings.length, 1);
    assert.match(
      result.parts[0]!.warnings[0]!,
      /no pixel is of 'class 1' in any of its 2 label files; these are/,
    );
  });

  it('info says what it cannot do', async () => {
    mkdirSync(at('empty'));
    for (const [args, code, message] of [
      [['info', 'empty'], 1, /empty: holds no data set; expected images,/],
      [['info', '--sample', '3'], 2, /--max-pixels need the folder of a data set/],
      [['info', 'pair', '--contact-sheet', 'sheet.jpg'], 2, /a file that ends in \.png/],
    ] as const) {
      const result = await run([...args]);
      assert.deepEqual([result.code, result.stdout], [code, ''], args.join(' '));
      assert.match(result.stderr, message);
      assert.match(result.stderr, /^bidiseg: [^\n]*\n$/);
    }
    assert.ok(!existsSync(at('sheet.jpg')));
  });

  describe('evaluate --predictions', () => {
    const labels = ['--labels', 'pair/labels', '--classes', 'a,b,c'];

    async function predict(name: string, data: Uint8Array, size = SIZE): Promise<void> {
      mkdirSync(at('predictions'), { recursive: true });
      await writeLabels(at('predictions', name), { data, ...size });
    }

    it('scores the predictions, and names each class', async () => {
      await predict('frame 0.png', frame(5, 3).ids as Uint8Array);
      await predict('frame 1.png', new Uint8Array(960));
      await predict('unused.png', new Uint8Array(960));
      const { code, stdout, stderr } = await run([
        ...['evaluate', '--predictions', 'predictions', ...labels, '--mean-classes', 'b,c'],
      ]);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^\(a\) +\d+\.\d +100\.0$/m);
      assert.match(stdout, /^b +\d+\.\d +\d+\.\d$/m);
      assert.match(
        stdout,
        /^Means over 2 classes: mIoU \d+\.\d %, mean accuracy \d+\.\d %, frequency-weighted IoU /m,
      );
      assert.match(stdout, /^Pixel accuracy \d+\.\d % \(2 images, /m);
    });

    it('has no numbers where the truth is no label throughout', async () => {
      writeFolderPair(at('ignored'), [{ ...frame(8, 2), ids: new Uint8Array(960).fill(255) }]);
      const [name] = readdirSync(at('ignored/labels'));
      mkdirSync(at('guess'));
      await writeLabels(at('guess', name!), { data: new Uint8Array(960), ...SIZE });
      const args = ['evaluate', '--predictions', 'guess', '--labels', 'ignored/labels', '--classes', 'a,b'];
      const { code, stdout } = await run(args);
      assert.equal(code, 0);
      assert.match(stdout, /^mIoU – %, mean accuracy – %, frequency-weighted IoU – %$/m);
      assert.match(stdout, /^Pixel accuracy – % \(1 image, .*\nNo pixel of the labels is of 'a', 'b'$/m);
      const result = jsonLines((await run([...args, '--json'])).stdout).at(-1)!;
      for (const key of ['meanIou', 'pixelAccuracy', 'meanAccuracy', 'frequencyWeightedIou']) {
        assert.equal(result[key], null, key);
      }
    });

    it('wants one for every label map, of its size, with a class at every labeled pixel', async () => {
      const fails = (message: RegExp) =>
        assert.rejects(
          evaluatePredictions(
            { predictions: at('predictions'), labels: at('pair/labels') },
            { classCount: 3 },
          ),
          { code: 'ERR_DATA', message },
        );
      rmSync(at('predictions'), { recursive: true });
      await predict('frame 0.png', new Uint8Array(960));
      await fails(/predictions: holds no prediction for 'frame 1' of .*pair\/labels$/);
      await predict('frame 1.png', new Uint8Array(8), { width: 4, height: 2 });
      await fails(/frame 1\.png: found a prediction of 4×2, expected 40×24 as .*labels\/frame 1\.png$/);
      await predict('frame 1.png', new Uint8Array(960).fill(255));
      await fails(/predictions\/frame 1\.png: .*but found 255$/);
      await predict('frame 1.png', new Uint8Array(960).fill(3));
      await fails(/frame 1\.png: found label id 3 at column 0, row 0, expected a class index 0–2/);
      await writeImage(at('predictions/frame 1.png'), { data: new Uint8Array(960 * 3), ...SIZE });
      await fails(/frame 1\.png: found an 8-bit RGB PNG/);
    });

    it('refuses options that cannot be combined', async () => {
      for (const [args, code, message] of [
        [['--flip', ...labels], 2, /--flip cannot be combined with --predictions/],
        [['--precision', 'bf16', ...labels], 2, /--precision cannot be combined with --predictions/],
        [['--labels', 'pair/labels'], 2, /--predictions needs --classes, or a --label-map/],
        [[...labels, '--mean-classes', 'a,d'], 1, /There is no class 'd'; expected some of a, b, c/],
      ] as const) {
        const result = await run(['evaluate', '--predictions', 'predictions', ...args]);
        assert.equal(result.code, code, result.stderr);
        assert.match(result.stderr, message);
        assert.match(result.stderr, /^bidiseg: [^\n]*\n$/);
      }
    });
  });
});
