import assert from 'node:assert/strict';
import {
  BatchedPredictor,
  buildInfo,
  CITYSCAPES,
  classProbabilities,
  createEmbeddedDataset,
  evaluate,
  FeatureDiscriminator,
  ganLoss,
  ImageDataset,
  InvalidArgumentError,
  type Network,
  type NetworkDtype,
  OutputDiscriminator,
  type PredictOptions,
  predictStream,
  renderScene,
  Segmenter,
  SelfTraining,
  segmenterInput,
  Tensor,
  Translator,
  translatorInput,
  translatorOutputBytes,
} from 'bidiseg';
import { drain } from '../../lib/support/generators.js';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { relativeDifference, type Snapshot, snapshot } from '../helpers/tensor-file.js';
import { CITYSCAPES_CLASSES, writeTrainedSegmenter } from '../helpers/trained-segmenter.js';
import { randomizeNormsAndBiases } from '../helpers/weights.js';
import {
  DEVICE,
  describeOnDevice,
  differingShare,
  IS_CUDA,
  itOnCuda,
  largestError,
  relativeError,
} from './device.js';

interface Place {
  device: string;
  dtype: NetworkDtype;
}

/** Layouts of activations. On CUDA, channels-last has kernels of its own. */
type Layout = 'contiguous' | 'channels-last';

interface Kind {
  item: string;
  create: (place: Place) => Promise<Network>;
  shape: number[];
  /** Standard deviation of the input; default 1. */
  scale?: number;
}

const segmenter =
  (options: Partial<Parameters<typeof Segmenter.create>[0]>) =>
  (place: Place): Promise<Network> =>
    Segmenter.create({ width: 1 / 8, classCount: 7, initialization: 'kaiming', ...options, ...place });

/** One network of a translator. */
const partOf =
  (
    pairing: 'paired' | 'unpaired',
    part: 'toTarget' | 'toSource' | 'targetDiscriminator',
    changes: { residual?: boolean; upsampling?: 'resize' } = {},
  ) =>
  async (place: Place): Promise<Network> => {
    const widths = { baseWidth: 8, discriminatorWidth: 8 };
    const translator = await Translator.create({
      ...{ pairing, blocks: 6, depth: 5, ...changes },
      ...widths,
      ...place,
    });
    const chosen = translator[part];
    const { toTarget, targetDiscriminator } = translator;
    const others = pairing === 'paired' ? [] : [translator.toSource, translator.sourceDiscriminator];
    for (const network of [toTarget, targetDiscriminator, ...others]) {
      if (network !== chosen) network.dispose();
    }
    return chosen;
  };

const KINDS: Kind[] = [
  ...(['resnet18', 'resnet34', 'resnet50', 'resnet101', 'vgg16'] as const).map((backbone) => ({
    item: `DeepLab-v2 ${backbone}`,
    create: segmenter({ backbone, branches: backbone === 'resnet50' ? 2 : 4 }),
    shape: [2, 3, 41, 57],
    scale: 60,
  })),
  {
    item: 'FCN-8s',
    create: segmenter({ network: 'fcn-8s', width: 1 / 16 }),
    shape: [2, 3, 45, 71],
    scale: 60,
  },
  { item: 'generator', create: partOf('unpaired', 'toTarget'), shape: [2, 3, 36, 52], scale: 0.5 },
  {
    item: 'residual generator',
    create: partOf('unpaired', 'toSource', { residual: true }),
    shape: [2, 3, 36, 52],
    scale: 0.5,
  },
  {
    item: 'resizing generator',
    create: partOf('unpaired', 'toSource', { upsampling: 'resize' }),
    shape: [2, 3, 36, 52],
    scale: 0.5,
  },
  { item: 'PatchGAN', create: partOf('unpaired', 'targetDiscriminator'), shape: [2, 3, 45, 71], scale: 0.5 },
  { item: 'U-Net', create: partOf('paired', 'toTarget'), shape: [2, 3, 32, 64], scale: 0.5 },
  {
    item: 'conditional PatchGAN',
    create: partOf('paired', 'targetDiscriminator'),
    shape: [2, 6, 45, 71],
    scale: 0.5,
  },
  {
    item: 'output discriminator',
    create: (place) => OutputDiscriminator.create({ classCount: 7, baseWidth: 8, ...place }),
    shape: [2, 7, 65, 97],
  },
  {
    item: 'feature discriminator',
    create: (place) => FeatureDiscriminator.create({ featureCount: 9, baseWidth: 4, ...place }),
    shape: [2, 9, 5, 7],
  },
];

