import { Network } from '../../models/network.js';
import { Translator } from '../../models/translator.js';
import { native } from '../../native/binding.js';
import type {
  NativePairedTranslationStepOptions,
  PairedTranslationLosses,
  PairedTranslationStepHandle,
  UploadedBatchHandle,
} from '../../native/binding-types.js';
import { call, handleOf } from '../../native/native-object.js';
import { parseOptions } from '../../support/options.js';
import { checkNumber, checkObject, invalidArgument } from '../../support/validate.js';
import { type PairedTranslationStepOptions, pairedTranslationStepSchema } from '../translation-options.js';
import {
  groupHandle,
  type StepBatch,
  type StepProcesses,
  TrainingStep,
  withLossScaling,
} from './training-step.js';

/**
 * One iteration of a paired translator's training (pix2pix, Isola et al. 2017) in one native call.
 *
 * F minimizes ganWeight·ℓ_GAN(D(S, F(S)), real) + l1Weight·E|F(S) − T|. The conditional discriminator minimizes half of
 * ℓ_GAN(D(S, T), real) + ℓ_GAN(D(S, F(S)), fake).
 */
export class PairedTranslationStep extends TrainingStep<PairedTranslationStepHandle> {
  /**
   * Creates the step. The caller keeps and disposes the translator.
   *
   * @param processes.group processes that compute the step together
   * @throws InvalidArgumentError when the translator is not paired, or its device lacks the precision or CUDA graphs
   */
  static async create(
    translator: Translator,
    options: PairedTranslationStepOptions = {},
    processes: StepProcesses = {},
  ): Promise<PairedTranslationStep> {
    if (!(translator instanceof Translator) || translator.options?.pairing !== 'paired') {
      throw invalidArgument('translator', 'a paired Translator', translator);
    }
    const checked = withLossScaling(parseOptions(pairedTranslationStepSchema, options));
    return new PairedTranslationStep(
      await call(() => {
        const networks = {
          toTarget: handleOf('translator.toTarget', translator.toTarget, Network),
          targetDiscriminator: handleOf(
            'translator.targetDiscriminator',
            translator.targetDiscriminator,
            Network,
          ),
        };
        return native.createPairedTranslationStep(
          networks,
          checked satisfies NativePairedTranslationStepOptions,
          groupHandle(processes.group),
        );
      }),
    );
  }

  /** @internal */
  constructor(handle: PairedTranslationStepHandle) {
    super(handle, {
      state: (step) => native.pairedTranslationStepState(step),
      loadState: (step, names, tensors) => native.pairedTranslationStepLoadState(step, names, tensors),
    });
  }

  /**
   * Computes losses and both updates, all or nothing (docs/design/training-steps.md#a-step-is-all-or-nothing). Image i
   * of `target` is the desired translation of image i of `source`. Height and width must be multiples of the
   * translator's `sizeMultiple` and at least 24. In a group, every process gives as many images, and those of rank 0 come
   * first in the step.
   *
   * @throws NonFiniteLossError before any weight changes when a loss or a gradient is NaN or infinite
   */
  async run(batch: {
    source: StepBatch | UploadedBatchHandle;
    target: StepBatch | UploadedBatchHandle;
    learningRate: number;
    signal?: AbortSignal | undefined;
  }): Promise<PairedTranslationLosses> {
    checkObject('batch', batch);
    const rates = { learningRate: checkNumber('learningRate', batch.learningRate, 0) };
    return call(
      (token) => native.runPairedTranslationStep(this.handle, batch.source, batch.target, rates, token),
      batch.signal,
    );
  }
}
