import type { z } from 'zod';
import type { ImageDataset } from '../data/dataset.js';
import type { ImageSize } from '../data/image-size.js';
import { BatchLoader } from '../data/loader.js';
import { Random } from '../data/random.js';
import type { Segmenter } from '../models/segmenter.js';
import type { Translator } from '../models/translator.js';
import type { PairedTranslationLosses, TranslationLosses } from '../native/binding-types.js';
import { checkGroup } from '../native/group-values.js';
import type { ProcessGroup } from '../native/process-group.js';
import { InvalidArgumentError } from '../support/errors.js';
import { drain } from '../support/generators.js';
import { parseOptions, pickOptions } from '../support/options.js';
import { checkInteger } from '../support/validate.js';
import type { StepEvent } from './events.js';
import { type NonFiniteOptions, nonFiniteSchema } from './loop-options.js';
import { ownPlaces } from './processes.js';
import { linearDecayFactor } from './schedules.js';
import { PairedTranslationStep } from './steps/paired-translation-step.js';
import { TranslationStep } from './steps/translation-step.js';
import { uploadBatch } from './steps/upload.js';
import {
  type TrainingEvent,
  type TrainingOptions,
  type TrainingResult,
  trainingLoop,
} from './training-loop.js';
import {
  pairedTranslationStepSchema,
  type TranslationOptions,
  translationSchema,
  translationStepSchema,
} from './translation-options.js';

/** Options of {@link TranslationTrainer}. */
export interface TranslationTrainerOptions {
  /** Size to which source images are resized. */
  sourceSize: ImageSize;
  /** Size to which target images are resized. Default `sourceSize`. */
  targetSize?: ImageSize;
  /**
   * Size of the random area cut out of the resized images. The translator's `sizeMultiple` must divide width and
   * height. Default null: the whole image.
   */
  crop?: ImageSize | null;
  /** Name of the stage in events. Together with `seed` it decides the order of the data. Default 'translator'. */
  stage?: string;
  /** Seed of the data order, of random changes and of the image pools, ≥ 0. Default 1. */
  seed?: number;
  /** Options of the config's section `nonFinite`. By default, a loss that is not finite ends the training. */
  nonFinite?: z.input<typeof nonFiniteSchema>;
  /**
   * Processes that train together. Every process makes the same trainer, and all train the same steps. Their number must
   * divide `training.batchSize`. Default null: this process alone.
   */
  group?: ProcessGroup | null;
  /**
   * Options of the config's section `translation`, with its defaults. `pairing` is the translator's, and `continuedSteps` is
   * ignored.
   */
  training?: z.input<typeof translationSchema>;
}

/**
 * Trains the translators F and F⁻¹ and their discriminators (Eq. 2). A paired translator trains only F (pix2pix), on
 * the images whose names occur in both data sets. The models are trained in place, and the caller disposes them. The
 * segmenter of the perceptual terms does not change.
 */
