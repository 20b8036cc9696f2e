import { toSize } from '../../data/image-size.js';
import { isFirst } from '../../native/group-values.js';
import { TranslationTrainer } from '../../training/translation-trainer.js';
import { hasPerceptualTerms } from '../dependencies.js';
import { createSegmenter, createTranslator } from '../models.js';
import { translationPicture } from '../pictures.js';
import { stageSteps, type TranslatorStage } from '../plan.js';
import {
  NO_OUTCOME,
  ownCheckpoints,
  type StageContext,
  type StageEvent,
  type StageOutcome,
  savePicture,
  trainingOutcome,
} from './stage-context.js';

/** Trains the translators F⁽ᵏ⁾ and F⁻¹, and saves them. */
export async function* runTranslator(
  stage: TranslatorStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, datasets, store, group, signal } = context;
  const { source, target, crop } = config.sizes.translation;
  const { startsFrom } = stage;
  const weights = startsFrom === undefined ? undefined : store.weightsFile(context.stage(startsFrom));
  using translator = await createTranslator(config, weights);
  const { pairing } = config.translation;
  using segmenter = hasPerceptualTerms(config)
    ? await createSegmenter(config, store.weightsFile(context.stage(stage.segmenterFrom)))
    : null;
  const trainer = new TranslationTrainer({ translator, segmenter }, datasets, {
    stage: stage.name,
    seed: config.seed,
    sourceSize: toSize(source),
    targetSize: toSize(target),
    crop: crop && toSize(crop),
    nonFinite: config.nonFinite,
    group,
    training: { ...config.translation, steps: stageSteps(stage, config) },
  });
  const training = yield* trainer.steps({ signal, checkpoints: ownCheckpoints(context) });
  if (isFirst(group)) await translator.save(store.weightsFile(stage));
  if (config.sampleCount > 0 && isFirst(group)) {
    for (const domain of pairing === 'paired' ? (['source'] as const) : (['source', 'target'] as const)) {
      const picture = await translationPicture(translator, datasets[domain], {
        count: config.sampleCount,
        size: toSize(config.sizes.translation[domain]),
        direction: domain === 'source' ? 'source-to-target' : 'target-to-source',
        signal,
      });
      yield await savePicture(stage, domain, picture, context);
    }
  }
  return { ...NO_OUTCOME, ...trainingOutcome(training) };
}
