import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import YAML from 'yaml';
import { writeImage } from '../../lib/data/image-codec.js';
import { writeLabels } from '../../lib/data/label-codec.js';
import { randomBytes } from '../helpers/random.js';
import { bidiseg, jsonLines, temporaryFolder } from './command-line.js';

const SIZE = { width: 64, height: 48 };

describe('command line: init', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const run = (args: string[]) => bidiseg(args, { cwd: folder.path });

  async function images(place: string, count: number, ids?: readonly number[]): Promise<void> {
    mkdirSync(at(place, 'images'), { recursive: true });
    if (ids) mkdirSync(at(place, 'labels'), { recursive: true });
    for (let i = 0; i < count; i++) {
      const pixels = SIZE.width * SIZE.height;
      await writeImage(at(place, `images/${i}.png`), { ...SIZE, data: randomBytes(3 * pixels, i) });
      if (!ids) continue;
      const data = Uint8Array.from(randomBytes(pixels, i + 50, ids.length), (index) => ids[index]!);
      await writeLabels(at(place, `labels/${i}.png`), { ...SIZE, data });
    }
  }

  it('writes a config that trains, for two domains', async () => {
    await images('two/source', 3, [0, 1, 2, 255]);
    await images('two/target/train', 2);
    await images('two/target/val', 1, [0, 1, 2]);
    const { code, stdout, stderr } = await run(['init', 'two', '-o', 'two.yaml']);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^source: 3 labeled images in two\/source\/images$/m);
    assert.match(stdout, /^target: 2 images in two\/target\/train\/images$/m);
    assert.match(stdout, /^classes: ids 0 to 2 in 3 label files$/m);
    const text = readFileSync(at('two.yaml'), 'utf8');
    assert.match(text, /^# yaml-language-server: \$schema=.*config\.schema\.json$/m);
    const config = YAML.parse(text);
    assert.deepEqual(config.data.classes, ['class-0', 'class-1', 'class-2']);
    assert.deepEqual(config.sizes.source, [64, 48]);
    const tiny = ['segmenter.width=0.0625', 'discriminator.baseWidth=2', 'translator.baseWidth=2'];
    const short = ['steps', 'pseudoLabelSteps', 'sourceOnlySteps'].map((key) => `segmentation.${key}=2`);
    const set = [...tiny, ...short, 'translation.steps=2', 'translator.discriminatorWidth=2'];
    const trained = await run(['train', 'two.yaml', ...set.flatMap((each) => ['--set', each])]);
    assert.equal(trained.code, 0, trained.stderr);
  });

  it('makes a label map for ids that are not indices, such as masks of 0 and 255', async () => {
    await images('mask', 2, [0, 255]);
    const [line] = jsonLines((await run(['init', 'mask', '-o', 'mask.yaml', '--json'])).stdout);
    const { data, loop } = line as { data: { source: object; classes: string[] }; loop: object };
    assert.deepEqual(data.source, {
      images: 'mask/images',
      labels: 'mask/labels',
      labelMap: { 0: 0, 255: 1 },
    });
    assert.deepEqual(data.classes, ['class-0', 'class-255']);
    // A folder with one domain trains on it alone.
    assert.deepEqual(loop, { rounds: 0 });
  });

  it('overwrites nothing, and reports what is missing', async () => {
    writeFileSync(at('mine.yaml'), 'mine');
    const taken = await run(['init', 'two', '-o', 'mine.yaml']);
    assert.equal(taken.code, 2);
    assert.match(
      taken.stderr,
      /^bidiseg: mine\.yaml exists already; choose another file, or replace it with --overwrite$/m,
    );
    assert.equal(readFileSync(at('mine.yaml'), 'utf8'), 'mine');
    await images('unlabeled', 1);
    const { code, stderr } = await run(['init', 'unlabeled']);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^bidiseg: unlabeled: expected folders images and labels beside each other but found no labeled images/,
    );
  });
});
