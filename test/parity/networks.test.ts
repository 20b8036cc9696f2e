import assert from 'node:assert/strict';
import {
  FeatureDiscriminator,
  type Network,
  OutputDiscriminator,
  Segmenter,
  type SegmenterOptions,
  Tensor,
  Translator,
} from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';
import { randomizeNormsAndBiases } from '../helpers/weights.js';

const FORWARD_BOUND = 1e-5;

interface Counts {
  parameters: number;
  trained: number;
  names: string[];
  visits: number;
}

async function shapeOf(network: Network, input: number[]): Promise<number[]> {
  await network.freeze();
  using x = Tensor.from(new Float32Array(input.reduce((a, b) => a * b)), input);
  using y = await network.forward(x);
  return y.shape;
}

/** Network as the twin builds it. */
interface Spec {
  kind: string;
  options: object;
}

interface Input {
  shape: number[];
  /** Standard deviation of the normal numbers; default 1. */
  scale?: number;
  /** true: class probabilities instead. */
  softmax?: boolean;
}

const IMAGE = { scale: 60 }; // as bytes minus their mean
const RGB = { scale: 0.5 }; // as images in [-1, 1]

describe('parity with PyTorch: networks', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);

  /**
   * Measures the errors of a network's outputs in both modes, and of its running statistics after training mode.
   * Disposes the network.
   */
  async function compare(item: string, network: Network, spec: Spec, input: Input): Promise<Measurement[]> {
    const [weights, after, testCase] = ['weights', 'after', 'case'].map(folder.path) as [
      string,
      string,
      string,
    ];
    await randomizeNormsAndBiases(network, weights);
    await network.save(weights);
    const { shape, scale, softmax } = input;
    const length = shape.reduce((a, b) => a * b);
    const noise = Tensor.from(randomNormal(length, 5, scale), shape);
    const x = softmax ? await noise.softmax() : noise;
    await network.freeze();
    const run = async (): Promise<PlainTensor> => {
      using y = await network.forward(x);
      return { data: (await y.data()) as Float32Array, shape: y.shape };
    };
    const tensors: Record<string, PlainTensor> = { input: { data: (await x.data()) as Float32Array, shape } };
    await network.train();
    tensors.train = await run();
    const hasStatistics = (await network.buffers()).size > 0;
    if (hasStatistics) await network.save(after);
    await network.eval();
    tensors.eval = await run();
    writeTensors(testCase, tensors);
    network.dispose();
    const errors = await twin().ask<Record<string, number>>({
      do: 'forward',
      network: spec,
      weights,
      ...(hasStatistics && { after }),
      case: testCase,
    });
    return Object.entries(errors).map(([what, error]) => ({
      item: `${item}, ${shape.join('×')}, ${what}`,
      error,
      bound: FORWARD_BOUND,
    }));
  }

  async function compareSegmenter(options: SegmenterOptions, ...shape: number[]): Promise<Measurement[]> {
    const { network: kind = 'deeplab-v2', ...rest } = options;
    const network = await Segmenter.create({ ...options, initialization: 'kaiming' });
    const name =
      kind === 'fcn-8s'
        ? 'FCN-8s'
        : `DeepLab-v2 ${rest.backbone}, ${rest.bottleneckStride ?? `${rest.branches} branches`}`;
    return compare(name, network, { kind, options: rest }, { ...IMAGE, shape });
  }

  it('gives the same outputs, running statistics and state-dict names', async () => {
    const rows: Measurement[] = [];
    for (const backbone of ['resnet18', 'resnet34', 'resnet50'] as const) {
      for (const branches of [4, 2] as const) {
        const shape = branches === 4 ? [2, 3, 65, 97] : [2, 3, 64, 83];
        rows.push(...(await compareSegmenter({ backbone, branches, width: 1 / 8, classCount: 7 }, ...shape)));
      }
    }
    for (const shape of [
      [2, 3, 65, 97],
      [2, 3, 64, 83],
    ]) {
      const middle = {
        backbone: 'resnet50',
        bottleneckStride: 'middle',
        width: 1 / 8,
        classCount: 7,
      } as const;
      rows.push(...(await compareSegmenter(middle, ...shape)));
    }
    for (const shape of [
      [1, 3, 64, 96],
      [2, 3, 45, 71],
    ]) {
      rows.push(...(await compareSegmenter({ network: 'fcn-8s', width: 1 / 16, classCount: 5 }, ...shape)));
    }
    for (const branches of [4, 2] as const) {
      const shape = branches === 4 ? [2, 3, 65, 97] : [2, 3, 48, 83];
      const vgg = { backbone: 'vgg16', branches, width: 1 / 16, classCount: 7 } as const;
      rows.push(...(await compareSegmenter(vgg, ...shape)));
    }
    const widths = { blocks: 6, baseWidth: 8 } as const;
    const { toTarget, targetDiscriminator } = await Translator.create({ ...widths, discriminatorWidth: 8 });
    const generator = { kind: 'resnet-generator', options: widths };
    const resized = { ...widths, upsampling: 'resize' } as const;
    const { toTarget: resizing } = await Translator.create({ ...resized, discriminatorWidth: 8 });
    const resizingGenerator = { kind: 'resnet-generator', options: resized };
    const patchDiscriminator = { kind: 'patch-discriminator', options: { baseWidth: 8 } };
    rows.push(
      ...(await compare('generator', toTarget, generator, { ...RGB, shape: [2, 3, 36, 52] })),
      ...(await compare('generator, resizing', resizing, resizingGenerator, {
        ...RGB,
        shape: [2, 3, 36, 52],
      })),
      ...(await compare('PatchGAN', targetDiscriminator, patchDiscriminator, {
        ...RGB,
        shape: [2, 3, 45, 71],
      })),
    );
    const paired = await Translator.create({
      pairing: 'paired',
      depth: 5,
      baseWidth: 4,
      discriminatorWidth: 4,
    });
    const unet = { kind: 'unet-generator', options: { depth: 5, baseWidth: 4 } };
    const conditional = { kind: 'patch-discriminator', options: { inputChannels: 6, baseWidth: 4 } };
    rows.push(
      ...(await compare('U-Net', paired.toTarget, unet, { ...RGB, shape: [2, 3, 64, 96] })),
      ...(await compare('conditional PatchGAN', paired.targetDiscriminator, conditional, {
        ...RGB,
        shape: [2, 6, 45, 71],
      })),
    );
    const featureOptions = { featureCount: 9, baseWidth: 4 };
    const featureDiscriminator = await FeatureDiscriminator.create(featureOptions);
    const featureSpec = { kind: 'feature-discriminator', options: featureOptions };
    rows.push(
      ...(await compare('feature discriminator', featureDiscriminator, featureSpec, { shape: [2, 9, 5, 7] })),
    );
    const options = { classCount: 7, baseWidth: 8 };
    const discriminator = await OutputDiscriminator.create(options);
    const spec = { kind: 'output-discriminator', options };
    rows.push(...(await compare('D_M', discriminator, spec, { softmax: true, shape: [2, 7, 65, 97] })));
    printAndCheck('forward passes of small members: relative errors', rows);
  });

  it('takes the running statistics of other images as cumulative averages', async () => {
    const [weights, after, testCase] = ['weights', 'after', 'case'].map(folder.path) as [
      string,
      string,
      string,
    ];
    const options = { backbone: 'resnet18', branches: 4, width: 1 / 8, classCount: 7 } as const;
    using segmenter = await Segmenter.create({ ...options, initialization: 'kaiming', dtype: 'float64' });
    await randomizeNormsAndBiases(segmenter, weights);
    await segmenter.save(weights);
    const [width, height] = [72, 48];
    const batches: Record<string, PlainTensor> = {};
    for (const [index, count] of [3, 3, 1].entries()) {
      const data = randomBytes(count * height * width * 3, 20 + index);
      batches[`batch ${index}`] = { data, shape: [count, height, width, 3] };
      const momentum = 1 / (index + 1);
      await segmenter.updateStatistics(data, { count, width, height, momentum });
    }
    await segmenter.save(after);
    writeTensors(testCase, batches);
    const network = { kind: 'deeplab-v2', options };
    const error = await twin().ask<number>({ do: 'statistics', network, weights, after, case: testCase });
    printAndCheck('running statistics of seven images in three batches', [
      { item: 'largest relative error, float64', error, bound: 1e-12 },
    ]);
    using fcn = await Segmenter.create({ network: 'fcn-8s', width: 1 / 16, classCount: 5 });
    const job = { count: 1, width, height, momentum: 1 };
    await assert.rejects(fcn.updateStatistics(randomBytes(height * width * 3, 1), job), {
      code: 'ERR_INVALID_ARGUMENT',
      message: /BatchNorm/,
    });
  });

  it('gives the same outputs at the published widths', async () => {
    const rows: Measurement[] = [];
    const resnet101 = { backbone: 'resnet101', classCount: 19 } as const;
    rows.push(
      ...(await compareSegmenter({ ...resnet101, branches: 4 }, 1, 3, 65, 97)),
      ...(await compareSegmenter({ ...resnet101, branches: 2 }, 1, 3, 57, 83)),
      ...(await compareSegmenter({ backbone: 'vgg16', branches: 4, classCount: 19 }, 1, 3, 65, 97)),
      ...(await compareSegmenter({ network: 'fcn-8s', classCount: 19 }, 1, 3, 65, 97)),
    );
    const { toTarget, targetDiscriminator } = await Translator.create();
    const patchDiscriminator = { kind: 'patch-discriminator', options: {} };
    rows.push(
      ...(await compare('PatchGAN', targetDiscriminator, patchDiscriminator, {
        ...RGB,
        shape: [1, 3, 65, 97],
      })),
    );
    const generator = { kind: 'resnet-generator', options: {} };
    rows.push(...(await compare('generator', toTarget, generator, { ...RGB, shape: [1, 3, 68, 100] })));
    const discriminator = await OutputDiscriminator.create({ classCount: 19 });
    const spec = { kind: 'output-discriminator', options: {} };
    const probabilities = { softmax: true, scale: 3, shape: [1, 19, 65, 97] };
    rows.push(...(await compare('D_M', discriminator, spec, probabilities)));
    printAndCheck('forward passes at the published widths: relative errors', rows);
  });

  it('translates images of any size alike', async () => {
    const rows: Measurement[] = [];
    const [weights, testCase] = [folder.path('weights'), folder.path('case')];
    const generators = {
      unpaired: { kind: 'resnet-generator', options: { blocks: 9, baseWidth: 16 }, multiple: 4 },
      paired: { kind: 'unet-generator', options: { depth: 5, baseWidth: 8 }, multiple: 32 },
    } as const;
    for (const [pairing, dtype, height, width] of [
      ['unpaired', 'float32', 64, 96],
      ['unpaired', 'float32', 65, 97],
      ['unpaired', 'float32', 46, 71],
      ['unpaired', 'float32', 5, 7],
      ['unpaired', 'float64', 46, 71],
      ['paired', 'float32', 64, 97],
      ['paired', 'float32', 5, 70],
    ] as const) {
      const { multiple, ...generator } = generators[pairing];
      using translator = await Translator.create({ pairing, ...generator.options, dtype });
      await randomizeNormsAndBiases(translator.toTarget, weights);
      await translator.toTarget.save(weights);
      const shape = [1, height, width, 3];
      const data = randomBytes(height * width * 3, height);
      const translated = await translator.translate(data, { count: 1, width, height });
      writeTensors(testCase, { image: { data, shape }, translated: { data: translated, shape } });
      const errors = await twin().ask<{ share: number; largest: number }>({
        do: 'translate',
        network: generator,
        multiple,
        weights,
        case: testCase,
      });
      const item = `${pairing}, ${height}×${width}, ${dtype}`;
      // A byte may round the other way if the number lies in the middle.
      rows.push({ item: `${item}, share of bytes that differ`, error: errors.share, bound: 1e-3 });
      rows.push({ item: `${item}, largest difference`, error: errors.largest, bound: 1 });
    }
    printAndCheck('translated images', rows);
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

    const translator = await Translator.create();
    using paired = await Translator.create({ pairing: 'paired' });
    // The fully convolutional VGG-16 has 134 million parameters.
    const fcn = await twin().ask<Counts>({ do: 'count', network: { kind: 'fcn-8s' } });
    using small = await Segmenter.create({ network: 'fcn-8s', width: 1 / 64, classCount: 19 });
    const fcnNames = [...(await small.parameters()).keys()];
    assert.deepEqual(fcnNames.sort(), fcn.names);
    assert.equal((fcn.trained / 1e6).toFixed(0), '134');

    // VGG-16's convolutions have 14.7 million, and 9 × 512 + 1 for each class and branch come on top.
    const onVgg = { kind: 'deeplab-v2', options: { backbone: 'vgg16' } };
    const vgg = await twin().ask<Counts>({ do: 'count', network: onVgg });
    using narrow = await Segmenter.create({ backbone: 'vgg16', width: 1 / 64, classCount: 19 });
    assert.deepEqual([...(await narrow.parameters()).keys()].sort(), vgg.names);
    assert.deepEqual([...(await narrow.buffers()).keys()], []);
    assert.equal(vgg.trained, 14_714_688 + 4 * 19 * (9 * 512 + 1));

    for (const [network, spec, published] of [
      [await OutputDiscriminator.create({ classCount: 19 }), 'output-discriminator', '2.781121'],
      [translator.toTarget, 'resnet-generator', '11.4'],
      [translator.targetDiscriminator, 'patch-discriminator', '2.8'],
      [paired.toTarget, 'unet-generator', '54.4'],
    ] as const) {
      const { parameters } = await twin().ask<Counts>({ do: 'count', network: { kind: spec } });
      assert.equal(network.parameterCount, parameters, spec);
      assert.equal((parameters / 1e6).toFixed(published.split('.')[1]!.length), published, spec);
      network.dispose();
    }
    translator.dispose();
  });

  it('has the published output shapes', async () => {
    // The smallest networks here, and in the twin the published ones without their weights. Shapes do not depend on the
    // width.
    const expectShapes = async (
      network: Network,
      spec: Spec,
      shapes: [input: number[], output: number[]][],
    ) => {
      const inputs = shapes.map(([input]) => input);
      const outputs = shapes.map(([, output]) => output);
      assert.deepEqual(await twin().ask({ do: 'shapes', network: spec, inputs }), outputs);
      for (const [i, input] of inputs.entries()) assert.deepEqual(await shapeOf(network, input), outputs[i]);
      network.dispose();
    };
    const tiny = { width: 1 / 64, classCount: 19 } as const;
    await expectShapes(
      await Segmenter.create({ ...tiny, backbone: 'resnet18' }),
      { kind: 'deeplab-v2', options: {} },
      [
        [
          [1, 3, 512, 1024],
          [1, 19, 65, 129],
        ],
        [
          [1, 3, 720, 1280],
          [1, 19, 91, 161],
        ],
        // ⌊(71 + 1) / 8⌋ + 1: the pooling's ceil mode shows if a side is one short of a multiple of 8.
        [
          [2, 3, 45, 71],
          [2, 19, 6, 10],
        ],
      ],
    );
    await expectShapes(
      await Segmenter.create({ ...tiny, backbone: 'vgg16' }),
      { kind: 'deeplab-v2', options: { backbone: 'vgg16' } },
      [
        [
          [1, 3, 512, 1024],
          [1, 19, 64, 128],
        ],
        [
          [2, 3, 45, 73],
          [2, 19, 6, 10],
        ],
        [
          [1, 3, 1, 8],
          [1, 19, 1, 1],
        ],
      ],
    );
    await expectShapes(
      await Segmenter.create({ ...tiny, network: 'fcn-8s' }),
      { kind: 'fcn-8s', options: {} },
      [
        [
          [1, 3, 512, 1024],
          [1, 19, 512, 1024],
        ],
        [
          [2, 3, 47, 63],
          [2, 19, 47, 63],
        ],
      ],
    );
    const translator = await Translator.create({ blocks: 9, baseWidth: 1, discriminatorWidth: 1 });
    await expectShapes(translator.toTarget, { kind: 'resnet-generator', options: {} }, [
      [
        [4, 3, 452, 452],
        [4, 3, 452, 452],
      ],
      [
        [1, 3, 8, 12],
        [1, 3, 8, 12],
      ],
    ]);
    await expectShapes(translator.targetDiscriminator, { kind: 'patch-discriminator', options: {} }, [
      [
        [4, 3, 452, 452],
        [4, 1, 54, 54],
      ],
      [
        [1, 3, 65, 97],
        [1, 1, 6, 10],
      ],
    ]);
    translator.dispose();
    await expectShapes(
      await OutputDiscriminator.create({ classCount: 19, baseWidth: 1 }),
      { kind: 'output-discriminator', options: {} },
      [
        [
          [1, 19, 720, 1280],
          [1, 1, 22, 40],
        ],
        [
          [1, 19, 512, 1024],
          [1, 1, 16, 32],
        ],
      ],
    );
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
    assert.ok(Math.abs((await rms(translator.sourceDiscriminator, 'model.5.weight')) / 0.02 - 1) < 0.05);
  });
});
