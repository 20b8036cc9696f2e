import type { z } from 'zod';
import { batchSizeOption } from '../data/augmentation-options.js';
import { pairingOption } from '../models/translator-options.js';
import { boolean, choice, integer, section } from '../support/options.js';
import {
  adamForm,
  betas,
  computationFields,
  learningRate,
  lossScalingFields,
  seed,
  steps,
  weight,
} from './option-fields.js';

/** Options that paired and unpaired steps share. */
const ganFields = {
  /** Form of ℓ_GAN. The paper leaves it open. Its authors' code uses least squares. */
  ganMode: choice('least-squares', 'bce').default('least-squares'),
  /** λ_GAN, the weight of ℓ_GAN. */
  ganWeight: weight().default(1),
  /** Betas of Adam, for generators and discriminators. */
  betas: betas().default([0.5, 0.999]),
  /**
   * Where Adam adds ε = 1e-8. `pytorch`: after the bias correction of √v. `pytorch-0.4`: before it, as in the PyTorch of
   * the published runs.
   */
  adamForm: adamForm(),
};

const pairedFields = {
  /** Paired: weight of E|F(S) − T|. */
  l1Weight: weight().default(100),
};

const unpairedFields = {
  /** λ_recon, the weight of the cycle loss. */
  cycleWeight: weight().default(10),
  /** Weight of the identity loss, F(T) ≈ T and F⁻¹(S) ≈ S. Eq. 2 does not have it. */
  identityWeight: weight().default(0),
  /** Form of ℓ_per: L1 of the logits, or the mean squared error of instance-normalized logits (the reference). */
  perceptualForm: choice('l1', 'normalized-mse').default('l1'),
  /** λ_per, the weight of the perceptual loss between an image and its translation. */
  perceptualWeight: weight().default(0.1),
  /** λ_per_recon, the weight of the perceptual loss between an image and its reconstruction. */
  perceptualReconstructionWeight: weight().default(10),
  /** Number of earlier translations per domain that the discriminators are shown. 0: only the newest. */
  poolSize: integer(0, 100_000).default(50),
  /**
   * Number of images of each domain that go through the networks at once. The gradients are those of the whole batch, in
   * less memory. null: the whole batch.
   */
  microBatchSize: integer(1, 1024).nullable().default(null),
};

export const translationStepSchema = section({
  ...ganFields,
  ...unpairedFields,
  ...computationFields,
  /** Seed of the target image pool. The source pool uses `seed + 1`. */
  seed: seed(),
  ...lossScalingFields,
});

/** Options of a {@link TranslationStep}. Omitted ones default to the paper's values. */
export interface TranslationStepOptions extends z.input<typeof translationStepSchema> {}

const { activationCheckpointing: _, ...pairedComputationFields } = computationFields;

export const pairedTranslationStepSchema = section({
  ...ganFields,
  ...pairedFields,
  ...pairedComputationFields,
  ...lossScalingFields,
});

/** Options of a {@link PairedTranslationStep}. Omitted ones get their defaults. */
export interface PairedTranslationStepOptions extends z.input<typeof pairedTranslationStepSchema> {}

/** Training of the translators F and F⁻¹ and their discriminators (Eq. 2), or of F alone on pairs of images (pix2pix). */
export const translationSchema = section({
  /**
   * `unpaired`: F and F⁻¹ by Eq. 2. `paired`: F alone by pix2pix (Isola et al. 2017), on source and target images of the
   * same name, with `ganMode`, `ganWeight` and `l1Weight` and none of the other terms.
   */
  pairing: pairingOption(),
  /** Training steps. The default is 20 epochs of GTA5's 24,966 images in batches of 4. */
  steps: steps().default(124_840),
  /**
   * Training steps of an F⁽ᵏ⁾ that continues from the one of the round before, with `loop.startFrom: previous`. null: as
   * many as `steps`.
   */
  continuedSteps: steps().nullable().default(null),
  /**
   * Steps at the full learning rate. It then falls linearly to 0 after the last step. null: half of the steps. With fewer
   * `continuedSteps`, all of them have the full rate.
   */
  constantSteps: integer(0).nullable().default(null),
  /**
   * Number of equal epochs that `steps` is divided into, for the learning rate alone. It then falls once an epoch, by the
   * rule of CycleGAN's code: in epoch e, counted from 1, the factor is 1 − max(0, e + 1 − n) / (d + 1), for n epochs of
   * `constantSteps` and d epochs of decay. So it falls one epoch early, and the last epoch has the rate 0. null: it falls
   * at every step.
   */
  scheduleEpochs: integer(1).nullable().default(null),
  /** Number of images of each domain in a step. The number of processes must divide it. */
  batchSize: batchSizeOption().default(4),
  /** Mirrors half of the images, at random. */
  flip: boolean().default(false),
  /** Learning rate of generators and discriminators. */
  learningRate: learningRate().default(2e-4),
  ...ganFields,
  ...pairedFields,
  ...unpairedFields,
  ...computationFields,
});

/** Options of a translator's training, with defaults filled in. */
export interface TranslationOptions extends z.output<typeof translationSchema> {}
