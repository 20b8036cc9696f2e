// Measures TranslationStep: one iteration of the translators' training with identity and perceptual terms.
import { Segmenter, TranslationStep, Translator } from 'bidiseg';
import { batchesOn, stepBatch } from './step-batch.mjs';

export async function create(size) {
  const { device = 'cpu' } = size;
  const translator = await Translator.create({ ...size.translator, device });
  const segmenter = await Segmenter.create({ ...size.segmenter, device });
  const step = await TranslationStep.create(translator, segmenter, size.options);
  let batches;
  let first;

  async function load(inputs) {
    await translator.load(inputs.translator);
    await segmenter.load(inputs.segmenter);
    const source = stepBatch(inputs.source_images);
    const target = stepBatch(inputs.target_images);
    batches = batchesOn(segmenter, { source, target });
  }

  /** Does nothing, because memory and losses are measured at the first step. */
  async function warmUp() {}

  async function prepare() {}

  async function run() {
    const losses = await step.run({ ...batches.next(), learningRate: size.learningRate });
    first ??= losses;
  }

  /** Returns the losses of the first step. */
  async function result() {
    const losses = [first.total, first.discriminatorTarget, first.discriminatorSource];
    return { losses: { data: Float64Array.from(losses), shape: [losses.length] } };
  }

  async function dispose() {
    batches.dispose();
    for (const object of [step, segmenter, translator]) object.dispose();
  }

  /** Returns networks' and optimizers' tensors by name. */
  const state = () => step.state();

  return { load, warmUp, prepare, run, result, state, dispose };
}
