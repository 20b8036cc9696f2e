#!/usr/bin/env node
// Measures predictions beside a training in one process: their latency, and the speed of the training.
//   node bench/beside.mjs [--seconds 30] [--case NAME]
import { fork } from 'node:child_process';
import os from 'node:os';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { quantile } from './harness/statistics.mjs';

const CORES = os.availableParallelism();
const HALF = Math.max(1, Math.floor(CORES / 2));

const SMALL = { backbone: 'resnet18', width: 0.5, classCount: 19 };
/** Trainings, and the segmenter and images that a service predicts with meanwhile. */
const CASES = {
  'cpu-small': { training: SMALL, batch: [4, 120, 160], service: SMALL, image: [1, 240, 320] },
  'ResNet-101': {
    training: { backbone: 'resnet101', classCount: 19 },
    batch: [1, 256, 512],
    service: { backbone: 'resnet18', classCount: 19 },
    image: [1, 240, 320],
  },
};
/** Clients: those that call again at once, and one that calls at random times. */
const LOADS = {
  'one client': { clients: 1, pauseMs: 0 },
  'four clients': { clients: 4, pauseMs: 0 },
  'a call now and then': { clients: 1, pauseMs: 500 },
};

const { values: options } = parseArgs({
  options: { seconds: { type: 'string', default: '30' }, case: { type: 'string', multiple: true } },
});

/** Runs a service, a training or both in this process for a while. */
async function side({ name, load, threads, trains }) {
  const { OutputDiscriminator, SegmentationStep, Segmenter, setThreadCount } = await import('bidiseg');
  await setThreadCount(threads);
  const { training, batch, service, image } = CASES[name];
  const bytes = (length, below = 256) =>
    new Uint8Array(length).map((_, i) => ((i * 2654435761) >>> 16) % below);
  const [count, height, width] = image;
  const images = bytes(count * height * width * 3);
  const segmenter = await Segmenter.create(service);
  const predict = () => segmenter.predict(images, { count, height, width });
  const trained = await Segmenter.create(training);
  const discriminator = await OutputDiscriminator.create({ classCount: 19, baseWidth: 16 });
  const step = await SegmentationStep.create(trained, discriminator, { optimizer: 'adam' });
  const pixels = batch[0] * batch[1] * batch[2];
  const source = {
    ...{ count: batch[0], height: batch[1], width: batch[2] },
    ...{ images: bytes(pixels * 3), labels: bytes(pixels, 19) },
  };
  const train = () =>
    step.run({ source, target: source, learningRate: 1e-4, discriminatorLearningRate: 1e-4 });
  if (load) for (let i = 0; i < 3; ++i) await predict();
  if (trains) for (let i = 0; i < 2; ++i) await train();

  const start = performance.now();
  const end = start + 1000 * Number(options.seconds);
  const latencies = [];
  let steps = 0;
  let stepsMs = 0;
  const client = async (pauseMs) => {
    while (performance.now() < end) {
      if (pauseMs > 0) await setTimeout(pauseMs * (0.5 + Math.random()));
      const called = performance.now();
      await predict();
      latencies.push(performance.now() - called);
    }
  };
  const trainer = async () => {
    while (performance.now() < end) {
      await train();
      ++steps;
      stepsMs = performance.now() - start;
    }
  };
  const work = trains ? [trainer()] : [];
  if (load) for (let i = 0; i < LOADS[load].clients; ++i) work.push(client(LOADS[load].pauseMs));
  await Promise.all(work);
  const at = (share) => (latencies.length > 0 ? quantile(latencies, share) : null);
  return {
    p50: at(0.5),
    p99: at(0.99),
    calls: (1000 * latencies.length) / (performance.now() - start),
    steps: trains ? (1000 * steps) / stepsMs : 0,
  };
}

/** Measures in a fresh process. */
async function measure(request) {
  const child = fork(fileURLToPath(import.meta.url), process.argv.slice(2), {
    env: { ...process.env, BIDISEG_SIDE: JSON.stringify(request) },
  });
  const answer = await new Promise((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', (code) => reject(new Error(`the process ended with code ${code}`)));
  });
  process.stderr.write(`beside: ${JSON.stringify(request)}\n`);
  return answer;
}

async function main() {
  console.log(`${CORES} cores, ${options.seconds} s each; latencies in ms\n`);
  const titles = ['training', 'load', `p50, p99 alone, ${CORES} threads`, `… ${HALF} threads`];
  titles.push('… beside the training', 'p99 beside / half', 'calls/s alone, beside', 'steps/s alone, beside');
  console.log(`| ${titles.join(' | ')} |\n|${' --- |'.repeat(titles.length)}`);
  for (const name of options.case ?? Object.keys(CASES)) {
    const training = await measure({ name, threads: CORES, trains: true });
    for (const load of Object.keys(LOADS)) {
      const alone = await measure({ name, load, threads: CORES, trains: false });
      const half = await measure({ name, load, threads: HALF, trains: false });
      const beside = await measure({ name, load, threads: CORES, trains: true });
      const pair = ({ p50, p99 }) => `${p50.toFixed(0)}, ${p99.toFixed(0)}`;
      const cells = [
        name,
        load,
        pair(alone),
        pair(half),
        pair(beside),
        `${(beside.p99 / half.p99).toFixed(2)}×`,
      ];
      cells.push(`${alone.calls.toFixed(1)}, ${beside.calls.toFixed(1)}`);
      const share = Math.round((100 * beside.steps) / training.steps);
      cells.push(`${training.steps.toFixed(2)}, ${beside.steps.toFixed(2)} (${share} %)`);
      console.log(`| ${cells.join(' | ')} |`);
    }
  }
}

if (process.env.BIDISEG_SIDE) {
  process.send(await side(JSON.parse(process.env.BIDISEG_SIDE)), () => process.exit());
} else {
  await main();
}
