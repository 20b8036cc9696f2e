import type {
  PairedTranslationStepOptions,
  SegmentationStepOptions,
  StepBatch,
  TranslationStepOptions,
} from 'bidiseg';
import { randomBytes } from './random.js';

export interface BatchShape {
  count: number;
  height: number;
  width: number;
}

/** Generates noise images. With `classCount`, they have labels, a fifth of them ignored. */
export function randomBatch(shape: BatchShape, seed: number, classCount?: number): StepBatch {
  const pixels = shape.count * shape.height * shape.width;
  const batch: StepBatch = { ...shape, images: randomBytes(pixels * 3, seed) };
  if (classCount !== undefined) batch.labels = randomBytes(pixels, seed + 1, classCount, 0.2);
  return batch;
}

/** Options of a segmentation step as in the reference. */
export const SEGMENTATION = {
  normalize: 'valid',
  ignoreIndex: 255,
  adversarialWeight: 1e-3,
  pseudoLabelWeight: 1,
  optimizer: 'sgd',
  momentum: 0.9,
  weightDecay: 5e-4,
  headLearningRateFactor: 10,
  repeatedStep: false,
  adamBetas: [0.9, 0.99],
  discriminatorBetas: [0.9, 0.99],
  accumulation: 1,
  precision: 'fp32',
  memoryFormat: 'auto',
  activationCheckpointing: false,
} satisfies SegmentationStepOptions;

/** Options of pix2pix. */
export const PAIRED_TRANSLATION = {
  ganMode: 'bce',
  ganWeight: 1,
  l1Weight: 100,
  precision: 'fp32',
  betas: [0.5, 0.999],
} satisfies PairedTranslationStepOptions;

/** Options of a translation step as in the reference, but without an image pool. */
export const TRANSLATION = {
  ganMode: 'least-squares',
  ganWeight: 1,
  cycleWeight: 10,
  identityWeight: 5,
  perceptualForm: 'normalized-mse',
  perceptualWeight: 0.1,
  perceptualReconstructionWeight: 10,
  poolSize: 0,
  seed: 1,
  betas: [0.5, 0.999],
  precision: 'fp32',
  microBatchSize: null,
  activationCheckpointing: false,
} satisfies TranslationStepOptions;
