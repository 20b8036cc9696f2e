import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CITYSCAPES, renderScene, SegmentationStep, Segmenter, STREET_SCENE_CLASSES } from 'bidiseg';
import { SEGMENTATION } from './batches.js';

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
 * Writes the weights of a small segmenter of Cityscapes' classes. It was trained on street scenes by day for a second.
 * So it predicts several classes, some confidently and some not. Random weights do not. It is trained once per process.
 */
export async function writeTrainedSegmenter(file: string): Promise<string> {
  weights ??= train();
  await writeFile(file, await weights);
  return file;
}

async function train(): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'bidiseg-trained-'));
  const options = { ...TRAINED_NETWORK.options, backbone: 'resnet18', initialization: 'kaiming' } as const;
  using segmenter = await Segmenter.create(options);
  const training = { ...SEGMENTATION, optimizer: 'adam', headLearningRateFactor: 1 } as const;
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
    return await readFile(join(folder, 'weights'));
  } finally {
    await rm(folder, { recursive: true });
  }
}
