import { ALIGNMENTS, segmentationSchema, teacherSchema } from '../../config/schema.js';
import { FeatureDiscriminator } from '../../models/feature-discriminator.js';
import { OutputDiscriminator } from '../../models/output-discriminator.js';
import { Segmenter } from '../../models/segmenter.js';
import { native } from '../../native/binding.js';
import type {
  NetworkHandle,
  SegmentationLosses,
  SegmentationStepHandle,
  UploadedBatchHandle,
} from '../../native/binding-types.js';
import { call, callSync, handleOf } from '../../native/native-object.js';
import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkNumber,
  checkObject,
  invalidArgument,
} from '../../support/validate.js';
import {
  checkSameDtype,
  type StepBatch,
  type StepOptions,
  TrainingStep,
  withDefaults,
  withoutUndefined,
} from './training-step.js';

export type { SegmentationLosses } from '../../native/binding-types.js';

const SEGMENTATION = segmentationSchema.parse({});
const TEACHER = teacherSchema.parse({});

/** How a segmenter is made to see both domains alike; see the config's `segmentation.alignment`. */
export type Alignment = (typeof ALIGNMENTS)[number];

/** What is left out is as DACS has it. */
export interface TeacherOptions {
  decay?: number;
  threshold?: number;
  weight?: number;
  classMix?: boolean;
  /** Of the draws of ClassMix; default 1. */
  seed?: number;
}

/** What is left out is as the config's `segmentation` has it: the paper's. */
export interface SegmentationStepOptions extends StepOptions {
  /** What cross-entropies are divided by: the pixels that count, or all. */
  normalize?: 'valid' | 'all';
  ignoreIndex?: number;
  /** What draws the domains together; see the config. */
  alignment?: Alignment;
  /** λ_adv. */
  adversarialWeight?: number;
  /** Of the distance of means or covariances. */
  momentWeight?: number;
  /** Of the mean entropy of target predictions. */
  entropyWeight?: number;
  /** Of the masked cross-entropy on pseudo-labels. */
  pseudoLabelWeight?: number;
  /** Labels target images while M trains; see the config. */
  teacher?: TeacherOptions | null;
  /** Of the segmenter; D_M always uses Adam without decay. */
  optimizer?: 'sgd' | 'adam';
  momentum?: number;
  weightDecay?: number;
  headLearningRateFactor?: number;
  repeatedStep?: boolean;
  adamBetas?: [number, number];
  discriminatorBetas?: [number, number];
  /**
   * How many batches a step takes at once, 1–1024. Their images are given one after the other as a single batch,
   * which is cut into as many parts: each goes through the networks alone, which BatchNorm sees, and the gradients are
   * averaged before the one update.
   */
  accumulation?: number;
  /** Of M's activations; auto: channels-last in bf16 and fp16, where it is faster. */
  memoryFormat?: 'auto' | 'contiguous' | 'channels-last';
  /** Whether blocks of M are computed again in the backward pass rather than kept in memory. */
  activationCheckpointing?: boolean;
}

function checkTeacher(options: TeacherOptions) {
  const { decay, threshold, weight, classMix, seed = 1 } = withoutUndefined('teacher', TEACHER, options);
  return {
    decay: checkNumber('teacher.decay', decay, 0, 1),
    threshold: checkNumber('teacher.threshold', threshold, 0, 1),
    weight: checkNumber('teacher.weight', weight, 0),
    classMix: checkBoolean('teacher.classMix', classMix),
    seed: checkInteger('teacher.seed', seed, 0),
  };
}

/** One iteration of M's training (Eq. 1, and Eq. 3 with pseudo-labels) in one native call. */
export class SegmentationStep extends TrainingStep<SegmentationStepHandle> {
  /**
   * The networks stay the caller's; they must have one dtype, and must not be trained by two steps at once. The
   * discriminator is the alignment's, a FeatureDiscriminator where that asks for one; null: Eq. 1 without ℓ_adv.
   *
   * @throws InvalidArgumentError where the networks' device lacks the precision, or CUDA graphs
   */
  static async create(
    segmenter: Segmenter,
    discriminator: OutputDiscriminator | FeatureDiscriminator | null,
    options: SegmentationStepOptions = {},
  ): Promise<SegmentationStep> {
    const given = withDefaults({ ...SEGMENTATION, ignoreIndex: 255 }, options);
    const alignment = checkChoice('alignment', given.alignment, ALIGNMENTS);
    const complete = {
      ...given,
      alignment,
      accumulation: checkInteger('accumulation', given.accumulation, 1, 1024),
      teacher: given.teacher ? checkTeacher(given.teacher) : null,
    };
    const handles = callSync(() => {
      const kind = alignment === 'feature-discriminator' ? FeatureDiscriminator : OutputDiscriminator;
      const found = [
        handleOf('segmenter', segmenter, Segmenter),
        discriminator === null ? null : handleOf<NetworkHandle>('discriminator', discriminator, kind),
      ] as const;
      if (discriminator !== null && !alignment.endsWith('-discriminator')) {
        throw invalidArgument('discriminator', `null with the alignment '${alignment}'`, discriminator);
      }
      checkSameDtype({ segmenter, discriminator });
      return found;
    });
    // The step gives it M's weights and holds it.
    using teacher = complete.teacher && (await Segmenter.create(segmenter.options));
    return new SegmentationStep(
      await call(() => native.createSegmentationStep(...handles, complete, teacher?.handle ?? null)),
    );
  }

  /** @internal */
  constructor(handle: SegmentationStepHandle) {
    super(handle, {
      state: (step) => native.segmentationStepState(step),
      loadState: (step, names, tensors) => native.segmentationStepLoadState(step, names, tensors),
    });
  }

  /**
   * Source forward and backward, target forward and backward, discriminator, both updates; all or nothing. Losses are means
   * over the parts that `accumulation` makes of the batch, whose number of images it must divide.
   *
   * @throws NonFiniteLossError before any weight has moved, where a loss or a gradient is NaN or infinite.
   */
  async run(batch: {
    /** With labels. */
    source: StepBatch | UploadedBatchHandle;
    /** Labels, where present, are pseudo-labels. Absent: training on the source alone. */
    target?: StepBatch | UploadedBatchHandle | undefined;
    learningRate: number;
    discriminatorLearningRate?: number;
    signal?: AbortSignal | undefined;
  }): Promise<SegmentationLosses> {
    checkObject('batch', batch);
    const rates = {
      learningRate: checkNumber('learningRate', batch.learningRate, 0),
      discriminatorLearningRate: checkNumber(
        'discriminatorLearningRate',
        batch.discriminatorLearningRate ?? 0,
        0,
      ),
    };
    return call(
      (token) => native.runSegmentationStep(this.handle, batch.source, batch.target, rates, token),
      batch.signal,
    );
  }
}