interface Passes {
  output: ArrayLike<number>;
  evaluated: ArrayLike<number>;
  inputGradient: ArrayLike<number>;
  evaluatedGradient: ArrayLike<number>;
  gradients: Snapshot;
  buffers: Snapshot;
}

/** Runs a network forward and backward in both modes. Disposes it. */
async function passesOf(
  network: Network,
  place: Place,
  { shape, scale = 1 }: Kind,
  memoryFormat: Layout,
): Promise<Passes> {
  const numbers = randomNormal(
    shape.reduce((a, b) => a * b),
    5,
    scale,
  );
  using host = Tensor.from(numbers, shape);
  using x = await (await host.to({ ...place, memoryFormat })).requireGrad();
  using y = await network.forward(x);
  assert.equal(y.dtype, place.dtype);
  assert.equal(y.device.startsWith(place.device), true, y.device);
  using loss = await ganLoss(y, true);
  await loss.backward();
  using inputGradient = (await x.gradient())!;
  const gradients: Snapshot = new Map();
  for (const [name, parameter] of await network.parameters()) {
    using gradient = await parameter.gradient();
    if (gradient) gradients.set(name, (await gradient.data()) as Float32Array);
    parameter.dispose();
  }
  const buffers: Snapshot = new Map();
  for (const [name, buffer] of await network.buffers()) {
    buffers.set(name, (await buffer.data()) as Float32Array);
    buffer.dispose();
  }
  await network.eval();
  using z = await (await host.to({ ...place, memoryFormat })).requireGrad();
  using evaluated = await network.forward(z);
  using again = await ganLoss(evaluated, true);
  await again.backward();
  using evaluatedGradient = (await z.gradient())!;
  const passes = {
    output: (await y.data()) as Float32Array,
    evaluated: (await evaluated.data()) as Float32Array,
    inputGradient: (await inputGradient.data()) as Float32Array,
    evaluatedGradient: (await evaluatedGradient.data()) as Float32Array,
    gradients,
    buffers,
  };
  network.dispose();
  return passes;
}

function errorsOf(found: Passes, expected: Passes): Record<string, number> {
  assert.deepEqual([...found.gradients.keys()], [...expected.gradients.keys()]);
  return {
    output: relativeError(found.output, expected.output),
    'output, evaluating': relativeError(found.evaluated, expected.evaluated),
    'input gradient': relativeError(found.inputGradient, expected.inputGradient),
    'input gradient, evaluating': relativeError(found.evaluatedGradient, expected.evaluatedGradient),
    gradients: relativeDifference(found.gradients, expected.gradients),
    buffers: relativeDifference(found.buffers, expected.buffers),
  };
}

