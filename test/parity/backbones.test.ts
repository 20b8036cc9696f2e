import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Segmenter, segmenterInput, Tensor, Translator } from 'bidiseg';
import { createConfig } from '../../lib/config/load.js';
import { writeImage } from '../../lib/data/image-codec.js';
import { createSegmenter } from '../../lib/pipeline/models.js';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { randomBytes } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { readTensors, snapshot, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

const REAL = path.join(ROOT, '../shared/weights/vgg16-imagenet.safetensors');
const NORMALIZED = 'takes B, G, R minus a mean instead of normalized R, G, B';

/** Classifiers of torchvision, and images so large that the frame of zeros does not reach all features. */
const CLASSIFIERS = [
  { item: 'VGG-16', classifier: { kind: 'vgg16', width: 1 / 32 }, size: 602 },
  { item: 'VGG-16, float16', classifier: { kind: 'vgg16', width: 1 / 32, dtype: 'float16' }, size: 602 },
  { item: 'VGG-16 BN', classifier: { kind: 'vgg16', width: 1 / 32, norms: true }, size: 602 },
  { item: 'ResNet-18', classifier: { kind: 'resnet18', width: 1 / 16 }, size: 577 },
  { item: 'ResNet-34', classifier: { kind: 'resnet34', width: 1 / 16 }, size: 1057 },
  { item: 'ResNet-50', classifier: { kind: 'resnet50', width: 1 / 16 }, size: 577 },
] as const;

interface Errors {
  /** Number of features that the frame does not reach. */
  places: number;
  /** Largest error there, everywhere, and everywhere if the frame has the color of a segmenter's zero. */
  inside: number;
  everywhere: number;
  framed: number;
}

describe('backbones of ImageNet', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  let files = 0;
  const newFile = (extension: string) => folder.path(`${++files}.${extension}`);
  after(folder.remove);

  async function saved(classifier: object): Promise<string> {
    const file = newFile('pth');
    await twin().ask({ do: 'saveClassifier', file, seed: files, ...classifier });
    return file;
  }

  async function convert(...args: string[]): Promise<{ result: Record<string, unknown>; output: string }> {
    const output = newFile('safetensors');
    const [input, ...others] = args;
    const { code, stdout, stderr } = await bidiseg(['convert', '--json', input!, output, ...others]);
    assert.equal(code, 0, stderr);
    return { result: jsonLines(stdout).at(-1)!, output };
  }

  async function fails(args: string[], message: RegExp): Promise<void> {
    const result = await bidiseg(args);
    assert.equal(result.code, 1, result.stdout);
    assert.match(result.stderr.trim(), message);
    assert.equal(result.stderr.trim().split('\n').length, 1, result.stderr);
  }

  /** Returns the first segmenter of a run with these initial weights. */
  const initial = (segmenter: object) =>
    createSegmenter(createConfig({ preset: 'demo', output: folder.path('run'), segmenter }));

  async function featureErrors(segmenter: Segmenter, pth: string, size: number): Promise<Errors> {
    const shape = [1, size, size, 3];
    const data = randomBytes(size * size * 3, 5);
    await segmenter.eval();
    using images = Tensor.from(data, shape);
    using input = await segmenterInput(images);
    const output = await segmenter.forwardWithFeatures(input);
    using features = output.features;
    output.logits.dispose();
    const kase = folder.path('case');
    const values = { data: (await features.data()) as Float32Array, shape: features.shape };
    writeTensors(kase, { images: { data, shape }, features: values });
    const dilated = segmenter.options.network === 'deeplab-v2';
    return twin().ask({ do: 'classifierFeatures', case: kase, pth, dilated });
  }

  async function featureRows(
    item: string,
    segmenter: Segmenter,
    pth: string,
    size: number,
  ): Promise<Measurement[]> {
    const { places, inside, everywhere, framed } = await featureErrors(segmenter, pth, size);
    assert.ok(places > 0, `${item}: the frame reaches all features`);
    // The frame is another color, so there must be a difference. Otherwise the test sees nothing.
    assert.ok(everywhere > 1e-4, `${item}: ${everywhere}`);
    return [
      { item: `${item}, ${places} features inside`, error: inside, bound: 1e-5 },
      { item: `${item}, frame of the mean color`, error: framed, bound: 1e-5 },
      { item: `${item}, frame of zeros`, error: everywhere, bound: 0.1 },
    ];
  }

  it('compute the features of the classifier that they were', async () => {
    const rows: Measurement[] = [];
    for (const { item, classifier, size } of CLASSIFIERS) {
      const pth = await saved(classifier);
      using segmenter = await Segmenter.fromFile(pth, { classCount: 5 });
      rows.push(...(await featureRows(item, segmenter, pth, size)));
      if (classifier.kind !== 'vgg16') continue;
      const shape = { backbone: 'vgg16', width: classifier.width, classCount: 5 } as const;
      using dilated = await Segmenter.create(shape);
      const { missing, skipped } = await dilated.load(pth);
      assert.ok(missing.length === 8 && missing.every((name) => name.startsWith('layer5.')));
      assert.equal(skipped.filter(({ reason }) => reason.startsWith('fully connected layer')).length, 4);
      rows.push(...(await featureRows(`${item}, dilated`, dilated, pth, 305)));
    }
    printAndCheck('features of converted backbones, relative to the largest', rows);
  });

  it('load, convert and start runs alike', async () => {
    for (const { item, classifier } of CLASSIFIERS) {
      const pth = await saved({ ...classifier, prefix: 'module.' });
      using first = await Segmenter.fromFile(pth, { classCount: 10 });
      const { network, backbone, width, bottleneckStride } = first.options;
      const shape = { network, backbone, width, bottleneckStride };
      const { output, result } = await convert(pth);
      assert.equal(result.architecture, network);
      using converted = await Segmenter.fromFile(output, { classCount: 10 });
      using loaded = await Segmenter.create({ ...shape, classCount: 10 });
      const report = await loaded.load(pth);
      const again = await converted.load(output);
      assert.deepEqual(again.missing, report.missing);
      assert.deepEqual(result.converted, report.converted);
      using started = await initial({ network, backbone, width, initialWeights: pth });
      assert.deepEqual(started.options.bottleneckStride, bottleneckStride, item);
      const taken = new Set(report.loaded);
      const [expected, ...others] = await Promise.all([first, converted, loaded, started].map(snapshot));
      assert.ok(taken.size > 20 && taken.size < expected!.size);
      for (const state of others) {
        for (const name of taken) {
          assert.ok(isDeepStrictEqual(state.get(name), expected!.get(name)), `${item}: ${name}`);
        }
      }
    }
  });

  it('are reported: taken, converted, left out and left at random', async () => {
    const head = ['score_fr', 'score_pool3', 'score_pool4'].flatMap((name) => [
      `${name}.weight`,
      `${name}.bias`,
    ]);
    const fixed = ['upscore2.weight', 'upscore_pool4.weight', 'upscore8.weight'];
    using fcn = await Segmenter.create({ network: 'fcn-8s', width: 1 / 32, classCount: 5 });
    const vgg = await fcn.load(await saved({ kind: 'vgg16', width: 1 / 32 }));
    assert.deepEqual(vgg.missing.sort(), [...head, ...fixed].sort());
    assert.deepEqual(vgg.skipped, [
      { name: 'classifier.6.weight', reason: 'classifier of ImageNet, which no segmenter has' },
      { name: 'classifier.6.bias', reason: 'classifier of ImageNet, which no segmenter has' },
    ]);
    assert.deepEqual(vgg.renamed[1], { from: 'features.2.', to: 'conv1_2.' });
    const reshaped = 'reshaped from a fully connected layer';
    assert.equal(vgg.converted.length, 28);
    const scaled = 'scaled for larger colors';
    assert.deepEqual(vgg.converted.slice(1, 3), [
      { name: 'conv1_1.bias', how: `${NORMALIZED}, ${scaled}` },
      { name: 'conv1_2.weight', how: scaled },
    ]);
    assert.deepEqual(vgg.converted.slice(26), [
      { name: 'fc6.weight', how: reshaped },
      { name: 'fc7.weight', how: reshaped },
    ]);
    const before = await snapshot(fcn);
    const norms = await fcn.load(
      await saved({ kind: 'vgg16', width: 1 / 32, norms: true, classifier: false }),
    );
    assert.equal(norms.converted.length, 26);
    assert.equal(norms.converted[2]!.how, 'BatchNorm folded in, scaled for larger colors');
    assert.deepEqual(norms.skipped, []);
    const fc = ['fc6.weight', 'fc6.bias', 'fc7.weight', 'fc7.bias'];
    assert.deepEqual(norms.missing.sort(), [...fc, ...head, ...fixed].sort());
    const after = await snapshot(fcn);
    for (const [name, values] of after) {
      assert.equal(isDeepStrictEqual(values, before.get(name)), !name.startsWith('conv'), name);
    }

    const resnet = await saved({ kind: 'resnet18', width: 1 / 16 });
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
    const report = await segmenter.load(resnet);
    assert.deepEqual(report.converted, [
      { name: 'conv1.weight', how: NORMALIZED },
      { name: 'bn1.running_mean', how: NORMALIZED },
      { name: 'bn1.running_var', how: NORMALIZED },
    ]);
    assert.deepEqual(
      report.skipped.map(({ name }) => name),
      ['fc.weight', 'fc.bias'],
    );
    assert.ok(report.missing.length === 8 && report.missing.every((name) => name.startsWith('layer5.')));

    const info = await bidiseg(['info', resnet]);
    assert.match(info.stdout, /origin +resnet18 of torchvision, a backbone of deeplab-v2/);
    assert.match(info.stdout, /missing +layer5/);
    assert.match(
      info.stdout,
      /converted +conv1\.weight, bn1\.running_mean, bn1\.running_var \(takes B, G, R minus a mean/,
    );
    assert.match(info.stdout, /left out +fc\.weight, fc\.bias \(classifier of ImageNet/);
    const text = (await bidiseg(['convert', resnet, newFile('safetensors')])).stdout;
    assert.match(text, /found a resnet18 of torchvision, a backbone of deeplab-v2/);
    assert.match(text, /converted: conv1\.weight, bn1\.running_mean/);
    assert.match(text, /missing: layer5/);
  });

  it('keep the size of their weights, which sets how fast they train', async () => {
    const norm = (values: ArrayLike<number>) => Math.hypot(...Array.from(values));
    for (const [classifier, factor, first] of [
      [{ kind: 'resnet18', width: 1 / 16 }, 1, 'conv1.weight'],
      [{ kind: 'vgg16', width: 1 / 32, classifier: false }, 57.63 ** (-1 / 13), 'features.0.weight'],
    ] as const) {
      const pth = await saved(classifier);
      const raw = readTensors((await convert(pth, '--raw')).output);
      const ours = readTensors((await convert(pth)).output);
      const ratio =
        norm((ours['conv1.weight'] ?? ours['conv1_1.weight'])!.data as Float32Array) /
        norm(raw[first]!.data as Float32Array);
      assert.ok(Math.abs(ratio / factor - 1) < 0.02, `${classifier.kind}: ${ratio}`);
      const [deep, own] = [raw['features.28.weight'], ours['conv5_3.weight']];
      if (!deep || !own) continue;
      const last = norm(own.data as Float32Array) / norm(deep.data as Float32Array);
      assert.ok(Math.abs(last / factor - 1) < 1e-3, `${last}`);
    }
  });

  it("with Caffe's names are taken as they are", async () => {
    const pth = await saved({ kind: 'vgg16', width: 1 / 32, caffe: true });
    using segmenter = await Segmenter.fromFile(pth, { classCount: 5 });
    using same = await Segmenter.create({ network: 'fcn-8s', width: 1 / 32, classCount: 5 });
    const report = await same.load(pth);
    assert.deepEqual(
      report.converted.map(({ name }) => name),
      ['fc6.weight', 'fc7.weight'],
    );
    assert.deepEqual(
      report.skipped.map(({ name }) => name),
      ['fc8.weight', 'fc8.bias'],
    );
    const raw = await convert(pth, '--raw');
    const state = await snapshot(segmenter);
    for (const [name, { data }] of Object.entries(readTensors(raw.output))) {
      if (!name.startsWith('fc8')) assert.deepEqual(state.get(name), data, name);
    }
    using started = await initial({ network: 'fcn-8s', width: 1 / 32, initialWeights: pth });
    assert.deepEqual((await snapshot(started)).get('conv3_2.weight'), state.get('conv3_2.weight'));
  });

  it("with Keras's names and layouts are the same network", async () => {
    for (const classifier of [true, false]) {
      const options = { kind: 'vgg16', width: 1 / 32, caffe: true, classifier, seed: 7 };
      const [caffe, keras] = [await saved(options), await saved({ ...options, keras: true })];
      using expected = await Segmenter.fromFile(caffe, { classCount: 5 });
      using found = await Segmenter.fromFile(keras, { classCount: 5 });
      assert.deepEqual(await snapshot(found), await snapshot(expected));
      using same = await Segmenter.create({ network: 'fcn-8s', width: 1 / 32, classCount: 5 });
      const { loaded, converted, renamed, skipped } = await same.load(keras);
      assert.equal(loaded.length, classifier ? 30 : 26);
      assert.equal(converted.length, classifier ? 15 : 13);
      assert.deepEqual(renamed[2], { from: 'block2_conv1/', to: 'conv2_1.' });
      const left = classifier ? ['predictions/kernel', 'predictions/bias'] : [];
      assert.deepEqual(
        skipped.map(({ name }) => name),
        left,
      );
    }
  });

  it('of VGG-16 start DeepLab-v2 too, from every form of file', async () => {
    const shape = { backbone: 'vgg16', width: 1 / 32 } as const;
    for (const classifier of [
      { norms: false },
      { norms: true },
      { classifier: false },
      { caffe: true },
      { caffe: true, classifier: false },
      { caffe: true, keras: true },
    ]) {
      const item = JSON.stringify(classifier);
      const pth = await saved({ kind: 'vgg16', width: 1 / 32, ...classifier });
      using fcn = await Segmenter.fromFile(pth, { classCount: 10 });
      const expected = await snapshot(fcn);
      const whole = newFile('safetensors');
      await fcn.save(whole);
      const { output } = await convert(pth);
      for (const file of [pth, output]) {
        using loaded = await Segmenter.create({ ...shape, classCount: 10 });
        const { loaded: names, extra, converted } = await loaded.load(file);
        assert.equal(names.length, 26, item);
        assert.deepEqual(extra, []);
        assert.ok(converted.every(({ name }) => name.startsWith('conv')));
        using started = await initial({ ...shape, initialWeights: file });
        for (const state of [await snapshot(loaded), await snapshot(started)]) {
          for (const name of names) assert.deepEqual(state.get(name), expected.get(name), `${item}: ${name}`);
        }
      }
      // The convolutions of a whole FCN-8s start one too.
      using started = await initial({ ...shape, initialWeights: whole });
      assert.deepEqual((await snapshot(started)).get('conv5_3.weight'), expected.get('conv5_3.weight'));
    }
    using resnet = await Segmenter.create({ backbone: 'resnet18', width: 1 / 32, classCount: 10 });
    using vgg = await Segmenter.create({ ...shape, classCount: 10 });
    const [ofResnet, ofVgg] = [newFile('safetensors'), newFile('safetensors')];
    await resnet.save(ofResnet);
    await vgg.save(ofVgg);
    for (const strict of [true, false]) {
      await assert.rejects(() => vgg.load(ofResnet, { strict }), /of a resnet18, expected those of a vgg16/);
      await assert.rejects(() => resnet.load(ofVgg, { strict }), /of a vgg16, expected those of a resnet18/);
    }
    using again = await Segmenter.fromFile(ofVgg);
    assert.deepEqual(await snapshot(again), await snapshot(vgg));
    assert.equal(again.options.backbone, 'vgg16');
    // Without a description, names and shapes tell it.
    const raw = newFile('safetensors');
    writeTensors(raw, readTensors(ofVgg));
    const { output, result } = await convert(raw);
    assert.equal(result.architecture, 'deeplab-v2');
    using guessed = await Segmenter.fromFile(output);
    assert.deepEqual(await snapshot(guessed), await snapshot(vgg));
  });

  it('of VGG-16 as published start FCN-8s', async function () {
    if (!existsSync(REAL)) {
      console.log(`    skipped: there is no ${path.relative(ROOT, REAL)}`);
      this.skip();
    }
    using segmenter = await Segmenter.create({ network: 'fcn-8s', classCount: 2 });
    const report = await segmenter.load(REAL);
    assert.equal(report.loaded.length, 26);
    assert.deepEqual(report.converted, []);
    assert.ok(report.missing.includes('fc6.weight') && !report.missing.includes('conv5_3.bias'));
    using dilated = await Segmenter.create({ backbone: 'vgg16', classCount: 2 });
    assert.deepEqual((await dilated.load(REAL)).loaded, report.loaded);
    const info = jsonLines((await bidiseg(['info', '--json', REAL])).stdout)[0]!;
    assert.deepEqual(info.network, { architecture: 'fcn-8s', options: { width: 1 }, guessed: true });
  });

  it('of bottlenecks have the stride in the middle, and no other network takes them', async () => {
    const pth = await saved({ kind: 'resnet50', width: 1 / 16 });
    const shape = { backbone: 'resnet50', width: 1 / 16, classCount: 10 } as const;
    using first = await Segmenter.create(shape);
    for (const strict of [true, false]) {
      await assert.rejects(
        () => first.load(pth, { strict }),
        /stride in the middle convolution, expected it in the first one.*bottleneckStride: 'middle'/,
      );
    }
    using middle = await Segmenter.create({ ...shape, bottleneckStride: 'middle' });
    await middle.load(pth);
    const file = newFile('safetensors');
    await middle.save(file);
    using again = await Segmenter.fromFile(file);
    assert.equal(again.options.bottleneckStride, 'middle');
    await assert.rejects(() => first.load(file), /bottleneckStride: 'middle'/);
    using stage = await createSegmenter(
      createConfig({
        preset: 'demo',
        output: folder.path('run'),
        segmenter: { backbone: 'resnet50', width: 1 / 16 },
      }),
      file,
    );
    assert.equal(stage.options.bottleneckStride, 'middle');
    await first.save(file);
    await assert.rejects(() => middle.load(file), /bottleneckStride: 'first'/);
    using old = await Segmenter.fromFile(file);
    assert.equal(old.options.bottleneckStride, 'first');
  });

  it('that no segmenter has are refused with the reason', async () => {
    const resnet50 = await saved({ kind: 'resnet50', width: 1 / 16 });
    const resnet18 = await saved({ kind: 'resnet18', width: 1 / 16 });
    const vgg = await saved({ kind: 'vgg16', width: 1 / 32, classifier: false });
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
    using fcn = await Segmenter.create({ network: 'fcn-8s', width: 1 / 32, classCount: 5 });
    for (const strict of [true, false]) {
      await assert.rejects(
        () => segmenter.load(resnet50, { strict }),
        /found the weights of a resnet50, expected those of a resnet18/,
      );
      await assert.rejects(
        () => segmenter.load(vgg, { strict }),
        /found a VGG-16 of torchvision, a backbone of fcn-8s or of deeplab-v2 on vgg16, expected the weights of deeplab-v2/,
      );
      await assert.rejects(
        () => fcn.load(resnet18, { strict }),
        /found a resnet18 of torchvision, a backbone of deeplab-v2, expected the weights of fcn-8s/,
      );
    }
    using wider = await Segmenter.create({ backbone: 'resnet18', width: 1 / 8, classCount: 5 });
    await assert.rejects(() => wider.load(resnet18), /conv1\.weight is \[4, 3, 7, 7\], not \[8, 3, 7, 7\]/);
    await assert.rejects(
      () => initial({ backbone: 'resnet18', width: 1 / 8, initialWeights: resnet18 }),
      /conv1\.weight, .*are missing or have another shape/,
    );
    await assert.rejects(
      () => Translator.fromFile(resnet18),
      /found a resnet18 of torchvision.*expected the weights of a translator/,
    );
    await assert.rejects(
      () => Segmenter.fromFile(resnet18),
      /holds a backbone alone, without layer5; .*give classCount, or use segmenter\.initialWeights/,
    );
    await assert.rejects(() => Segmenter.fromFile(vgg), /without fc6, fc7, score_fr/);
    await assert.rejects(() => Segmenter.fromFile(vgg, { classCount: 1 }), /from 2 to 256 for classCount/);
    const whole = newFile('safetensors');
    await segmenter.save(whole);
    await assert.rejects(
      () => Segmenter.fromFile(whole, { classCount: 7 }),
      /holds a segmenter for 5 classes, not for 7/,
    );
    const { output } = await convert(resnet18);
    const image = folder.path('image.png');
    await writeImage(image, { data: randomBytes(192, 1), width: 8, height: 8 });
    await fails(
      ['segment', image, '--weights', output, '-o', folder.path('no')],
      /holds a backbone alone, without layer5; expected a segmenter/,
    );

    const other = { width: 1 / 16 };
    const deep = await saved({ kind: 'resnet152', ...other });
    const next = await saved({ kind: 'resnet50', ...other, groups: 2 });
    for (const file of [deep, next]) {
      await fails(['convert', file, folder.path('no')], /no ResNet-18, 34, 50 or 101, expected.*ResNeXt/);
      await assert.rejects(() => segmenter.load(file), /no ResNet-18, 34, 50 or 101/);
      await assert.rejects(() => Segmenter.fromFile(file, { classCount: 5 }), /no ResNet-18, 34, 50 or 101/);
    }
    const caffe = await saved({ kind: 'resnet18', ...other, variance: 1e4 });
    await fails(
      ['convert', caffe, folder.path('no')],
      /too large for normalized.*save it without fc\.weight/,
    );
    await assert.rejects(() => segmenter.load(caffe), /\.pth: found a ResNet with fc whose bn1\.running_var/);
    const vgg19 = await saved({ kind: 'vgg19', width: 1 / 32, classifier: false });
    await fails(['convert', vgg19, folder.path('no')], /no VGG-16, expected.*with or without BatchNorm/);
    await assert.rejects(() => fcn.load(vgg19), /no VGG-16/);
    assert.ok(!existsSync(folder.path('no')));
  });
});
