#!/usr/bin/env node
// Runs one training step of each full-size network on the CPU, each in a fresh process. Measures time and peak memory.
//   node bench/full-size-steps.mjs [NAME ...]
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const RESNET101 = { network: 'deeplab-v2', backbone: 'resnet101' };
const CITYSCAPES = { width: 1024, height: 512 };
const GTA5 = { width: 1280, height: 720 };

const trials = {
  'DeepLab-v2 ResNet-101, 512x1024': (bidiseg) => segmentationStep(bidiseg, RESNET101, CITYSCAPES),
  'DeepLab-v2 ResNet-101, 720x1280': (bidiseg) => segmentationStep(bidiseg, RESNET101, GTA5),
  'DeepLab-v2 ResNet-101, 720x1280, activation checkpointing': (bidiseg) =>
    segmentationStep(bidiseg, RESNET101, GTA5, { activationCheckpointing: true }),
  'FCN-8s VGG-16, 512x1024': (bidiseg) =>
    segmentationStep(bidiseg, { network: 'fcn-8s', initialization: 'kaiming' }, CITYSCAPES),
  '9-block generators, 256x256, perceptual terms from DeepLab-v2 ResNet-101': translationStep,
};

function randomBytes(length, below) {
  let state = 12345;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 16) % below;
  });
}

async function segmentationStep(
  { Segmenter, OutputDiscriminator, SegmentationStep },
  network,
  { width, height },
  options = {},
) {
  const classCount = 19;
  const segmenter = await Segmenter.create({ ...network, classCount });
  const discriminator = await OutputDiscriminator.create({ classCount });
  const step = await SegmentationStep.create(segmenter, discriminator, options);
  const batch = {
    images: randomBytes(height * width * 3, 256),
    labels: randomBytes(height * width, classCount),
    count: 1,
    width,
    height,
  };
  const start = performance.now();
  const losses = await step.run({
    source: batch,
    target: batch,
    learningRate: 2.5e-4,
    discriminatorLearningRate: 1e-4,
  });
  return { seconds: (performance.now() - start) / 1000, total: losses.total };
}

async function translationStep({ Segmenter, Translator, TranslationStep }) {
  const size = 256;
  const segmenter = await Segmenter.create({ classCount: 19 });
  const translator = await Translator.create({ blocks: 9 });
  const step = await TranslationStep.create(translator, segmenter, {
    identityWeight: 5,
    perceptualForm: 'normalized-mse',
  });
  const batch = { images: randomBytes(size * size * 3, 256), count: 1, width: size, height: size };
  const start = performance.now();
  const losses = await step.run({ source: batch, target: batch, learningRate: 2e-4 });
  return { seconds: (performance.now() - start) / 1000, total: losses.total };
}

if (process.env.BIDISEG_TRIAL) {
  const { seconds, total } = await trials[process.env.BIDISEG_TRIAL](await import('bidiseg'));
  const peakGiB = process.resourceUsage().maxRSS / 2 ** 20;
  console.log(`${seconds.toFixed(1)} s, peak ${peakGiB.toFixed(1)} GiB, total loss ${total.toFixed(3)}`);
} else {
  const chosen = process.argv.slice(2);
  for (const name of chosen.length > 0 ? chosen : Object.keys(trials)) {
    if (!trials[name]) throw new Error(`No trial '${name}'; there are: ${Object.keys(trials).join('; ')}`);
    const env = { ...process.env, BIDISEG_TRIAL: name };
    const output = execFileSync(process.execPath, [fileURLToPath(import.meta.url)], {
      env,
      encoding: 'utf8',
    });
    console.log(`${name}: ${output.trim()}`);
  }
}
