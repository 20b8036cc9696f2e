// One process of a training that is measured: node ours.mjs CASE FILE RANK SIZE SECONDS [SHARES].
// SIZE 0: no group. Then SHARES divides the step, default 1. Prints JSON.
import { readdirSync, readFileSync } from 'node:fs';
import {
  ProcessGroup,
  SegmentationStep,
  Segmenter,
  setThreadCount,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { BATCHES, CASES } from './cases.mjs';

const [name, file, rank, size, seconds, shares = 1] = process.argv.slice(2);
const { kind, network, height, width, images: perBatch = 1 } = CASES[name];
await setThreadCount(1);
const alone = Number(size) === 0;
const group = alone ? null : await ProcessGroup.join({ file, rank: Number(rank), size: Number(size) });
const batches = BATCHES / (group?.size ?? Number(shares));
const count = batches * perBatch;

const bytes = (length, most) => {
  const data = new Uint8Array(length);
  let state = Number(rank) + 1;
  for (let i = 0; i < length; i++) {
    state = (state * 48271) % 2147483647;
    data[i] = state % most;
  }
  return data;
};
const images = () => ({ images: bytes(count * height * width * 3, 256), count, height, width });

async function segmentation() {
  const segmenter = await Segmenter.create({ ...network, classCount: 19 });
  const accumulation = group ? BATCHES : batches;
  const options = { accumulation, alignment: 'none', adversarialWeight: 0, momentWeight: 0 };
  const step = await SegmentationStep.create(segmenter, null, options, { group });
  const source = { ...images(), labels: bytes(count * height * width, 19) };
  return () => step.run({ source, learningRate: 1e-4 });
}

async function translation() {
  const translator = await Translator.create(network);
  const step = await TranslationStep.create(translator, null, {}, { group });
  const batch = { source: images(), target: images(), learningRate: 1e-4 };
  return () => step.run(batch);
}

const run = await (kind === 'segmentation' ? segmentation() : translation());
await run();
await run();
const sentBefore = group?.bytesSent ?? 0;
const times = [];
const messagesBefore = messageTime();
const cpuBefore = process.cpuUsage();
// Every process makes as many steps: the slowest decides, because they wait for each other.
const end = performance.now() + 1000 * Number(seconds);
for (let go = true; go; ) {
  const start = performance.now();
  await run();
  times.push(performance.now() - start);
  go = performance.now() < end;
  if (group && group.size > 1) go = await agreed(go);
}
const { user, system } = process.cpuUsage(cpuBefore);
const cpu = (user + system) / 1000 / times.length;
const messages = (messageTime() - messagesBefore) / times.length;
const sorted = times.toSorted((a, b) => a - b);
const sent = group ? (group.bytesSent - sentBefore) / times.length : 0;
process.stdout.write(
  `${JSON.stringify({ ms: sorted[Math.floor(times.length / 2)], times, sent, cpu, messages })}\n`,
);
group?.dispose();
process.exit();

/** Milliseconds of processor time that Gloo's threads have taken, user and system. */
function messageTime() {
  const TICK = 10; // milliseconds of one of the 100 that Linux counts in a second
  const threads = readdirSync('/proc/self/task').map((id) =>
    readFileSync(`/proc/self/task/${id}/stat`, 'utf8'),
  );
  return threads
    .filter((stat) => /\((pt_)?gloo/.test(stat))
    .map((stat) => stat.slice(stat.lastIndexOf(')') + 2).split(' '))
    .reduce((sum, fields) => sum + TICK * (Number(fields[11]) + Number(fields[12])), 0);
}

/** Rank 0 decides when all stop. */
async function agreed(own) {
  const { Tensor } = await import('bidiseg');
  const flag = Tensor.from(Uint8Array.of(Number(own)));
  await group.broadcast([flag]);
  return (await flag.data())[0] === 1;
}
