import { Network } from '../../models/network.js';
import { Segmenter } from '../../models/segmenter.js';
import { Translator } from '../../models/translator.js';
import { native } from '../../native/binding.js';
import type {
  NativeTranslationStepOptions,
  TranslationLosses,
  TranslationStepHandle,
  UploadedBatchHandle,
} from '../../native/binding-types.js';
import { call, handleOf } from '../../native/native-object.js';
import { parseOptions } from '../../support/options.js';
import { checkNumber, checkObject, invalidArgument } from '../../support/validate.js';
import { type TranslationStepOptions, translationStepSchema } from '../translation-options.js';
import {
  checkSameDtype,
  groupHandle,
  type StepBatch,
  type StepProcesses,
  TrainingStep,
  withLossScaling,
} from './training-step.js';

/** One iteration of the translators' training (Eq. 2) in one native call. */
export class TranslationStep extends TrainingStep<TranslationStepHandle> {
  /**
   * Creates the step. The caller keeps and disposes the networks.
   *
   * @param segmenter segmenter of the perceptual terms, with the translator's dtype. It does not change. null: no such
   * terms
   * @param processes.group processes that compute the step together
   * @throws InvalidArgumentError when networks and options do not fit, or the device lacks the precision or CUDA graphs
   */
  static async create(
    translator: Translator,
    segmenter: Segmenter | null,
    options: TranslationStepOptions = {},
    processes: StepProcesses = {},
  ): Promise<TranslationStep> {
    const checked = withLossScaling(parseOptions(translationStepSchema, options));
    if (!(translator instanceof Translator)) {
      throw invalidArgument('translator', 'an instance of Translator', translator);
    }
    return new TranslationStep(
      await call(() => {
        const networks = {
          toTarget: handleOf('translator.toTarget', translator.toTarget, Network),
          toSource: handleOf('translator.toSource', translator.toSource, Network),
          targetDiscriminator: handleOf(
            'translator.targetDiscriminator',
            translator.targetDiscriminator,
            Network,
          ),
          sourceDiscriminator: handleOf(
            'translator.sourceDiscriminator',
            translator.sourceDiscriminator,
            Network,
          ),
        };
        const handle = segmenter === null ? null : handleOf('segmenter', segmenter, Segmenter);
        checkSameDtype({ translator: translator.toTarget, segmenter });
        const given = {
          ...checked,
          microBatchSize: checked.microBatchSize ?? 0,
        } satisfies NativeTranslationStepOptions;
        return native.createTranslationStep(networks, handle, given, groupHandle(processes.group));
      }),
    );
  }

  /** @internal */
  constructor(handle: TranslationStepHandle) {
    super(handle, {
      state: (step) => native.translationStepState(step),
      loadState: (step, names, tensors) => native.translationStepLoadState(step, names, tensors),
    });
  }

  /**
   * Computes losses and updates of generators and discriminators, all or nothing
   * (docs/design/training-steps.md#a-step-is-all-or-nothing). Height and width must be multiples of 4 and at least 24,
   * equal for both domains. In a group, every process gives as many images, and those of rank 0 come first in the step.
   *
   * @throws NonFiniteLossError before any weight changes when a loss or a gradient is NaN or infinite
   */
  async run(batch: {
    source: StepBatch | UploadedBatchHandle;
    target: StepBatch | UploadedBatchHandle;
    learningRate: number;
    signal?: AbortSignal | undefined;
  }): Promise<TranslationLosses> {
    checkObject('batch', batch);
    const rates = { learningRate: checkNumber('learningRate', batch.learningRate, 0) };
    return call(
      (token) => native.runTranslationStep(this.handle, batch.source, batch.target, rates, token),
      batch.signal,
    );
  }
}
