import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CITYSCAPES, renderScene, SegmentationStep, Segmenter, STREET_SCENE_CLASSES } from 'bidiseg';
import { SEGMENTATION } from './batches.js';
import { randomNormal } from './random.js';
import { readTensors, writeTensors } from './tensor-file.js';

const SIZE = { width: 96, height: 64 };
const SCENES = 24;
const BATCH = 4;
const STEPS = 120;

/** Entry `network` of the segmenter in a request to the PyTorch twin. */
export const TRAINED_NETWORK = {
  kind: 'deeplab-v2',
  options: { backbone: 'resnet18', width: 1 / 8, classCount: CITYSCAPES.names.length },
};

/** Class of Cityscapes for each class of the street scenes, by name. */
export const CITYSCAPES_CLASSES = STREET_SCENE_CLASSES.map((name) => CITYSCAPES.names.indexOf(name));

let weights: Promise<Buffer> | undefined;

/**
 * Writes the weights of a small segmenter of Cityscapes' classes. It was trained on street scenes by day for seconds. So it
 * predicts several classes, some confidently and some not. Random weights do not. It is trained once per process, and is the
 * same on all machines: in float64, and from weights that are drawn here. LibTorch draws others with other vectors.
 */
export async function writeTrainedSegmenter(file: string): Promise<string> {
  weights ??= train();
  await writeFile(file, await weights);
  return file;
}

async function train(): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'bidiseg-trained-'));
  const options = {
    ...TRAINED_NETWORK.options,
    backbone: 'resnet18',
    initialization: 'kaiming',
    dtype: 'float64',
  } as const;
  using segmenter = await Segmenter.create(options);
  const training = { ...SEGMENTATION, optimizer: 'adam', headLearningRateFactor: 1 } as const;
  await drawWeights(segmenter, join(folder, 'drawn'));
  using step = await SegmentationStep.create(segmenter, null, training);
  const scenes = Array.from({ length: SCENES }, (_, index) =>
    renderScene({ seed: 1, index, look: 'day', ...SIZE }),
  );
  for (let i = 0; i < STEPS; i++) {
    const batch = Array.from({ length: BATCH }, (_, slot) => scenes[(BATCH * i + slot) % SCENES]!);
    const images = new Uint8Array(Buffer.concat(batch.map(({ image }) => image)));
    const labels = new Uint8Array(Buffer.concat(batch.map((scene) => scene.labels)));
    for (const [pixel, label] of labels.entries()) labels[pixel] = CITYSCAPES_CLASSES[label]!;
    const source = { images, labels, count: BATCH, ...SIZE };
    await step.run({ source, learningRate: 3e-3 * (1 - i / STEPS) ** 0.9 });
  }
  try {
    await segmenter.save(join(folder, 'weights'));
    using single = await Segmenter.fromFile(join(folder, 'weights'));
    await single.save(join(folder, 'float32'));
    return await readFile(join(folder, 'float32'));
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Draws the weights of all convolutions again, about as large as they are. */
async function drawWeights(segmenter: Segmenter, file: string): Promise<void> {
  await segmenter.save(file);
  const tensors = readTensors(file);
  for (const [index, tensor] of Object.values(tensors).entries()) {
    if (tensor.shape.length !== 4) continue;
    const squares = Array.from(tensor.data as Float32Array, (weight) => weight ** 2);
    const scale = Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / squares.length);
    // Rounded, because the last digits differ between machines.
    tensor.data = randomNormal(squares.length, index, Number(scale.toPrecision(2)));
  }
  writeTensors(file, tensors);
  await segmenter.load(file);
}