describeOnDevice('networks', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  for (const kind of KINDS) {
    it(`${kind.item}: forward and backward as on the CPU`, async () => {
      const cpu = { device: 'cpu', dtype: 'float32' } as const;
      using weights = await kind.create(cpu);
      await randomizeNormsAndBiases(weights, folder.path('weights'));
      const passes = async (device: string, dtype: NetworkDtype, layout: Layout = 'contiguous') => {
        const network = await kind.create({ device, dtype });
        await network.copyFrom(weights);
        return await passesOf(network, { device, dtype }, kind, layout);
      };
      const truth = await passes('cpu', 'float64');
      const double = errorsOf(await passes(DEVICE, 'float64'), truth);
      const singleOnCpu = errorsOf(await passes('cpu', 'float32'), truth);
      const rows: Measurement[] = [];
      for (const [what, error] of Object.entries(double)) {
        rows.push({ item: `float64, ${what}`, error, bound: 1e-9 });
      }
      for (const layout of ['contiguous', 'channels-last'] as const) {
        for (const [what, error] of Object.entries(
          errorsOf(await passes(DEVICE, 'float32', layout), truth),
        )) {
          // ReLUs whose input is nearly 0 make gradients in float32 as inexact as the CPU's own. Another order of sums
          // may let other ReLUs differ: an H100 had 2.7e-3. TensorFloat-32 would be off by 1e-3 in outputs.
          const forward = what.startsWith('output') || what === 'buffers';
          const bound = Math.max(forward ? 5e-5 : 1e-2, 20 * singleOnCpu[what]!);
          const own = singleOnCpu[what]!.toExponential(1);
          rows.push({ item: `float32, ${layout}, ${what} (CPU ${own})`, error, bound });
        }
      }
      printAndCheck(`${kind.item} on ${DEVICE} against the CPU in float64: relative errors`, rows);
    });
  }

  it('weights go through files to the device and back without a change', async () => {
    const file = folder.path('roundtrip');
    const options = { backbone: 'resnet18', width: 1 / 8, classCount: 7, initialization: 'kaiming' } as const;
    using source = await Segmenter.create({ ...options, seed: 5 });
    await source.save(file);
    using moved = await Segmenter.fromFile(file, { device: DEVICE });
    await moved.save(folder.path('again'));
    using back = await Segmenter.fromFile(folder.path('again'));
    assert.deepEqual(await snapshot(moved), await snapshot(source));
    assert.deepEqual(await snapshot(back), await snapshot(source));
    using drawn = await Segmenter.create({ ...options, seed: 5, device: DEVICE });
    assert.deepEqual(await snapshot(drawn), await snapshot(source), 'initial weights depend on the device');
  });
});

const SIZE = { width: 96, height: 64 };
const COUNT = 4;
const SCENES = Array.from({ length: COUNT }, (_, index) =>
  renderScene({ seed: 9, index, look: 'day', ...SIZE }),
);
const IMAGES = new Uint8Array(Buffer.concat(SCENES.map(({ image }) => image)));
const JOB = { count: COUNT, ...SIZE };

