import assert from 'node:assert/strict';
import { BatchedPredictor, SegmentationStep, Segmenter, TranslationStep, Translator } from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { randomBytes } from '../helpers/random.js';
import { type Snapshot, snapshot } from '../helpers/tensor-file.js';

const SHAPE = { count: 1, height: 48, width: 64 };
const STEPS = 4;

/** Trains a small segmenter with dropout. */
async function trainSegmenter(): Promise<Snapshot> {
  using segmenter = await Segmenter.create({ network: 'fcn-8s', width: 1 / 32, classCount: 5, seed: 3 });
  using step = await SegmentationStep.create(segmenter, null, SEGMENTATION);
  for (let i = 0; i < STEPS; i++) {
    await step.run({ source: randomBatch(SHAPE, i, 5), learningRate: 1e-3 });
  }
  return await snapshot(segmenter);
}

async function trainTranslator(): Promise<Snapshot> {
  using translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, seed: 5 });
  using step = await TranslationStep.create(translator, null, { ...TRANSLATION, poolSize: 2 });
  for (let i = 0; i < STEPS; i++) {
    const batch = { source: randomBatch(SHAPE, i), target: randomBatch(SHAPE, 100 + i) };
    await step.run({ ...batch, learningRate: 1e-3 });
  }
  return await snapshot(translator.toTarget);
}

async function predictMany(): Promise<Uint8Array[]> {
  using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 8, classCount: 5, seed: 7 });
  const batched = new BatchedPredictor(segmenter, { limit: 3 });
  const { height, width } = SHAPE;
  const calls = Array.from({ length: 3 * STEPS }, async (_, i) => {
    const { labels } = await batched.predict(randomBytes(height * width * 3, i), {
      ...SHAPE,
      order: 'logits',
    });
    return labels;
  });
  return await Promise.all(calls);
}

describe('side by side in one process', () => {
  it('two trainings and predictions have the same results as each of them alone', async () => {
    const alone = [await trainSegmenter(), await trainTranslator(), await predictMany()];
    const together = await Promise.all([trainSegmenter(), trainTranslator(), predictMany()]);
    assert.deepEqual(together, alone);
  });
});
