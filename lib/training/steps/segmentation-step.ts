import { FeatureDiscriminator } from '../../models/feature-discriminator.js';
import { OutputDiscriminator } from '../../models/output-discriminator.js';
import { Segmenter } from '../../models/segmenter.js';
import { native } from '../../native/binding.js';
import type {
  NativeSegmentationStepOptions,
  NetworkHandle,
  SegmentationLosses,
  SegmentationStepHandle,
  UploadedBatchHandle,
} from '../../native/binding-types.js';
import { call, callSync, handleOf } from '../../native/native-object.js';
import { parseOptions } from '../../support/options.js';
import { checkNumber, checkObject, invalidArgument } from '../../support/validate.js';
import { type SegmentationStepOptions, segmentationStepSchema } from '../segmentation-options.js';
import { checkSameDtype, type StepBatch, TrainingStep, withLossScaling } from './training-step.js';

/** Discriminator of the domains: looks at M's outputs, or at its features. */
export type DomainDiscriminator = OutputDiscriminator | FeatureDiscriminator;

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
    discriminator: DomainDiscriminator | null,
    options: SegmentationStepOptions = {},
  ): Promise<SegmentationStep> {
    const { teacher: teaching, ...checked } = withLossScaling(parseOptions(segmentationStepSchema, options));
    const { alignment } = checked;
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
    using teacher = teaching && (await Segmenter.create(segmenter.options));
    const given = { ...checked, teacher: teaching } satisfies NativeSegmentationStepOptions;
    return new SegmentationStep(
      await call(() => native.createSegmentationStep(...handles, given, teacher?.handle ?? null)),
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
