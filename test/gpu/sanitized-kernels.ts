// Every kernel once, in few launches, for compute-sanitizer (scripts/gpu-check.sh). It checks no values. The argument is
// `losses` or `steps`.
import {
  classProbabilities,
  entropyLoss,
  ganLoss,
  maskedCrossEntropy,
  type Precision,
  pseudoLabels,
  SegmentationStep,
  Segmenter,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { randomBytes, randomNormal } from '../helpers/random.js';

const device = process.env.DEVICE ?? 'cuda';

async function onDevice(data: Float32Array | Uint8Array, shape: number[]): Promise<Tensor> {
  using host = Tensor.from(data, shape);
  return await host.to({ device });
}

/** Runs all kernels on logits [count, classes, h, w] at height x width. */
async function runAll(count: number, classes: number, [h, w]: number[], [height, width]: number[]) {
  const size = { height: height!, width: width! };
  using logits = await onDevice(randomNormal(count * classes * h! * w!, 1, 2), [count, classes, h!, w!]);
  await logits.requireGrad();
  using labels = await onDevice(randomBytes(count * height! * width!, 2, classes, 0.3), [
    count,
    height!,
    width!,
  ]);
  using weights = await onDevice(new Float32Array(count * height! * width!).fill(0.5), labels.shape);
  const losses = [
    await maskedCrossEntropy(logits, labels),
    await maskedCrossEntropy(logits, labels, { pixelWeights: weights, alignCorners: false }),
    (await maskedCrossEntropy(logits, null, { ...size, threshold: 0.2, prediction: true })).loss,
    await entropyLoss(logits, size.height, size.width),
    await ganLoss(await classProbabilities(logits, size.height, size.width), true),
  ];
  for (const loss of losses) await loss.backward();
  for (const order of ['logits', 'probabilities'] as const) {
    await pseudoLabels(logits, { ...size, threshold: 0.2, order });
  }
}

/** One step of each kind, for normalization and padding. Sizes are odd, and the last block of threads is not full. */
async function runSteps(precision: Precision) {
  const rates = { learningRate: 1e-3, discriminatorLearningRate: 1e-3 };
  using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 8, classCount: 5, device });
  using step = await SegmentationStep.create(segmenter, null, { ...SEGMENTATION, precision });
  await step.run({ source: randomBatch({ count: 2, height: 41, width: 57 }, 1, 5), ...rates });
  using translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8, device });
  using translation = await TranslationStep.create(translator, null, { ...TRANSLATION, precision });
  const size = { count: 2, height: 28, width: 36 };
  await translation.run({ source: randomBatch(size, 2), target: randomBatch(size, 3), ...rates });
}

if (process.argv[2] === 'steps') {
  for (const precision of device === 'cpu' ? (['fp32'] as const) : (['tf32', 'bf16', 'fp16'] as const)) {
    await runSteps(precision);
  }
} else {
  for (const classes of [2, 19, 41]) {
    await runAll(2, classes, [5, 7], [33, 49]);
    await runAll(1, classes, [3, 4], [9, 1027]);
    await runAll(1, classes, [1, 1], [1, 1]);
  }
}
console.log('done');
