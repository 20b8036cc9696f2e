import assert from 'node:assert/strict';
import {
  type NetworkDtype,
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
import { DEVICE, describeOnDevice, IS_CUDA, itOnCuda, lossDtypes } from './device.js';

const CLASS_COUNT = 5;
const SEGMENTER = { backbone: 'resnet18', width: 1 / 8, classCount: CLASS_COUNT } as const;
/** Heights of the batches. From the fourth on, graphs are replayed. Then another shape follows, and the first again. */
const HEIGHTS = [41, 41, 41, 41, 41, 57, 41, 41, 41, 41, 41];

interface Outcome {
  losses: Snapshot;
  state: Snapshot;
}

async function segmentation(
  options: Partial<SegmentationStepOptions>,
  dtype: NetworkDtype,
  { uploaded = false } = {},
): Promise<Outcome> {
  const place = { device: DEVICE, dtype };
  using segmenter = await Segmenter.create({ ...SEGMENTER, ...place, initialization: 'kaiming' });
  using discriminator = await OutputDiscriminator.create({
    classCount: CLASS_COUNT,
    baseWidth: 8,
    ...place,
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
  const place = { device: DEVICE, dtype: 'float64' } as const;
  using segmenter = await Segmenter.create({ ...SEGMENTER, ...place, initialization: 'kaiming' });
  const translator = await Translator.create({
    ...{ pairing, blocks: 6, depth: 5, baseWidth: 8, discriminatorWidth: 8 },
    ...place,
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

function rows(item: string, found: Outcome, expected: Outcome, bounds: number | Outcome): Measurement[] {
  assert.deepEqual([...found.state.keys()], [...expected.state.keys()]);
  return (['losses', 'state'] as const).map((what) => {
    const error = relativeDifference(found[what], expected[what]);
    if (typeof bounds === 'number') return { item: `${item}, ${what}`, error, bound: bounds };
    const repeated = relativeDifference(bounds[what], expected[what]);
    const bound = Math.max(1e-5, 20 * repeated);
    return { item: `${item}, ${what} (repeated ${repeated.toExponential(1)})`, error, bound };
  });
}

/**
 * Compares a variant of a segmentation with the plain one in the most exact dtype that the device has. In float32 the
 * bound follows from how much a repetition of the plain one differs, because some kernels add up in any order.
 */
async function compareWithPlain(
  options: Partial<SegmentationStepOptions>,
  variants: Record<string, (dtype: NetworkDtype) => Promise<Outcome>>,
): Promise<Measurement[]> {
  const dtype = (await lossDtypes())[0]!;
  const plain = await segmentation(options, dtype);
  const bounds = dtype === 'float64' ? 1e-9 : await segmentation(options, dtype);
  const all: Measurement[] = [];
  for (const [item, variant] of Object.entries(variants)) {
    all.push(...rows(`${item}, ${dtype}`, await variant(dtype), plain, bounds));
  }
  return all;
}

describeOnDevice('CUDA graphs and uploads', () => {
  for (const [item, options] of [
    ['Eq. 3', {}],
    ['Eq. 3, Adam', { optimizer: 'adam' }],
    ['two batches a step, blocks computed again', { accumulation: 2, activationCheckpointing: true }],
    [
      'entropies, ClassMix',
      {
        ...{ alignment: 'entropy-discriminator', entropyWeight: 0.1 },
        teacher: { decay: 0.9, threshold: 0.3, weight: 0.7, classMix: true, seed: 3 },
      },
    ],
    [
      'masked images',
      { teacher: { decay: 0.9, threshold: 0.3, weight: 0.7, classMix: false, masking: {}, seed: 3 } },
    ],
    ['scaled losses', { lossScaling: true }],
  ] as [string, Partial<SegmentationStepOptions>][]) {
    itOnCuda(`with CUDA graphs gives the same as without: ${item}`, async () => {
      const measured = await compareWithPlain(options, {
        graphs: (dtype) => segmentation({ ...options, cudaGraphs: IS_CUDA }, dtype),
      });
      printAndCheck(`${item}, eleven steps of two shapes: relative differences`, measured);
    });
  }

  for (const pairing of ['unpaired', 'paired'] as const) {
    itOnCuda(`with CUDA graphs gives the same as without: F, ${pairing}`, async () => {
      const plain = await translation({}, pairing);
      const graphs = await translation({ cudaGraphs: IS_CUDA }, pairing);
      const title = `F, ${pairing}, in float64, eleven steps of two shapes: relative differences`;
      printAndCheck(title, rows('graphs', graphs, plain, 1e-6));
    });
  }

  for (const precision of ['tf32', 'bf16', 'fp16'] as const) {
    itOnCuda(`with CUDA graphs in ${precision} gives about the same as without`, async () => {
      const options = { precision: IS_CUDA ? precision : 'fp32' } as const;
      const plain = await segmentation(options, 'float32');
      const repeated = await segmentation(options, 'float32');
      const graphs = await segmentation({ ...options, cudaGraphs: IS_CUDA }, 'float32');
      const title = `${precision}, eleven steps of two shapes: relative differences`;
      printAndCheck(title, rows('graphs', graphs, plain, repeated));
    });
  }

  itOnCuda('with uploaded batches gives the same as without', async () => {
    const uploaded = { uploaded: IS_CUDA };
    const measured = await compareWithPlain(
      {},
      {
        uploaded: (dtype) => segmentation({}, dtype, uploaded),
        'uploaded, graphs': (dtype) => segmentation({ cudaGraphs: IS_CUDA }, dtype, uploaded),
      },
    );
    printAndCheck('batches uploaded beforehand, eleven steps: relative differences', measured);
  });

  itOnCuda('refuses CUDA graphs for what the host draws or adds up', async () => {
    const INVALID = { code: 'ERR_INVALID_ARGUMENT' };
    using fcn = await Segmenter.create({
      ...{ network: 'fcn-8s', width: 1 / 16, classCount: CLASS_COUNT },
      device: DEVICE,
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
});
