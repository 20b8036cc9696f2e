import {
  anchoredClassIndices,
  classNames,
  classPalette,
  expectedClasses,
  meanClassIndices,
  pastedClassIndices,
} from '../../config/classes.js';
import type { Config } from '../../config/schema.js';
import { classSharesOf, keptClassCounts } from '../../data/class-counts.js';
import type { ImageDataset } from '../../data/dataset.js';
import { toSize } from '../../data/image-size.js';
import { listed, missingClasses } from '../../data/label-survey.js';
import type { ClassCounts } from '../../data/rare-class-sampling.js';
import { type Evaluation, evaluateImages } from '../../inference/evaluate.js';
import { drawImages, scoreImages } from '../../inference/label-free-scores.js';
import { Segmenter } from '../../models/segmenter.js';
import { doneTogether, gatherJson, isFirst, ownIndices } from '../../native/group-values.js';
import { mapEvents, readAhead } from '../../support/generators.js';
import { BestWeights } from '../../training/best-weights.js';
import type { WarningEvent } from '../../training/events.js';
import { SegmentationTrainer } from '../../training/segmentation-trainer.js';
import { heldOutCount } from '../checks.js';
import type { EvaluationEvent, ProgressEvent, SegmenterScores } from '../events.js';
import { createDiscriminator, createSegmenter } from '../models.js';
import { predictionPicture } from '../pictures.js';
import type { SegmenterStage, SourceOnlyStage, Stage } from '../plan.js';
import { stageSteps } from '../plan.js';
import { labelMaker, lostClasses, segmentersBefore, worseScores } from '../scores.js';
import {
  NO_OUTCOME,
  ownCheckpoints,
  progress,
  type StageContext,
  type StageEvent,
  type StageOutcome,
  savePicture,
  shownImages,
  trainingOutcome,
} from './stage-context.js';

/** Trains a segmenter, M⁽⁰⁾ or Mᵢ⁽ᵏ⁾, then saves and evaluates it. */
export async function* runSegmenter(
  stage: SourceOnlyStage | SegmenterStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, store, group, signal } = context;
  const startsFrom = stage.kind === 'segmenter' ? stage.startsFrom : undefined;
  const weights = startsFrom === undefined ? undefined : store.weightsFile(context.stage(startsFrom));
  using segmenter = await createSegmenter(config, weights);
  using discriminator = stage.kind === 'segmenter' ? await createDiscriminator(config, segmenter) : null;
  const hasTeacher = stage.kind === 'segmenter' && config.segmentation.teacher !== null;
  using teacher = hasTeacher ? await Segmenter.create(segmenter.options) : null;
  const { source: labeled, target } = yield* segmenterData(stage, context);
  const { source, heldOut } = holdOut(labeled, config);
  const classCounts = yield* sourceClassCounts(stage, source.length, context);
  const bestWeights = heldOut && (await openBestWeights(stage, segmenter, heldOut, context));
  const every = config.segmentation.validation?.every ?? 0;
  const steps = stageSteps(stage, config);
  const trainer = new SegmentationTrainer(
    { segmenter, discriminator, teacher },
    { source, target, labeled: context.datasets.labeled ?? null, original: originals(stage, context) },
    {
      stage: stage.name,
      seed: config.seed,
      steps,
      sourceSize: toSize(config.sizes.source),
      targetSize: toSize(config.sizes.target),
      ignoreIndex: config.data.ignoreIndex,
      nonFinite: config.nonFinite,
      group,
      ...(classCounts && { classCounts }),
      pastedClasses: pastedClassIndices(config),
      anchoredClasses: anchoredClassIndices(config),
      // Later stages see the same labels.
      ...(stage.kind === 'source-only' && { expectedClasses: expectedClasses(config) }),
      training: config.segmentation,
    },
  );
  const training = yield* trainer.steps({
    signal,
    checkpoints: ownCheckpoints(context),
    beforeStep: async (done) => {
      if (done > 0 && done % every === 0) await bestWeights?.measure(done);
    },
  });
  const sourceMiou = (await bestWeights?.measure(steps)) ?? null;
  if (stage.kind === 'segmenter' && config.segmentation.targetStatistics) {
    yield* mapEvents(takeStatistics(segmenter, context), progress(stage, 'statistics'));
  }
  const best = bestWeights?.best ?? null;
  if (bestWeights && !best) {
    const message = 'the held-out source labels have no pixel that counts; there are no best weights';
    yield { type: 'warning', stage: stage.name, message } satisfies WarningEvent;
  }
  if (isFirst(group)) {
    await segmenter.save(store.weightsFile(stage));
    await teacher?.save(store.teacherWeightsFile(stage));
  }
  const evaluation = yield* evaluateStage(stage, segmenter, context);
  if (config.sampleCount > 0 && isFirst(group)) {
    const picture = await predictionPicture(segmenter, shownImages(context), {
      count: config.sampleCount,
      size: toSize(config.sizes.evaluation),
      palette: classPalette(config),
      signal,
    });
    yield await savePicture(stage, 'target', picture, context);
  }
  const scores = yield* scoreStage(stage, { segmenter, teacher }, { sourceMiou }, context);
  return {
    ...NO_OUTCOME,
    best,
    scores,
    ...trainingOutcome(training),
    ...evaluationOutcome(evaluation, config),
  };
}

