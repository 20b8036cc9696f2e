// Measures SegmentationStep: one iteration of the segmenter's training with a discriminator and pseudo-labels.
import { OutputDiscriminator, SegmentationStep, Segmenter } from 'bidiseg';
import { stepBatch } from './step-batch.mjs';

export async function create(size) {
  const segmenter = await Segmenter.create(size.segmenter);
  const discriminator = await OutputDiscriminator.create(size.discriminator);
  const step = await SegmentationStep.create(segmenter, discriminator, size.options);
  const { learningRate, discriminatorLearningRate } = size;
  let batch;
  let first;

  async function load(inputs) {
    await segmenter.load(inputs.segmenter);
    await discriminator.load(inputs.discriminator);
    const source = stepBatch(inputs.source_images, inputs.source_labels);
    const target = stepBatch(inputs.target_images, inputs.target_labels);
    batch = { source, target, learningRate, discriminatorLearningRate };
  }

  /** Does nothing, because memory and losses are measured at the first step. */
  async function warmUp() {}

  async function prepare() {}

  async function run() {
    const losses = await step.run(batch);
    first ??= losses;
  }

  /** Returns the losses of the first step. */
  async function result() {
    const { segmentation, adversarial, pseudoLabel, discriminatorSource, discriminatorTarget } = first;
    const losses = [segmentation, adversarial, pseudoLabel, discriminatorSource, discriminatorTarget];
    return { losses: { data: Float64Array.from(losses), shape: [losses.length] } };
  }

  return { load, warmUp, prepare, run, result };
}
