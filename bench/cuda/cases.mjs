// What is measured on a GPU. Engines of a case take turns on one card: variants of ours, and twins in PyTorch.
import { largestRelativeError, relativeError, shareDifferent } from '../harness/statistics.mjs';
import { SEGMENTATION, TRANSLATION } from '../trials.mjs';

/** Dense products of an H100 or H200 (SXM) by its data sheet, in operations a second. */
const RATES = { tf32: 494.7e12, bf16: 989.4e12, fp16: 989.4e12 };

/** Computes the seconds that the multiply-adds of a case take at the card's rate. */
const floors = (gmac) =>
  Object.fromEntries(Object.entries(RATES).map(([precision, rate]) => [precision, (2e9 * gmac) / rate]));

/** What errors are measured against. In fp64 a full-size step takes a minute, and the tests compare with fp64. */
const FULL_FP32 = { twin: 'eager', tf32: false };

const RESNET_101 = { backbone: 'resnet101', classCount: 19 };
const NINE_BLOCKS = { blocks: 9, baseWidth: 64, discriminatorWidth: 64 };

/** Makes variants of ours whose step options differ. */
const steps = (options, variants) =>
  Object.fromEntries(
    Object.entries(variants).map(([name, changes]) => [name, { options: { ...options, ...changes } }]),
  );

const STEP_VARIANTS = {
  'bidiseg, tf32': { precision: 'tf32' },
  'bidiseg, tf32, graphs': { precision: 'tf32', cudaGraphs: true },
  'bidiseg, bf16': { precision: 'bf16' },
  'bidiseg, bf16, graphs': { precision: 'bf16', cudaGraphs: true },
  'bidiseg, fp16, graphs': { precision: 'fp16', cudaGraphs: true },
};

/** Twins by the names of engines. */
const named = (...names) => Object.fromEntries(names.map((name) => [name, { twin: name }]));
const STEP_TWINS = named('eager', 'eager, channels_last', 'eager, bf16 autocast, channels_last');
const COMPILED = named('torch.compile', 'torch.compile, bf16 autocast');
const COMPILED_STEPS = named('torch.compile, channels_last', 'torch.compile, bf16 autocast');

const TF32 = ['bidiseg, tf32', 'bidiseg, tf32, graphs'];
const SHORT = ['bidiseg, bf16', 'bidiseg, bf16, graphs', 'bidiseg, fp16, graphs'];

/** Targets of a step: engines and peers, of which the best count, and the least speedup. */
const STEP_TARGETS = [
  [TF32, ['eager', 'eager, channels_last'], 1.2],
  [TF32, ['torch.compile, channels_last'], 1],
  [SHORT, ['eager', 'eager, channels_last'], 2],
  [SHORT, ['eager, bf16 autocast, channels_last'], null],
  [SHORT, ['torch.compile, bf16 autocast'], 1],
];

/** A step of ResNet-101 without its sizes. */
const RESNET_STEP = {
  segmenter: RESNET_101,
  discriminator: { classCount: 19 },
  learningRate: 2.5e-4,
  discriminatorLearningRate: 1e-4,
  options: SEGMENTATION,
  ours: steps(SEGMENTATION, STEP_VARIANTS),
};

const predictions = (count) => ({
  images: [count, 512, 1024],
  segmenter: RESNET_101,
  floors: floors(373.7 * count),
  ours: {
    'bidiseg, tf32': { precision: 'tf32' },
    'bidiseg, bf16': { precision: 'bf16' },
  },
});

/**
 * Table of benchmarks. Fields of a case: the sizes as in `trials.mjs`; `ours`, variants of our side with what they
 * change; `twins`; `truth`, the twin that errors are measured against; `targets`; `floors`, seconds that the arithmetic
 * takes by precision. `onDevice` compares the time of the kernels, where a call is shorter than the way into it.
 */
