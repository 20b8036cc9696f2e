import assert from 'node:assert/strict';
import {
  buildInfo,
  type NetworkDtype,
  OutputDiscriminator,
  PairedTranslationStep,
  SegmentationStep,
  type SegmentationStepOptions,
  Segmenter,
  type StepBatch,
  setThreadCount,
  TranslationStep,
  type TranslationStepOptions,
  Translator,
} from 'bidiseg';
import {
  type BatchShape,
  PAIRED_TRANSLATION,
  randomBatch,
  SEGMENTATION,
  TRANSLATION,
} from '../../helpers/batches.js';
import { type Measurement, printAndCheck } from '../../helpers/table.js';
import { relativeDifference, type Snapshot, snapshot } from '../../helpers/tensor-file.js';

const CLASS_COUNT = 5;
const SHAPE = { count: 2, height: 41, width: 57 };
const RESNET18 = { backbone: 'resnet18', width: 1 / 8 } as const;
const RESNET50 = { backbone: 'resnet50', width: 1 / 8 } as const;
const VGG = { backbone: 'vgg16', width: 1 / 16 } as const;
const FCN = { network: 'fcn-8s', width: 1 / 16 } as const;
type SmallNetwork =
  | { backbone: 'resnet18' | 'resnet50' | 'vgg16'; width: number }
  | { network: 'fcn-8s'; width: number };

/** Results of steps: the losses of the last one, and the state after it. */
interface Outcome {
  losses: Snapshot;
  state: Snapshot;
}

async function outcome(losses: object, step: Parameters<typeof snapshot>[0]): Promise<Outcome> {
  return {
    losses: new Map([['losses', Float64Array.from(Object.values(losses))]]),
    state: await snapshot(step),
  };
}

async function segmentation(
  network: SmallNetwork,
  dtype: NetworkDtype,
  options: Partial<SegmentationStepOptions>,
  batches: { source: StepBatch; target: StepBatch }[],
): Promise<Outcome> {
  using segmenter = await Segmenter.create({
    ...network,
    classCount: CLASS_COUNT,
    initialization: 'kaiming',
    dtype,
  });
  using discriminator = await OutputDiscriminator.create({ classCount: CLASS_COUNT, baseWidth: 8, dtype });
  using step = await SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, ...options });
  let losses = {};
  for (const batch of batches) {
    losses = await step.run({ ...batch, learningRate: 1e-3, discriminatorLearningRate: 1e-3 });
  }
  return outcome(losses, step);
}

async function translation(
  dtype: NetworkDtype,
  options: Partial<TranslationStepOptions>,
  shape: BatchShape,
  { baseWidth = 8, steps = 3 } = {},
): Promise<Outcome> {
  using segmenter = await Segmenter.create({
    ...RESNET18,
    classCount: CLASS_COUNT,
    initialization: 'kaiming',
    dtype,
  });
  const translator = await Translator.create({ blocks: 6, baseWidth, discriminatorWidth: 8, dtype });
  using step = await TranslationStep.create(translator, segmenter, {
    ...TRANSLATION,
    poolSize: 3,
    ...options,
  });
  let losses = {};
  for (const seed of [1, 11, 21].slice(0, steps)) {
    const batch = { source: randomBatch(shape, seed), target: randomBatch(shape, seed + 5) };
    losses = await step.run({ ...batch, learningRate: 2e-4 });
  }
  const result = await outcome(losses, step);
  translator.dispose();
  return result;
}

const BATCHES = [1, 11].map((seed) => ({
  source: randomBatch(SHAPE, seed, CLASS_COUNT),
  target: randomBatch({ ...SHAPE, height: 49 }, seed + 5, CLASS_COUNT),
}));
const RGB = { count: 2, height: 36, width: 44 };

function difference(found: Outcome, expected: Outcome): Record<keyof Outcome, number> {
  assert.deepEqual([...found.state.keys()], [...expected.state.keys()]);
  return {
    losses: relativeDifference(found.losses, expected.losses),
    state: relativeDifference(found.state, expected.state),
  };
}

