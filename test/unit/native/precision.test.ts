import assert from 'node:assert/strict';
import {
  buildInfo,
  type NetworkDtype,
  OutputDiscriminator,
  type Precision,
  SegmentationStep,
  Segmenter,
  type TensorMap,
  TranslationStep,
  type TranslationStepOptions,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../../helpers/batches.js';
import { printAndCheck } from '../../helpers/table.js';
import { relativeDifference, type Snapshot } from '../../helpers/tensor-file.js';

const CLASS_COUNT = 5;
const SHAPE = { count: 2, height: 64, width: 96 };
const SOURCE = randomBatch(SHAPE, 1, CLASS_COUNT);
const TARGET = randomBatch(SHAPE, 6, CLASS_COUNT);
const RESNET18 = { backbone: 'resnet18', width: 1 / 4 } as const;
const FCN = { network: 'fcn-8s', width: 1 / 8 } as const;

/** Results of a step: its losses, the gradients that its optimizers hold, and running statistics. */
interface Outcome {
  losses: Snapshot;
  gradients: Snapshot;
  statistics: Snapshot;
}

async function outcome(losses: object, state: TensorMap, dtype: NetworkDtype): Promise<Outcome> {
  const result: Outcome = {
    losses: new Map([['losses', Float64Array.from(Object.values(losses))]]),
    gradients: new Map(),
    statistics: new Map(),
  };
  for (const [name, tensor] of state) {
    const isStatistic = /\.running_(mean|var)$/.test(name);
    const isGradient = /_optimizer\.(momentum_buffer|exp_avg)\./.test(name);
    if (isStatistic || isGradient) {
      assert.equal(tensor.dtype, dtype, `${name} is not of the networks' dtype`);
      const data = (await tensor.data()) as Float32Array;
      (isGradient ? result.gradients : result.statistics).set(name, data);
    }
    tensor.dispose();
  }
  return result;
}

async function segmentation(
  network: typeof RESNET18 | typeof FCN,
  precision: Precision,
  dtype: NetworkDtype,
) {
  using segmenter = await Segmenter.create({
    ...network,
    classCount: CLASS_COUNT,
    initialization: 'kaiming',
    dtype,
  });
  using discriminator = await OutputDiscriminator.create({ classCount: CLASS_COUNT, baseWidth: 8, dtype });
  // Without decay, the momentum after one step is the gradient.
  const options = { ...SEGMENTATION, weightDecay: 0, precision };
  using step = await SegmentationStep.create(segmenter, discriminator, options);
  const losses = await step.run({ source: SOURCE, target: TARGET, learningRate: 1e-3 });
  return outcome(losses, await step.state(), dtype);
}

async function translation(
  weights: Partial<TranslationStepOptions>,
  precision: Precision,
  dtype: NetworkDtype,
): Promise<Outcome> {
  using segmenter = await Segmenter.create({
    ...RESNET18,
    classCount: CLASS_COUNT,
    initialization: 'kaiming',
    dtype,
  });
  const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8, dtype });
  using step = await TranslationStep.create(translator, segmenter, { ...TRANSLATION, ...weights, precision });
  const losses = await step.run({ source: SOURCE, target: TARGET, learningRate: 1e-3 });
  const result = await outcome(losses, await step.state(), dtype);
  translator.dispose();
  return result;
}

/** Options without the terms whose gradients turn rounding into noise, see BOUNDS. */
const IDENTITY = { ganWeight: 0, cycleWeight: 0, perceptualWeight: 0, perceptualReconstructionWeight: 0 };

/**
 * Bounds of errors in bfloat16. It keeps 8 bits, so a value is off by up to 2⁻⁹, and dozens of layers by a few percent.
 * Statistics and losses are means, in which that cancels. One unit in hundreds changes its side of a ReLU, and a
 * gradient shows that. Through a new discriminator the gradient is off by 0.3, also in PyTorch's own autocasting. So
 * that gradient is not compared.
 */
const BOUNDS = { losses: 1e-2, gradients: 2e-1, statistics: 1e-2 };
const FP32_BOUNDS = { losses: 1e-6, gradients: 1e-2, statistics: 1e-6 };

describe('training in bf16', () => {
  before(async function () {
    const { precisions } = await buildInfo();
    if (precisions.cpu!.includes('bf16')) return;
    console.log('    skipped: this CPU has no instructions for bfloat16 (AMX or AVX512_BF16)');
    this.skip();
  });

  for (const [item, run, looksAt] of [
    ['M, ResNet-18', segmentation.bind(null, RESNET18), ['losses', 'gradients', 'statistics']],
    ['M, FCN-8s', segmentation.bind(null, FCN), ['losses', 'gradients']],
    ['F and F⁻¹, identity', translation.bind(null, IDENTITY), ['losses', 'gradients']],
    ['F and F⁻¹', translation.bind(null, {}), ['losses']],
  ] as const) {
    it(`computes what fp32 does, but for rounding; weights and statistics stay float32: ${item}`, async () => {
      const truth = await run('fp32', 'float64');
      const fp32 = await run('fp32', 'float32');
      const bf16 = await run('bf16', 'float32');
      const rows = looksAt.flatMap((what) => [
        {
          item: `${what}, fp32`,
          error: relativeDifference(fp32[what], truth[what]),
          bound: FP32_BOUNDS[what],
        },
        { item: `${what}, bf16`, error: relativeDifference(bf16[what], truth[what]), bound: BOUNDS[what] },
      ]);
      printAndCheck(`${item}: relative errors against float64`, rows);
      assert.ok(rows[1]!.error > 1e-5, 'this was not computed in bfloat16');
    });
  }

  it('is refused for networks of float64', async () => {
    await assert.rejects(segmentation(RESNET18, 'bf16', 'float64'), {
      code: 'ERR_INVALID_ARGUMENT',
      message: 'Expected networks of float32 for the precision bf16 but they are of Double',
    });
  });
});

describe('a precision that the device lacks', () => {
  it('is refused, with what there is', async () => {
    for (const precision of ['tf32', 'fp16'] as const) {
      for (const run of [segmentation.bind(null, RESNET18), translation.bind(null, {})]) {
        await assert.rejects(run(precision, 'float32'), {
          code: 'ERR_INVALID_ARGUMENT',
          message: new RegExp(
            `^Expected a precision that cpu has instructions for \\(fp32(, bf16)?\\) but received ${precision}$`,
          ),
        });
      }
    }
  });
});
