import type { z } from 'zod';
import { classShares, medianFrequencyWeights } from '../data/class-weights.js';
import type { ImageDataset } from '../data/dataset.js';
import type { ImageSize } from '../data/image-size.js';
import { toSize } from '../data/image-size.js';
import { listed } from '../data/label-survey.js';
import { type Batch, BatchLoader } from '../data/loader.js';
import { Random } from '../data/random.js';
import { type ClassCounts, RareClassSampling } from '../data/rare-class-sampling.js';
import type { Segmenter } from '../models/segmenter.js';
import type { SegmentationLosses } from '../native/binding-types.js';
import { checkGroup, type Group, gatherJson } from '../native/group-values.js';
import type { ProcessGroup } from '../native/process-group.js';
import { InvalidArgumentError } from '../support/errors.js';
import { drain, followEvents } from '../support/generators.js';
import { parseOptions, pickOptions } from '../support/options.js';
import { checkInteger } from '../support/validate.js';
import type { StepEvent, WarningEvent } from './events.js';
import { type NonFiniteOptions, nonFiniteSchema } from './loop-options.js';
import { ownPlaces } from './processes.js';
import { scheduleFactor } from './schedules.js';
import {
  learnsFromUnlabeledTarget,
  type SegmentationOptions,
  segmentationSchema,
  segmentationStepSchema,
} from './segmentation-options.js';
import type { DomainDiscriminator } from './steps/segmentation-step.js';
import { SegmentationStep } from './steps/segmentation-step.js';
import { uploadBatch } from './steps/upload.js';
import {
  type TrainingEvent,
  type TrainingOptions,
  type TrainingResult,
  trainingLoop,
} from './training-loop.js';

/** Powers of the class weights. */
const BALANCE_POWERS = { 'median-frequency': 1, 'root-median-frequency': 1 / 2 };

/** Options of {@link SegmentationTrainer}. */
export interface SegmentationTrainerOptions {
  /** Number of training steps, ≥ 1. */
  steps: number;
  /** Size to which source images and labels are resized. */
  sourceSize: ImageSize;
  /** Size to which target images and pseudo-labels are resized. Default `sourceSize`. */
  targetSize?: ImageSize;
  /** Name of the stage in events. Together with `seed` it decides the order of the data. Default 'segmenter'. */
  stage?: string;
  /** Seed of the data order and of random changes, ≥ 0. Default 1. */
  seed?: number;
  /** Label of pixels that no loss uses, 0–255. Default 255. */
  ignoreIndex?: number;
  /** Options of the config's section `nonFinite`. By default, a loss that is not finite ends the training. */
  nonFinite?: z.input<typeof nonFiniteSchema>;
  /** Class counts of the source (see `countClasses`). Required for rare class sampling and class balance. */
  classCounts?: ClassCounts;
  /** Indices of the classes that `training.copyPaste` names. Required for copy-paste. */
  pastedClasses?: readonly number[];
  /** Indices of the classes that `training.featureDistance` names. Required for it. */
  anchoredClasses?: readonly number[];
  /** Names of classes by index. A class without source labels in the first epoch gives a warning. Default none. */
  expectedClasses?: ReadonlyMap<number, string>;
  /**
   * Processes that train together. Every process makes the same trainer, and all train the same steps. Their number must
   * divide `training.accumulation`. Default null: this process alone.
   */
  group?: ProcessGroup | null;
  /**
   * Options of the config's section `segmentation`, with its defaults. Its numbers of steps and `validation` are
   * ignored.
   */
  training?: z.input<typeof segmentationSchema>;
}

/**
 * Trains a segmenter M on labeled source images.
 *
 * With target images, it also aligns the domains, by a discriminator or another term (Eq. 1). With pseudo-labeled
 * target images, it also trains on their labels (Eq. 3). The models are trained in place, and the caller disposes them.
 */
