import assert from 'node:assert/strict';
import {
  buildInfo,
  type DomainDiscriminator,
  FeatureDiscriminator,
  type NetworkDtype,
  OutputDiscriminator,
  PairedTranslationStep,
  type PairedTranslationStepOptions,
  type Precision,
  SegmentationStep,
  type SegmentationStepOptions,
  Segmenter,
  type SegmenterOptions,
  type TensorMap,
  TranslationStep,
  type TranslationStepOptions,
  Translator,
} from 'bidiseg';
import { PAIRED_TRANSLATION, randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { randomBytes } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { relativeDifference, type Snapshot, snapshot } from '../helpers/tensor-file.js';
import { DEVICE, describeOnDevice, IS_CUDA, lossDtypes } from './device.js';

const CLASS_COUNT = 5;
const STEPS = 3;

interface Place {
  device: string;
  dtype: NetworkDtype;
}

/** A step with its networks. `run` takes the number of the step. */
interface Training extends Disposable {
  run(index: number, signal?: AbortSignal): Promise<object>;
  state(): Promise<TensorMap>;
  loadState(state: TensorMap): Promise<void>;
}

type Create = (place: Place) => Promise<Training>;

function training(
  step: SegmentationStep | TranslationStep | PairedTranslationStep,
  networks: ({ dispose(): void } | null)[],
  run: Training['run'],
): Training {
  return {
    run,
    state: () => step.state(),
    loadState: (state) => step.loadState(state),
    [Symbol.dispose]() {
      for (const object of [step, ...networks]) object?.dispose();
    },
  };
}

interface SegmentationCase {
  item: string;
  options?: Partial<SegmentationStepOptions>;
  segmenter?: Partial<SegmenterOptions>;
  discriminator?: false;
  /** Default `labeled`. */
  target?: 'labeled' | 'unlabeled' | 'soft' | 'none';
}

function segmentation({ options, segmenter, discriminator, target = 'labeled' }: SegmentationCase): Create {
  return async (place) => {
    const M = await Segmenter.create({
      ...{ backbone: 'resnet18', width: 1 / 8, classCount: CLASS_COUNT, initialization: 'kaiming', seed: 3 },
      ...segmenter,
      ...place,
    });
    let D: DomainDiscriminator | null = null;
    if (discriminator !== false) {
      D =
        options?.alignment === 'feature-discriminator'
          ? await FeatureDiscriminator.create({ featureCount: M.featureCount, baseWidth: 8, ...place })
          : await OutputDiscriminator.create({ classCount: CLASS_COUNT, baseWidth: 8, ...place });
    }
    const step = await SegmentationStep.create(M, D, { ...SEGMENTATION, ...options });
    return training(step, [M, D], async (index, signal) => {
      const shape = { count: 2 * (options?.accumulation ?? 1), height: 41, width: 57 };
      const labels = target === 'unlabeled' ? undefined : CLASS_COUNT;
      const images = randomBatch(shape, 10 * index + 5, labels);
      if (target === 'soft') images.weights = randomBytes(shape.count * 41 * 57, 10 * index + 7);
      return await step.run({
        source: randomBatch(shape, 10 * index, CLASS_COUNT),
        ...(target !== 'none' && { target: images }),
        learningRate: 1e-3 / (index + 1),
        discriminatorLearningRate: 1e-3 / (index + 1),
        signal,
      });
    });
  };
}

interface TranslationCase {
  item: string;
  options?: Partial<TranslationStepOptions>;
  segmenter?: false;
}

function translation({ options, segmenter }: TranslationCase): Create {
  return async (place) => {
    const M =
      segmenter === false
        ? null
        : await Segmenter.create({
            ...{ backbone: 'resnet18', width: 1 / 8, classCount: CLASS_COUNT, initialization: 'kaiming' },
            ...place,
          });
    const F = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8, ...place });
    const step = await TranslationStep.create(F, M, { ...TRANSLATION, ...options });
    return training(step, [M, F], (index, signal) => {
      const shape = { count: 2, height: 32, width: 44 };
      return step.run({
        ...{ source: randomBatch(shape, 10 * index), target: randomBatch(shape, 10 * index + 5) },
        learningRate: 1e-4 / (index + 1),
        ...(signal && { signal }),
      });
    });
  };
}

function pairedTranslation(options: Partial<PairedTranslationStepOptions>): Create {
  return async (place) => {
    const F = await Translator.create({
      ...{ pairing: 'paired', depth: 5, baseWidth: 8, discriminatorWidth: 8 },
      ...place,
    });
    const step = await PairedTranslationStep.create(F, { ...PAIRED_TRANSLATION, ...options });
    return training(step, [F], (index, signal) => {
      const shape = { count: 2, height: 32, width: 64 };
      return step.run({
        ...{ source: randomBatch(shape, 10 * index), target: randomBatch(shape, 10 * index + 5) },
        learningRate: 1e-4 / (index + 1),
        ...(signal && { signal }),
      });
    });
  };
}

