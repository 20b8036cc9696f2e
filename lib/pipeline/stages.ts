import type { Config } from '../config/schema.js';
import { keptClassCounts } from '../data/class-counts.js';
import type { ImageDataset } from '../data/dataset.js';
import { writeImage } from '../data/image-files.js';
import type { ClassCounts } from '../data/rare-class-sampling.js';
import { type Evaluation, evaluateImages } from '../inference/evaluate.js';
import { matchDatasetHistograms, translateDataset } from '../inference/translate-dataset.js';
import type { Segmenter } from '../models/segmenter.js';
import { ConfigError } from '../support/errors.js';
import { mapEvents, readAhead } from '../support/generators.js';
import { BestWeights } from '../training/best-weights.js';
import type { Checkpoints, Resumable } from '../training/checkpoints.js';
import { SegmentationTrainer } from '../training/segmentation-trainer.js';
import { SelfTraining } from '../training/self-training.js';
import type { TrainingResult } from '../training/training-loop.js';
import { TranslationTrainer } from '../training/translation-trainer.js';
import {
  classNames,
  classPalette,
  type Datasets,
  meanClassIndices,
  pastedClassIndices,
  toSize,
} from './datasets.js';
import { hasPerceptualTerms } from './dependencies.js';
import type {
  CheckpointEvent,
  EvaluationEvent,
  PictureEvent,
  ProgressEvent,
  StageRecord,
  StepEvent,
  WarningEvent,
} from './events.js';
import { createDiscriminator, createSegmenter, createTranslator } from './models.js';
import {
  matchedPicture,
  type Picture,
  predictionPicture,
  pseudoLabelPicture,
  translationPicture,
} from './pictures.js';
import type {
  PseudoLabelStage,
  SegmenterStage,
  SourceOnlyStage,
  Stage,
  TranslateStage,
  TranslatorStage,
} from './plan.js';
import type { StageStore } from './stage-store.js';

/** What stages need to run. Each loads what it uses of earlier ones from the store, and leaves its own outputs there. */
export interface StageContext {
  config: Config;
  datasets: Datasets;
  store: StageStore;
  /** The stage of that name. */
  stage: (name: string) => Stage;
  /** What it goes on from, and how it is saved. */
  checkpoints: Checkpoints<Resumable>;
  signal: AbortSignal | undefined;
}

/** The part of a stage's record that its work decides. */
export type StageOutcome = Omit<StageRecord, 'name' | 'label' | 'round' | 'kind' | 'seconds'>;

type StageEvent = StepEvent | ProgressEvent | PictureEvent | EvaluationEvent | CheckpointEvent | WarningEvent;

/** Does a stage's work. Whatever ends it, the models it made are disposed. */
export function runStage(stage: Stage, context: StageContext): AsyncGenerator<StageEvent, StageOutcome> {
  switch (stage.kind) {
    case 'source-only':
    case 'segmenter':
      return runSegmenter(stage, context);
    case 'translator':
      return runTranslator(stage, context);
    case 'translate':
      return runTranslate(stage, context);
    case 'pseudo-labels':
      return runPseudoLabels(stage, context);
  }
}

/** Training steps that a stage will take; 0 for a stage that only goes over images. */
export function stageSteps(stage: Stage, { segmentation, translation }: Config): number {
  switch (stage.kind) {
    case 'source-only':
      return segmentation.sourceOnlySteps;
    case 'segmenter':
      return stage.pseudoLabelsFrom ? segmentation.pseudoLabelSteps : segmentation.steps;
    case 'translator':
      return translation.steps;
    case 'translate':
    case 'pseudo-labels':
      return 0;
  }
}