export class TranslationTrainer {
  readonly #models: { translator: Translator; segmenter: Segmenter | null };
  readonly #data: { source: ImageDataset; target: ImageDataset };
  readonly #options: Required<Omit<TranslationTrainerOptions, 'nonFinite' | 'training'>> & {
    nonFinite: NonFiniteOptions;
  };
  readonly #training: TranslationOptions;

  /**
   * @param models.translator networks to train
   * @param models.segmenter segmenter of the perceptual terms. null or absent: none. A paired translator has none
   * @param data source and target images. Labels are ignored
   * @throws InvalidArgumentError when an option is out of range, a paired translator gets no pairs of images, or the
   * number of processes does not divide `training.batchSize`
   */
  constructor(
    models: { translator: Translator; segmenter?: Segmenter | null },
    data: { source: ImageDataset; target: ImageDataset },
    options: TranslationTrainerOptions,
  ) {
    this.#models = { translator: models.translator, segmenter: models.segmenter ?? null };
    const { pairing } = models.translator.options;
    const isPaired = pairing === 'paired';
    const [source, target] = isPaired ? data.source.pairsWith(data.target) : [data.source, data.target];
    if (source.length === 0) {
      throw new InvalidArgumentError('Expected source and target images of the same names but found none');
    }
    this.#data = { source, target };
    // The translator decides what is trained. The config's key only decides which translator is created.
    this.#training = { ...parseOptions(translationSchema, options.training ?? {}, 'training'), pairing };
    this.#options = {
      sourceSize: options.sourceSize,
      targetSize: options.targetSize ?? options.sourceSize,
      crop: options.crop ?? null,
      stage: options.stage ?? 'translator',
      seed: checkInteger('seed', options.seed ?? 1, 0),
      nonFinite: parseOptions(nonFiniteSchema, options.nonFinite ?? {}, 'nonFinite'),
      group: checkGroup(options.group),
    };
    ownPlaces('training.batchSize', this.#training.batchSize, this.#options.group);
  }

  /**
   * Trains while it is iterated, with one event a step. Breaking out of the loop stops after the step.
   *
   * @throws NonFiniteLossError when a loss or a gradient is NaN or infinite. That step has changed nothing
   * @throws DataError when an image cannot be read
   */
  async *steps(
    options: TrainingOptions = {},
  ): AsyncGenerator<TrainingEvent<TranslationLosses | PairedTranslationLosses>, TrainingResult> {
    const { translator, segmenter } = this.#models;
    const { stage, seed, nonFinite, sourceSize, targetSize, crop, group } = this.#options;
    const { pairing, steps, constantSteps, scheduleEpochs, batchSize, flip, learningRate } = this.#training;
    const signal = options.signal && { signal: options.signal };
    const factor = linearDecayFactor(constantSteps ?? Math.floor(steps / 2), steps, scheduleEpochs);
    // The two images of a pair are drawn, cropped and mirrored alike.
    const stream = (domain: 'source' | 'target') => `${stage}/${pairing === 'paired' ? 'pair' : domain}`;
    const load = (dataset: ImageDataset, domain: 'source' | 'target', size: ImageSize, firstStep: number) =>
      new BatchLoader(dataset, {
        batchSize,
        places: ownPlaces('batchSize', batchSize, group),
        flip,
        size,
        ...(crop && { crop }),
        seed,
        steps,
        firstStep,
        stage: stream(domain),
        ...signal,
      });
    const poolSeed = new Random(seed, stage, 'image-pool').integer(2 ** 31);
    using step =
      pairing === 'paired'
        ? await PairedTranslationStep.create(
            translator,
            pickOptions(pairedTranslationStepSchema, this.#training),
            { group },
          )
        : await TranslationStep.create(
            translator,
            segmenter,
            { ...pickOptions(translationStepSchema, this.#training), seed: poolSeed },
            { group },
          );
    return yield* trainingLoop<TranslationLosses | PairedTranslationLosses>({
      stage,
      steps,
      group,
      step,
      loaders: (firstStep) => [
        load(this.#data.source, 'source', sourceSize, firstStep),
        load(this.#data.target, 'target', targetSize, firstStep),
      ],
      nonFinite,
      checkpoints: options.checkpoints,
      learningRate: (index) => learningRate * factor(index),
      upload:
        translator.options.device === 'cpu'
          ? undefined
          : ({ images, count, width, height }) =>
              uploadBatch(translator.toTarget, { images, count, width, height }),
      run: ([source, target], index) =>
        step.run({
          source: source!,
          target: target!,
          learningRate: learningRate * factor(index),
          ...signal,
        }),
    });
  }

  /** Trains to the end. `onStep` receives the event of each step. */
  run(
    options: TrainingOptions & {
      onStep?: (event: StepEvent<TranslationLosses | PairedTranslationLosses>) => void;
    } = {},
  ): Promise<TrainingResult> {
    return drain(this.steps(options), (event) => {
      if (event.type === 'step') options.onStep?.(event);
    });
  }
}
