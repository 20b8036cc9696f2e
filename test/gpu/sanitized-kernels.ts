// Every kernel once, in few launches, for compute-sanitizer (scripts/gpu-check.sh). It checks no values.
import { classProbabilities, entropyLoss, ganLoss, maskedCrossEntropy, pseudoLabels, Tensor } from 'bidiseg';
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

for (const classes of [2, 19, 41]) {
  await runAll(2, classes, [5, 7], [33, 49]);
  await runAll(1, classes, [3, 4], [9, 1027]);
  await runAll(1, classes, [1, 1], [1, 1]);
}
console.log('done');
