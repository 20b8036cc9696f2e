import assert from 'node:assert/strict';
import {
  buildInfo,
  OutputDiscriminator,
  PairedTranslationStep,
  SegmentationStep,
  type SegmentationStepOptions,
  Segmenter,
  TranslationStep,
  type TranslationStepOptions,
  Translator,
} from 'bidiseg';
import { uploadBatch } from '../../lib/training/steps/upload.js';
import { PAIRED_TRANSLATION, randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { relativeDifference, type Snapshot, snapshot } from '../helpers/tensor-file.js';

const CLASS_COUNT = 5;
const DEVICE = { device: 'cuda', dtype: 'float64' } as const;
const SEGMENTER = { backbone: 'resnet18', width: 1 / 8, classCount: CLASS_COUNT } as const;
/** Heights of the batches. From the fourth on, graphs are replayed. Then another shape follows, and the first again. */
const HEIGHTS = [41, 41, 41, 41, 41, 57, 41, 41, 41, 41, 41];

interface Outcome {
  losses: Snapshot;
  state: Snapshot;
}

async function segmentation(
  options: Partial<SegmentationStepOptions>,
  { uploaded = false } = {},
): Promise<Outcome> {
  using segmenter = await Segmenter.create({ ...SEGMENTER, ...DEVICE, initialization: 'kaiming' });
  using discriminator = await OutputDiscriminator.create({
    classCount: CLASS_COUNT,
    baseWidth: 8,
    ...DEVICE,
  });
  using step = await SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, ...options });
  const losses: number[] = [];
  for (const [i, height] of HEIGHTS.entries()) {
    const shape = { count: 2, height, width: 57 };
    const source = randomBatch(shape, 10 * i, CLASS_COUNT);
    const target = randomBatch(shape, 10 * i + 5, CLASS_COUNT);
    const rates = { learningRate: 1e-3 / (i + 1), discriminatorLearningRate: 1e-3 / (i + 1) };
    if (!uploaded) {
      losses.push(...Object.values(await step.run({ source, target, ...rates })));
      continue;
    }
    const [one, other] = [uploadBatch(segmenter, source), uploadBatch(segmenter, target)];
    losses.push(...Object.values(await step.run({ source: one, target: other, ...rates })));
    one.dispose();
    other.dispose();
  }
  return {
    losses: new Map([['losses', Float64Array.from(losses)]]),
    state: await snapshot(step),
  };
}

async function translation(
  options: Partial<TranslationStepOptions>,
  pairing: 'paired' | 'unpaired',
): Promise<Outcome> {
  using segmenter = await Segmenter.create({ ...SEGMENTER, ...DEVICE, initialization: 'kaiming' });
  const translator = await Translator.create({
    ...{ pairing, blocks: 6, depth: 5, baseWidth: 8, discriminatorWidth: 8 },
    ...DEVICE,
  });
  using step =
    pairing === 'paired'
      ? await PairedTranslationStep.create(translator, { ...PAIRED_TRANSLATION, ...options })
      : await TranslationStep.create(translator, segmenter, { ...TRANSLATION, poolSize: 3, ...options });
  const losses: number[] = [];
  for (const [i, height] of HEIGHTS.entries()) {
    // All images of a pool have one size.
    const shape = { count: 2, height: pairing === 'paired' && height > 50 ? 64 : 32, width: 64 };
    const batch = { source: randomBatch(shape, 10 * i), target: randomBatch(shape, 10 * i + 5) };
    losses.push(...Object.values(await step.run({ ...batch, learningRate: 1e-4 / (i + 1) })));
  }
  const state = await snapshot(step);
  translator.dispose();
  return { losses: new Map([['losses', Float64Array.from(losses)]]), state };
}

function rows(item: string, found: Outcome, expected: Outcome, bound: number): Measurement[] {
  assert.deepEqual([...found.state.keys()], [...expected.state.keys()]);
  return [
    { item: `${item}, losses`, error: relativeDifference(found.losses, expected.losses), bound },
    { item: `${item}, state`, error: relativeDifference(found.state, expected.state), bound },
  ];
}

