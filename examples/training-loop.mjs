// A training loop of your own: segmentation of generated street scenes, written with tensors, networks, losses and an
// optimizer. The trainers do the same in one native call a step (SegmentationStep). Write such a loop for anything that
// they do not do.
//   node examples/training-loop.mjs [STEPS]
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {
  BatchLoader,
  ConfusionMatrix,
  createEmbeddedDataset,
  ImageDataset,
  maskedCrossEntropy,
  Optimizer,
  Segmenter,
  STREET_SCENE_CLASSES,
  segmenterInput,
  Tensor,
} from 'bidiseg';

const steps = Number(process.argv[2] ?? 100);
const size = { width: 128, height: 96 };
const classCount = STREET_SCENE_CLASSES.length;
const folder = await mkdtemp(path.join(os.tmpdir(), 'bidiseg-example-'));

/** Runs one training step. Tensors keep native memory until they are disposed, so the step disposes all of its own. */
async function step(segmenter, optimizer, batch, learningRate) {
  const { images, labels, count, width, height } = batch;
  const tensors = [];
  const keep = (tensor) => {
    tensors.push(tensor);
    return tensor;
  };
  try {
    const input = keep(await segmenterInput(keep(Tensor.from(images, [count, height, width, 3]))));
    const logits = keep(await segmenter.forward(input));
    const loss = keep(await maskedCrossEntropy(logits, keep(Tensor.from(labels, [count, height, width]))));
    await optimizer.zeroGrad();
    await loss.backward();
    await optimizer.step(learningRate);
    return await loss.item();
  } finally {
    for (const tensor of tensors) tensor.dispose();
  }
}

try {
  await createEmbeddedDataset(folder, {
    size,
    sourceCount: 100,
    targetCount: 1,
    validationCount: 20,
  });
  const dataset = await ImageDataset.fromFolder({
    images: path.join(folder, 'source/images'),
    labels: path.join(folder, 'source/labels'),
    classCount,
  });
  const segmenter = await Segmenter.create({
    backbone: 'resnet18',
    width: 0.25,
    classCount,
    initialization: 'kaiming',
  });
  const optimizer = await Optimizer.adam(segmenter, { weightDecay: 5e-4 });
  const loader = new BatchLoader(dataset, {
    batchSize: 4,
    size,
    flip: true,
    seed: 1,
    stage: 'example',
    steps,
  });
  for await (const batch of loader) {
    const learningRate = 1e-3 * (1 - batch.step / steps) ** 0.9;
    const loss = await step(segmenter, optimizer, batch, learningRate);
    if ((batch.step + 1) % 20 === 0) console.log(`step ${batch.step + 1}: loss ${loss.toFixed(3)}`);
  }

  const matrix = new ConfusionMatrix(classCount);
  for (let i = 0; i < 20; i++) {
    const { image, labels } = await dataset.read(i, { size });
    const prediction = await segmenter.predict(image.data, { count: 1, ...size });
    await matrix.add(labels.data, prediction.labels);
  }
  console.log(`mIoU on images it was trained on: ${(100 * matrix.meanIou()).toFixed(1)} %`);
  optimizer.dispose();
  segmenter.dispose();
} finally {
  await rm(folder, { recursive: true, force: true });
}