export class SegmentationTrainer {
  readonly #models: {
    segmenter: Segmenter;
    discriminator: DomainDiscriminator | null;
    teacher: Segmenter | null;
  };
  readonly #data: {
    source: ImageDataset;
    target: ImageDataset | null;
    labeled: ImageDataset | null;
    original: ImageDataset | null;
  };
  readonly #options: Required<Omit<SegmentationTrainerOptions, 'nonFinite' | 'classCounts' | 'training'>> & {
    nonFinite: NonFiniteOptions;
  };
  readonly #training: SegmentationOptions;
  readonly #sampling: RareClassSampling | null;
  readonly #classWeights: number[];
  readonly #classShares: number[];

  /**
   * @param models.segmenter network to train
   * @param models.discriminator discriminator of the alignment. null or absent: no adversarial loss
   * @param models.teacher segmenter of the same options that becomes the average with `training.teacher`. null or absent: the
   * average is gone after the training
   * @param data.source images with labels
   * @param data.target target images; labels are pseudo-labels. null or absent, or if no loss uses them: training on
   * the source alone
   * @param data.labeled labeled target images, which take places of source images, see `training.labeledTargetShare`. null or
   * absent: none
   * @param data.original the source images before their translation, in the same order, see `training.originalShare`. null or
   * absent: none
   * @throws InvalidArgumentError when an option is out of range, the source has no labels, `classCounts` or
   * `pastedClasses` or `anchoredClasses` are required but missing, or the number of processes does not divide `training.accumulation`
   */
  constructor(
    models: { segmenter: Segmenter; discriminator?: DomainDiscriminator | null; teacher?: Segmenter | null },
    data: {
      source: ImageDataset;
      target?: ImageDataset | null;
      labeled?: ImageDataset | null;
      original?: ImageDataset | null;
    },
    options: SegmentationTrainerOptions,
  ) {
    if (!data.source.hasLabels) {
      throw new InvalidArgumentError('Expected labeled images for data.source but they have no labels');
    }
    if (data.labeled && !data.labeled.hasLabels) {
      throw new InvalidArgumentError('Expected labeled images for data.labeled but they have no labels');
    }
    const { segmenter, discriminator = null, teacher = null } = models;
    this.#models = { segmenter, discriminator, teacher };
    this.#training = parseOptions(segmentationSchema, options.training ?? {}, 'training');
    const target = data.target ?? null;
    const looksAtTarget = target?.hasLabels || learnsFromUnlabeledTarget(this.#training);
    this.#data = {
      source: data.source,
      target: looksAtTarget ? target : null,
      labeled: data.labeled ?? null,
      original: data.original ?? null,
    };
    const { rareClassSampling, classBalance } = this.#training;
    const countsFor = (name: string) => checkClassCounts(data.source, options.classCounts, name);
    this.#sampling =
      rareClassSampling && new RareClassSampling(countsFor('rareClassSampling'), rareClassSampling);
    this.#classWeights =
      classBalance === 'none'
        ? []
        : medianFrequencyWeights(countsFor('classBalance'), BALANCE_POWERS[classBalance]);
    const isAligned = this.#data.target !== null && this.#training.teacher?.distributionAlignment;
    this.#classShares = isAligned ? classShares(countsFor('teacher.distributionAlignment')) : [];
    if (this.#training.copyPaste && options.pastedClasses === undefined) {
      throw new InvalidArgumentError('Expected pastedClasses for training.copyPaste but received none');
    }
    if (this.#training.featureDistance && options.anchoredClasses === undefined) {
      throw new InvalidArgumentError(
        'Expected anchoredClasses for training.featureDistance but received none',
      );
    }
    this.#options = {
      steps: checkInteger('steps', options.steps, 1),
      sourceSize: options.sourceSize,
      targetSize: options.targetSize ?? options.sourceSize,
      stage: options.stage ?? 'segmenter',
      seed: checkInteger('seed', options.seed ?? 1, 0),
      nonFinite: parseOptions(nonFiniteSchema, options.nonFinite ?? {}, 'nonFinite'),
      ignoreIndex: checkInteger('ignoreIndex', options.ignoreIndex ?? 255, 0, 255),
      pastedClasses: options.pastedClasses ?? [],
      anchoredClasses: options.anchoredClasses ?? [],
      expectedClasses: options.expectedClasses ?? new Map(),
      group: checkGroup(options.group),
    };
    ownPlaces('training.accumulation', this.#training.accumulation, this.#options.group);
  }

  /**
   * Trains while it is iterated, with one event a step. Breaking out of the loop stops after the step.
   *
   * @throws NonFiniteLossError when a loss or a gradient is NaN or infinite. That step has changed nothing
   * @throws DataError when an image cannot be read
   */
  async *steps(
    options: TrainingOptions = {},
  ): AsyncGenerator<TrainingEvent<SegmentationLosses>, TrainingResult> {
    const { segmenter, discriminator } = this.#models;
    const { stage, steps, seed, nonFinite, sourceSize, targetSize, ignoreIndex, pastedClasses, group } =
      this.#options;
    const unseen = new UnseenClasses(this.#options.expectedClasses, this.#data.source.length, group);
    const { batchSize, flip, augmentation, copyPaste, learningRate, schedule, accumulation } = this.#training;
    const { discriminatorLearningRate, teacher, featureDistance, warmUpSteps } = this.#training;
    const { labeledTargetShare, originalShare } = this.#training;
    const { source, target, labeled, original } = this.#data;
    const sampling = this.#sampling;
    const signal = options.signal && { signal: options.signal };
    const factor = scheduleFactor(schedule, steps, warmUpSteps);
    // The domains draw from separate streams, so that adding a target changes nothing about the source.
    const load = (dataset: ImageDataset, domain: 'source' | 'target', size: ImageSize, firstStep: number) => {
      const { crop, ...changes } = augmentation[domain];
      return new BatchLoader(dataset, {
        batchSize: batchSize * accumulation,
        places: ownPlaces('accumulation', batchSize * accumulation, group),
        flip,
        size,
        crop: crop ? toSize(crop) : undefined,
        copyPaste: domain === 'source' && copyPaste ? { ...copyPaste, classes: pastedClasses } : undefined,
        augmentation: changes,
        weak: domain === 'target' && teacher !== null,
        choose: domain === 'source' && sampling ? (random) => sampling.draw(random) : undefined,
        beside: domain === 'source' && labeled ? { dataset: labeled, share: labeledTargetShare } : undefined,
        versions: domain === 'source' && original ? { dataset: original, share: originalShare } : undefined,
        ignoreIndex,
        seed,
        steps,
        firstStep,
        stage: `${stage}/${domain}`,
        ...signal,
      });
    };
    const mixing = new Random(seed, stage, 'class-mix').integer(2 ** 31);
    const { distributionAlignment, ...teaching } = teacher ?? {};
    const stepOptions = {
      ...pickOptions(segmentationStepSchema, this.#training),
      ignoreIndex,
      classWeights: this.#classWeights,
      seed: new Random(seed, stage, 'dropout').integer(2 ** 31),
      teacher: target && teacher && { ...teaching, classShares: this.#classShares, seed: mixing },
      featureDistance: featureDistance && { ...featureDistance, classes: [...this.#options.anchoredClasses] },
    };
    using step = await SegmentationStep.create(segmenter, discriminator, stepOptions, {
      group,
      teacher: stepOptions.teacher && this.#models.teacher,
    });
    const training = trainingLoop<SegmentationLosses>({
      stage,
      steps,
      group,
      step,
      loaders: (firstStep) => [
        unseen.watch(load(source, 'source', sourceSize, firstStep)),
        ...(target ? [load(target, 'target', targetSize, firstStep)] : []),
      ],
      nonFinite,
      checkpoints: options.checkpoints,
      beforeStep: options.beforeStep,
      learningRate: (index) => learningRate * factor(index),
      upload: segmenter.options.device === 'cpu' ? undefined : (batch) => uploadBatch(segmenter, batch),
      run: ([source, target], index) =>
        step.run({
          source: source!,
          ...(target && { target }),
          learningRate: learningRate * factor(index),
          discriminatorLearningRate: discriminatorLearningRate * factor(index),
          ...signal,
        }),
    });
    return yield* followEvents(training, () => unseen.warnings(stage));
  }

  /** Trains to the end. `onStep` receives the event of each step. */
  run(
    options: TrainingOptions & { onStep?: (event: StepEvent<SegmentationLosses>) => void } = {},
  ): Promise<TrainingResult> {
    return drain(this.steps(options), (event) => {
      if (event.type === 'step') options.onStep?.(event);
    });
  }
}

/**
 * Finds out which classes no source label has, as the batches of an epoch pass. Labels are looked at only until every class
 * has been seen, which usually takes a few batches. A training that resumes within its first epoch looks at the second, and
 * one that resumes later at none. At the end of the epoch, processes of a group compare what they have seen.
 */
class UnseenClasses {
  readonly #names: Map<number, string>;
  readonly #images: number;
  readonly #group: Group;
  /** Where the epoch begins that is looked at, in images. */
  #start = 0;
  #state: 'looking' | 'due' | 'over';

  /** @param images number of images in an epoch */
  constructor(names: ReadonlyMap<number, string>, images: number, group: Group) {
    this.#names = new Map(names);
    this.#images = images;
    this.#group = group;
    this.#state = names.size > 0 ? 'looking' : 'over';
  }

  async *watch(batches: AsyncIterable<Batch>): AsyncGenerator<Batch, void, undefined> {
    const processes = this.#group?.size ?? 1;
    let isFirst = true;
    for await (const batch of batches) {
      const count = batch.count * processes;
      const done = batch.step * count;
      if (isFirst && done > 0) this.#start = done < this.#images ? this.#images : Infinity;
      isFirst = false;
      if (this.#state === 'looking' && done + count > this.#start) this.#look(batch, done + count);
      yield batch;
    }
  }

  /** What to say when the epoch is over; nothing before, and once it was said. */
  async warnings(stage: string): Promise<WarningEvent[]> {
    if (this.#state !== 'due') return [];
    this.#state = 'over';
    const own = [...this.#names.values()];
    const [first, ...others] = this.#group ? await gatherJson(this.#group, own) : [own];
    const names = first!.filter((name) => others.every((unseen) => unseen.includes(name)));
    if (names.length === 0) return [];
    const message = `no pixel of ${listed(names)} was in an epoch of the ${this.#images} source images`;
    return [{ type: 'warning', stage, message }];
  }

  #look({ labels }: Batch, done: number): void {
    if (this.#names.size > 0) {
      const present = new Uint8Array(256);
      for (const label of labels ?? []) present[label] = 1;
      for (const index of this.#names.keys()) if (present[index]) this.#names.delete(index);
    }
    if (done >= this.#start + this.#images) this.#state = 'due';
  }
}

function checkClassCounts(source: ImageDataset, counts: ClassCounts | undefined, name: string): ClassCounts {
  if (counts?.counts.length === source.length) return counts;
  const found = counts ? `those of ${counts.counts.length}` : 'none';
  throw new InvalidArgumentError(
    `Expected classCounts of the ${source.length} source images for training.${name} but received ${found}`,
  );
}
