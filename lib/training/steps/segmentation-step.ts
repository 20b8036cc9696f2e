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
import {
  checkSameDtype,
  groupHandle,
  type StepBatch,
  type StepProcesses,
  TrainingStep,
  withLossScaling,
} from './training-step.js';

/** Discriminator of the domains. It judges M's outputs or its features. */
export type DomainDiscriminator = OutputDiscriminator | FeatureDiscriminator;

/** One iteration of M's training (Eq. 1, and Eq. 3 with pseudo-labels) in one native call. */
export class SegmentationStep extends TrainingStep<SegmentationStepHandle> {
  /**
   * Creates the step. The caller keeps and disposes the networks. They must have one dtype, and two steps must not
   * train them at once.
   *
   * @param discriminator discriminator of the alignment, a FeatureDiscriminator for 'feature-discriminator'. null: Eq.
   * 1 without ℓ_adv
   * @param also.group processes that compute the step together. Their number must divide `accumulation`
   * @param also.teacher segmenter of the same options that becomes the teacher: it gets M's weights now, and their average
   * in each step. The caller disposes it. Default: one of the step's own
   * @throws InvalidArgumentError when networks and options do not fit, or the device lacks the precision or CUDA graphs
   */
  static async create(
    segmenter: Segmenter,
    discriminator: DomainDiscriminator | null,
    options: SegmentationStepOptions = {},
    also: StepProcesses & { teacher?: Segmenter | null } = {},
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
      const given = also.teacher ?? null;
      if (given !== null) {
        handleOf('teacher', given, Segmenter);
        if (given === segmenter)
          throw invalidArgument('teacher', 'another segmenter than the one to train', given);
        if (!teaching) throw invalidArgument('teacher', 'null without options.teacher', given);
      }
      checkSameDtype({ segmenter, discriminator, teacher: given });
      return found;
    });
    // The step copies M's weights into these networks and keeps them alive.
    using own = teaching && !also.teacher ? await Segmenter.create(segmenter.options) : null;
    const teacher = also.teacher ?? own;
    using anchor = checked.featureDistance && (await Segmenter.create(segmenter.options));
    const given = { ...checked, teacher: teaching } satisfies NativeSegmentationStepOptions;
    return new SegmentationStep(
      await call(() => {
        return native.createSegmentationStep(
          ...handles,
          given,
          teacher?.handle ?? null,
          anchor?.handle ?? null,
          groupHandle(also.group),
        );
      }),
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
   * Computes source and target forward and backward, the discriminator and both updates, all or nothing
   * (docs/design/training-steps.md#a-step-is-all-or-nothing). `accumulation` divides the batch into parts and must
   * divide its number of images. Losses are means over the parts. In a group of W processes, the batch holds
   * `accumulation` / W parts. Those of rank 0 come first in the step.
   *
   * @throws NonFiniteLossError before any weight changes when a loss or a gradient is NaN or infinite
   */
  async run(batch: {
    /** Source images with labels. */
    source: StepBatch | UploadedBatchHandle;
    /** Target images. Labels, if present, are pseudo-labels. Absent: training on the source alone. */
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
