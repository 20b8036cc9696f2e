import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { readLabels, writeLabels } from '../../lib/data/label-codec.js';
import { labelMap } from '../../lib/data/label-maps.js';
import {
  bidiseg,
  CLASSES,
  jsonLines,
  temporaryFolder,
  writeTinyConfig,
  writeTinyData,
} from './command-line.js';

/** Ids in the label files and their classes; a fifth of the pixels has no label. */
const IDS: Record<number, number> = { 0: 255, 10: 0, 20: 1, 30: 2 };
const AS_INDEX = { labelMap: labelMap('identity'), classCount: 256, ignoreIndex: 255 };

describe("command line: evaluate with a run's label map, or another", () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const own = ['--images', 'target/images', '--labels', 'target/labels'];
  /** Rows of the confusion matrix, counted here from the files. */
  const expected = CLASSES.map(() => CLASSES.map(() => 0));

  async function evaluate(args: string[]): Promise<Record<string, unknown>> {
    const { code, stdout, stderr } = await bidiseg(['evaluate', ...args, '--json'], { cwd: folder.path });
    assert.equal(code, 0, stderr);
    return jsonLines(stdout).at(-1)!;
  }

  async function fails(args: string[], code: number, message: RegExp): Promise<void> {
    const result = await bidiseg(args, { cwd: folder.path });
    assert.equal(result.code, code, result.stderr);
    assert.match(result.stderr, /^bidiseg: [^\n]*\n$/);
    assert.match(result.stderr, message);
  }

  before(async () => {
    await writeTinyData(folder.path);
    for (const domain of ['source', 'target']) {
      for (const name of readdirSync(at(domain, 'labels'))) {
        const file = at(domain, 'labels', name);
        const { data, width, height } = await readLabels(file, AS_INDEX);
        const ids = data.map((index, pixel) => (pixel % 5 === 0 ? 0 : 10 * (index + 1)));
        await writeLabels(file, { data: ids, width, height });
      }
    }
    const source = { images: 'source/images', labels: 'source/labels', labelMap: IDS };
    const target = {
      train: { images: 'target/images' },
      val: { images: 'target/images', labels: 'target/labels', labelMap: IDS },
    };
    const config = writeTinyConfig(folder.path, {
      data: { source, target, meanClasses: ['ground', 'sky'] },
      loop: { rounds: 0 },
    });
    const trained = await bidiseg(['train', config], { cwd: folder.path });
    assert.equal(trained.code, 0, trained.stderr);
    const segmented = await bidiseg(
      ['segment', 'target/images', '-r', 'run', '-o', 'out', '--write', 'labels'],
      {
        cwd: folder.path,
      },
    );
    assert.equal(segmented.code, 0, segmented.stderr);
    for (const name of readdirSync(at('target/labels'))) {
      const [truth, prediction] = await Promise.all(
        [at('target/labels', name), at('out/labels', name)].map((file) => readLabels(file, AS_INDEX)),
      );
      for (const [pixel, id] of truth!.data.entries()) {
        if (id !== 0) expected[IDS[id]!]![prediction!.data[pixel]!]!++;
      }
    }
    writeFileSync(at('map.yaml'), '# ids of the camera\n0: 255 # nothing\n10: 0\n20: 1\n30: 2\n');
    writeFileSync(at('map.json'), JSON.stringify(IDS));
    writeFileSync(at('names.txt'), 'ground, wet\r\n\r\nblock\r\n  sky \r\n');
  });

  it('the run gives label map, classes, ignore index and mean classes', async () => {
    for (const images of [[], own]) {
      for (const network of [
        ['--run', 'run'],
        ['--weights', 'run/stages/source-only/weights.safetensors'],
      ]) {
        if (images.length === 0 && network[0] === '--weights') continue;
        const result = await evaluate([...network, ...images]);
        assert.deepEqual(result.confusion, expected, [...network, ...images].join(' '));
        assert.deepEqual(result.meanClasses, ['ground', 'sky']);
        assert.deepEqual(Object.keys(result.iouPerClass as object), CLASSES);
      }
    }
  });

  it('each of them can be another', async () => {
    const swapped = '{0: 255, 10: 1, 20: 0, 30: 2}';
    const rows = [expected[1], expected[0], expected[2]];
    // Also for the run's own validation images.
    for (const images of [[], own]) {
      const result = await evaluate(['--run', 'run', ...images, '--label-map', swapped]);
      assert.deepEqual(result.confusion, rows);
    }
    const unlabeled = await evaluate([
      '--run',
      'run',
      ...own,
      '--ignore-index',
      '0',
      '--label-map',
      JSON.stringify({ ...IDS, 0: 0, 10: 0 }),
    ]);
    assert.deepEqual(unlabeled.confusion, [[0, 0, 0], expected[1], expected[2]]);
    const named = await evaluate(['--run', 'run', '--classes', 'a,b,c']);
    assert.deepEqual([named.confusion, named.meanClasses], [expected, ['a', 'c']]);
    const all = await evaluate(['--run', 'run', '--mean-classes', '["block"]']);
    assert.deepEqual(all.meanClasses, ['block']);
    const small = await evaluate(['--run', 'run', ...own, '--output-size', '24x16', '--order', 'logits']);
    const pixels = (small.confusion as number[][]).flat().reduce((sum, count) => sum + count, 0);
    assert.ok(pixels > 0 && pixels <= 3 * 24 * 16);
  });

  it('a label map is a name, a table or a file, also for predictions and info', async () => {
    const predictions = [
      '--predictions',
      'out/labels',
      '--labels',
      'target/labels',
      '--classes',
      '@names.txt',
    ];
    for (const map of ['map.yaml', 'map.json', '{0: 255, 10: 0, 20: 1, 30: 2}', JSON.stringify(IDS)]) {
      const result = await evaluate([...predictions, '--label-map', map]);
      assert.deepEqual(result.confusion, expected, map);
      assert.deepEqual(Object.keys(result.iouPerClass as object), ['ground, wet', 'block', 'sky']);
    }
    const info = await bidiseg(
      ['info', 'target', '--label-map', 'map.yaml', '--classes', '["ground, wet", block, sky]', '--json'],
      { cwd: folder.path },
    );
    assert.equal(info.code, 0, info.stderr);
    const [part] = jsonLines(info.stdout).at(-1)!.parts as { classes: { class: string; pixels: number }[] }[];
    assert.deepEqual(
      part!.classes.map(({ class: name, pixels }) => [name, pixels]),
      ['ground, wet', 'block', 'sky'].map((name, index) => [name, expected[index]!.reduce((a, b) => a + b)]),
    );
  });

  it('without validation images the map of the source is taken, and said', async () => {
    const config = writeTinyConfig(folder.path, {
      data: {
        source: { images: 'source/images', labels: 'source/labels', labelMap: IDS },
        target: { train: { images: 'target/images' }, val: null },
      },
      loop: { rounds: 0 },
    });
    const trained = await bidiseg(['train', config, '-o', 'without'], { cwd: folder.path });
    assert.equal(trained.code, 0, trained.stderr);
    const { code, stdout } = await bidiseg(['evaluate', '--run', 'without', ...own], { cwd: folder.path });
    assert.equal(code, 0);
    assert.match(
      stdout,
      /label map of its source \(\{0: 255, 10: 0, 20: 1, 30: 2\}\); --label-map gives another/,
    );
  });

  it('says what it cannot read', async () => {
    const base = ['evaluate', '--predictions', 'out/labels', '--labels', 'target/labels'];
    mkdirSync(at('folder.yaml'));
    writeFileSync(at('list.yaml'), '- 1\n');
    for (const [args, code, message] of [
      [
        ['--label-map', 'kitti'],
        2,
        /^bidiseg: Expected one of identity, .* for --label-map but received 'kitti'/,
      ],
      [
        ['--label-map', '{0: 300}'],
        2,
        /--label-map: found 0: 300 of type number, expected a table of label id/,
      ],
      [
        ['--label-map', '{a: 3}'],
        2,
        /--label-map: found an instance of Object, expected a table of label id/,
      ],
      [['--label-map', '{0: 1 # x}'], 1, /--label-map: found # x}, which YAML takes for a comment/],
      [['--label-map', 'none.yaml'], 1, /none\.yaml: no such file/],
      [['--label-map', 'folder.yaml'], 1, /folder\.yaml: is a folder, expected a file/],
      [['--label-map', 'list.yaml'], 1, /list\.yaml: expected a table of keys but found an array of 1/],
      [
        ['--label-map', 'map.yaml'],
        2,
        /--predictions needs --classes, or a --label-map that defines the classes/,
      ],
      [['--classes', 'a'], 2, /^bidiseg: Expected at least two different class names .* but received 'a'/],
      [['--classes', '[a, 1]'], 2, /Expected a list of names such as \["a, b", "c"\] for --classes/],
      [['--classes', '@none.txt'], 1, /none\.txt: cannot be read/],
      [
        ['--classes', 'a,b', '--output-size', '8x8'],
        2,
        /--output-size cannot be combined with --predictions/,
      ],
      [['--ignore-index', '256'], 2, /Expected a whole number from 0 to 255/],
    ] as const) {
      await fails([...base, ...args], code, message);
    }
  });
});