describe('training on a GPU', () => {
  before(async function () {
    const { cuda, cudaDevices } = await buildInfo();
    if (cudaDevices.length > 0 && cuda) return;
    const lack = cudaDevices.length === 0 ? 'no CUDA device' : 'no CUDA compiled in';
    console.log(`    skipped: ${lack}`);
    this.skip();
  });

  it('with CUDA graphs gives the same as without', async () => {
    const teacher = { decay: 0.9, threshold: 0.3, weight: 0.7, classMix: true, seed: 3 };
    const all: Measurement[] = [];
    for (const [item, options] of [
      ['Eq. 3', {}],
      ['Eq. 3, Adam', { optimizer: 'adam' }],
      ['two batches a step, blocks computed again', { accumulation: 2, activationCheckpointing: true }],
      ['entropies, ClassMix', { alignment: 'entropy-discriminator', entropyWeight: 0.1, teacher }],
      ['scaled losses', { lossScaling: true }],
    ] as [string, Partial<SegmentationStepOptions>][]) {
      const plain = await segmentation(options);
      all.push(...rows(item, await segmentation({ ...options, cudaGraphs: true }), plain, 1e-9));
    }
    for (const pairing of ['unpaired', 'paired'] as const) {
      const plain = await translation({}, pairing);
      all.push(...rows(`F, ${pairing}`, await translation({ cudaGraphs: true }, pairing), plain, 1e-6));
    }
    printAndCheck('CUDA graphs in float64, eleven steps of two shapes: relative differences', all);
  });

  it('with uploaded batches gives the same as without', async () => {
    const plain = await segmentation({});
    const uploaded = await segmentation({}, { uploaded: true });
    const graphs = await segmentation({ cudaGraphs: true }, { uploaded: true });
    printAndCheck('batches uploaded beforehand in float64, eleven steps: relative differences', [
      ...rows('uploaded', uploaded, plain, 1e-9),
      ...rows('uploaded, with CUDA graphs', graphs, plain, 1e-9),
    ]);
  });

  it('refuses CUDA graphs for what the host draws or adds up', async () => {
    const INVALID = { code: 'ERR_INVALID_ARGUMENT' };
    using fcn = await Segmenter.create({
      ...{ network: 'fcn-8s', width: 1 / 16, classCount: CLASS_COUNT },
      ...DEVICE,
    });
    await assert.rejects(SegmentationStep.create(fcn, null, { ...SEGMENTATION, cudaGraphs: true }), {
      ...INVALID,
      message: /^Expected a segmenter without dropout for cudaGraphs/,
    });
    await assert.rejects(translation({ microBatchSize: 1, cudaGraphs: true }, 'unpaired'), {
      ...INVALID,
      message: 'Expected no microBatchSize with cudaGraphs',
    });
  });

  it('in fp16 computes the same as fp32, except for rounding', async function () {
    const { precisions } = await buildInfo();
    if (!precisions['cuda:0']!.includes('fp16')) {
      console.log('    skipped: this GPU has no instructions for float16');
      this.skip();
    }
    const batch = {
      source: randomBatch({ count: 2, height: 64, width: 96 }, 1, CLASS_COUNT),
      target: randomBatch({ count: 2, height: 64, width: 96 }, 6, CLASS_COUNT),
      ...{ learningRate: 1e-3, discriminatorLearningRate: 1e-4 },
    };
    const losses = async (precision: 'fp32' | 'fp16') => {
      using segmenter = await Segmenter.create({ ...SEGMENTER, initialization: 'kaiming', device: 'cuda' });
      using step = await SegmentationStep.create(segmenter, null, { ...SEGMENTATION, precision });
      const found: number[] = [];
      // The first steps may overflow. They are then not applied.
      for (let i = 0; i < 20; i++) found.push((await step.run(batch)).segmentation);
      return found;
    };
    const [fp32, fp16] = [await losses('fp32'), await losses('fp16')];
    printAndCheck('the loss in fp16', [
      { item: 'first step, against fp32', error: Math.abs(fp16[0]! / fp32[0]! - 1), bound: 2e-3 },
    ]);
    assert(fp16.at(-1)! < fp16[0]! && fp16.every(Number.isFinite), `nothing was learned: ${fp16}`);
  });
});