describeOnDevice('predictions', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  let weights = '';
  // Trained, so that it predicts several classes.
  before(async () => {
    weights = await writeTrainedSegmenter(folder.path('trained'));
  });

  const open = (device: string, dtype: NetworkDtype = 'float32') =>
    Segmenter.fromFile(weights, { device, dtype });

  it('of every precision agree with the CPU in float64', async () => {
    using truthful = await open('cpu', 'float64');
    const truth = await truthful.predict(IMAGES, { ...JOB, confidence: true });
    const classes = new Set(truth.labels);
    assert.ok(classes.size > 3, `only ${classes.size} classes are predicted`);
    using segmenter = await open(DEVICE);
    const { precisions } = await buildInfo();
    const names = precisions[IS_CUDA ? 'cuda:0' : 'cpu']!;
    console.log(`    precisions: ${names.join(', ')}; classes: ${[...classes].join(', ')}`);
    const rows: Measurement[] = [];
    // Rounding moves a label only where two classes are nearly equal.
    const bounds = { fp32: [1e-3, 1e-4], tf32: [1e-2, 1e-2], bf16: [3e-2, 3e-2], fp16: [1e-2, 1e-2] };
    for (const precision of names) {
      const found = await segmenter.predict(IMAGES, { ...JOB, confidence: true, precision });
      const [share, mean] = bounds[precision] as [number, number];
      const error = differingShare(found.labels, truth.labels);
      rows.push({ item: `${precision}: share of labels that differ`, error, bound: share });
      const confidence = relativeError(found.confidence!, truth.confidence!);
      rows.push({ item: `${precision}: confidences`, error: confidence, bound: mean });
      const again = await segmenter.predict(IMAGES, { ...JOB, confidence: true, precision });
      const repeated = differingShare(again.labels, found.labels);
      rows.push({ item: `${precision}: share that a repetition changes`, error: repeated, bound: 0 });
    }
    printAndCheck(`predictions on ${DEVICE}`, rows);
  });

  it('with every option agree with the CPU in float64', async () => {
    using truthful = await open('cpu', 'float64');
    using segmenter = await open(DEVICE);
    const half = randomBytes(COUNT * 48 * 32 * 3, 3);
    const thresholds = Array.from({ length: CITYSCAPES.names.length }, (_, c) => 0.3 + 0.02 * c);
    const rows: Measurement[] = [];
    for (const [item, options] of Object.entries<Partial<PredictOptions>>({
      'probabilities first': { order: 'probabilities' },
      'another size': { outputWidth: 131, outputHeight: 77 },
      'mirrored too': { flip: true },
      'another scale too': { otherSizes: [{ images: half, width: 48, height: 32 }], flip: true },
      'thresholds of classes': { classThresholds: thresholds },
    })) {
      const given = { ...JOB, ...options, confidence: true };
      const truth = await truthful.predict(IMAGES, given);
      const found = await segmenter.predict(IMAGES, given);
      const error = differingShare(found.labels, truth.labels);
      rows.push({ item: `${item}: share of labels that differ`, error, bound: 1e-3 });
      const confidence = relativeError(found.confidence!, truth.confidence!);
      rows.push({ item: `${item}: confidences`, error: confidence, bound: 1e-4 });
    }
    printAndCheck(`predictions on ${DEVICE} in fp32`, rows);
  });

  it('in float64 are right, or refused with the reason', async () => {
    using segmenter = await open(DEVICE, 'float64');
    using truthful = await open('cpu', 'float64');
    const truth = await truthful.predict(IMAGES, JOB);
    try {
      const { labels } = await segmenter.predict(IMAGES, JOB);
      const error = differingShare(labels, truth.labels);
      printAndCheck('float64', [{ item: 'share of labels that differ', error, bound: 1e-4 }]);
    } catch (error) {
      console.log(`    ${error}`);
      assert.ok(error instanceof InvalidArgumentError);
    }
  });

  it('of streams and batches are those of single images', async () => {
    using segmenter = await open(DEVICE);
    const single: Uint8Array[] = [];
    for (const { image } of SCENES) {
      single.push((await segmenter.predict(new Uint8Array(image), { count: 1, ...SIZE })).labels);
    }
    const images = SCENES.map(({ image }) => ({ data: new Uint8Array(image), ...SIZE }));
    const rows: Measurement[] = [];
    let index = 0;
    for await (const { labels } of predictStream(segmenter, images)) {
      const error = differingShare(labels, single[index]!);
      rows.push({ item: `stream, image ${index++}: share that differs`, error, bound: 0 });
    }
    assert.equal(index, COUNT);
    const batched = new BatchedPredictor(segmenter, { limit: 3 });
    const found = await Promise.all(
      images.map(({ data }) => batched.predict(data, { count: 1, ...SIZE, order: 'logits' })),
    );
    for (const [i, { labels }] of found.entries()) {
      // A library may sum in another order for another number of images.
      const error = differingShare(labels, single[i]!);
      rows.push({ item: `batched, image ${i}: share that differs`, error, bound: 1e-3 });
    }
    console.log(`    batches: ${batched.stats().batches}`);
    printAndCheck('predictions of streams and batches', rows);
  });

  it('evaluate, choose pseudo-labels and adapt statistics as on the CPU', async () => {
    const data = folder.path('data');
    await createEmbeddedDataset(data, { size: SIZE, sourceCount: 1, targetCount: 3, validationCount: 3 });
    const images = await ImageDataset.fromFolder({ images: `${data}/target/train/images` });
    const labeled = await ImageDataset.fromFolder({
      images: `${data}/target/val/images`,
      labels: `${data}/target/val/labels`,
      labelMap: Object.fromEntries(CITYSCAPES_CLASSES.map((id, index) => [index, id])),
      classCount: CITYSCAPES.names.length,
    });
    const outcome = async (name: string, device: string) => {
      using segmenter = await open(device);
      const evaluation = await evaluate(segmenter, labeled, { classCount: 19, size: SIZE });
      const choice = { method: 'class-balanced', portion: 0.5 } as const;
      const training = new SelfTraining(segmenter, { classes: CITYSCAPES.names, size: SIZE, choice });
      const { keptShare, classes } = await drain(training.label(images, folder.path(`labels ${name}`)));
      const { width, height } = SIZE;
      await segmenter.updateStatistics(IMAGES, { count: COUNT, width, height, momentum: 0.5 });
      return { evaluation, keptShare, classes, statistics: await snapshot(segmenter) };
    };
    const expected = await outcome('of the CPU', 'cpu');
    const found = await outcome('of the device', DEVICE);
    const difference = (a: number | null, b: number | null) => Math.abs((a ?? 0) - (b ?? 0));
    printAndCheck('evaluation, pseudo-labels, statistics', [
      {
        item: `mean IoU (${expected.evaluation.meanIou})`,
        error: difference(found.evaluation.meanIou, expected.evaluation.meanIou),
        bound: 2e-3,
      },
      {
        item: `pixel accuracy (${expected.evaluation.pixelAccuracy})`,
        error: difference(found.evaluation.pixelAccuracy, expected.evaluation.pixelAccuracy),
        bound: 1e-3,
      },
      {
        item: `share of kept pixels (${expected.keptShare})`,
        error: difference(found.keptShare, expected.keptShare),
        bound: 2e-3,
      },
      {
        item: 'thresholds',
        error: largestError(
          found.classes.map(({ threshold }) => threshold),
          expected.classes.map(({ threshold }) => threshold),
        ),
        bound: 1e-2,
      },
      {
        item: 'running statistics',
        error: relativeDifference(found.statistics, expected.statistics),
        bound: 1e-5,
      },
    ]);
  });

  it('translated images are those of the CPU', async () => {
    const rows: Measurement[] = [];
    for (const [pairing, width, height] of [
      ['unpaired', 96, 64],
      ['unpaired', 71, 46],
      ['unpaired', 7, 5],
      ['paired', 97, 64],
    ] as const) {
      const options = { pairing, blocks: 6, depth: 5, baseWidth: 8, discriminatorWidth: 8 } as const;
      using host = await Translator.create({ ...options, dtype: 'float64' });
      await randomizeNormsAndBiases(host.toTarget, folder.path('norms'));
      const file = folder.path('translator');
      await host.save(file);
      const images = randomBytes(2 * width * height * 3, height);
      const job = { count: 2, width, height };
      const truth = await host.translate(images, job);
      using translator = await Translator.fromFile(file, { device: DEVICE, dtype: 'float32' });
      const found = await translator.translate(images, job);
      const item = `${pairing}, ${width}×${height}`;
      // A byte may round the other way if the number lies in the middle.
      rows.push({ item: `${item}: share of bytes`, error: differingShare(found, truth), bound: 2e-3 });
      rows.push({ item: `${item}: largest difference`, error: largestError(found, truth), bound: 1 });
    }
    printAndCheck(`translated images on ${DEVICE}`, rows);
  });

  it('inputs and outputs of networks are converted on the device as on the CPU', async () => {
    const shape = [COUNT, SIZE.height, SIZE.width, 3];
    using host = Tensor.from(IMAGES, shape);
    using device = await host.to({ device: DEVICE });
    const rows: Measurement[] = [];
    for (const [item, convert] of Object.entries({
      segmenter: segmenterInput,
      translator: translatorInput,
    })) {
      for (const dtype of ['float32', 'float64'] as const) {
        using expected = await convert(host, { dtype });
        using found = await convert(device, { dtype });
        const [left, right] = [await found.data(), await expected.data()];
        const error = relativeError(left, right);
        rows.push({ item: `${item}, ${dtype}`, error, bound: dtype === 'float32' ? 1e-6 : 1e-14 });
      }
    }
    using input = await translatorInput(device);
    using bytes = await translatorOutputBytes(input);
    const error = differingShare((await bytes.data()) as Uint8Array, IMAGES);
    rows.push({ item: 'there and back: share of bytes', error, bound: 0 });
    printAndCheck('conversions', rows);
  });

  itOnCuda('a tensor on another device than the network is refused', async () => {
    using segmenter = await open(DEVICE);
    using host = Tensor.from(new Float32Array(3 * 32 * 32), [1, 3, 32, 32]);
    const outcome = await segmenter.forward(host).then(
      (tensor) => tensor.device,
      (error: unknown) => error,
    );
    console.log(`    ${outcome}`);
    assert.ok(outcome instanceof Error);
    using moved = await host.to({ device: DEVICE });
    using logits = await segmenter.forward(moved);
    using probabilities = await classProbabilities(logits, 32, 32);
    const sum = ((await probabilities.data()) as Float32Array).reduce((a, b) => a + b, 0);
    assert.ok(Math.abs(sum / (32 * 32) - 1) < 1e-5, `${sum}`);
  });
});
