import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { Segmenter, Tensor, Translator } from 'bidiseg';
import { createConfig } from '../../lib/config/load.js';
import { createSegmenter } from '../../lib/pipeline/models.js';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

/** Small members, as the twin and this package describe them. */
const SHAPE = { backbone: 'resnet18', width: 1 / 16, classCount: 5 } as const;
const GENERATOR = { kind: 'resnet-generator', options: { blocks: 6, baseWidth: 4 } };

/** Weights with the names of other code: what the twin builds, the prefix of its names, and what is left out. */
const NAMINGS = [
  {
    whose: "AdaptSegNet's, two heads",
    network: { kind: 'multi-level', options: SHAPE },
    prefix: '',
    left: 8,
  },
  {
    whose: "ADVENT's, two heads, parallel",
    network: { kind: 'multi-level', options: SHAPE },
    prefix: 'module.',
    left: 8,
  },
  {
    whose: "ADVENT's, one head",
    network: { kind: 'multi-level', options: { ...SHAPE, multiLevel: false } },
    prefix: '',
    left: 0,
  },
  {
    whose: "the Transfer Learning Library's",
    network: { kind: 'split', options: SHAPE },
    prefix: '',
    left: 0,
  },
  { whose: "a student's", network: { kind: 'split', options: SHAPE }, prefix: 'student.', left: 0 },
];