interface Outcome {
  losses: Snapshot;
  state: Snapshot;
  /** Movement of all weights. */
  moved: Snapshot;
}

const isWeight = (name: string) => !/running_|num_batches|steps|optimizer|pool|scale/i.test(name);

async function outcomeOf(create: Create, place: Place, steps = STEPS): Promise<Outcome> {
  using object = await create(place);
  const before = await snapshot(object);
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push(...(Object.values(await object.run(i)) as number[]));
  const state = await snapshot(object);
  const moved: Snapshot = new Map();
  for (const [name, values] of state) {
    const start = before.get(name);
    if (!isWeight(name) || start?.length !== values.length) continue;
    moved.set(
      name,
      Float64Array.from(values as Float64Array, (value, i) => value - Number(start[i])),
    );
  }
  return { losses: new Map([['losses', Float64Array.from(losses)]]), state, moved };
}

function errorsOf(found: Outcome, expected: Outcome): Record<keyof Outcome, number> {
  assert.deepEqual([...found.state.keys()], [...expected.state.keys()]);
  return {
    losses: relativeDifference(found.losses, expected.losses),
    state: relativeDifference(found.state, expected.state),
    moved: relativeDifference(found.moved, expected.moved),
  };
}

interface Bounds {
  float64: Record<keyof Outcome, number>;
  float32: Record<keyof Outcome, number>;
}

// In float64 only the equations decide. Adam divides by the size of a gradient, which magnifies rounding.
const SEGMENTATION_BOUNDS: Bounds = {
  float64: { losses: 1e-9, state: 1e-9, moved: 1e-6 },
  float32: { losses: 1e-3, state: 1e-3, moved: 1e-2 },
};
const TRANSLATION_BOUNDS: Bounds = {
  float64: { losses: 1e-6, state: 1e-6, moved: 1e-4 },
  // Signs of an L1 loss decide about Adam's moments. The CPU was off by up to 0.12, and an H100 by up to 0.48.
  float32: { losses: 1e-3, state: 0.2, moved: 0.1 },
};

/**
 * Compares steps on the device with those on the CPU in float64. In float32 they may be 20 times as inexact as the CPU's
 * own, if that is more than the bound: where a ReLU, a threshold or Adam turns rounding into more, it does on both.
 */
async function compare(
  item: string,
  create: Create,
  dtypes: readonly NetworkDtype[],
  bounds: Bounds,
): Promise<void> {
  const truth = await outcomeOf(create, { device: 'cpu', dtype: 'float64' });
  const rows: Measurement[] = [];
  for (const dtype of dtypes) {
    const yardstick =
      dtype === 'float64' ? null : errorsOf(await outcomeOf(create, { device: 'cpu', dtype }), truth);
    const found = errorsOf(await outcomeOf(create, { device: DEVICE, dtype }), truth);
    for (const what of ['losses', 'state', 'moved'] as const) {
      const own = yardstick ? yardstick[what] : 0;
      rows.push({
        item: `${dtype}, ${what}${yardstick ? ` (CPU ${own.toExponential(1)})` : ''}`,
        error: found[what],
        bound: Math.max(bounds[dtype][what], 20 * own),
      });
    }
  }
  printAndCheck(`${item}, ${STEPS} steps on ${DEVICE} against the CPU in float64: relative errors`, rows);
}

const TEACHER = { decay: 0.9, threshold: 0.3, weight: 0.7, seed: 3 };