describe('omitted options', () => {
  it('of a segmentation step are those of the paper', async () => {
    const found = async (options: SegmentationStepOptions | undefined) => {
      using segmenter = await Segmenter.create({ ...RESNET18, classCount: CLASS_COUNT });
      using discriminator = await OutputDiscriminator.create({ classCount: CLASS_COUNT, baseWidth: 8 });
      using step = await SegmentationStep.create(segmenter, discriminator, options);
      const rates = { learningRate: 1e-3, discriminatorLearningRate: 1e-3 };
      return outcome(await step.run({ ...BATCHES[0]!, ...rates }), step);
    };
    const paper: SegmentationStepOptions = {
      ...{ normalize: 'all', ignoreIndex: 255, adversarialWeight: 1e-3, pseudoLabelWeight: 1 },
      ...{ optimizer: 'sgd', momentum: 0.9, weightDecay: 5e-4, headLearningRateFactor: 10 },
      ...{ repeatedStep: false, discriminatorBetas: [0.9, 0.99], precision: 'fp32' },
    };
    assert.deepEqual(await found(undefined), await found(paper));
    assert.deepEqual(await found({ adversarialWeight: undefined } as never), await found(paper));
    assert.notDeepEqual(await found({ adversarialWeight: 1e-2 }), await found(paper));
  });

  it('take one class weight per class, or none', async () => {
    using segmenter = await Segmenter.create({ ...RESNET18, classCount: CLASS_COUNT });
    const create = (classWeights: number[]) => SegmentationStep.create(segmenter, null, { classWeights });
    (await create([1, 2, 0, 0.5, 3])).dispose();
    await assert.rejects(
      create([1, 2, 3]),
      /^InvalidArgumentError: Expected 5 class weights, one per class, but received 3$/,
    );
    await assert.rejects(create([1, 2, -1, 1, 1]), /classWeights/);
  });

  it('of a translation step are those of the paper', async () => {
    const found = async (options: TranslationStepOptions | undefined) => {
      using segmenter = await Segmenter.create({ ...RESNET18, classCount: CLASS_COUNT });
      const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8 });
      using step = await TranslationStep.create(translator, segmenter, options);
      const batch = { source: randomBatch(RGB, 1), target: randomBatch(RGB, 6) };
      const result = await outcome(await step.run({ ...batch, learningRate: 2e-4 }), step);
      translator.dispose();
      return result;
    };
    const paper: TranslationStepOptions = {
      ...{ ganMode: 'least-squares', ganWeight: 1, cycleWeight: 10, identityWeight: 0, perceptualForm: 'l1' },
      ...{ perceptualWeight: 0.1, perceptualReconstructionWeight: 10, poolSize: 50, betas: [0.5, 0.999] },
      ...{ precision: 'fp32', microBatchSize: null, activationCheckpointing: false, seed: 1 },
    };
    assert.deepEqual(await found(undefined), await found(paper));
    assert.notDeepEqual(await found({ identityWeight: 5 }), await found(paper));
  });
});

describe('activation checkpointing', () => {
  for (const [item, network] of Object.entries({ RESNET18, RESNET50, VGG, FCN })) {
    it(`changes no bit of what a segmentation step does: ${item}`, async () => {
      const plain = await segmentation(network, 'float32', {}, BATCHES);
      const checkpointed = await segmentation(network, 'float32', { activationCheckpointing: true }, BATCHES);
      assert.deepEqual(checkpointed, plain);
    });
  }

  it('changes no bit of what a step with masked images does', async () => {
    const options = { teacher: { threshold: 0.2, classMix: false, masking: {} } };
    const plain = await segmentation(RESNET18, 'float32', options, BATCHES);
    const checkpointed = { ...options, activationCheckpointing: true };
    assert.deepEqual(await segmentation(RESNET18, 'float32', checkpointed, BATCHES), plain);
  });

  it('changes no bit of what a translation step does', async () => {
    const plain = await translation('float32', {}, RGB);
    assert.deepEqual(await translation('float32', { activationCheckpointing: true }, RGB), plain);
  });
});

