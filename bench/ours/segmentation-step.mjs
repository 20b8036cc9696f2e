// Measures SegmentationStep: one iteration of the segmenter's training with a discriminator and pseudo-labels.
import { OutputDiscriminator, SegmentationStep, Segmenter } from 'bidiseg';
import { batchesOn, stepBatch } from './step-batch.mjs';

export async function create(size) {
  const { device = 'cpu' } = size;
  const segmenter = await Segmenter.create({ ...size.segmenter, device });
  const discriminator = await OutputDiscriminator.create({ ...size.discriminator, device });
  const step = await SegmentationStep.create(segmenter, discriminator, size.options);
  const { learningRate, discriminatorLearningRate } = size;
  let batches;
  let first;

  async function load(inputs) {
    await segmenter.load(inputs.segmenter);
    await discriminator.load(inputs.discriminator);
    const source = stepBatch(inputs.source_images, inputs.source_labels);
    const target = stepBatch(inputs.target_images, inputs.target_labels);
    batches = batchesOn(segmenter, { source, target });
  }

  /** Does nothing, because memory and losses are measured at the first step. */
  async function warmUp() {}

  async function prepare() {}

  async function run() {
    const losses = await step.run({ ...batches.next(), learningRate, discriminatorLearningRate });
    first ??= losses;
  }

  /** Returns the losses of the first step. */
  async function result() {
    const { segmentation, adversarial, pseudoLabel, discriminatorSource, discriminatorTarget } = first;
    const losses = [segmentation, adversarial, pseudoLabel, discriminatorSource, discriminatorTarget];
    return { losses: { data: Float64Array.from(losses), shape: [losses.length] } };
  }

  async function dispose() {
    batches.dispose();
    for (const object of [step, discriminator, segmenter]) object.dispose();
  }

  /** Returns networks' and optimizers' tensors by name. */
  const state = () => step.state();

  return { load, warmUp, prepare, run, result, state, dispose };
}
