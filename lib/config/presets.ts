import type { PartialConfig } from './schema.js';

/** GTA5 → Cityscapes as in the paper. The schema's defaults are these values. */
const paper: PartialConfig = {};

/** Behavior of the published code under its PyTorch, 0.4, where it differs from the paper. */
const reference: PartialConfig = {
  segmentation: { normalize: 'valid', repeatedStep: true, adamForm: 'pytorch-0.4' },
  translation: {
    identityWeight: 5,
    perceptualForm: 'normalized-mse',
    scheduleEpochs: 20,
    adamForm: 'pytorch-0.4',
  },
  selfTraining: { method: 'per-class', order: 'probabilities', inclusive: true },
};

/**
 * Trains from scratch on two CPU cores in minutes. The networks are small versions of the paper's, and the images are
 * small.
 */
const cpuSmall: PartialConfig = {
  sizes: {
    source: [160, 120],
    target: [160, 120],
    translation: { source: [160, 120], target: [160, 120], crop: [96, 96] },
    evaluation: [160, 120],
  },
  segmenter: { backbone: 'resnet18', width: 0.5, initialization: 'kaiming' },
  discriminator: { baseWidth: 16 },
  translator: { blocks: 6, baseWidth: 16, discriminatorWidth: 16 },
  segmentation: {
    steps: 600,
    pseudoLabelSteps: 600,
    sourceOnlySteps: 600,
    batchSize: 4,
    flip: true,
    optimizer: 'adam',
    learningRate: 1e-3,
    headLearningRateFactor: 1,
    schedule: { kind: 'poly', power: 0.9, totalSteps: null },
    normalize: 'valid',
  },
  translation: {
    steps: 600,
    batchSize: 2,
    flip: true,
    // Five times the published rate, because training takes hundreds of steps instead of a hundred thousand.
    learningRate: 1e-3,
    identityWeight: 5,
    perceptualForm: 'normalized-mse',
  },
  selfTraining: { method: 'per-class', order: 'probabilities', inclusive: true },
  loop: { rounds: 1, selfTrainingRounds: 2 },
  checkpoint: { every: 100 },
  logEvery: 20,
};

/** `cpu-small` on generated street scenes. It runs on a fresh machine without a data set. */
const demo: PartialConfig = {
  ...cpuSmall,
  output: 'runs/demo',
  data: {
    classes: 'street-scenes',
    source: { images: 'source/images', labels: 'source/labels' },
    target: {
      train: { images: 'target/train/images' },
      val: { images: 'target/val/images', labels: 'target/val/labels' },
    },
    embedded: { size: [128, 96], sourceCount: 200, targetCount: 100, validationCount: 40 },
  },
  sizes: {
    source: [128, 96],
    target: [128, 96],
    translation: { source: [128, 96], target: [128, 96], crop: [96, 96] },
    evaluation: [128, 96],
  },
  segmenter: { ...cpuSmall.segmenter, width: 0.25 },
  // What continues needs fewer steps than what starts anew, and here its segmenters are no worse.
  segmentation: {
    ...cpuSmall.segmentation,
    steps: 350,
    continuedSteps: 150,
    pseudoLabelSteps: 150,
    sourceOnlySteps: 350,
  },
  translation: { ...cpuSmall.translation, steps: 600, continuedSteps: 200, batchSize: 1 },
  loop: { rounds: 2, selfTrainingRounds: 2, selfTrainingRoundsLast: 1, startFrom: 'previous' },
};

/**
 * Named starting points of a config. The keys of a file override its preset. The preset overrides the schema's
 * defaults.
 */
export const PRESETS = { paper, reference, 'cpu-small': cpuSmall, demo } as const satisfies Record<
  string,
  PartialConfig
>;

export type PresetName = keyof typeof PRESETS;
