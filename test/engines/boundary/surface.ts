import { randomUUID } from 'node:crypto';
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ConfusionMatrix,
  FeatureDiscriminator,
  l1Loss,
  Optimizer,
  OutputDiscriminator,
  PairedTranslationStep,
  ProcessGroup,
  SegmentationStep,
  Segmenter,
  Tensor,
  ThresholdHistogram,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../../helpers/batches.js';

/**
 * Member of the package that reaches the addon, with a valid call. test/engines/boundary/matrix.ts derives its misuse
 * from these calls, and fails when a member is missing here.
 *
 * Names: `function`, `new Class`, `Class.static`, `Class#method` or `Class#getter` of the class that declares it.
 */
export interface Member {
  /** Creates the arguments of a valid call. */
  args: (receiver: string) => unknown[] | Promise<unknown[]>;
  /** Creates the object to call it on, if not any object of the class will do. */
  receiver?: () => Promise<object>;
}

/** Creators of an object of each class that holds native ones. */
export const RECEIVERS: Record<string, () => Promise<object>> = {
  Tensor: async () => image(),
  Segmenter: () => Segmenter.create(SEGMENTER),
  OutputDiscriminator: () => OutputDiscriminator.create(DISCRIMINATOR),
  FeatureDiscriminator: () => FeatureDiscriminator.create(FEATURE_DISCRIMINATOR),
  Network: async () => (await translator()).toTarget,
  Translator: () => translator(),
  Optimizer: async () => Optimizer.sgd(await Segmenter.create(SEGMENTER)),
  SegmentationStep: async () =>
    SegmentationStep.create(
      await Segmenter.create(SEGMENTER),
      await OutputDiscriminator.create(DISCRIMINATOR),
      SEGMENTATION,
    ),
  TranslationStep: async () =>
    TranslationStep.create(await translator(), await Segmenter.create(SEGMENTER), {
      ...TRANSLATION,
      poolSize: 2,
    }),
  PairedTranslationStep: async () =>
    PairedTranslationStep.create(await Translator.create(PAIRED), { ...PAIRED_STEP }),
  ProcessGroup: () => ProcessGroup.join(groupOfOne()),
  ThresholdHistogram: async () => new ThresholdHistogram(5, 16),
  ConfusionMatrix: async () => new ConfusionMatrix(5),
};

const SEGMENTER = {
  network: 'deeplab-v2',
  backbone: 'resnet18',
  width: 1 / 64,
  branches: 2,
  bottleneckStride: 'middle',
  classCount: 5,
  classNames: ['a', 'b', 'c', 'd', 'e'],
  initialization: 'kaiming',
  seed: 3,
  device: 'cpu',
  dtype: 'float32',
} as const;
const DISCRIMINATOR = { classCount: 5, baseWidth: 1, seed: 3, device: 'cpu', dtype: 'float32' } as const;
const FEATURE_DISCRIMINATOR = {
  featureCount: 8,
  baseWidth: 1,
  seed: 3,
  device: 'cpu',
  dtype: 'float32',
} as const;
const PAIRED = { pairing: 'paired', depth: 2, baseWidth: 1, discriminatorWidth: 1 } as const;
const PAIRED_STEP = {
  ganMode: 'bce',
  ganWeight: 1,
  l1Weight: 10,
  precision: 'fp32',
  betas: [0.5, 0.999] as [number, number],
} as const;
const TRANSLATOR = {
  pairing: 'unpaired',
  blocks: 6,
  baseWidth: 1,
  residual: true,
  upsampling: 'resize',
  discriminatorWidth: 1,
  seed: 3,
  device: 'cpu',
  dtype: 'float32',
} as const;
const meetingPoints = mkdtempSync(join(tmpdir(), 'bidiseg-groups-'));
process.once('exit', () => {
  // Under another name, because the heartbeats of groups go on and would create their files again.
  const abandoned = `${meetingPoints}-abandoned`;
  renameSync(meetingPoints, abandoned);
  rmSync(abandoned, { recursive: true });
});
/** A group that waits for nobody. Its meeting point is a new file. */
const groupOfOne = () => ({
  backend: 'gloo' as const,
  rank: 0,
  size: 1,
  file: join(meetingPoints, randomUUID()),
  name: 'misuse',
  timeoutSeconds: 0.2,
});
const SIDE = 32;
const SHAPE = { count: 1, height: SIDE, width: SIDE };