/**
 * Sets BatchNorm's running statistics to means over the target's training images. Yields progress after each batch. The
 * processes of a group take the batches in turn.
 */
async function* takeStatistics(segmenter: Segmenter, { config, datasets, group, signal }: StageContext) {
  const { target } = datasets;
  const size = toSize(config.sizes.target);
  const { batchSize } = config.segmentation;
  const all = Math.ceil(target.length / batchSize);
  const own = ownIndices(all, group);
  const read = (place: number) => {
    const first = own[place]! * batchSize;
    const count = Math.min(batchSize, target.length - first);
    return Promise.all(Array.from({ length: count }, (_, i) => target.readImage(first + i, size)));
  };
  let batches = 0;
  for await (const images of readAhead(own.length, read, { signal })) {
    const momentum = 1 / ++batches;
    const options = { count: images.length, ...size, momentum, ...(signal && { signal }) };
    await segmenter.updateStatistics(Buffer.concat(images.map(({ data }) => data)), options);
    yield { done: doneTogether(batches * batchSize, target.length, group), total: target.length };
  }
  await group?.averageStatistics(segmenter, { own: own.length, all, signal });
}

/** Splits the source images into those to train on and those to validate on. null: no validation. */
function holdOut(labeled: ImageDataset, config: Config) {
  const count = heldOutCount(labeled, config);
  if (count === 0) return { source: labeled, heldOut: null };
  const kept = labeled.length - count;
  const indices = Array.from({ length: labeled.length }, (_, index) => index);
  return { source: labeled.subset(indices.slice(0, kept)), heldOut: labeled.subset(indices.slice(kept)) };
}

/** Returns the training images before their translation. null: the stage trains on no translated images, or on these alone. */
function originals(stage: Stage, { config, datasets }: StageContext): ImageDataset | null {
  const isTranslated = stage.kind === 'segmenter' && stage.translatedFrom !== null;
  if (!isTranslated || config.segmentation.originalShare === 0) return null;
  return holdOut(datasets.source, config).source;
}

function openBestWeights(
  stage: Stage,
  segmenter: Segmenter,
  heldOut: ImageDataset,
  { config, store, group, signal }: StageContext,
): Promise<BestWeights> {
  const size = toSize(config.sizes.source);
  const options = {
    classCount: classNames(config).length,
    size,
    outputSize: size,
    ignoreIndex: config.data.ignoreIndex,
    meanClasses: meanClassIndices(config),
    group,
    signal,
  };
  return BestWeights.open(segmenter, heldOut, options, store.bestWeightsFile(stage));
}

/** Counts the pixels of each class in the first `count` source images. Only these are trained on. */
async function* sourceClassCounts(
  stage: Stage,
  count: number,
  { config, datasets, store, group, signal }: StageContext,
): AsyncGenerator<StageEvent, ClassCounts | undefined> {
  const { rareClassSampling, classBalance, teacher } = config.segmentation;
  const isTaught = stage.kind === 'segmenter' && teacher?.distributionAlignment;
  if (!rareClassSampling && classBalance === 'none' && !isTaught) return undefined;
  const classCount = classNames(config).length;
  const counting = keptClassCounts(datasets.source, classCount, store.classCountsFile, {
    sharing: group
      ? { rank: group.rank, size: group.size, gather: (value) => gatherJson(group, value) }
      : undefined,
    signal,
  });
  const { counts, pixels } = yield* mapEvents(counting, progress(stage, 'class-counts'));
  return { counts: counts.slice(0, count), pixels: pixels.slice(0, count) };
}

async function* segmenterData(
  stage: SourceOnlyStage | SegmenterStage,
  context: StageContext,
): AsyncGenerator<StageEvent, { source: ImageDataset; target: ImageDataset | null }> {
  const { datasets, store } = context;
  if (stage.kind === 'source-only') return { source: datasets.source, target: null };
  const source = stage.translatedFrom
    ? await datasets.source.withImages(store.imagesFolder(context.stage(stage.translatedFrom)))
    : datasets.source;
  if (!stage.pseudoLabelsFrom) return { source, target: datasets.target };
  const labeled = await pseudoLabeled(context.stage(stage.pseudoLabelsFrom), context);
  if (labeled.length > 0) return { source, target: labeled };
  const message = 'no target image has a pseudo-label; training continues without pseudo-labels';
  yield { type: 'warning', stage: stage.name, message } satisfies WarningEvent;
  return { source, target: datasets.target };
}

