// The table of all trials. A benchmark NAME consists of our side in ours/NAME.mjs and its twins in twins/NAME.py (with
// underscores). A trial is one case with one twin and one number of threads, in fresh processes.
import os from 'node:os';
import {
  largestDifference,
  largestRelativeError,
  relativeError,
  shareDifferent,
} from './harness/statistics.mjs';

const ALL_CORES = os.availableParallelism();
const ONE_AND_ALL = [...new Set([1, ALL_CORES])];

const product = (shape) => shape.reduce((a, b) => a * b, 1);

/** Computes the bytes of one full-resolution fp32 logit tensor. */
const fullLogits = ({ logits: [, classes], labels }) => 4 * classes * product(labels);
const lowLogits = ({ logits }) => 4 * product(logits);

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
  precision: 'fp32',
  memoryFormat: 'auto',
  activationCheckpointing: false,
};

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
};

/** A small segmenter and its discriminator, for steps on the CPU. */
const SMALL = {
  segmenter: { backbone: 'resnet18', width: 0.5, classCount: 19 },
  discriminator: { classCount: 19, baseWidth: 16 },
};
const SMALL_OPTIONS = { ...SEGMENTATION, optimizer: 'adam', headLearningRateFactor: 1 };
const SMALL_RATES = { learningRate: 1e-3, discriminatorLearningRate: 1e-4 };

const RESNET_101 = { backbone: 'resnet101', classCount: 19 };
const RESNET_18 = { backbone: 'resnet18', classCount: 19 };

/** Fields that the two training steps share. */
const STEPS = {
  conditions: [{}],
  twins: {
    eager: {},
    'eager, channels_last': {},
    'torch.compile': { compiles: true },
    'torch.compile, channels_last': { compiles: true },
    'eager, bf16 autocast': {},
  },
  hasFloor: true,
  errors: { losses: largestRelativeError },
  pairs: 5,
  turnSeconds: 0.5,
  threads: [ALL_CORES],
  quick: { cases: ['cpu-small', 'cpu-small, bf16'], pairs: 3 },
  notes: [
    'Both sides start from the same weights and bytes of images; bytes to floats and both updates are part of the step.',
    'Error: the largest of the losses of the first step. Peak: of the first step, with gradients and optimizer state.',
    'GFLOP: of all convolutions by direct arithmetic. Floor: its time at the speed of a large matrix product on the same threads.',
  ],
};

const IN_FP32 = ['eager', 'eager, channels_last', 'torch.compile', 'torch.compile, channels_last'];

/** Speedups that we aim at, in fp32 over eager PyTorch and over torch.compile. */
const targets = (eager, compiled) => ({
  targets: {
    eager,
    ...(compiled && { 'torch.compile': compiled, 'torch.compile, channels_last': compiled }),
  },
});

/** Makes the cases with our side in fp32, and again in bf16. */
function inBothPrecisions(cases) {
  return Object.fromEntries(
    Object.entries(cases).flatMap(([name, size]) => [
      [name, { ...size, against: IN_FP32 }],
      [
        `${name}, bf16`,
        {
          ...size,
          precision: 'bf16',
          options: { ...size.options, precision: 'bf16' },
          against: ['eager', 'eager, bf16 autocast'],
          targets: { eager: 1.5 },
        },
      ],
    ]),
  );
}

/**
 * Table of benchmarks. Fields of an entry:
 *
 * - cases: sizes by name. `against` limits a case to some twins. `targets` replaces the targets.
 * - conditions: properties of a case's inputs. Each condition gets fresh inputs and is measured in turn.
 * - twins: by name. `target` is the speedup over this twin that we aim at. `memoryTarget` is the largest share of its
 *   peak memory that we aim at. `compiles` marks a twin whose first call compiles. `pairs` replaces the number of
 *   pairs. `module` marks a twin for Node.js; the others are in Python.
 * - errors: measure of the distance to the twin `fp64`, by the name of a result.
 * - figures: other figures that a run reports, with their targets.
 * - hasFloor: true if the twin reports the arithmetic of a run and the time that it takes at the least.
 */
