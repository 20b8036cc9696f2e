import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import YAML from 'yaml';
import { createConfig, loadConfig } from '../../../lib/config/load.js';
import type { PartialConfig } from '../../../lib/config/schema.js';
import { ConfigError } from '../../../lib/support/errors.js';

const data: PartialConfig['data'] = {
  classes: ['road', 'sky', 'other'],
  source: { images: 's/images', labels: 's/labels' },
  target: { train: { images: 't/images' } },
};
const minimal = { output: 'runs/test', data };

describe('config files', () => {
  let folder: string;

  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-config-'));
  });

  after(() => rm(folder, { recursive: true }));

  async function write(content: unknown, name = 'config.yaml'): Promise<string> {
    const file = path.join(folder, name);
    const text = typeof content === 'string' ? content : YAML.stringify(content);
    await writeFile(file, text);
    return file;
  }

  async function fails(file: string, pattern: RegExp, set: string[] = []): Promise<void> {
    await assert.rejects(loadConfig(file, { set }), (error: Error) => {
      assert(error instanceof ConfigError, `${error.name}: ${error.message}`);
      assert.match(error.message, pattern);
      assert(!error.message.includes('\n'), 'the message is one line');
      return true;
    });
  }

  describe('values', () => {
    it('takes missing keys from the defaults, which are the paper’s', async () => {
      const config = await loadConfig(await write(minimal));
      assert.equal(config.segmentation.learningRate, 2.5e-4);
      assert.deepEqual(config.segmentation.schedule, { kind: 'poly', power: 0.9, totalSteps: 250_000 });
      assert.equal(config.segmentation.normalize, 'all');
      assert.equal(config.translation.identityWeight, 0);
      assert.equal(config.selfTraining.method, 'mpt');
      const loop = { rounds: 2, translation: 'learned', selfTrainingRounds: 2, selfTrainingRoundsLast: null };
      assert.deepEqual(config.loop, { ...loop, startFrom: 'initial' });
      assert.equal(config.data.target.val, null);
    });

    it('reads JSON', async () => {
      const file = await write(JSON.stringify({ ...minimal, seed: 7 }), 'config.json');
      assert.equal((await loadConfig(file)).seed, 7);
    });

    it('overrides the preset by the file, and the file by assignments, of which the last one counts', async () => {
      const file = await write({ ...minimal, preset: 'reference', translation: { identityWeight: 3 } });
      const set = ['selfTraining.portion=0.25', 'seed=5', 'seed=6', 'sizes.evaluation=[64, 32]'];
      const config = await loadConfig(file, { set });
      assert.equal(config.translation.perceptualForm, 'normalized-mse');
      assert.equal(config.translation.identityWeight, 3);
      assert.equal(config.selfTraining.method, 'per-class');
      assert.equal(config.selfTraining.portion, 0.25);
      assert.equal(config.seed, 6);
      assert.deepEqual(config.sizes.evaluation, [64, 32]);
    });

    it('takes a value of an assignment whole, or refuses it', async () => {
      const file = await write(minimal);
      // Paths that PyYAML or a shell user would type; the value is what stands after the first equals sign.
      const whole = [
        'exp #2',
        '#2',
        'a=b',
        'a # b # c',
        'C#',
        'it\'s "x"',
        'a, b',
        'x\ny',
        'a\t# b',
        'R&D *',
        '100%',
      ];
      for (const text of whole) {
        const { output } = await loadConfig(file, { set: [`output=${text}`] });
        assert.equal(path.basename(output), text, JSON.stringify(text));
      }
      assert.equal(path.basename((await loadConfig(file, { set: ['output="a #1"'] })).output), 'a #1');
      const refused: [value: string, what: RegExp][] = [
        ['"exp" #2', /found #2, which YAML takes for a comment; expected text with it in quotes$/],
        ["'exp' #2", /found #2, which YAML takes for a comment/],
        ['exp: #2', /found #2, which YAML takes for a comment/],
        ['[64, 32] # small', /found # small, which YAML takes for a comment/],
        ['{a: 1} #', /found #, which YAML takes for a comment/],
        ['&a b', /found &a, which YAML takes for an anchor/],
        ['*a', /found \*a, which YAML takes for an alias/],
        ['!!str 5', /found !!str, which YAML takes for a tag/],
        ['!x 5', /found !x, which YAML takes for a tag/],
        ['--- x', /found ---, which YAML takes for the start of a document/],
        ['...', /found \.\.\., which YAML takes for the end of a document/],
        ['a\n---\nb', /found ---, which YAML takes for the start/],
        ['%x', /found %x, which YAML takes for a directive/],
        ['|\n a', /found \|, which YAML takes for the start of a block of text/],
        ['> a', /found >, which YAML takes for the start of a block of text/],
        ['1e3', /output: expected a folder but found 1000 of type number/],
        ['null', /output: expected a folder but found null/],
      ];
      for (const [value, pattern] of refused) await fails(file, pattern, [`output=${value}`]);
    });

    it('lets an assignment name another preset', async () => {
      const file = await write({ ...minimal, preset: 'paper' });
      const config = await loadConfig(file, { set: ['preset=reference'] });
      assert.equal(config.segmentation.repeatedStep, true);
    });

    it('replaces a schedule of another kind as a whole', async () => {
      const file = await write({
        ...minimal,
        preset: 'cpu-small',
        segmentation: { schedule: { kind: 'constant' } },
      });
      assert.deepEqual((await loadConfig(file)).segmentation.schedule, { kind: 'constant' });
      const stepped = await loadConfig(file, { set: ['segmentation.schedule={kind: step, every: 10}'] });
      assert.deepEqual(stepped.segmentation.schedule, { kind: 'step', every: 10, factor: 0.1 });
    });

    it('changes one key of a schedule of the same kind', async () => {
      const file = await write({ ...minimal, preset: 'cpu-small' });
      const config = await loadConfig(file, { set: ['segmentation.schedule.power=2'] });
      assert.deepEqual(config.segmentation.schedule, { kind: 'poly', power: 2, totalSteps: null });
    });

    it('takes label maps as tables', async () => {
      const source = { images: 'a', labels: 'b', labelMap: { 7: 0, 33: 2 } };
      const config = await loadConfig(await write({ ...minimal, data: { ...data, source } }));
      assert.deepEqual(config.data.source.labelMap, { 7: 0, 33: 2 });
      const colors = await write(`
output: runs/test
data:
  classes: [road, car]
  source: { images: a, labels: b, labelMap: { 128 64 128: 0, '0,0,142': 1, 0 0 0: 255 } }
  target: { train: { images: t } }
`);
      const other = await loadConfig(colors);
      assert.deepEqual(other.data.source.labelMap, { '128 64 128': 0, '0,0,142': 1, '0 0 0': 255 });
    });

    it('reads what it wrote as the same config', async () => {
      const config = await loadConfig(await write({ ...minimal, preset: 'cpu-small' }));
      assert.deepEqual(await loadConfig(await write(config, 'again.yaml')), config);
    });
  });

  describe('paths', () => {
    it('start at the file for the data, at the working directory for the output', async () => {
      const config = await loadConfig(
        await write({
          ...minimal,
          data: { ...data, root: '../sets' },
          segmenter: { initialWeights: 'm.safetensors' },
        }),
      );
      assert.equal(config.data.root, path.resolve(folder, '../sets'));
      assert.equal(config.data.source.images, 's/images');
      assert.equal(config.segmenter.initialWeights, path.join(folder, 'm.safetensors'));
      assert.equal(config.output, path.resolve('runs/test'));
    });

    it('start at the file’s folder without a root, and leave an absolute root alone', async () => {
      const file = await write(minimal);
      assert.equal((await loadConfig(file)).data.root, folder);
      assert.equal((await loadConfig(file, { set: ['data.root=/sets'] })).data.root, '/sets');
    });

    it('leave the root of generated data to the run folder', () => {
      assert.equal(createConfig({ preset: 'demo' }).data.root, null);
    });
  });

  describe('faults', () => {
    const cases: [name: string, content: unknown, pattern: RegExp][] = [
      [
        'a mistyped key, with the key that was meant',
        { ...minimal, segmentation: { learningrate: 1 } },
        /config\.yaml: segmentation\.learningrate: unknown key; did you mean learningRate\?$/,
      ],
      [
        'a key unlike any, with those there are',
        { ...minimal, loop: { bananas: 1 } },
        /loop\.bananas: unknown key; expected one of rounds, translation, selfTrainingRounds, selfTrainingRoundsLast, startFrom$/,
      ],
      [
        'an unknown key at the top',
        { ...minimal, sede: 1 },
        /config\.yaml: sede: unknown key; did you mean seed\?/,
      ],
      [
        'a key of another kind of schedule',
        { ...minimal, segmentation: { schedule: { kind: 'constant', power: 1 } } },
        /segmentation\.schedule\.power: unknown key/,
      ],
      [
        'a mistyped key within a default',
        { ...minimal, segmentation: { schedule: { kind: 'poly', powr: 1 } } },
        /segmentation\.schedule\.powr: unknown key; did you mean power\?/,
      ],
      [
        'a number out of range',
        { ...minimal, selfTraining: { threshold: 1.5 } },
        /selfTraining\.threshold: expected a number from 0 to 1 but found 1\.5 of type number/,
      ],
      [
        'a fraction for a count',
        { ...minimal, translation: { steps: 1.5 } },
        /translation\.steps: expected a whole number from 1 to 1000000000 but found 1\.5/,
      ],
      [
        'another type',
        { ...minimal, seed: 'one' },
        /seed: expected a whole number ≥ 0 but found "one" of type string/,
      ],
      [
        'not a number',
        `${YAML.stringify(minimal)}\nseed: .nan`,
        /seed: expected a whole number ≥ 0 but found NaN/,
      ],
      [
        'a choice there is not',
        { ...minimal, segmentation: { optimizer: 'lion' } },
        /segmentation\.optimizer: expected one of sgd, adam but found "lion"/,
      ],
      [
        'a size of three numbers',
        { ...minimal, sizes: { source: [1, 2, 3] } },
        /sizes\.source: expected a size \[width, height\] in pixels but found an array of 3/,
      ],
      [
        'a side out of range',
        { ...minimal, sizes: { source: [640, 7] } },
        /sizes\.source\.1: expected a whole number from 32 to 16384 but found 7/,
      ],
      [
        'a section that is none',
        { ...minimal, loop: 3 },
        /loop: expected a section .* but found 3 of type number/,
      ],
      ['a missing section', { output: 'x' }, /data: expected a section .* but it is missing/],
      [
        'a missing key',
        { ...minimal, data: { ...data, classes: undefined } },
        /data\.classes: expected one of cityscapes, camvid, street-scenes, or a list .* but it is missing/,
      ],
      [
        'equal class names',
        { ...minimal, data: { ...data, classes: ['road', 'road'] } },
        /data\.classes: .*different class names but found an array of 2/,
      ],
      [
        'an ignore index that is a class',
        { ...minimal, data: { ...data, ignoreIndex: 2 } },
        /data\.ignoreIndex: expected a number that is not a class index \(0 to 2\) but found 2/,
      ],
      [
        'an ignore index that is a class of a known list',
        { ...minimal, data: { ...data, classes: 'camvid', ignoreIndex: 10 } },
        /data\.ignoreIndex: expected a number that is not a class index \(0 to 10\) but found 10/,
      ],
      [
        'a palette of another length than a known list',
        { ...minimal, data: { ...data, classes: 'camvid', palette: [[0, 0, 0]] } },
        /data\.palette: expected 11 colors, one a class but found an array of 1/,
      ],
      [
        'a palette of another length',
        { ...minimal, data: { ...data, palette: [[0, 0, 0]] } },
        /data\.palette: expected 3 colors, one a class but found an array of 1/,
      ],
      [
        'both a folder and a list',
        { ...minimal, data: { ...data, source: { images: 'a', labels: 'b', list: 'c' } } },
        /data\.source: expected exactly one of 'images' \(a folder\) and 'list' \(a file\)/,
      ],
      [
        'a source without labels',
        { ...minimal, data: { ...data, source: { images: 'a' } } },
        /data\.source\.labels: expected a folder of label maps but it is missing/,
      ],
      [
        'a label map that is none',
        { ...minimal, data: { ...data, source: { images: 'a', labels: 'b', labelMap: 'kitti' } } },
        /data\.source\.labelMap: expected one of identity, .* but found "kitti"/,
      ],
      [
        'an id that no label file can hold',
        { ...minimal, data: { ...data, source: { images: 'a', labels: 'b', labelMap: { 70000: 1 } } } },
        /data\.source\.labelMap: expected one of identity, .* but found an instance of Object/,
      ],
      [
        'a table of ids and colors',
        {
          ...minimal,
          data: { ...data, source: { images: 'a', labels: 'b', labelMap: { 7: 1, '1 2 3': 0 } } },
        },
        /data\.source\.labelMap: expected one of identity, .* or color \(R G B\): class index but found/,
      ],
      [
        'a class that no label image can hold',
        { ...minimal, data: { ...data, source: { images: 'a', labels: 'b', labelMap: { 7: 256 } } } },
        /data\.source\.labelMap.*: expected .* but found/,
      ],
      [
        'a crop that does not fit',
        { ...minimal, sizes: { translation: { crop: [1028, 512] } } },
        /sizes\.translation\.crop: expected a crop within 1024×512, or null/,
      ],
      [
        'a part from its end to its beginning',
        { ...minimal, data: { ...minimal.data, target: { train: { images: 'a', part: [1, 0.5] } } } },
        /data\.target\.train\.part: expected two numbers \[from, to\] from 0 to 1, the first below the second/,
      ],
      [
        'rounds that would all be the same',
        { ...minimal, loop: { translation: 'none' } },
        /loop\.translation: expected learned, or loop\.rounds 0 or 1 instead of 2, but found "none"/,
      ],
      [
        'scales in the wrong order',
        { ...minimal, segmentation: { augmentation: { source: { scale: [2, 0.5] } } } },
        /segmentation\.augmentation\.source\.scale: expected two numbers \[min, max\] from 0\.1 to 10/,
      ],
      [
        'objects of no class',
        { ...minimal, segmentation: { copyPaste: { classes: [] } } },
        /segmentation\.copyPaste\.classes: expected a list of class names/,
      ],
      [
        'a crop of what is smaller',
        { ...minimal, segmentation: { augmentation: { target: { crop: [1028, 512] } } } },
        /augmentation\.target\.crop: expected a crop within sizes\.target \(1024×512\), null, or a scale/,
      ],
      [
        'a crop that the generators would not give back',
        { ...minimal, sizes: { translation: { crop: [450, 452] } } },
        /sizes\.translation\.crop: expected a width and height divisible by 4/,
      ],
      [
        'ClassMix on images of two sizes',
        { ...minimal, segmentation: { teacher: {} } },
        /segmentation\.teacher\.classMix: expected false, or crops of one size for source \(1280×720\) and target \(1024×512\)/,
      ],
      [
        'a share of patches out of range',
        { ...minimal, segmentation: { teacher: { classMix: false, masking: { ratio: 70 } } } },
        /segmentation\.teacher\.masking\.ratio: expected a number from 0 to 1 but found 70/,
      ],
      [
        'a teacher’s decay out of range',
        { ...minimal, segmentation: { teacher: { decay: 1.5 } } },
        /segmentation\.teacher\.decay: expected a number from 0 to 1 but found 1\.5/,
      ],
      [
        'an alignment there is not',
        { ...minimal, segmentation: { alignment: 'means' } },
        /segmentation\.alignment: expected one of output-discriminator, entropy-discriminator, .* but found "means"/,
      ],
      [
        'a crop that the U-Net would not give back',
        { ...minimal, translation: { pairing: 'paired' } },
        /sizes\.translation\.crop: expected a width and height divisible by 256 \(2 to the power of translator\.depth\)/,
      ],
      [
        'pairs of two sizes',
        {
          ...minimal,
          translation: { pairing: 'paired' },
          sizes: { translation: { crop: [512, 256], target: [1024, 512] } },
        },
        /sizes\.translation\.target: expected the size of sizes\.translation\.source \(1024×562\), because paired images have one size, but found/,
      ],
      [
        'whole images of two sizes',
        { ...minimal, sizes: { translation: { source: [1024, 560], crop: null } } },
        /sizes\.translation\.source: expected the size of sizes\.translation\.target \(1024×512\)/,
      ],
      [
        'more flat steps than steps',
        { ...minimal, translation: { steps: 10, constantSteps: 11 } },
        /translation\.constantSteps: expected a whole number up to translation\.steps \(10\) but found 11/,
      ],
      [
        'CUDA graphs of parts of a batch',
        { ...minimal, translation: { cudaGraphs: true, microBatchSize: 1 } },
        /translation\.cudaGraphs: expected false, or translation\.microBatchSize null instead of 1, but found true/,
      ],
      [
        'CUDA graphs of dropout',
        { ...minimal, segmenter: { network: 'fcn-8s' }, segmentation: { cudaGraphs: true } },
        /segmentation\.cudaGraphs: expected false, or segmenter\.network deeplab-v2 instead of fcn-8s, but found true/,
      ],
      [
        'float64 on a GPU',
        { ...minimal, dtype: 'float64', device: 'cuda:1' },
        /dtype: expected float32, or device cpu instead of cuda:1, but found "float64"/,
      ],
      [
        'float64 in bf16',
        { ...minimal, dtype: 'float64', translation: { precision: 'bf16' } },
        /translation\.precision: expected fp32, or dtype float32, but found "bf16"/,
      ],
      [
        'a device there is not',
        { ...minimal, device: 'gpu' },
        /device: expected cpu, cuda or cuda:N but found "gpu"/,
      ],
      [
        'a mistyped preset',
        { ...minimal, preset: 'cpu_small' },
        /preset: expected one of paper, .* but found "cpu_small" of type string; did you mean cpu-small\?/,
      ],
      [
        'a preset named like an object’s own method',
        { ...minimal, preset: 'toString' },
        /preset: expected one of/,
      ],
      [
        'a list instead of keys',
        '- a\n- b\n',
        /config\.yaml: expected a table of keys but found an array of 2/,
      ],
      ['an empty file', '', /config\.yaml: expected a table of keys but found null/],
      ['broken YAML', 'data: [1, 2', /config\.yaml: is not valid YAML: .*line 1/],
      ['a key given twice', 'seed: 1\nseed: 2\n', /config\.yaml: is not valid YAML: Map keys must be unique/],
    ];
    for (const [name, content, pattern] of cases) {
      it(`are reported: ${name}`, async () => fails(await write(content), pattern));
    }

    it('are reported: several at once, each with its key', async () => {
      const file = await write({ ...minimal, seed: -1, sede: 1, device: 'x', logEvery: 0, sampleCount: -1 });
      await fails(file, /seed: .*; .*: device: .*; .*; and 2 more$/);
    });

    it('are reported: broken JSON', async () => {
      await fails(await write('{"seed": 1,}', 'broken.json'), /broken\.json: is not valid JSON/);
    });

    it('are reported: no such file', () => fails(path.join(folder, 'none.yaml'), /none\.yaml: no such file/));

    it('are reported: a folder instead of a file', async () => {
      await rm(path.join(folder, 'd.yaml'), { recursive: true, force: true });
      await fails(path.dirname(await write('', 'x.yaml')), /: is a folder, expected a file$/);
    });

    it('are reported: an unknown kind of file', async () => {
      await fails(
        await write(minimal, 'config.toml'),
        /config\.toml: expected a name that ends in \.yaml, \.yml or \.json/,
      );
    });

    it('are reported with the assignment they come from', async () => {
      const file = await write(minimal);
      await fails(file, /^--set loop\.rounds=-1: loop\.rounds: expected/, ['loop.rounds=-1']);
      await fails(file, /^--set loop\.rond=1: loop\.rond: unknown key/, ['seed=2', 'loop.rond=1']);
      await fails(file, /^--set seed: expected an assignment such as/, ['seed']);
      await fails(file, /^--set =1: expected an assignment such as/, ['=1']);
      await fails(file, /^--set loop\.\.rounds=1: expected an assignment such as/, ['loop..rounds=1']);
      await fails(file, /^--set seed=\[1: is not valid YAML/, ['seed=[1']);
      await fails(file, /^--set preset=papper: preset: .*did you mean paper\?/, ['preset=papper']);
    });

    it('are reported with the file that overrides the preset', async () => {
      await fails(
        await write({ ...minimal, preset: 'cpu-small', segmentation: { flip: 1 } }),
        /config\.yaml: segmentation\.flip/,
      );
    });
  });

  describe('names of version 1', () => {
    it('give one error that names the new name, in every layer', async () => {
      const old = async (section: string, values: object) =>
        write({ ...minimal, [section]: values }, `${section}.yaml`);
      await fails(
        await old('segmentation', { normalise: 'all' }),
        /segmentation\.yaml: segmentation\.normalise is now called segmentation\.normalize$/,
      );
      await fails(
        await old('segmentation', { augmentation: { source: { colourJitter: { hue: 0.1 } } } }),
        /augmentation\.source\.colourJitter is now called segmentation\.augmentation\.source\.colorJitter$/,
      );
      await fails(
        await write(minimal),
        /^--set segmenter\.initialisation=normal: segmenter\.initialisation is now called segmenter\.initialization$/,
        ['segmenter.initialisation=normal'],
      );
      await fails(
        await old('translation', { perceptualForm: 'normalised-mse' }),
        /translation\.perceptualForm: normalised-mse is now called normalized-mse$/,
      );
    });

    it('do not prevent a file of version 1 that uses none of them', async () => {
      const file = await write({ version: 1, ...minimal, seed: 5 }, 'one.yaml');
      assert.equal((await loadConfig(file)).seed, 5);
    });
  });

  describe('hostile configs', () => {
    it('cannot name code', async () => {
      for (const tag of ['!!js/function', '!!python/object/apply:os.system', '!mine']) {
        await fails(await write(`output: ${tag} x\n`), /config\.yaml: is not valid YAML: Unresolved tag/);
        await fails(await write(minimal), /--set output=.*: found !.*, which YAML takes for a tag/, [
          `output=${tag} x`,
        ]);
      }
    });

    it('are refused for excessive nesting, length, aliases or time', async () => {
      const deep = `${'{"output":'.repeat(5000)}1${'}'.repeat(5000)}`;
      await fails(await write(deep, 'deep.json'), /deep\.json: found tables nested more than 32 deep/);
      for (const opening of ['? ', '- ', '[', '{a: ', '- ? ', '{? [']) {
        await fails(
          await write(opening.repeat(65_536 / opening.length)),
          /config\.yaml: is not valid YAML: (Nested more than 32 levels deep|A key that is a list or a table)/,
        );
      }
      const circle: Record<string, unknown> = { ...minimal };
      circle.loop = circle;
      assert.throws(() => createConfig(circle), {
        code: 'ERR_CONFIG',
        message: /more than 32 deep, or in a circle/,
      });
      await fails(
        await write(`#${'x'.repeat(70_000)}`),
        /config\.yaml: found 70001 bytes, expected at most 65536/,
      );
      const letters = [...'abcdefghi'];
      const laughs = letters.map((name, i) => {
        const items = Array.from({ length: 9 }, () => (i === 0 ? 'ha' : `*${letters[i - 1]}`));
        return `${name}: &${name} [${items.join(', ')}]`;
      });
      await fails(await write(laughs.join('\n')), /is not valid YAML: Excessive alias count/);
      execFileSync('mkfifo', [path.join(folder, 'pipe.yaml')]);
      await fails(path.join(folder, 'pipe.yaml'), /pipe\.yaml: is a pipe, socket or device, expected a file/);
    });

    it('give no long message', async () => {
      await fails(await write({ ...minimal, device: 'x'.repeat(10_000) }), /^.{1,700}$/);
      await fails(await write(`${'k'.repeat(10_000)}: 1\n`), /^.{1,900}$/);
      await fails(await write('"a\\nb": 1\n'), /a b: unknown key/);
      await fails(await write(minimal), /^.{1,900}$/, [`device=${'x'.repeat(10_000)}`]);
    });
  });

  describe('keys that objects have by nature', () => {
    const names = ['__proto__', 'constructor', 'prototype', 'toString'];
    for (const name of names) {
      it(`does not take ${name} for a key`, async () => {
        await fails(await write(`${YAML.stringify(minimal)}\n${name}: {polluted: 1}\n`), /unknown key/);
        await fails(
          await write(JSON.stringify(minimal).replace('{', `{"${name}": {"polluted": 1},`), 'p.json'),
          /unknown key/,
        );
        const set = [`${name}.polluted=1`, `loop.${name}.polluted=1`];
        for (const assignment of set) await fails(await write(minimal), /unknown key/, [assignment]);
        assert.equal(({} as Record<string, unknown>).polluted, undefined);
      });
    }
  });
});
