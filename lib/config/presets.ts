import type { PartialConfig } from './schema.js';

/** GTA5 → Cityscapes by the letter of the paper: these numbers are the schema's defaults. */
const paper: PartialConfig = {};

/** What the paper's authors' published code does under its PyTorch, 0.4, where that differs from the paper. */
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

/** From scratch on two CPU cores in minutes: the same families of networks, small, on small images. */
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
    // Five times the published rate: hundreds of steps here, not a hundred thousand.
    learningRate: 1e-3,
    identityWeight: 5,
    perceptualForm: 'normalized-mse',
  },
  selfTraining: { method: 'per-class', order: 'probabilities', inclusive: true },
  loop: { rounds: 1, selfTrainingRounds: 2 },
  checkpoint: { every: 100 },
  logEvery: 20,
};

/** `cpu-small` on generated street scenes: a run on a fresh machine that has no data set. */
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
  segmentation: { ...cpuSmall.segmentation, steps: 350, pseudoLabelSteps: 350, sourceOnlySteps: 350 },
  translation: { ...cpuSmall.translation, steps: 600, batchSize: 1 },
  loop: { rounds: 2, selfTrainingRounds: 2, selfTrainingRoundsLast: 1 },
};

/** Named starting points of a config: a file's keys override its preset's, and those the schema's defaults. */
export const PRESETS = { paper, reference, 'cpu-small': cpuSmall, demo } as const satisfies Record<
  string,
  PartialConfig
>;

export type PresetName = keyof typeof PRESETS;
