import { translationSchema } from '../../config/schema.js';
import { Network } from '../../models/network.js';
import { Segmenter } from '../../models/segmenter.js';
import { Translator } from '../../models/translator.js';
import { native } from '../../native/binding.js';
import type {
  TranslationLosses,
  TranslationStepHandle,
  UploadedBatchHandle,
} from '../../native/binding-types.js';
import { call, handleOf } from '../../native/native-object.js';
import { checkInteger, checkNumber, checkObject, invalidArgument } from '../../support/validate.js';
import {
  checkSameDtype,
  type StepBatch,
  type StepOptions,
  TrainingStep,
  withDefaults,
} from './training-step.js';

export type { TranslationLosses } from '../../native/binding-types.js';

const TRANSLATION = translationSchema.parse({});

/** What is left out is as the config's `translation` has it: the paper's. */
export interface TranslationStepOptions extends StepOptions {
  ganMode?: 'least-squares' | 'bce';
  /** λ_GAN. */
  ganWeight?: number;
  /** λ_recon. */
  cycleWeight?: number;
  identityWeight?: number;
  perceptualForm?: 'l1' | 'normalized-mse';
  /** λ_per. */
  perceptualWeight?: number;
  /** λ_per_recon. */
  perceptualReconstructionWeight?: number;
  /** Earlier fakes kept for the discriminators; 0 for none. */
  poolSize?: number;
  /** Of the draws of the pool of target fakes; that of source fakes has the next one. Default 1. */
  seed?: number;
  /** Adam's, for generators and discriminators. */
  betas?: [number, number];
  /** Images of each domain that the networks are given at once, with the gradients of the whole batch. null: all. */
  microBatchSize?: number | null;
  /** Whether blocks of the generators are computed again in the backward pass rather than kept in memory. */
  activationCheckpointing?: boolean;
}

/** One iteration of the translators' training (Eq. 2) in one native call. */
export class TranslationStep extends TrainingStep<TranslationStepHandle> {
  /**
   * `segmenter` gives the perceptual terms, has the translator's dtype and is not changed; null: none.
   *
   * @throws InvalidArgumentError where the networks' device lacks the precision, or CUDA graphs
   */
  static async create(
    translator: Translator,
    segmenter: Segmenter | null,
    options: TranslationStepOptions = {},
  ): Promise<TranslationStep> {
    const given = withDefaults({ ...TRANSLATION, seed: 1 }, options);
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
        return native.createTranslationStep(networks, handle, {
          ...given,
          // As the addon takes it: 0 for none.
          microBatchSize:
            given.microBatchSize === null ? 0 : checkInteger('microBatchSize', given.microBatchSize, 1),
        });
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
   * Generators' and discriminators' losses and updates; all or nothing. Height and width must be multiples of 4 and at
   * least 32, the same for both domains.
   *
   * @throws NonFiniteLossError before any weight has moved, where a loss or a gradient is NaN or infinite.
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
