#!/usr/bin/env node
// Trains one small config of two rounds in 1, 2 and 4 processes, and once with another number of threads, which changes
// the rounding of sums as well. Prints how far the translated images, pseudo-labels and mIoU are from those of one process.
// In float64 rounding is too small to be seen, so there must be no difference at all.
//     node scripts/check-processes.mjs        about three minutes on two cores
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import sharp from 'sharp';

const MAIN = path.join(import.meta.dirname, '../dist/lib/cli/main.js');
const folder = mkdtempSync(path.join(os.tmpdir(), 'bidiseg-processes-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const size = [96, 64];
const config = {
  preset: 'cpu-small',
  data: {
    root: 'data',
    classes: 'street-scenes',
    embedded: { size: [128, 96], sourceCount: 24, targetCount: 12, validationCount: 8 },
    source: { images: 'source/images', labels: 'source/labels' },
    target: {
      train: { images: 'target/train/images' },
      val: { images: 'target/val/images', labels: 'target/val/labels' },
    },
  },
  sizes: {
    ...{ source: size, target: size, evaluation: size },
    translation: { source: size, target: size, crop: [64, 64] },
  },
  segmenter: { backbone: 'resnet18', width: 0.0625 },
  discriminator: { baseWidth: 4 },
  translator: { baseWidth: 4, discriminatorWidth: 4 },
  // `direct`: what differs is LibTorch's own rounding, which also depends on the number of threads.
  segmentation: {
    ...{ steps: 4, pseudoLabelSteps: 4, sourceOnlySteps: 4, batchSize: 1, accumulation: 4 },
    convolutions: 'direct',
  },
  translation: { steps: 4, batchSize: 4, perceptualForm: 'l1', learningRate: 1e-4, convolutions: 'direct' },
  loop: { rounds: 2, selfTrainingRounds: 1 },
};
writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));

function train(name, args, threads) {
  const { status, stderr } = spawnSync(
    process.execPath,
    [MAIN, 'train', 'config.json', '--output', name, ...args],
    { cwd: folder, env: { ...process.env, OMP_NUM_THREADS: String(threads) }, encoding: 'utf8' },
  );
  assert.equal(status, 0, stderr || `bidiseg ended with ${status}`);
}

const list = (run, place) =>
  readdirSync(path.join(folder, run, place), { recursive: true })
    .filter((name) => /^[^.]*\.png$/.test(path.basename(name)))
    .map((name) => path.join(place, name))
    .sort();

async function compareImages(run, one, place) {
  assert.deepEqual(list(run, place), list(one, place));
  const result = { values: 0, differing: 0, most: 0 };
  for (const file of list(one, place)) {
    const [expected, found] = await Promise.all(
      [one, run].map((name) =>
        sharp(path.join(folder, name, file))
          .raw()
          .toBuffer(),
      ),
    );
    assert.equal(found.length, expected.length, file);
    result.values += expected.length;
    for (const [i, value] of expected.entries()) {
      const difference = Math.abs(value - found[i]);
      result.differing += Number(difference > 0);
      result.most = Math.max(result.most, difference);
    }
  }
  return result;
}

const stages = (run) => JSON.parse(readFileSync(path.join(folder, run, 'summary.json'), 'utf8')).stages;

async function report(title, run, one) {
  const translated = await compareImages(run, one, 'translated');
  const labels = await compareImages(run, one, 'pseudo-labels');
  const points = stages(run).map(
    ({ miou }, index) => 100 * Math.abs((miou ?? 0) - (stages(one)[index].miou ?? 0)),
  );
  const share = ({ values, differing }) => `${differing} of ${values}`;
  const apart = Math.max(...points);
  console.log(
    `| ${title} | ${share(translated)}, by at most ${translated.most} | ${share(labels)} | ${apart.toFixed(3)} |`,
  );
  return translated.differing + labels.differing + apart;
}

const OTHERS = {
  'the same again': [[], 1],
  'one process, two threads': [[], 2],
  'two processes': [['--processes', '2'], 1],
  'four processes': [['--processes', '4'], 1],
};
for (const dtype of ['float32', 'float64']) {
  const one = `one-${dtype}`;
  train(one, ['--set', `dtype=${dtype}`], 1);
  console.log(
    `| ${dtype}, beside one process | values of translated images | pixels of pseudo-labels | mIoU, points at most |`,
  );
  console.log('| --- | --- | --- | --- |');
  for (const [title, [args, threads]] of Object.entries(OTHERS)) {
    const run = `${dtype}-${title.replaceAll(/\W+/g, '-')}`;
    train(run, ['--set', `dtype=${dtype}`, ...args], threads);
    const difference = await report(title, run, one);
    if (dtype === 'float64') assert.equal(difference, 0, title);
  }
}