async function* runSegmenter(
  stage: SourceOnlyStage | SegmenterStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, store, signal } = context;
  using segmenter = await createSegmenter(config);
  using discriminator = stage.kind === 'segmenter' ? await createDiscriminator(config, segmenter) : null;
  const { source: labeled, target } = yield* segmenterData(stage, context);
  const { source, heldOut } = holdOut(labeled, config);
  const classCounts = yield* sourceClassCounts(stage, source.length, context);
  const bestWeights = heldOut && (await openBestWeights(stage, segmenter, heldOut, context));
  const every = config.segmentation.validation?.every ?? 0;
  const steps = stageSteps(stage, config);
  const trainer = new SegmentationTrainer(
    { segmenter, discriminator },
    { source, target },
    {
      stage: stage.name,
      seed: config.seed,
      steps,
      sourceSize: toSize(config.sizes.source),
      targetSize: toSize(config.sizes.target),
      ignoreIndex: config.data.ignoreIndex,
      nonFinite: config.nonFinite,
      ...(classCounts && { classCounts }),
      pastedClasses: pastedClassIndices(config),
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
  await bestWeights?.measure(steps);
  if (stage.kind === 'segmenter' && config.segmentation.targetStatistics) {
    yield* mapEvents(takeStatistics(segmenter, context), progress(stage, 'statistics'));
  }
  const best = bestWeights?.best ?? null;
  await segmenter.save(store.weightsFile(stage));
  const evaluation = yield* evaluateStage(stage, segmenter, context);
  if (config.sampleCount > 0) {
    const picture = await predictionPicture(segmenter, shownImages(context), {
      count: config.sampleCount,
      size: toSize(config.sizes.evaluation),
      palette: classPalette(config),
      signal,
    });
    yield await savePicture(stage, 'target', picture, context);
  }
  return { ...NO_OUTCOME, best, ...trainingOutcome(training), ...evaluationOutcome(evaluation, config) };
}

/** BatchNorm's running statistics become the means over the target's training images; tells after each batch. */
async function* takeStatistics(segmenter: Segmenter, { config, datasets, signal }: StageContext) {
  const { target } = datasets;
  const size = toSize(config.sizes.target);
  const { batchSize } = config.segmentation;
  let images: Uint8Array[] = [];
  let batches = 0;
  for await (const { data } of readAhead(target.length, (index) => target.readImage(index, size), {
    signal,
  })) {
    const done = batches * batchSize + images.push(data);
    if (images.length < batchSize && done < target.length) continue;
    const momentum = 1 / ++batches;
    const options = { count: images.length, ...size, momentum, ...(signal && { signal }) };
    await segmenter.updateStatistics(Buffer.concat(images), options);
    images = [];
    yield { done, total: target.length };
  }
}

/** The source images to train on, and those to validate on; null: none. */
function holdOut(labeled: ImageDataset, { segmentation: { validation } }: Config) {
  if (!validation) return { source: labeled, heldOut: null };
  const count = Math.ceil(validation.share * labeled.length);
  const kept = labeled.length - count;
  if (kept === 0) {
    throw new ConfigError(
      `segmentation.validation.share: ${validation.share} of ${labeled.length} source images leaves none to train on`,
    );
  }
  const indices = Array.from({ length: labeled.length }, (_, index) => index);
  return { source: labeled.subset(indices.slice(0, kept)), heldOut: labeled.subset(indices.slice(kept)) };
}

function openBestWeights(
  stage: Stage,
  segmenter: Segmenter,
  heldOut: ImageDataset,
  { config, store, signal }: StageContext,
): Promise<BestWeights> {
  const size = toSize(config.sizes.source);
  const options = {
    classCount: classNames(config).length,
    size,
    outputSize: size,
    ignoreIndex: config.data.ignoreIndex,
    meanClasses: meanClassIndices(config),
    signal,
  };
  return BestWeights.open(segmenter, heldOut, options, store.bestWeightsFile(stage));
}

/** Of the first `count` source images, which are those that are trained on. */
async function* sourceClassCounts(
  stage: Stage,
  count: number,
  { config, datasets, store, signal }: StageContext,
): AsyncGenerator<StageEvent, ClassCounts | undefined> {
  if (!config.segmentation.rareClassSampling) return undefined;
  const classCount = classNames(config).length;
  const counting = keptClassCounts(datasets.source, classCount, store.classCountsFile, { signal });
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
  const message = 'no target image has a pseudo-label; training goes on without any';
  yield { type: 'warning', stage: stage.name, message } satisfies WarningEvent;
  return { source, target: datasets.target };
}

/** T_ssl: the target images that have a pseudo-label, with it. */
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
  { config, datasets, signal }: StageContext,
): AsyncGenerator<ProgressEvent | EvaluationEvent, Evaluation | null> {
  if (!datasets.validation) return null;
  const { evaluation, evaluationOutput } = config.sizes;
  const images = evaluateImages(segmenter, datasets.validation, {
    classCount: classNames(config).length,
    size: toSize(evaluation),
    outputSize: evaluationOutput === 'label' ? 'label' : toSize(evaluationOutput),
    ignoreIndex: config.data.ignoreIndex,
    meanClasses: meanClassIndices(config),
    signal,
  });
  const result = yield* mapEvents(images, progress(stage, 'evaluate'));
  const { counts, classCount } = result.confusion;
  const confusion = Array.from({ length: classCount }, (_, c) =>
    Array.from(counts.subarray(c * classCount, (c + 1) * classCount)),
  );
  yield { type: 'evaluation', stage: stage.name, images: result.images, confusion };
  return result;
}