export const BENCHMARKS = {
  'masked-cross-entropy': {
    about: 'upsampling of low-resolution logits and masked cross-entropy, forward + backward, fp32',
    cases: {
      A: { logits: [1, 19, 91, 161], labels: [1, 720, 1280] },
      B: { logits: [4, 19, 65, 129], labels: [4, 512, 1024] },
    },
    conditions: [
      ...[1, 0.5, 0.1].flatMap((valid) => ['random', 'piecewise'].map((labels) => ({ labels, valid }))),
      { labels: 'random', valid: 0 },
    ],
    twins: {
      eager: { target: 15, memoryTarget: 0.1 },
      'eager, channels_last': {},
      'torch.compile': { target: 5, compiles: true },
      reference: { target: 60, pairs: 3 },
    },
    errors: { loss: relativeError, gradient: relativeError },
    pairs: 5,
    turnSeconds: 0.1,
    threads: ONE_AND_ALL,
    // Eager at its peak holds the log-probabilities, their gradient and the gradient of the full-resolution logits.
    bytes: { ours: lowLogits, eager: (size) => 3 * fullLogits(size) + lowLogits(size) },
    quick: {
      cases: ['A'],
      conditions: [
        { labels: 'random', valid: 1 },
        { labels: 'piecewise', valid: 0.5 },
      ],
      pairs: 3,
    },
    notes: [
      'Twins get int64 labels, which PyTorch wants; converting them is not counted. Our side gets uint8.',
      "`reference` is the published code's way: permute to NHWC, index with a mask as large as the logits (so it gains where few are valid).",
      "Without a valid pixel loss and gradient are to be 0; PyTorch's mean over no pixel is NaN.",
      'Peak memory is of a first run, labels random, all valid, and includes the low-resolution gradient.',
    ],
  },

  'pseudo-labels': {
    about:
      'pseudo-labels of a target set from its logits, with per-class thresholds; files neither read nor written',
    cases: {
      cityscapes: { images: 500, distinct: 10, logits: [19, 65, 129], labels: [512, 1024] },
    },
    conditions: [{}],
    twins: { reference: { target: 10 } },
    errors: { thresholds: largestDifference, labels: shareDifferent },
    pairs: 3,
    turnSeconds: 0,
    threads: ONE_AND_ALL,
    bytes: {
      ours: ({ logits: [classes] }) => 8 * classes * 65536,
      reference: ({ images, labels }) => 16 * images * product(labels),
    },
    quick: { images: 50 },
    notes: [
      'The logits of a few distinct images are gone through again and again: as many as the set has.',
      '`reference`: label and probability of all pixels in float64, sorted per class, thresholds, second pass, in numpy.',
      "Errors: the largest difference of a threshold, the share of pixels whose label differs from fp64's.",
    ],
  },

  'segmentation-step': {
    about: 'one step of the segmenter and D_M: source with labels, target with pseudo-labels',
    cases: inBothPrecisions({
      'ResNet-101': {
        segmenter: { backbone: 'resnet101', classCount: 19 },
        discriminator: { classCount: 19 },
        source: [1, 256, 512],
        target: [1, 256, 512],
        learningRate: 2.5e-4,
        discriminatorLearningRate: 1e-4,
        options: SEGMENTATION,
        ...targets(1.3, 1.2),
      },
      'FCN-8s': {
        segmenter: { network: 'fcn-8s', classCount: 19 },
        discriminator: { classCount: 19 },
        source: [1, 256, 512],
        target: [1, 256, 512],
        learningRate: 1e-5,
        discriminatorLearningRate: 1e-6,
        options: { ...SEGMENTATION, optimizer: 'adam', weightDecay: 0, adversarialWeight: 1e-4 },
        ...targets(1.5),
      },
      'cpu-small': {
        ...SMALL,
        ...SMALL_RATES,
        source: [4, 120, 160],
        target: [4, 120, 160],
        options: SMALL_OPTIONS,
        ...targets(1.5, 1.3),
      },
    }),
    ...STEPS,
  },

  'translation-step': {
    about: 'one step of both translators and both D_F, with identity and perceptual terms',
    cases: inBothPrecisions({
      '9 blocks': {
        translator: { blocks: 9, baseWidth: 64, discriminatorWidth: 64 },
        segmenter: { backbone: 'resnet101', classCount: 19 },
        images: [1, 128, 128],
        learningRate: 2e-4,
        options: TRANSLATION,
        ...targets(1.6),
      },
      'cpu-small': {
        translator: { blocks: 6, baseWidth: 16, discriminatorWidth: 16 },
        segmenter: { backbone: 'resnet18', width: 0.5, classCount: 19 },
        images: [2, 96, 96],
        learningRate: 1e-3,
        options: TRANSLATION,
        ...targets(1.5),
      },
    }),
    ...STEPS,
  },

  inference: {
    about: 'from bytes of images to class indices of their size',
    cases: {
      'ResNet-18 ×1': { segmenter: RESNET_18, images: [1, 512, 1024] },
      'ResNet-18 ×1, bf16': { segmenter: RESNET_18, images: [1, 512, 1024], precision: 'bf16' },
      'ResNet-18 ×4': { segmenter: RESNET_18, images: [4, 512, 1024] },
      'ResNet-101 ×1': { segmenter: RESNET_101, images: [1, 512, 1024] },
      'ResNet-101 ×1, bf16': { segmenter: RESNET_101, images: [1, 512, 1024], precision: 'bf16' },
      'ResNet-101 ×4': { segmenter: RESNET_101, images: [4, 512, 1024] },
    },
    conditions: [{}],
    twins: {
      eager: {},
      'ONNX Runtime': { target: 1.2 },
      OpenVINO: { target: 1.5 },
      'onnxruntime-node': { target: 1.2, module: 'inference-onnxruntime-node' },
    },
    errors: { labels: shareDifferent },
    pairs: 3,
    turnSeconds: 0,
    threads: [ALL_CORES],
    quick: { cases: ['ResNet-18 ×1', 'ResNet-18 ×1, bf16'] },
    notes: [
      'All sides start from the same weights and bytes. The precision is that of our side; twins compute in fp32. ONNX Runtime runs what exportOnnx() wrote, upsampling included.',
      'Error: the share of pixels whose class is not that of fp64. Weights are random, so margins between classes are small.',
      '`ONNX Runtime`: in Python. `onnxruntime-node`: the same engine, where it is installed.',
    ],
  },

  pipeline: {
    about: 'from image files to batches and to training steps, fp32',
    cases: {
      'large, batches': {
        files: [1280, 720],
        format: 'jpg',
        count: 16,
        size: [640, 360],
        batch: 4,
        steps: 16,
      },
      'cpu-small': {
        ...SMALL,
        ...SMALL_RATES,
        options: { ...SMALL_OPTIONS, ...SMALL_RATES },
        ...{ files: [480, 360], format: 'png', count: 32, size: [160, 120], batch: 4, steps: 40 },
        ...{ source: [4, 120, 160], target: [4, 120, 160] },
      },
    },
    conditions: [{}],
    twins: { DataLoader: {}, 'DataLoader, workers': {} },
    errors: {},
    figures: {
      'images/s': '',
      'ms a step': '',
      'waiting for data, %': '',
      'outside LibTorch, %': '≤ 2',
      'event loop delay p99, ms': '≤ 5',
    },
    pairs: 3,
    turnSeconds: 0,
    threads: [ALL_CORES],
    quick: { cases: ['cpu-small'] },
    notes: [
      'Twins decode and resize with Pillow, ours with libvips. `workers`: a process for each domain.',
      "The event loop's delay is measured with a timer of 1 ms, whose period is part of it.",
      'Outside LibTorch: time in which the compute thread had nothing to do, waiting for data included.',
    ],
  },
};
