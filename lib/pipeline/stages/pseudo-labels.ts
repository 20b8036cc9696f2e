import { classNames, classPalette } from '../../config/classes.js';
import { toSize } from '../../data/image-size.js';
import { isFirst } from '../../native/group-values.js';
import { mapEvents } from '../../support/generators.js';
import { SelfTraining } from '../../training/self-training.js';
import { createSegmenter } from '../models.js';
import { pseudoLabelPicture } from '../pictures.js';
import type { PseudoLabelStage } from '../plan.js';
import {
  NO_OUTCOME,
  ownCheckpoints,
  progress,
  type StageContext,
  type StageEvent,
  type StageOutcome,
  savePicture,
  shownImages,
} from './stage-context.js';

/** Writes the pseudo-labels Ŷ_T of the target images. */
export async function* runPseudoLabels(
  stage: PseudoLabelStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, datasets, store, group, signal } = context;
  const { selfTraining: choice, sampleCount } = config;
  const size = toSize(config.sizes.target);
  using segmenter = await createSegmenter(config, store.weightsFile(context.stage(stage.segmenterFrom)));
  const selfTraining = new SelfTraining(segmenter, {
    classes: classNames(config),
    size,
    stage: stage.name,
    ignoreIndex: config.data.ignoreIndex,
    choice,
  });
  const labeling = selfTraining.label(datasets.target, store.imagesFolder(stage), {
    signal,
    group,
    checkpoints: ownCheckpoints(context),
  });
  const manifest = yield* mapEvents(labeling, (event) =>
    event.type === 'progress' ? progress(stage, event.task)(event) : event,
  );
  const { keptShare, keptImages, classes } = manifest;
  if (sampleCount > 0 && isFirst(group)) {
    const thresholds = classes.map(({ threshold }) => threshold);
    const palette = classPalette(config);
    const options = { count: sampleCount, size, palette, thresholds, choice, signal };
    const picture = await pseudoLabelPicture(segmenter, shownImages(context), options);
    yield await savePicture(stage, 'target', picture, context);
  }
  return { ...NO_OUTCOME, keptShare, keptImages };
}