const translator = () => Translator.create(TRANSLATOR);
const floats = (...shape: number[]) =>
  Tensor.from(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i)),
    shape,
  );
const image = () => floats(1, 3, SIDE, SIDE);
const logits = () => floats(1, 5, 4, 4);
const labels = () =>
  Tensor.from(
    Uint8Array.from({ length: 64 }, (_, i) => i % 5),
    [1, 8, 8],
  );
const bytes = () => new Uint8Array(SIDE * SIDE * 3);
const signal = () => new AbortController().signal;
const pixels = () => ({ labels: Uint8Array.of(0, 1, 2, 4), confidence: Float32Array.of(0.1, 0.5, 0.9, 1) });

async function saved(folder: string, object: Segmenter | Translator): Promise<string> {
  const file = join(folder, `${object.constructor.name}.safetensors`);
  await object.save(file);
  return file;
}

/** Lists the surface. `folder` is for files. */
export function surface(folder: string): Record<string, Member> {
  const none = { args: () => [] };
  const loss = async () => l1Loss(await floats(2, 2).requireGrad(), floats(2, 2));
  return {
    'Tensor.from': { args: () => [new Float32Array(4), [2, 2]] },
    'Tensor#data': none,
    'Tensor#item': { args: () => [], receiver: async () => floats(1) },
    'Tensor#backward': { args: () => [{ signal: signal() }], receiver: loss },
    'Tensor#gradient': none,
    'Tensor#requireGrad': none,
    'Tensor#detach': none,
    'Tensor#to': { args: () => [{ device: 'cpu', dtype: 'float64', memoryFormat: 'channels-last' }] },
    'Tensor#add': { args: () => [image()] },
    'Tensor#scale': { args: () => [2] },
    'Tensor#softmax': none,
    'Tensor#resize': { args: () => [8, 9] },

    'Network#forward': {
      args: (receiver) => [
        { OutputDiscriminator: floats(1, 5, SIDE, SIDE), FeatureDiscriminator: floats(1, 8, 4, 4) }[
          receiver
        ] ?? image(),
        { convolutions: 'direct', signal: signal() },
      ],
    },
    'Network#train': none,
    'Network#eval': none,
    'Network#freeze': none,
    'Network#unfreeze': none,
    'Network#parameters': none,
    'Network#buffers': none,
    'Network#state': none,
    'Network#loadState': {
      args: async (receiver) => [await ((await RECEIVERS[receiver]!()) as Segmenter).state()],
    },
    'Network#copyFrom': { args: async (receiver) => [await RECEIVERS[receiver]!()] },
    'Network#save': {
      args: () => [join(folder, 'network'), { dtype: 'float16', step: 3, signal: signal() }],
    },
    'Network#load': {
      args: async (receiver) => {
        const file = join(folder, `${receiver}-weights`);
        await ((await RECEIVERS[receiver]!()) as Segmenter).save(file);
        return [file, { strict: true, strip: '', signal: signal() }];
      },
    },
    'Segmenter.create': { args: () => [{ ...SEGMENTER, palette: new Uint8Array(15) }] },
    'Segmenter.fromFile': {
      args: async () => [
        await saved(folder, await Segmenter.create(SEGMENTER)),
        { classCount: 5, device: 'cpu', dtype: 'float32', signal: signal() },
      ],
    },
    'Segmenter#forwardWithFeatures': { args: () => [image(), { convolutions: 'direct', signal: signal() }] },
    'Segmenter#predict': {
      args: () => [
        bytes(),
        {
          ...{ ...SHAPE, outputWidth: 20, outputHeight: 24, confidence: true, order: 'logits', flip: true },
          convolutions: 'direct',
          sideBySide: true,
          ...{
            otherSizes: [{ images: new Uint8Array(16 * 16 * 3), width: 16, height: 16 }],
            signal: signal(),
          },
        },
      ],
    },
    'Segmenter#updateStatistics': {
      args: () => [bytes(), { ...SHAPE, momentum: 0.5, signal: signal() }],
    },
    'Segmenter#predict (one view)': {
      args: () => [
        bytes(),
        {
          ...SHAPE,
          classThresholds: [0.5, 1, 1, 1, 2],
          outputSizes: Array.from({ length: SHAPE.count }, (_, i) => ({ width: 20 + i, height: 24 })),
        },
      ],
    },
    exportOnnx: {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        join(folder, 'onnx'),
        { upsample: true, size: { width: 32, height: 32 }, batch: 2, signal: signal() },
      ],
    },
    exportTorchScript: {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        join(folder, 'torchscript'),
        { upsample: true, signal: signal() },
      ],
    },
    'OutputDiscriminator.create': { args: () => [{ ...DISCRIMINATOR }] },
    'FeatureDiscriminator.create': { args: () => [{ ...FEATURE_DISCRIMINATOR }] },
    'Translator.create (paired)': { args: () => [{ ...PAIRED }] },
    'Translator.create': { args: () => [{ ...TRANSLATOR }] },
    'Translator.fromFile': {
      args: async () => [
        await saved(folder, await translator()),
        { device: 'cpu', dtype: 'float32', signal: signal() },
      ],
    },
    'Translator#translate': {
      args: () => [bytes(), { ...SHAPE, direction: 'target-to-source', signal: signal() }],
    },
    'Translator#save': { args: () => [join(folder, 'translator'), { dtype: 'bfloat16', signal: signal() }] },
    'Translator#load': {
      args: async () => [await saved(folder, await translator()), { strict: true, signal: signal() }],
    },

    'Optimizer.sgd': {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        { weightDecay: 1e-3, headLearningRateFactor: 2, momentum: 0.9, repeatedStep: true },
      ],
    },
    'Optimizer.adam': {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        { weightDecay: 1e-3, headLearningRateFactor: 2, betas: [0.9, 0.99] },
      ],
    },
    'Optimizer#step': { args: () => [1e-3] },
    'Optimizer#zeroGrad': none,

    'SegmentationStep.create': {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        await OutputDiscriminator.create(DISCRIMINATOR),
        { ...SEGMENTATION, lossScaling: true, cudaGraphs: false },
      ],
    },
    'SegmentationStep.create (adam)': {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        null,
        { optimizer: 'adam', adamBetas: [0.9, 0.99] },
      ],
    },
    'SegmentationStep.create (teacher)': {
      args: async () => [
        await Segmenter.create(SEGMENTER),
        await FeatureDiscriminator.create({ featureCount: 8, baseWidth: 1 }),
        {
          ...{ ...SEGMENTATION, alignment: 'feature-discriminator', entropyWeight: 0.1, momentWeight: 1 },
          teacher: {
            ...{ decay: 0.9, threshold: 0.5, weight: 1, classMix: true, margins: [0.1, 0.1], seed: 1 },
            classShares: [0.4, 0.3, 0.1, 0.2, 0],
            masking: { ratio: 0.5, patch: 0.25, weight: 1, source: true },
          },
          featureDistance: { classes: [1, 2], minimumShare: 0.5, weight: 0.1 },
        },
      ],
    },
    'SegmentationStep#run': {
      args: () => [
        {
          source: randomBatch(SHAPE, 1, 5),
          target: { ...randomBatch(SHAPE, 2, 5), weights: new Uint8Array(SIDE * SIDE).fill(200) },
          ...{ learningRate: 1e-3, discriminatorLearningRate: 1e-4, signal: signal() },
        },
      ],
    },
    'TranslationStep.create': {
      args: async () => [await translator(), await Segmenter.create(SEGMENTER), { ...TRANSLATION }],
    },
    'TranslationStep#run': {
      args: () => [
        {
          ...{ source: randomBatch(SHAPE, 1), target: randomBatch(SHAPE, 2) },
          ...{ learningRate: 1e-3, signal: signal() },
        },
      ],
    },
    'PairedTranslationStep.create': {
      args: async () => [await Translator.create(PAIRED), { ...PAIRED_STEP }],
    },
    'PairedTranslationStep#run': {
      args: () => [
        {
          ...{ source: randomBatch(SHAPE, 1), target: randomBatch(SHAPE, 2) },
          ...{ learningRate: 1e-3, signal: signal() },
        },
      ],
    },
    'TrainingStep#state': none,
    'TrainingStep#loadState': {
      args: async (receiver) => [await ((await RECEIVERS[receiver]!()) as SegmentationStep).state()],
    },

    'ProcessGroup.join': { args: () => [{ ...groupOfOne(), signal: signal() }] },
    'ProcessGroup.backends': none,
    'ProcessGroup#add': { args: () => [[floats(2), floats(3)], { signal: signal() }] },
    'ProcessGroup#average': { args: () => [[floats(2)], { signal: signal() }] },
    'ProcessGroup#averageGradients': {
      args: async () => [await Segmenter.create(SEGMENTER), { signal: signal() }],
    },
    'ProcessGroup#averageStatistics': {
      args: async () => [await Segmenter.create(SEGMENTER), { own: 1, all: 2, signal: signal() }],
    },
    'ProcessGroup#broadcast': { args: () => [[floats(2)], { root: 0, signal: signal() }] },
    'ProcessGroup#allGather': { args: () => [floats(2), { signal: signal() }] },
    'ProcessGroup#barrier': { args: () => [{ signal: signal() }] },

    'new ThresholdHistogram': { args: () => [5, 16] },
    'ThresholdHistogram#add': { args: () => Object.values(pixels()) },
    'ThresholdHistogram#combine': {
      args: async () => [await ProcessGroup.join(groupOfOne()), { signal: signal() }],
    },
    'ThresholdHistogram#refine': { args: () => [{ portion: 0.5, cap: 0.9 }] },
    'ThresholdHistogram#thresholds': { args: () => [{ portion: 0.5, cap: 0.9 }] },
    'new ConfusionMatrix': { args: () => [5, 255] },
    ...Object.fromEntries(
      [
        ...['rows', 'truePixels', 'predictedPixels', 'iou', 'accuracy', 'meanIou', 'meanAccuracy'],
        ...['frequencyWeightedIou', 'pixelAccuracy'],
      ].map((name) => [
        `ConfusionMatrix#${name}`,
        /mean|frequency/.test(name) ? { args: () => [[0, 4]] } : none,
      ]),
    ),
    'ConfusionMatrix#add': { args: () => [pixels().labels, pixels().labels] },
    applyThresholds: {
      args: () => [
        ...Object.values(pixels()),
        { thresholds: [0.5, 0.5, 0.5, 0.5, 0.5], inclusive: true, ignoreIndex: 255 },
      ],
    },

    maskedCrossEntropy: {
      args: () => [
        logits(),
        labels(),
        {
          ...{ normalize: 'all', ignoreIndex: 255, alignCorners: true, classWeights: [1, 1, 1, 1, 2] },
          pixelWeights: floats(1, 8, 8),
        },
      ],
    },
    'maskedCrossEntropy (online)': {
      args: () => [
        logits(),
        null,
        {
          ...{ height: 8, width: 8, threshold: [0.1, 0.1, 0.1, 0.1, 0.1], inclusive: true, prediction: true },
          ...{ ignoreIndex: 255, histogram: new ThresholdHistogram(5, 16) },
        },
      ],
    },
    pseudoLabels: {
      args: () => [
        logits(),
        {
          ...{ height: 8, width: 8, alignCorners: false, order: 'probabilities', threshold: 0.2 },
          ...{ inclusive: true, ignoreIndex: 255, confidence: true },
          histogram: new ThresholdHistogram(5, 16),
        },
      ],
    },
    classProbabilities: { args: () => [logits(), 8, 9] },
    domainLoss: { args: () => [logits(), 'source'] },
    ganLoss: { args: () => [logits(), true, { mode: 'bce' }] },
    l1Loss: { args: () => [logits(), logits()] },
    meanDistance: { args: () => [logits(), logits()] },
    correlationDistance: { args: () => [logits(), logits()] },
    selfInformation: { args: () => [logits()] },
    entropyLoss: { args: () => [logits(), 8, 9] },
    perceptualLoss: { args: () => [logits(), logits(), 'normalized-mse'] },
    segmenterInput: { args: () => [Tensor.from(bytes(), [1, SIDE, SIDE, 3]), { dtype: 'float32' }] },
    translatorInput: { args: () => [Tensor.from(bytes(), [1, SIDE, SIDE, 3]), { dtype: 'float64' }] },
    segmenterInputFromTranslator: { args: () => [image()] },
    translatorOutputBytes: { args: () => [image()] },

    buildInfo: none,
    setThreadCount: { args: () => [1] },
    setMemoryLimit: { args: () => [2 ** 30] },
    memoryInUse: none,
    computeTimeMs: none,
    liveObjects: none,
  };
}