/** Opens T_ssl, the target images that have a pseudo-label, with their pseudo-labels. */
function pseudoLabeled(stage: Stage, { config, datasets, store }: StageContext) {
  return datasets.target.withLabels(store.imagesFolder(stage), {
    classCount: classNames(config).length,
    ignoreIndex: config.data.ignoreIndex,
    weights: config.selfTraining.weighting === 'soft',
  });
}

async function* evaluateStage(
  stage: Stage,
  segmenter: Segmenter,
  { config, datasets, group, signal }: StageContext,
): AsyncGenerator<ProgressEvent | EvaluationEvent | WarningEvent, Evaluation | null> {
  if (!datasets.validation) return null;
  const { evaluation, evaluationOutput } = config.sizes;
  const images = evaluateImages(segmenter, datasets.validation, {
    classCount: classNames(config).length,
    size: toSize(evaluation),
    outputSize: evaluationOutput === 'label' ? 'label' : toSize(evaluationOutput),
    ignoreIndex: config.data.ignoreIndex,
    meanClasses: meanClassIndices(config),
    group,
    signal,
  });
  const result = yield* mapEvents(images, progress(stage, 'evaluate'));
  yield { type: 'evaluation', stage: stage.name, images: result.images, confusion: result.confusion.rows() };
  const message = stage.kind === 'source-only' ? truthWarning(result, config) : undefined;
  if (message !== undefined) yield { type: 'warning', stage: stage.name, message };
  return result;
}

/**
 * Scores a segmenter on target images without their labels. Warns if its round of self-training, or the whole round, has
 * made the scores worse or lost classes.
 */
async function* scoreStage(
  stage: SourceOnlyStage | SegmenterStage,
  { segmenter, teacher }: { segmenter: Segmenter; teacher: Segmenter | null },
  { sourceMiou }: { sourceMiou: number | null },
  context: StageContext,
): AsyncGenerator<ProgressEvent | WarningEvent, SegmenterScores | null> {
  const { config, datasets, store, plan, group, signal } = context;
  if (config.scoreCount === 0) return null;
  const maker = labelMaker(stage, plan);
  using labeler = maker && (await createSegmenter(config, store.weightsFile(maker)));
  const scoring = scoreImages(segmenter, datasets.target, {
    size: toSize(config.sizes.evaluation),
    count: config.scoreCount,
    seed: config.seed,
    teacher: labeler ?? teacher,
    sourceShares: await sourceShares(context),
    group,
    signal,
  });
  const scores = { ...(yield* mapEvents(scoring, progress(stage, 'scores'))), sourceMiou };
  for (const before of segmentersBefore(stage, plan)) {
    const earlier = (await store.record(before))?.scores;
    if (!earlier) continue;
    const worse = worseScores(earlier, scores);
    const lost = lostClasses(earlier, scores, classNames(config));
    const messages = [
      worse && `${stage.label} looks worse than ${before.label} on unlabeled target images: ${worse}`,
      lost && `${stage.label} hardly predicts classes of ${before.label} on unlabeled target images: ${lost}`,
    ];
    for (const message of messages) if (message) yield { type: 'warning', stage: stage.name, message };
  }
  return scores;
}

/** Shares of the classes in labels of the source, of as many images as are scored. null: no pixel of them has a label. */
async function sourceShares({ config, datasets, signal }: StageContext): Promise<number[] | null> {
  const { source } = datasets;
  const indices = drawImages(source.length, config.scoreCount, config.seed);
  const shares = await classSharesOf(source, indices, classNames(config).length, { signal });
  return shares.some((share) => share > 0) ? shares : null;
}

/** Warns of classes without labels in the validation images. */
function truthWarning({ confusion }: Evaluation, config: Config): string | undefined {
  const pixels = confusion.truePixels();
  if (pixels.every((count) => count === 0)) {
    return 'the validation labels have no pixel that counts, so there is no mIoU';
  }
  const names = expectedClasses(config);
  const missing = missingClasses(pixels, [...names.keys()]);
  if (missing.length === 0) return undefined;
  return `no pixel of the validation labels is of ${listed(missing.map((index) => names.get(index)!))}`;
}

function evaluationOutcome(evaluation: Evaluation | null, config: Config) {
  if (!evaluation) return {};
  const { meanIou, iou, pixelAccuracy } = evaluation;
  const iouPerClass = Object.fromEntries(classNames(config).map((name, index) => [name, iou[index] ?? null]));
  return { miou: meanIou, iouPerClass, pixelAccuracy };
}