describe('a teacher', () => {
  const values = async (network: Segmenter) => {
    const found = new Map<string, Float32Array>();
    for (const [name, tensor] of [...(await network.parameters()), ...(await network.buffers())]) {
      using values = tensor;
      if (values.dtype === 'float32')
        found.set(name, Float32Array.from((await values.data()) as Float32Array));
    }
    return found;
  };

  it('that is given is the average of the weights', async () => {
    using segmenter = await Segmenter.create({ ...RESNET18, classCount: CLASS_COUNT });
    using teacher = await Segmenter.create({ ...RESNET18, classCount: CLASS_COUNT, seed: 9 });
    const options = { ...SEGMENTATION, teacher: { decay: 0.6, threshold: 0.2, classMix: false } };
    using step = await SegmentationStep.create(segmenter, null, options, { teacher });
    let average = await values(segmenter);
    assert.deepEqual(await values(teacher), average);
    for (const [index, batch] of [...BATCHES, ...BATCHES].entries()) {
      await step.run({ ...batch, learningRate: 1e-2 });
      const decay = Math.min(0.6, 1 - 1 / (index + 2));
      const newest = await values(segmenter);
      average = new Map(
        [...average].map(([name, own]) => [
          name,
          own.map((value, i) => decay * value + (1 - decay) * newest.get(name)![i]!),
        ]),
      );
      const difference = relativeDifference(await values(teacher), average);
      assert(difference < 1e-6, `${difference} after step ${index + 1}`);
    }
    assert.notDeepEqual(average, await values(segmenter));
  });

  it('is refused if it cannot be one', async () => {
    const create = (options: object) =>
      Segmenter.create({ ...RESNET18, classCount: CLASS_COUNT, ...options });
    using segmenter = await create({});
    using wider = await create({ width: 1 / 4 });
    using finer = await create({ dtype: 'float64' });
    using other = await create({});
    const options = { ...SEGMENTATION, teacher: { classMix: false } };
    const refused = (teacher: Segmenter, message: RegExp, given: SegmentationStepOptions = options) =>
      assert.rejects(SegmentationStep.create(segmenter, null, given, { teacher }), message);
    await refused(segmenter, /another segmenter than the one to train for teacher/);
    await refused(finer, /networks of one dtype but .*teacher is float64/);
    await refused(other, /null without options\.teacher for teacher/, SEGMENTATION);
    await refused(
      wider,
      /the teacher does not fit the segmenter: .*conv1\.weight is \[8, 3, 7, 7\], not \[16/,
    );
  });
});

describe('masked images', () => {
  const step = async (network: SmallNetwork, teacher: NonNullable<SegmentationStepOptions['teacher']>) => {
    using segmenter = await Segmenter.create({
      ...{ ...network, classCount: CLASS_COUNT, initialization: 'kaiming' },
    });
    const options = { ...SEGMENTATION, teacher: { threshold: 0.2, classMix: false, ...teacher } };
    using step = await SegmentationStep.create(segmenter, null, options);
    const losses = await step.run({ ...BATCHES[0]!, learningRate: 1e-3 });
    return { losses, state: await snapshot(step) };
  };

  for (const [item, network] of Object.entries({ RESNET18, VGG })) {
    it(`have the teacher's loss if no patch is removed, and another one otherwise: ${item}`, async () => {
      const { losses: whole } = await step(network, { masking: { ratio: 0 } });
      assert.ok(whole.teacher > 0);
      assert.equal(whole.masked, whole.teacher);
      const { losses: part } = await step(network, { masking: { ratio: 0.7 } });
      assert.equal(part.teacher, whole.teacher);
      assert.ok(part.masked > 0 && part.masked !== part.teacher);
      const { losses: none } = await step(network, {});
      assert.equal(none.masked, 0);
      assert.ok(Math.abs(whole.total - none.total - whole.masked) < 1e-6);
    });
  }

  it('leave no trace in running statistics, and all of them are gone with a ratio of 1', async () => {
    const { state: plain } = await step(RESNET18, {});
    const { state: masked, losses } = await step(RESNET18, { masking: { ratio: 1 } });
    const counters = [...plain].filter(([name]) => /^segmenter\..*(running_|num_batches)/.test(name));
    assert.ok(counters.length > 20);
    for (const [name, values] of counters) assert.deepEqual(masked.get(name), values, name);
    // BatchNorm makes a constant image 0, which only the head's bias can learn from.
    const head = 'segmenter.layer5.conv2d_list.0.bias';
    assert.notDeepEqual(masked.get(head), plain.get(head));
    // Nothing is left of the images, so their content does not matter.
    const other = await step(RESNET18, { masking: { ratio: 1, patch: 1 } });
    assert.equal(other.losses.masked, losses.masked);
  });
});

describe('a batch in parts', () => {
  it('moves the translators and the image pools as the whole batch does', async () => {
    const shape = { ...RGB, count: 3 };
    const whole = await translation('float64', {}, shape);
    const rows: Measurement[] = [];
    for (const microBatchSize of [1, 2, 3]) {
      const { losses, state } = difference(await translation('float64', { microBatchSize }, shape), whole);
      rows.push({ item: `losses, parts of ${microBatchSize}`, error: losses, bound: 1e-12 });
      rows.push({ item: `state, parts of ${microBatchSize}`, error: state, bound: 1e-10 });
    }
    printAndCheck('three images in parts against all at once, three steps, float64: relative errors', rows);
  });
});

describe('gradient accumulation', () => {
  it('takes batches that can be cut into as many parts', async () => {
    const batches = [1, 11].map((seed) => ({
      source: randomBatch({ ...SHAPE, count: 4 }, seed, CLASS_COUNT),
      target: randomBatch({ ...SHAPE, count: seed === 1 ? 4 : 2 }, seed + 5),
    }));
    await segmentation(RESNET18, 'float32', { accumulation: 2 }, batches);
    await assert.rejects(segmentation(RESNET18, 'float32', { accumulation: 4 }, batches), {
      code: 'ERR_INVALID_ARGUMENT',
      message: 'Expected a number of target images that is divisible by accumulation, 4, but received 2',
    });
    await assert.rejects(segmentation(RESNET18, 'float32', { accumulation: 0 }, batches), {
      code: 'ERR_INVALID_ARGUMENT',
      message: /^Expected a whole number from 1 to 1024 for accumulation but received 0/,
    });
  });
});

describe('loss scaling', () => {
  /** Returns losses and state without the scale itself. */
  const rest = ({ losses, state }: Outcome) => ({
    losses,
    state: new Map([...state].filter(([name]) => !name.startsWith('loss_scaler.'))),
  });

  for (const [item, network] of Object.entries({ RESNET18, FCN })) {
    it(`by a power of two changes no bit of what a segmentation step does: ${item}`, async () => {
      const options = { accumulation: 2, alignment: 'entropy-discriminator', entropyWeight: 0.1 } as const;
      const plain = await segmentation(network, 'float32', options, BATCHES);
      const scaled = await segmentation(network, 'float32', { ...options, lossScaling: true }, BATCHES);
      assert.deepEqual(rest(scaled), plain);
      assert.deepEqual(scaled.state.get('loss_scaler.scale'), Float64Array.of(65536));
      assert.deepEqual(scaled.state.get('loss_scaler.good_steps'), BigInt64Array.of(2n));
    });
  }

  it('changes no bit of what a translation step does', async () => {
    const plain = await translation('float32', { microBatchSize: 1 }, RGB);
    const scaled = await translation('float32', { microBatchSize: 1, lossScaling: true }, RGB);
    assert.deepEqual(rest(scaled), plain);
    assert.deepEqual(scaled.state.get('loss_scaler.good_steps'), BigInt64Array.of(3n));
  });

  it('changes no bit of what a paired translation step does', async () => {
    const paired = async (lossScaling: boolean) => {
      const translator = await Translator.create({
        ...{ pairing: 'paired', depth: 5, baseWidth: 4, discriminatorWidth: 4 },
      });
      using step = await PairedTranslationStep.create(translator, { ...PAIRED_TRANSLATION, lossScaling });
      const shape = { count: 1, height: 32, width: 64 };
      const batch = { source: randomBatch(shape, 1), target: randomBatch(shape, 6), learningRate: 1e-3 };
      await step.run(batch);
      const result = await outcome(await step.run(batch), step);
      translator.dispose();
      return result;
    };
    assert.deepEqual(rest(await paired(true)), await paired(false));
  });
});

describe('the memory format of activations', () => {
  it('changes nothing but rounding', async () => {
    const rows: Measurement[] = [];
    for (const [item, network] of Object.entries({ RESNET50, VGG })) {
      const contiguous = await segmentation(network, 'float64', { memoryFormat: 'contiguous' }, BATCHES);
      const last = await segmentation(network, 'float64', { memoryFormat: 'channels-last' }, BATCHES);
      const { losses, state } = difference(last, contiguous);
      rows.push({ item: `${item}, losses`, error: losses, bound: 1e-12 });
      rows.push({ item: `${item}, state`, error: state, bound: 1e-12 });
    }
    printAndCheck('channels-last against contiguous, two steps, float64: relative errors', rows);
  });
});

describe('other methods for convolutions', () => {
  // Large enough for Winograd's tiles, with tiles that reach past the edges, and gaps in each phase of a dilation.
  const shape = { count: 2, height: 116, width: 148 };
  const batches = [
    {
      source: randomBatch(shape, 1, CLASS_COUNT),
      target: randomBatch({ ...shape, height: 120 }, 6, CLASS_COUNT),
    },
  ];
  const steps = {
    RESNET18: (dtype: NetworkDtype, options: object) =>
      segmentation({ backbone: 'resnet18', width: 1 / 2 }, dtype, options, batches),
    FCN: (dtype: NetworkDtype, options: object) =>
      segmentation({ network: 'fcn-8s', width: 1 / 4 }, dtype, options, BATCHES.slice(0, 1)),
    'the translators': (dtype: NetworkDtype, options: object) =>
      translation(dtype, options, RGB, { baseWidth: 32, steps: 1 }),
  };

  for (const [item, step] of Object.entries(steps)) {
    it(`round as LibTorch's do: ${item}`, async () => {
      const exact = await step('float64', {});
      const direct = await step('float32', { convolutions: 'direct' });
      const auto = await step('float32', {});
      assert.notDeepEqual(auto.state, direct.state, 'the same methods were used');
      const before = difference(direct, exact);
      const now = difference(auto, exact);
      printAndCheck(`${item}, float32 against float64: relative errors`, [
        { item: 'losses', error: now.losses, bound: 2 * before.losses + 1e-6 },
        // In FCN-8s's wide margin, equal values meet in max pooling, and rounding decides which of them gets the gradient.
        { item: 'state', error: now.state, bound: 2 * before.state + (item === 'FCN' ? 1e-3 : 0) },
      ]);
      const { threads } = await buildInfo();
      await setThreadCount(1);
      try {
        // LibTorch sums some gradients by threads, with `direct` too.
        const ofDirect = difference(await step('float32', { convolutions: 'direct' }), direct);
        const ofAuto = difference(await step('float32', {}), auto);
        printAndCheck(`${item}, one thread against ${threads}: relative differences`, [
          { item: 'losses', error: ofAuto.losses, bound: 2 * ofDirect.losses + 1e-6 },
          { item: 'state', error: ofAuto.state, bound: 2 * ofDirect.state + 1e-6 },
        ]);
      } finally {
        await setThreadCount(threads);
      }
    });
  }
});

describe('the segmenter of the perceptual terms', () => {
  it('is folded anew when it has changed', async () => {
    using segmenter = await Segmenter.create({
      ...RESNET18,
      classCount: CLASS_COUNT,
      initialization: 'kaiming',
    });
    const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8 });
    const batch = { source: randomBatch(RGB, 1), target: randomBatch(RGB, 6), learningRate: 0 };
    const create = () => TranslationStep.create(translator, segmenter, TRANSLATION);
    using step = await create();
    const { perceptualSource: before } = await step.run(batch);
    assert.equal((await step.run(batch)).perceptualSource, before, 'a step at rate 0 moved something');

    using training = await SegmentationStep.create(segmenter, null, SEGMENTATION);
    await training.run({ source: BATCHES[0]!.source, learningRate: 1e-2 });
    const { perceptualSource: after } = await step.run(batch);
    assert.notEqual(after, before);
    using fresh = await create();
    assert.equal((await fresh.run(batch)).perceptualSource, after);
    translator.dispose();
  });
});