const SEGMENTATIONS: SegmentationCase[] = [
  { item: 'source alone', discriminator: false, target: 'none' },
  { item: 'Eq. 1', target: 'unlabeled' },
  { item: 'Eq. 3' },
  { item: 'Eq. 3, all pixels, soft labels', options: { normalize: 'all' }, target: 'soft' },
  { item: 'Eq. 3, Adam', options: { optimizer: 'adam' } },
  { item: 'Eq. 3, Adam of PyTorch 0.4', options: { optimizer: 'adam', adamForm: 'pytorch-0.4' } },
  { item: 'Eq. 3, repeated step', options: { repeatedStep: true } },
  { item: 'Eq. 3, channels last', options: { memoryFormat: 'channels-last' } },
  { item: 'Eq. 3, ResNet-50', segmenter: { backbone: 'resnet50', branches: 2 } },
  { item: 'Eq. 3, FCN-8s', segmenter: { network: 'fcn-8s', width: 1 / 16 } },
  {
    item: 'two batches a step, blocks computed again',
    options: { accumulation: 2, activationCheckpointing: true },
  },
  {
    item: 'entropies, teacher, ClassMix',
    options: {
      ...{ alignment: 'entropy-discriminator', entropyWeight: 0.1 },
      teacher: { ...TEACHER, classMix: true },
    },
  },
  {
    item: 'teacher alone',
    options: { alignment: 'none', teacher: { ...TEACHER, classMix: false } },
    discriminator: false,
    target: 'unlabeled',
  },
  {
    item: 'ClassMix and masked images',
    options: {
      alignment: 'none',
      teacher: {
        ...TEACHER,
        classMix: true,
        classShares: [0.4, 0.3, 0.1, 0.2, 0],
        masking: { patch: 0.2, source: true },
      },
      featureDistance: { classes: [0, 2], minimumShare: 0.1, weight: 0.1 },
    },
    discriminator: false,
  },
  { item: 'features', options: { alignment: 'feature-discriminator', adversarialWeight: 0.1 } },
  { item: 'means', options: { alignment: 'mean', momentWeight: 0.3 }, discriminator: false },
  { item: 'covariances', options: { alignment: 'correlation', momentWeight: 10 }, discriminator: false },
  { item: 'scaled losses', options: { lossScaling: true } },
];

describeOnDevice('segmentation steps', () => {
  for (const each of SEGMENTATIONS) {
    it(`${each.item}: as on the CPU`, async () => {
      await compare(each.item, segmentation(each), await lossDtypes(), SEGMENTATION_BOUNDS);
    });
  }
});

const TRANSLATIONS: TranslationCase[] = [
  { item: 'without M and pool', segmenter: false },
  { item: 'with M and pools', options: { poolSize: 3 } },
  { item: 'BCE, L1 of M', options: { ganMode: 'bce', perceptualForm: 'l1' } },
  {
    item: 'one image at a time, blocks computed again',
    options: { microBatchSize: 1, activationCheckpointing: true },
  },
];

describeOnDevice('translation steps', () => {
  for (const each of TRANSLATIONS) {
    it(`${each.item}: as on the CPU`, async () => {
      await compare(each.item, translation(each), ['float64', 'float32'], TRANSLATION_BOUNDS);
    });
  }
  for (const [item, options] of [
    ['paired, BCE', {}],
    ['paired, least squares', { ganMode: 'least-squares', l1Weight: 10 }],
  ] as const) {
    it(`${item}: as on the CPU`, async () => {
      await compare(item, pairedTranslation(options), ['float64', 'float32'], TRANSLATION_BOUNDS);
    });
  }
});

/** Runs steps `from` to `to` after `state`, and returns the state after them. */
async function part(
  create: Create,
  place: Place,
  [from, to]: [number, number],
  state: TensorMap | null,
): Promise<{ tensors: TensorMap; values: Snapshot }> {
  using object = await create(place);
  if (state) await object.loadState(state);
  for (let i = from; i < to; i++) await object.run(i);
  return { tensors: await object.state(), values: await snapshot(object) };
}

function release(state: TensorMap): void {
  for (const tensor of state.values()) tensor.dispose();
}

describeOnDevice('state', () => {
  for (const [item, create, isSegmentation] of [
    [
      'Eq. 3, Adam, teacher',
      segmentation({ item: '', options: { optimizer: 'adam', teacher: { ...TEACHER, classMix: true } } }),
      true,
    ],
    ['Eq. 3, FCN-8s', segmentation({ item: '', segmenter: { network: 'fcn-8s', width: 1 / 16 } }), true],
    ['translation with pools', translation({ item: '', options: { poolSize: 3 } }), false],
    ['paired translation', pairedTranslation({}), false],
  ] as const) {
    it(`${item}: goes from the CPU to the device and back`, async () => {
      const dtype = isSegmentation ? (await lossDtypes())[0]! : 'float64';
      const cpu = { device: 'cpu', dtype };
      const whole = await part(create, cpu, [0, 6], null);
      const first = await part(create, cpu, [0, 2], null);
      const second = await part(create, { device: DEVICE, dtype }, [2, 4], first.tensors);
      const third = await part(create, cpu, [4, 6], second.tensors);
      assert.deepEqual([...third.values.keys()], [...whole.values.keys()]);
      const error = relativeDifference(third.values, whole.values);
      for (const { tensors } of [whole, first, second, third]) release(tensors);
      const bound = dtype === 'float32' ? 1e-2 : isSegmentation ? 1e-8 : 1e-5;
      printAndCheck(`${item}: two steps on the CPU, two on ${DEVICE}, two on the CPU`, [
        { item: `${dtype}, state against six steps on the CPU`, error, bound },
      ]);
    });
  }

  it('moves to another step on the device without a change', async () => {
    const create = segmentation({ item: '' });
    const place = { device: DEVICE, dtype: 'float32' } as const;
    using one = await create(place);
    await one.run(0);
    using other = await create(place);
    const state = await one.state();
    await other.loadState(state);
    release(state);
    assert.deepEqual(await snapshot(other), await snapshot(one));
  });
});

