#!/usr/bin/env node
// Shows that the time of a prediction does not depend on the sizes that the segmenter has seen before. For each batch
// and size, a fresh process that sees nothing else takes turns with one that goes through all of them in random order.
//   node bench/sizes.mjs [--backbone resnet18] [--width 0.5] [--turns 5] [--threads N] [--seed 1] [--quick]
import { fork } from 'node:child_process';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const SIZES = [
  [160, 120],
  [320, 240],
  [480, 360],
  [512, 256],
  [640, 480],
];
const BATCHES = [1, 2, 3, 4, 5, 6, 7, 8];
/** Calls of the fresh process before its time counts. */
const WARM_UPS = 2;

const { values: options } = parseArgs({
  options: {
    backbone: { type: 'string', default: 'resnet18' },
    width: { type: 'string', default: '0.5' },
    turns: { type: 'string', default: '5' },
    threads: { type: 'string', default: String(os.availableParallelism()) },
    seed: { type: 'string', default: '1' },
    quick: { type: 'boolean', default: false },
  },
});

/** A process that predicts on request and answers with the milliseconds. */
async function side() {
  const { memoryInUse, Segmenter, setThreadCount } = await import('bidiseg');
  await setThreadCount(Number(options.threads));
  const segmenter = await Segmenter.create({
    backbone: options.backbone,
    width: Number(options.width),
    classCount: 19,
  });
  process.on('message', async ({ count, width, height }) => {
    const images = new Uint8Array(count * width * height * 3).map((_, i) => (i * 2654435761) >>> 24);
    const [cpu, start] = [process.cpuUsage(), performance.now()];
    await segmenter.predict(images, { count, width, height });
    const wall = performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    process.send({ wall, cpu: (user + system) / 1000, held: memoryInUse() });
  });
  process.send('ready');
}

function start() {
  const child = fork(fileURLToPath(import.meta.url), process.argv.slice(2), {
    env: { ...process.env, BIDISEG_SIDE: '1' },
  });
  const next = () => new Promise((resolve) => child.once('message', resolve));
  const ready = next();
  return {
    async predict(job) {
      await ready;
      const answer = next();
      child.send(job);
      return await answer;
    },
    async end() {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill();
      await ended;
    },
  };
}

/** Generates numbers in [0, 1). */
function generator(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function shuffled(list, random) {
  const rest = [...list];
  return list.map(() => rest.splice(Math.floor(random() * rest.length), 1)[0]);
}

const least = (answers, kind) => Math.min(...answers.map((answer) => answer[kind]));

async function main() {
  const random = generator(Number(options.seed));
  const batches = options.quick ? [1, 2, 4, 8] : BATCHES;
  const jobs = SIZES.flatMap(([width, height]) => batches.map((count) => ({ count, width, height })));
  const mixed = start();
  const first = new Map();
  for (const job of shuffled(jobs, random)) first.set(job, await mixed.predict(job));

  const rows = [];
  let [aloneHeld, mixedHeld] = [0, 0];
  for (const job of shuffled(jobs, random)) {
    const alone = start();
    for (let i = 0; i < WARM_UPS; ++i) await alone.predict(job);
    const times = { alone: [], mixed: [] };
    for (let turn = 0; turn < Number(options.turns); ++turn) {
      times.alone.push(await alone.predict(job));
      // The call before is one of any size, as in a service.
      await mixed.predict(jobs[Math.floor(random() * jobs.length)]);
      times.mixed.push(await mixed.predict(job));
    }
    await alone.end();
    aloneHeld = Math.max(aloneHeld, times.alone.at(-1).held);
    mixedHeld = Math.max(mixedHeld, times.mixed.at(-1).held);
    const ratio = (kind) => least(times.mixed, kind) / least(times.alone, kind);
    rows.push({ job, ms: least(times.alone, 'wall'), wall: ratio('wall'), cpu: ratio('cpu') });
    process.stderr.write(`sizes: ${rows.length} of ${jobs.length}\r`);
  }
  await mixed.end();

  console.log(
    `\n${options.backbone}, width ${options.width}, ${options.threads} threads, least of ${options.turns}\n`,
  );
  console.log('| size | batch | ms alone | among all sizes | … in CPU time | first call, ms |');
  console.log('| --- | --- | --- | --- | --- | --- |');
  for (const { job, ms, wall, cpu } of rows.sort((a, b) => jobs.indexOf(a.job) - jobs.indexOf(b.job))) {
    const cells = [`${job.width}×${job.height}`, job.count, ms.toFixed(1), `${wall.toFixed(2)}×`];
    console.log(`| ${[...cells, `${cpu.toFixed(2)}×`, first.get(job).wall.toFixed(1)].join(' | ')} |`);
  }
  const worst = (kind) => Math.max(...rows.map((row) => row[kind])).toFixed(2);
  const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
  console.log(`\nworst: ${worst('wall')}×, in CPU time ${worst('cpu')}× (target ≤ 1.10×)`);
  console.log(
    `tensors that are kept: ${mib(aloneHeld)} MiB alone, at most; ${mib(mixedHeld)} MiB among all sizes`,
  );
}

await (process.env.BIDISEG_SIDE ? side() : main());
