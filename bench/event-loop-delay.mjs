#!/usr/bin/env node
// Event loop delay while the demo's networks train on image files, by perf_hooks.monitorEventLoopDelay.
//   node bench/event-loop-delay.mjs [STEPS]
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import {
  createConfig,
  createDiscriminator,
  createSegmenter,
  createTranslator,
  openDatasets,
  SegmentationTrainer,
  TranslationTrainer,
} from 'bidiseg';

const RESOLUTION_MS = 1;
const WARM_UP_STEPS = 5; // compiling JavaScript and first-use set-up of LibTorch are not what is measured
const steps = Number(process.argv[2] ?? 150);
const folder = await mkdtemp(path.join(os.tmpdir(), 'bidiseg-bench-'));

async function measure(name, trainer) {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  const start = performance.now();
  let done = 0;
  for await (const _ of trainer.steps()) if (++done === WARM_UP_STEPS) delay.enable();
  delay.disable();
  const text = (nanoseconds) => `${(nanoseconds / 1e6).toFixed(2)} ms`;
  console.log(
    `${name}: ${done} steps in ${((performance.now() - start) / 1000).toFixed(1)} s; event loop delay ` +
      `median ${text(delay.percentile(50))}, p99 ${text(delay.percentile(99))}, max ${text(delay.max)} ` +
      `(the timer's own period of ${RESOLUTION_MS} ms included; ${delay.count} samples)`,
  );
}

try {
  const config = createConfig({ preset: 'demo', output: folder }, { set: ['data.embedded.sourceCount=64'] });
  const datasets = await openDatasets(config);
  const [segmenter, translator] = await Promise.all([createSegmenter(config), createTranslator(config)]);
  const discriminator = await createDiscriminator(config, segmenter);
  const [width, height] = config.sizes.source;
  const size = { width, height };
  console.log(`${os.cpus()[0].model}, ${os.availableParallelism()} cores, Node ${process.version}`);
  await measure(
    'segmentation',
    new SegmentationTrainer({ segmenter, discriminator }, datasets, {
      steps,
      sourceSize: size,
      training: config.segmentation,
    }),
  );
  await measure(
    'translation',
    new TranslationTrainer({ translator, segmenter }, datasets, {
      steps,
      sourceSize: size,
      crop: { width: 96, height: 96 },
      training: { ...config.translation, steps },
    }),
  );
} finally {
  await rm(folder, { recursive: true, force: true });
}