describe('weights of other code', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  let files = 0;
  const newFile = (extension: string) => folder.path(`${++files}.${extension}`);
  after(folder.remove);

  async function saved(network: object, changes: object = {}): Promise<string> {
    const file = newFile('pth');
    await twin().ask({ do: 'saveNetwork', network, file, seed: files, ...changes });
    return file;
  }

  async function savedShapes(shapes: Record<string, number[]>): Promise<string> {
    const file = newFile('pth');
    await twin().ask({ do: 'saveShapes', shapes, file });
    return file;
  }

  async function convert(...args: string[]): Promise<{ result: Record<string, unknown>; output: string }> {
    const output = newFile('safetensors');
    const [input, ...others] = args;
    const { code, stdout, stderr } = await bidiseg(['convert', '--json', input!, output, ...others]);
    assert.equal(code, 0, stderr);
    return { result: jsonLines(stdout).at(-1)!, output };
  }

  async function fails(args: string[], message: RegExp, code = 1): Promise<void> {
    const result = await bidiseg(args);
    assert.equal(result.code, code, result.stdout);
    assert.match(result.stderr.trim(), message);
    assert.equal(result.stderr.trim().split('\n').length, 1, result.stderr);
  }

  /** The first segmenter of a run with these initial weights; it has ten classes. */
  function initial(file: string, backbone: 'resnet18' | 'resnet50' = 'resnet18'): Promise<Segmenter> {
    const segmenter = { backbone, width: 1 / 16, initialWeights: file };
    return createSegmenter(createConfig({ preset: 'demo', output: folder.path('run'), segmenter }));
  }

  /** The distance of a segmenter's logits from those of the module that the weights are from. */
  async function logitsError(segmenter: Segmenter, request: object): Promise<number> {
    const shape = [2, 3, 33, 41];
    const data = Float32Array.from(randomBytes(2 * 3 * 33 * 41, 3), (byte) => byte - 128);
    await segmenter.eval();
    using input = Tensor.from(data, shape);
    using output = await segmenter.forward(input);
    const kase = folder.path('case');
    writeTensors(kase, {
      input: { data, shape },
      output: { data: (await output.data()) as Float32Array, shape: output.shape },
    });
    return twin().ask({ do: 'foreignForward', case: kase, ...request });
  }

  it('predict as the code that they are from', async () => {
    const rows: Measurement[] = [];
    for (const { whose, network, prefix, left } of NAMINGS) {
      const pth = await saved(network, { prefix });
      const { result, output } = await convert(pth);
      assert.equal(result.architecture, 'deeplab-v2');
      assert.equal((result.skipped as unknown[]).length, left);
      assert.ok((result.renamed as unknown[]).length > 0);
      using converted = await Segmenter.fromFile(output);
      rows.push({
        item: `${whose}, converted`,
        error: await logitsError(converted, { network, pth, prefix }),
        bound: 1e-5,
      });

      using loaded = await Segmenter.create(SHAPE);
      const report = await loaded.load(pth);
      assert.deepEqual(
        report.skipped.map(({ reason }) => reason),
        Array(left).fill('auxiliary head on layer3; layer6 is the head that predicts and became layer5'),
      );
      rows.push({
        item: `${whose}, loaded`,
        error: await logitsError(loaded, { network, pth, prefix }),
        bound: 1e-5,
      });
    }
    printAndCheck('logits of weights with other names', rows);
  });

  it('start a run with the head that was trained', async () => {
    const network = { kind: 'multi-level', options: { ...SHAPE, classCount: 10 } };
    const pth = await saved(network);
    using segmenter = await initial(pth);
    assert.ok((await logitsError(segmenter, { network, pth })) < 1e-5);
  });

  it('of a ResNet with other blocks do not load, strict or not', async () => {
    const of = (backbone: string) => saved({ kind: 'deeplab-v2', options: { ...SHAPE, backbone } });
    const [large, small] = [await of('resnet101'), await of('resnet34')];
    using segmenter = await Segmenter.create({ ...SHAPE, backbone: 'resnet50' });
    for (const strict of [true, false]) {
      await assert.rejects(
        () => segmenter.load(large, { strict }),
        /found the weights of a resnet101, expected those of a resnet50/,
      );
      await assert.rejects(
        () => segmenter.load(small, { strict }),
        /found the weights of a resnet34, expected those of a resnet50/,
      );
    }
    await assert.rejects(() => initial(large, 'resnet50'), /resnet101.*resnet50/);
    using translator = await Translator.create({ blocks: 9, baseWidth: 4, discriminatorWidth: 4 });
    const six = await saved(GENERATOR);
    await assert.rejects(
      () => translator.toTarget.load(six, { strict: false }),
      /generator with 6 blocks.*9 blocks/,
    );
    await assert.rejects(() => translator.load(six, { strict: false }), /generator with 6 blocks.*9 blocks/);
  });

  it('of mmsegmentation are refused with the reason', async () => {
    const mmseg = await savedShapes({
      'backbone.stem.0.weight': [4, 3, 3, 3],
      'decode_head.conv_seg.weight': [5, 4, 1, 1],
    });
    await fails(['convert', mmseg, folder.path('no')], /mmsegmentation.*rename backbone\.\* to \*/);
    assert.ok(!existsSync(folder.path('no')));
  });

  it('of CycleGAN become a translator, with or without the way back', async () => {
    const [a, b] = [await saved(GENERATOR), await saved(GENERATOR, { prefix: 'module.' })];
    const image = folder.path('image.png');
    const same = async (translator: Translator, way: 'toTarget' | 'toSource', pth: string, prefix = '') => {
      const safetensors = newFile('safetensors');
      await translator[way].save(safetensors);
      const different = await twin().ask({
        do: 'compareNetwork',
        network: GENERATOR,
        pth,
        safetensors,
        prefix,
      });
      assert.deepEqual(different, []);
    };

    using both = await Translator.fromFile(a, { back: b });
    await same(both, 'toTarget', a);
    await same(both, 'toSource', b, 'module.');
    using one = await Translator.fromFile(a);
    await same(one, 'toTarget', a);
    const job = { count: 1, width: 8, height: 8 };
    const pixels = randomBytes(192, 1);
    assert.deepEqual(await one.translate(pixels, job), await both.translate(pixels, job));
    await assert.rejects(
      () => one.translate(pixels, { ...job, direction: 'target-to-source' }),
      /both generators but this one comes from a file with one generator/,
    );

    using full = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    const report = await full.load(a);
    assert.deepEqual(report.renamed, [{ from: '', to: 'to_target.' }]);
    assert.ok(report.missing.includes('to_source.model.1.weight'));
    assert.ok(
      (await full.load(a, { back: b })).missing.every((name) => /^(target|source)_discriminator/.test(name)),
    );
    await same(full, 'toSource', b, 'module.');

    const single = await convert(a);
    assert.deepEqual(single.result.missing, ['to_source', 'target_discriminator', 'source_discriminator']);
    assert.equal(single.result.architecture, 'translator');
    const pair = await convert(a, '--back', b);
    assert.deepEqual(pair.result.missing, ['target_discriminator', 'source_discriminator']);
    using converted = await Translator.fromFile(pair.output);
    await same(converted, 'toTarget', a);
    await same(converted, 'toSource', b, 'module.');
    using alone = await Translator.fromFile(single.output);
    const again = newFile('safetensors');
    await alone.save(again);
    using reread = await Translator.fromFile(again);
    await same(reread, 'toTarget', a);
    assert.throws(() => reread.toSource, /comes from a file with one generator/);

    const { writeImage } = await import('../../lib/data/image-codec.js');
    await writeImage(image, { data: pixels, width: 8, height: 8 });
    const out = folder.path('translated');
    const back = ['--direction', 'target-to-source', '-o', out];
    for (const weights of [a, single.output]) {
      await fails(
        ['translate', image, '--weights', weights, ...back],
        /found one generator, from source to target.*--back FILE/,
      );
    }
    assert.ok(!existsSync(out));
    const { code, stderr } = await bidiseg(['translate', image, '--weights', a, '--back', b, ...back]);
    assert.equal(code, 0, stderr);
    await fails(['translate', image, '--run', 'x', '--back', b, '-o', out], /--back needs --weights/, 2);

    const nine = await saved({ kind: 'resnet-generator', options: { blocks: 9, baseWidth: 4 } });
    await assert.rejects(
      () => Translator.fromFile(a, { back: nine }),
      /blocks 9, baseWidth 4, expected a generator with blocks 6/,
    );
    await assert.rejects(
      () => Translator.fromFile(pair.output, { back: b }),
      /expected a generator alone beside/,
    );
  });

  it('of no network that there is are not converted, except raw', async () => {
    const plain = newFile('pth');
    await twin().ask({ do: 'saveCase', case: 'plain', file: plain, zip: true, protocol: 2 });
    const output = folder.path('not-written');
    await fails(
      ['convert', plain, output],
      /tensors such as weight, bias, count, which belong to no network.*--raw/,
    );
    // Named by its names, but a tensor is missing or of a type that is not read.
    const network = { kind: 'deeplab-v2', options: SHAPE };
    await fails(
      ['convert', await saved(network, { without: ['layer4.1.bn2.bias'] }), output],
      /missing layer4\.1\.bn2\.bias/,
    );
    assert.ok(!existsSync(output));
    const { result } = await convert(plain, '--raw');
    assert.deepEqual([result.tensors, result.architecture], [3, undefined]);
    await fails(['convert', plain, output, '--raw', '--branches', '2'], /--raw names no network/, 2);
  });

  it('beside other things are chosen by what fits, and what a network needs and cannot be read is an error', async () => {
    const file = newFile('pth');
    for (const [kase, message] of [
      ['two', /several dicts of tensors: a, b/],
      ['module alone', /Python global torch\.nn\.modules\.container\.Sequential,.*model\.state_dict\(\)/],
      ['module inside', /Python global torch\.nn\.modules\.container\.Sequential,.*model\.state_dict\(\)/],
    ] as const) {
      for (const zip of [true, false]) {
        await twin().ask({ do: 'saveCase', case: kase, file, zip, protocol: 2 });
        await fails(['convert', '--raw', file, folder.path('no')], message);
      }
    }
    const pth = newFile('pth');
    await twin().ask({ do: 'saveFound', network: { kind: 'deeplab-v2', options: SHAPE }, file: pth });
    using segmenter = await Segmenter.create(SHAPE);
    const report = await segmenter.load(pth);
    assert.equal(report.format, 'pytorch-zip');
    assert.deepEqual(report.skipped.map(({ name }) => name).sort(), ['args', 'discriminator', 'mask']);
    const { result } = await convert(pth);
    assert.deepEqual(result.path, ['trained']);

    const wanted = newFile('pth');
    await twin().ask({
      do: 'saveFound',
      network: { kind: 'deeplab-v2', options: SHAPE },
      file: wanted,
      lacking: 'bn1.bias',
    });
    for (const strict of [true, false]) {
      await assert.rejects(
        () => segmenter.load(wanted, { strict }),
        /'bn1\.bias' cannot be read: it is int8, a type/,
      );
    }
  });
});