/** Relative bounds of the first loss against fp32, by the digits of the precision. */
const PRECISION_BOUNDS: Record<Precision, number> = { fp32: 0, tf32: 2e-3, bf16: 2e-2, fp16: 2e-3 };

describeOnDevice('precisions', () => {
  for (const precision of ['tf32', 'bf16', 'fp16'] as const) {
    it(`${precision}: losses are those of fp32, except for rounding, and it learns`, async function () {
      const { precisions } = await buildInfo();
      const has = precisions[IS_CUDA ? 'cuda:0' : 'cpu']!.includes(precision);
      if (!has && IS_CUDA) {
        console.log(`    skipped: this device has no ${precision}`);
        this.skip();
      }
      // Without it, the rehearsal computes the same in fp32.
      const used = has ? precision : 'fp32';
      const batch = {
        source: randomBatch({ count: 2, height: 64, width: 96 }, 1, CLASS_COUNT),
        target: randomBatch({ count: 2, height: 64, width: 96 }, 6, CLASS_COUNT),
        ...{ learningRate: 1e-3, discriminatorLearningRate: 1e-4 },
      };
      const losses = async (precision: Precision): Promise<number[]> => {
        const options = { classCount: CLASS_COUNT, device: DEVICE };
        using segmenter = await Segmenter.create({
          ...{ backbone: 'resnet18', width: 1 / 8, initialization: 'kaiming' },
          ...options,
        });
        using discriminator = await OutputDiscriminator.create({ baseWidth: 8, ...options });
        using step = await SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, precision });
        const found: number[] = [];
        // The first steps in fp16 may overflow. They are then not applied.
        for (let i = 0; i < 20; i++) found.push((await step.run(batch)).segmentation);
        return found;
      };
      const [expected, found] = [await losses('fp32'), await losses(used)];
      console.log(`    ${used}: ${found.map((loss) => loss.toFixed(4)).join(' ')}`);
      console.log(`    fp32: ${expected.map((loss) => loss.toFixed(4)).join(' ')}`);
      const translations = async (precision: Precision): Promise<number[]> => {
        const create = translation({ item: '', options: { precision } });
        using object = await create({ device: DEVICE, dtype: 'float32' });
        const all: number[] = [];
        for (let i = 0; i < 3; i++) all.push((Object.values(await object.run(i)) as number[])[0]!);
        return all;
      };
      const [expectedF, foundF] = [await translations('fp32'), await translations(used)];
      console.log(`    translation, ${used}: ${foundF.join(' ')}; fp32: ${expectedF.join(' ')}`);
      const bound = PRECISION_BOUNDS[precision];
      printAndCheck(`${precision} on ${DEVICE}`, [
        { item: 'first loss', error: Math.abs(found[0]! / expected[0]! - 1), bound },
        { item: 'last loss', error: Math.abs(found.at(-1)! / expected.at(-1)! - 1), bound: 0.1 },
        // In fp16 a first step whose gradients overflow still has its losses.
        { item: 'first loss of a translation', error: Math.abs(foundF[0]! / expectedF[0]! - 1), bound: 2e-2 },
      ]);
      assert.ok(found.at(-1)! < found[0]! && found.every(Number.isFinite), 'nothing was learned');
      assert.ok(foundF.every(Number.isFinite));
    });
  }

  it('that a device lacks, and mixtures of devices, are refused', async () => {
    using double = await Segmenter.create({
      ...{ backbone: 'resnet18', width: 1 / 16, classCount: CLASS_COUNT },
      ...{ device: DEVICE, dtype: 'float64' },
    });
    const INVALID = { code: 'ERR_INVALID_ARGUMENT' };
    await assert.rejects(
      SegmentationStep.create(double, null, { ...SEGMENTATION, precision: 'fp16' }),
      INVALID,
    );
    if (!IS_CUDA) return;
    using host = await OutputDiscriminator.create({
      classCount: CLASS_COUNT,
      baseWidth: 4,
      dtype: 'float64',
    });
    const outcome = await SegmentationStep.create(double, host, SEGMENTATION).then(
      (step) => step.dispose(),
      (error: unknown) => error,
    );
    console.log(`    a segmenter on ${DEVICE}, a discriminator on the CPU: ${outcome ?? 'accepted'}`);
    assert.ok(outcome instanceof Error);
  });
});
