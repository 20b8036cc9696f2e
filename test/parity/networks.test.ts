import assert from 'node:assert/strict';
import {
  type Network,
  OutputDiscriminator,
  Segmenter,
  type SegmenterOptions,
  Tensor,
  Translator,
} from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { randomiseNorms, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

const FORWARD_BOUND = 1e-5;

interface Counts {
  parameters: number;
  trained: number;
  names: string[];
  visits: number;
}

async function shapesOf(network: Network, input: number[]): Promise<number[]> {
  await network.freeze();
  const x = Tensor.from(new Float32Array(input.reduce((a, b) => a * b)), input);
  using y = await network.forward(x);
  x.dispose();
  return y.shape;
}

describe('parity with PyTorch: networks', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  const rows: Measurement[] = [];
  let cases = 0;
  after(folder.remove);

  /** Compares forward passes, in training mode too where there is batch normalisation. */
  async function compare(
    item: string,
    network: Network,
    spec: { kind: string; options: object },
    input: { shape: number[]; scale?: number },
    training: boolean,
  ): Promise<void> {
    const path = (name: string) => folder.path(`${cases}-${name}`);
    ++cases;
    const weights = path('weights');
    if (training) await randomiseNorms(network, weights);
    else await network.save(weights);
    const data = randomNormal(
      input.shape.reduce((a, b) => a * b),
      cases,
      input.scale,
    );
    using x = Tensor.from(data, input.shape);
    const run = async () => {
      using y = await network.forward(x);
      return { data: (await y.data()) as Float32Array, shape: y.shape };
    };
    const tensors = { input: { data, shape: input.shape } };
    if (training) {
      await network.train();
      Object.assign(tensors, { train: await run() });
      await network.save(path('after'));
    }
    await network.eval();
    Object.assign(tensors, { eval: await run() });
    writeTensors(path('case'), tensors);
    const errors = await twin().ask<Record<string, number>>({
      do: 'forward',
      network: spec,
      weights,
      after: path('after'),
      case: path('case'),
    });
    for (const [what, error] of Object.entries(errors)) {
      rows.push({ item: `${item}, ${what}`, error, bound: FORWARD_BOUND });
    }
    network.dispose();
  }

  it('gives the same outputs, running statistics and state-dict names', async () => {
    for (const backbone of ['resnet18', 'resnet50'] as const) {
      for (const branches of [4, 2] as const) {
        const options = { backbone, branches, width: 1 / 8, classCount: 7 };
        const network = await Segmenter.create({ ...options, initialisation: 'kaiming' });
        const input = { shape: branches === 4 ? [2, 3, 65, 97] : [2, 3, 64, 83], scale: 60 };
        const item = `DeepLab-v2 ${backbone}, ${branches} branches, ${input.shape}`;
        await compare(item, network, { kind: 'deeplab-v2', options }, input, true);
      }
    }
    const fcn = { width: 1 / 16, classCount: 5 };
    for (const shape of [
      [1, 3, 64, 96],
      [2, 3, 45, 71],
    ]) {
      const network = await Segmenter.create({ network: 'fcn-8s', ...fcn, initialisation: 'kaiming' });
      await compare(
        `FCN-8s, ${shape}`,
        network,
        { kind: 'fcn-8s', options: fcn },
        { shape, scale: 60 },
        false,
      );
    }
    const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8 });
    const generator = { kind: 'resnet-generator', options: { blocks: 6, baseWidth: 8 } };
    await compare(
      'generator, 36x52',
      translator.toTarget,
      generator,
      { shape: [2, 3, 36, 52], scale: 0.5 },
      false,
    );
    const critic = { kind: 'patch-discriminator', options: { baseWidth: 8 } };
    await compare(
      'PatchGAN, 45x71',
      translator.targetCritic,
      critic,
      { shape: [2, 3, 45, 71], scale: 0.5 },
      false,
    );
    translator.dispose();
    const options = { classCount: 7, baseWidth: 8 };
    const discriminator = await OutputDiscriminator.create(options);
    const spec = { kind: 'output-discriminator', options };
    await compare('D_M, 65x97', discriminator, spec, { shape: [2, 7, 65, 97] }, false);
    printAndCheck('forward passes: relative errors', rows);
  });

  it('has the published sizes and as many names', async () => {
    const segmenter = await Segmenter.create({ classCount: 19 });
    const names = [...(await segmenter.parameters()).keys(), ...(await segmenter.buffers()).keys()];
    const counts = await twin().ask<Counts>({ do: 'count', network: { kind: 'deeplab-v2' } });
    assert.deepEqual(names.sort(), counts.names);
    assert.equal(names.length, 632);
    assert.equal(names.filter((name) => !name.endsWith('num_batches_tracked')).length, 528);
    assert.equal(segmenter.parameterCount, counts.parameters);
    assert.equal((counts.trained / 1e6).toFixed(1), '43.8');
    assert.equal(counts.visits, 314, 'the reference yields 104 backbone parameters 314 times');
    segmenter.dispose();

    const discriminator = await OutputDiscriminator.create({ classCount: 19 });
    assert.equal(discriminator.parameterCount, 2_781_121);
    discriminator.dispose();

    const translator = await Translator.create();
    const generator = await twin().ask<Counts>({ do: 'count', network: { kind: 'resnet-generator' } });
    assert.equal(translator.toTarget.parameterCount, generator.parameters);
    assert.equal((generator.parameters / 1e6).toFixed(1), '11.4');
    const critic = await twin().ask<Counts>({ do: 'count', network: { kind: 'patch-discriminator' } });
    assert.equal(translator.sourceCritic.parameterCount, critic.parameters);
    translator.dispose();
  });

  it('has the published output shapes', async () => {
    const tiny: SegmenterOptions = { backbone: 'resnet18', width: 1 / 64, classCount: 19 };
    using segmenter = await Segmenter.create(tiny);
    assert.deepEqual(await shapesOf(segmenter, [1, 3, 512, 1024]), [1, 19, 65, 129]);
    assert.deepEqual(await shapesOf(segmenter, [1, 3, 720, 1280]), [1, 19, 91, 161]);
    using fcn = await Segmenter.create({ network: 'fcn-8s', width: 1 / 64, classCount: 5 });
    assert.deepEqual(await shapesOf(fcn, [1, 3, 47, 63]), [1, 5, 47, 63]);
    using translator = await Translator.create({ blocks: 6, baseWidth: 2, discriminatorWidth: 2 });
    for (const [height, width] of [
      [8, 12],
      [36, 52],
      [452, 452],
    ] as const) {
      assert.deepEqual(await shapesOf(translator.toTarget, [1, 3, height, width]), [1, 3, height, width]);
    }
    assert.deepEqual(await shapesOf(translator.targetCritic, [1, 3, 64, 96]), [1, 1, 6, 10]);
    const odd = await translator.translate(new Uint8Array(61 * 83 * 3), { count: 1, width: 83, height: 61 });
    assert.equal(odd.length, 61 * 83 * 3);
    using discriminator = await OutputDiscriminator.create({ classCount: 3, baseWidth: 2 });
    assert.deepEqual(await shapesOf(discriminator, [1, 3, 128, 256]), [1, 1, 4, 8]);
  });

  it('draws initial weights of the published spread', async () => {
    const rms = async (network: Network, name: string) => {
      const parameters = await network.parameters();
      const data = (await parameters.get(name)!.data()) as Float32Array;
      for (const tensor of parameters.values()) tensor.dispose();
      return Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length);
    };
    using segmenter = await Segmenter.create({ backbone: 'resnet18', classCount: 19 });
    for (const name of ['conv1.weight', 'layer4.1.conv2.weight', 'layer5.conv2d_list.3.weight']) {
      assert.ok(Math.abs((await rms(segmenter, name)) / 0.01 - 1) < 0.05, name);
    }
    using translator = await Translator.create({ blocks: 6, baseWidth: 32, discriminatorWidth: 32 });
    assert.ok(Math.abs((await rms(translator.toSource, 'model.10.conv_block.1.weight')) / 0.02 - 1) < 0.05);
    assert.ok(Math.abs((await rms(translator.sourceCritic, 'model.5.weight')) / 0.02 - 1) < 0.05);
  });
});
