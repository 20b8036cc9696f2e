import { toSize } from '../../data/image-size.js';
import { matchDatasetHistograms, translateDataset } from '../../inference/translate-dataset.js';
import { isFirst } from '../../native/group-values.js';
import { mapEvents } from '../../support/generators.js';
import { createTranslator } from '../models.js';
import { matchedPicture } from '../pictures.js';
import type { TranslateStage } from '../plan.js';
import {
  NO_OUTCOME,
  progress,
  type StageContext,
  type StageEvent,
  type StageOutcome,
  savePicture,
} from './stage-context.js';

/** Writes the translated source images, S′ ← F⁽ᵏ⁾(S). */
export async function* runTranslate(
  stage: TranslateStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, datasets, store, group, signal } = context;
  const folder = store.imagesFolder(stage);
  const size = toSize(config.sizes.translation.source);
  // The store keeps only images that this same stage wrote, so it can resume.
  const options = { size, resume: true, group, signal };
  if (stage.translatorFrom) {
    const weights = store.weightsFile(context.stage(stage.translatorFrom));
    using translator = await createTranslator(config, weights);
    const images = translateDataset(translator, datasets.source, folder, options);
    yield* mapEvents(images, progress(stage, 'translate'));
    return NO_OUTCOME;
  }
  const targetSize = toSize(config.sizes.translation.target);
  const drawing = { targetSize, seed: config.seed, stage: stage.name };
  const images = matchDatasetHistograms(datasets.target, datasets.source, folder, { ...options, ...drawing });
  yield* mapEvents(images, progress(stage, 'translate'));
  if (config.sampleCount > 0 && isFirst(group)) {
    const picture = await matchedPicture(datasets, { count: config.sampleCount, size, signal, ...drawing });
    yield await savePicture(stage, 'source', picture, context);
  }
  return NO_OUTCOME;
}
