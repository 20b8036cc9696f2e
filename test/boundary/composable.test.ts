import assert from 'node:assert/strict';
import {
  classProbabilities,
  domainLoss,
  ganLoss,
  l1Loss,
  maskedCrossEntropy,
  type Network,
  Optimizer,
  OutputDiscriminator,
  perceptualLoss,
  SegmentationStep,
  Segmenter,
  type StepBatch,
  segmenterInput,
  segmenterInputFromTranslator,
  Tensor,
  TranslationStep,
  Translator,
  translatorInput,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { relativeDifference, snapshot } from '../helpers/tensor-file.js';

// Both implement the same update from the same operations. Only the order of a few sums may differ.
const BOUNDS = { float32: 1e-6, float64: 1e-12 };
const STEPS = 3;
const CLASS_COUNT = 5;

const imagesOf = (batch: StepBatch) => Tensor.from(batch.images, [batch.count, batch.height, batch.width, 3]);
const labelsOf = (batch: StepBatch) => Tensor.from(batch.labels!, [batch.count, batch.height, batch.width]);

/** Computes the weighted sum of scalars. */
async function weightedSum(terms: [weight: number, term: Tensor][]): Promise<Tensor> {
  let sum: Tensor | undefined;
  for (const [weight, term] of terms) {
    const scaled = await term.scale(weight);
    sum = sum ? await sum.add(scaled) : scaled;
  }
  return sum!;
}

// Biases before an InstanceNorm have no gradient except rounding, which Adam scales up to its learning rate. They
// affect nothing.
const isIdle = (name: string) =>
  /^model\.\d+(\.conv_block\.\d+)?\.bias$/.test(name) && !/^model\.(0|11|23)\.bias$/.test(name);

async function compare(rows: Measurement[], pairs: [string, Network, Network][]): Promise<void> {
  for (const [item, loop, step] of pairs) {
    assert.equal(loop.dtype, step.dtype);
    const [a, b] = [await snapshot(loop), await snapshot(step)];
    for (const name of [...a.keys()].filter(isIdle)) a.delete(name);
    rows.push({ item, error: relativeDifference(a, b), bound: BOUNDS[loop.dtype] });
  }
}

for (const dtype of ['float32', 'float64'] as const)
  describe(`a loop on the composable surface and the step surface, ${dtype}`, () => {
    it('update the segmenter and D_M equally', async () => {
      const shape = { count: 2, height: 41, width: 57 };
      const create = async () => ({
        M: await Segmenter.create({
          backbone: 'resnet18',
          width: 1 / 8,
          classCount: CLASS_COUNT,
          initialization: 'kaiming',
          dtype,
        }),
        D: await OutputDiscriminator.create({ classCount: CLASS_COUNT, baseWidth: 8, dtype }),
      });
      const batches = Array.from({ length: STEPS }, (_, i) => ({
        source: randomBatch(shape, 10 * i, CLASS_COUNT),
        target: randomBatch(shape, 10 * i + 5, CLASS_COUNT),
      }));
      const rates = { learningRate: 1e-3, discriminatorLearningRate: 1e-3 };

      const stepwise = await create();
      using step = await SegmentationStep.create(stepwise.M, stepwise.D, SEGMENTATION);
      for (const batch of batches) await step.run({ ...batch, ...rates });

      const { M, D } = await create();
      using optimizer = await Optimizer.sgd(M, SEGMENTATION);
      using discriminatorOptimizer = await Optimizer.adam(D, { betas: SEGMENTATION.discriminatorBetas });
      for (const { source, target } of batches) {
        await optimizer.zeroGrad();
        await discriminatorOptimizer.zeroGrad();
        const probabilities = (logits: Tensor) => classProbabilities(logits, shape.height, shape.width);

        const sourceLogits = await M.forward(await segmenterInput(imagesOf(source), { dtype }));
        await (await maskedCrossEntropy(sourceLogits, labelsOf(source))).backward();

        const targetLogits = await M.forward(await segmenterInput(imagesOf(target), { dtype }));
        const targetProbabilities = await probabilities(targetLogits);
        await D.freeze();
        const adversarial = await domainLoss(await D.forward(targetProbabilities), 'source');
        const pseudo = await maskedCrossEntropy(targetLogits, labelsOf(target));
        const total = await weightedSum([
          [SEGMENTATION.adversarialWeight, adversarial],
          [SEGMENTATION.pseudoLabelWeight, pseudo],
        ]);
        await total.backward();
        await D.unfreeze();

        const sourceProbabilities = await probabilities(await sourceLogits.detach());
        const onSource = await domainLoss(await D.forward(sourceProbabilities), 'source');
        await (await onSource.scale(0.5)).backward();
        const onTarget = await domainLoss(await D.forward(await targetProbabilities.detach()), 'target');
        await (await onTarget.scale(0.5)).backward();

        await optimizer.step(rates.learningRate);
        await discriminatorOptimizer.step(rates.discriminatorLearningRate);
      }

      const rows: Measurement[] = [];
      await compare(rows, [
        ['M', M, stepwise.M],
        ['D_M', D, stepwise.D],
      ]);
      printAndCheck(`loop against SegmentationStep, ${STEPS} steps, ${dtype}`, rows);
    });

    // Translators in float64 only. The step combines calls that share weights, so its last bits differ. In float32,
    // Adam's first steps turn that into whole steps of elements with a gradient near zero.
    if (dtype === 'float32') return;

    it('update the translators and both D_F equally', async () => {
      const shape = { count: 1, height: 36, width: 44 };
      const create = () => Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8, dtype });
      const batches = Array.from({ length: STEPS }, (_, i) => ({
        source: randomBatch(shape, 10 * i + 1),
        target: randomBatch(shape, 10 * i + 6),
      }));
      const learningRate = 2e-4;
      using M = await Segmenter.create({
        backbone: 'resnet18',
        width: 1 / 8,
        classCount: CLASS_COUNT,
        initialization: 'kaiming',
        dtype,
      });

      using stepwise = await create();
      using step = await TranslationStep.create(stepwise, M, TRANSLATION);
      for (const batch of batches) await step.run({ ...batch, learningRate });

      using translator = await create();
      const { toTarget: F, toSource: G, targetDiscriminator, sourceDiscriminator } = translator;
      const options = { betas: TRANSLATION.betas };
      const optimizers = await Promise.all(
        [F, G, targetDiscriminator, sourceDiscriminator].map((n) => Optimizer.adam(n, options)),
      );
      await M.eval();
      await M.freeze();
      const logits = async (rgb: Tensor) => M.forward(await segmenterInputFromTranslator(rgb));
      const { perceptualForm: form } = TRANSLATION;
      for (const batch of batches) {
        for (const optimizer of optimizers) await optimizer.zeroGrad();
        const s = await translatorInput(imagesOf(batch.source), { dtype });
        const t = await translatorInput(imagesOf(batch.target), { dtype });
        const fakeT = await F.forward(s);
        const fakeS = await G.forward(t);
        await targetDiscriminator.freeze();
        await sourceDiscriminator.freeze();
        const { ganWeight, cycleWeight, identityWeight } = TRANSLATION;
        const { perceptualWeight, perceptualReconstructionWeight } = TRANSLATION;
        const terms: [number, Tensor][] = [
          [ganWeight, await ganLoss(await targetDiscriminator.forward(fakeT), true)],
          [ganWeight, await ganLoss(await sourceDiscriminator.forward(fakeS), true)],
        ];
        const cycledS = await G.forward(fakeT);
        const cycledT = await F.forward(fakeS);
        terms.push(
          [cycleWeight, await l1Loss(cycledS, s)],
          [cycleWeight, await l1Loss(cycledT, t)],
          [identityWeight, await l1Loss(await G.forward(s), s)],
          [identityWeight, await l1Loss(await F.forward(t), t)],
        );
        const [logitsS, logitsT] = [await logits(s), await logits(t)];
        terms.push(
          [perceptualWeight, await perceptualLoss(await logits(fakeT), logitsS, form)],
          [perceptualWeight, await perceptualLoss(await logits(fakeS), logitsT, form)],
          [perceptualReconstructionWeight, await perceptualLoss(await logits(cycledS), logitsS, form)],
          [perceptualReconstructionWeight, await perceptualLoss(await logits(cycledT), logitsT, form)],
        );
        const total = await weightedSum(terms);
        await total.backward();
        await targetDiscriminator.unfreeze();
        await sourceDiscriminator.unfreeze();
        for (const [discriminator, real, fake] of [
          [targetDiscriminator, t, fakeT],
          [sourceDiscriminator, s, fakeS],
        ] as const) {
          const onReal = await ganLoss(await discriminator.forward(real), true);
          const onFake = await ganLoss(await discriminator.forward(await fake.detach()), false);
          await (await (await onReal.add(onFake)).scale(0.5)).backward();
        }
        for (const optimizer of optimizers) await optimizer.step(learningRate);
      }

      const rows: Measurement[] = [];
      await compare(rows, [
        ['F', F, stepwise.toTarget],
        ['F⁻¹', G, stepwise.toSource],
        ['D_F of the target', targetDiscriminator, stepwise.targetDiscriminator],
        ['D_F of the source', sourceDiscriminator, stepwise.sourceDiscriminator],
      ]);
      printAndCheck(`loop against TranslationStep, ${STEPS} steps, ${dtype}`, rows);
    });
  });