async function* runTranslator(
  stage: TranslatorStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, datasets, store, signal } = context;
  const { source, target, crop } = config.sizes.translation;
  using translator = await createTranslator(config);
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
    training: config.translation,
  });
  const training = yield* trainer.steps({ signal, checkpoints: ownCheckpoints(context) });
  await translator.save(store.weightsFile(stage));
  if (config.sampleCount > 0) {
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

async function* runTranslate(
  stage: TranslateStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, datasets, store, signal } = context;
  const folder = store.imagesFolder(stage);
  const size = toSize(config.sizes.translation.source);
  // What is in the folder was translated in the same way: the store sees to that.
  const options = { size, resume: true, signal };
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
  if (config.sampleCount > 0) {
    const picture = await matchedPicture(datasets, { count: config.sampleCount, size, signal, ...drawing });
    yield await savePicture(stage, 'source', picture, context);
  }
  return NO_OUTCOME;
}

async function* runPseudoLabels(
  stage: PseudoLabelStage,
  context: StageContext,
): AsyncGenerator<StageEvent, StageOutcome> {
  const { config, datasets, store, signal } = context;
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
    checkpoints: ownCheckpoints(context),
  });
  const manifest = yield* mapEvents(labeling, (event) =>
    event.type === 'progress' ? progress(stage, event.task)(event) : event,
  );
  const { keptShare, keptImages, classes } = manifest;
  if (sampleCount > 0) {
    const thresholds = classes.map(({ threshold }) => threshold);
    const palette = classPalette(config);
    const options = { count: sampleCount, size, palette, thresholds, choice, signal };
    const picture = await pseudoLabelPicture(segmenter, shownImages(context), options);
    yield await savePicture(stage, 'target', picture, context);
  }
  return { ...NO_OUTCOME, keptShare, keptImages };
}

/** The stage's checkpoints with the kind of state that its work has; a store gives back what the same stage saved. */
function ownCheckpoints<State extends Resumable>({ checkpoints }: StageContext): Checkpoints<State> {
  return { ...checkpoints, state: checkpoints.state as State | null };
}

function progress(stage: Stage, task: ProgressEvent['task']) {
  return ({ done, total }: { done: number; total: number }): ProgressEvent => ({
    type: 'progress',
    stage: stage.name,
    task,
    done,
    total,
  });
}

/** Those with labels where there are any, so that every stage's picture shows the same images, and the truth is known. */
function shownImages({ datasets }: StageContext) {
  return datasets.validation ?? datasets.target;
}

async function savePicture(
  stage: Stage,
  domain: PictureEvent['domain'],
  { image, columns, rows }: Picture,
  { store }: StageContext,
): Promise<PictureEvent> {
  const file = store.pictureFile(stage, stage.kind === 'translator' ? domain : undefined);
  await writeImage(file, image);
  return { type: 'picture', stage: stage.name, file, domain, columns, rows };
}

const NO_OUTCOME: StageOutcome = {
  steps: 0,
  best: null,
  waitShare: null,
  miou: null,
  iouPerClass: null,
  pixelAccuracy: null,
  keptShare: null,
  keptImages: null,
};

function trainingOutcome({ steps, computeSeconds, waitSeconds }: TrainingResult) {
  return { steps, waitShare: waitSeconds / (computeSeconds + waitSeconds) };
}

function evaluationOutcome(evaluation: Evaluation | null, config: Config) {
  if (!evaluation) return {};
  const { meanIou, iou, pixelAccuracy } = evaluation;
  const iouPerClass = Object.fromEntries(classNames(config).map((name, index) => [name, iou[index] ?? null]));
  return { miou: meanIou, iouPerClass, pixelAccuracy };
}
