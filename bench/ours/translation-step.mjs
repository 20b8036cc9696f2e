// Measures TranslationStep: one iteration of the translators' training with identity and perceptual terms.
import { Segmenter, TranslationStep, Translator } from 'bidiseg';
import { stepBatch } from './step-batch.mjs';

export async function create(size) {
  const translator = await Translator.create(size.translator);
  const segmenter = await Segmenter.create(size.segmenter);
  const step = await TranslationStep.create(translator, segmenter, size.options);
  let batch;
  let first;

  async function load(inputs) {
    await translator.load(inputs.translator);
    await segmenter.load(inputs.segmenter);
    const source = stepBatch(inputs.source_images);
    const target = stepBatch(inputs.target_images);
    batch = { source, target, learningRate: size.learningRate };
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
    const losses = [first.total, first.discriminatorTarget, first.discriminatorSource];
    return { losses: { data: Float64Array.from(losses), shape: [losses.length] } };
  }

  return { load, warmUp, prepare, run, result };
}