export const CUDA_BENCHMARKS = {
  'masked-cross-entropy': {
    condition: { labels: 'piecewise', valid: 1 },
    errors: { loss: relativeError, gradient: relativeError },
    truth: { twin: 'fp64' },
    twins: named('eager', 'torch.compile', 'reference'),
    targets: [
      ['bidiseg', ['eager'], 8],
      ['bidiseg', ['torch.compile'], 3],
      ['bidiseg', ['reference'], 15],
    ],
    onDevice: true,
    // One exponential a logit: 132 processors, 16 a clock, 1.755 GHz. See performance notes in docs/design.
    cases: {
      A: {
        logits: [1, 19, 91, 161],
        labels: [1, 720, 1280],
        ours: { bidiseg: {} },
        floors: { fp32: 4.7e-6 },
      },
      B: {
        logits: [4, 19, 65, 129],
        labels: [4, 512, 1024],
        ours: { bidiseg: {} },
        floors: { fp32: 10.8e-6 },
      },
    },
  },
  'segmentation-step': {
    condition: {},
    errors: { losses: largestRelativeError },
    truth: FULL_FP32,
    twins: STEP_TWINS,
    targets: STEP_TARGETS,
    cases: {
      'ResNet-101': {
        ...RESNET_STEP,
        source: [1, 720, 1280],
        target: [1, 512, 1024],
        floors: floors(3 * (652.9 + 373.7) + 3 * 15.4 + 2 * 27.1),
      },
      // Compiling takes minutes for each size, so here both domains have one.
      'ResNet-101, 512×1024': {
        ...RESNET_STEP,
        source: [1, 512, 1024],
        target: [1, 512, 1024],
        floors: floors(6 * 373.7 + 5 * 15.4),
        twins: { ...STEP_TWINS, ...COMPILED_STEPS },
      },
      'FCN-8s': {
        segmenter: { network: 'fcn-8s', classCount: 19 },
        discriminator: { classCount: 19 },
        source: [1, 720, 1280],
        target: [1, 512, 1024],
        learningRate: 1e-5,
        discriminatorLearningRate: 1e-6,
        options: { ...SEGMENTATION, optimizer: 'adam', weightDecay: 0, adversarialWeight: 1e-4 },
        ours: steps(
          { ...SEGMENTATION, optimizer: 'adam', weightDecay: 0, adversarialWeight: 1e-4 },
          Object.fromEntries(Object.entries(STEP_VARIANTS).filter(([name]) => !name.includes('graphs'))),
        ),
      },
    },
  },
  'translation-step': {
    condition: {},
    errors: { losses: largestRelativeError },
    truth: FULL_FP32,
    twins: STEP_TWINS,
    targets: STEP_TARGETS,
    cases: Object.fromEntries(
      [452, 256].map((side) => [
        `9 blocks, ${side}²`,
        {
          translator: NINE_BLOCKS,
          segmenter: RESNET_101,
          images: [1, side, side],
          learningRate: 2e-4,
          options: TRANSLATION,
          floors: floors((18 * 154.5 + 10 * 144.8) * (side / 452) ** 2),
          ours: steps(TRANSLATION, STEP_VARIANTS),
          // Compiling takes minutes, so one size has to do.
          twins: side < 400 ? STEP_TWINS : { ...STEP_TWINS, ...COMPILED_STEPS },
        },
      ]),
    ),
  },
  inference: {
    condition: {},
    errors: { labels: shareDifferent },
    truth: FULL_FP32,
    twins: {
      ...named('eager', 'eager, channels_last', 'eager, bf16 autocast, channels_last'),
      ...COMPILED,
    },
    targets: [
      ['bidiseg, tf32', ['eager', 'eager, channels_last', 'torch.compile'], 1],
      ['bidiseg, bf16', ['eager, bf16 autocast, channels_last', 'torch.compile, bf16 autocast'], 1],
    ],
    cases: {
      'ResNet-101 ×1': predictions(1),
      'ResNet-101 ×4': predictions(4),
      'ResNet-101 ×16': predictions(16),
    },
  },
};

/** Makes a case so small that the CPU tries it in seconds. It shows that everything runs, and no speed. */
export function tiny(size) {
  const narrow = { width: 0.125 };
  const small = (shape, [height, width]) => shape && [Math.min(shape[0], 2), height, width];
  const changed = {
    ...size,
    ...(size.logits && { logits: [1, 19, 9, 17], labels: [1, 65, 129] }),
    ...(size.source && { source: small(size.source, [64, 96]), target: small(size.target, [64, 96]) }),
    ...(size.images && { images: small(size.images, [64, 64]) }),
    ...(size.segmenter && {
      segmenter: size.segmenter.network
        ? { ...size.segmenter, width: 1 / 16 }
        : { ...size.segmenter, ...narrow, backbone: 'resnet18' },
    }),
    ...(size.discriminator && { discriminator: { ...size.discriminator, baseWidth: 8 } }),
    ...(size.translator && { translator: { blocks: 6, baseWidth: 8, discriminatorWidth: 8 } }),
  };
  changed.ours = Object.fromEntries(
    Object.entries(size.ours).map(([name, { options, precision, ...rest }]) => [
      name,
      {
        ...rest,
        ...(precision && { precision: 'fp32' }),
        ...(options && { options: { ...options, precision: 'fp32', cudaGraphs: false } }),
      },
    ]),
  );
  return changed;
}
