// npm run bench -- processes [--pairs N] [--seconds N] [--link RATE] [--case TEXT]: steps of one and of two processes with
// one thread each, in turns. With a link, the two are on "machines" that a link of this speed joins, in words of tc (1gbit).
// `--case`: a part of the names of the cases that are measured.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { BATCHES, CASES } from './cases.mjs';
import { makeLink, onMachine } from './link.mjs';

const HERE = import.meta.dirname;
const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    ...{ pairs: { type: 'string', default: '5' }, seconds: { type: 'string', default: '10' } },
    link: { type: 'string' },
    case: { type: 'string', default: '' },
  },
});
const folder = mkdtempSync(path.join(os.tmpdir(), 'bidiseg-bench-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const own = path.join(HERE, '../../.libtorch/bin/python');
const python = process.env.PYTHON ?? (existsSync(own) ? own : 'python3');
if (values.link) makeLink(values.link);
const HERE_ALONE = { before: [], env: { GLOO_SOCKET_IFNAME: 'lo' } };
let groups = 0;

/** Starts the process of `rank`. Two processes are on two machines if there is a link. */
function start(command, args, rank, size) {
  const machine = values.link && size > 1 ? onMachine(rank) : HERE_ALONE;
  const [first, ...rest] = [...machine.before, command, ...args];
  const env = { ...process.env, OMP_NUM_THREADS: '1', ...machine.env };
  const child = spawn(first, rest, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (text) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(output));
      else reject(new Error(`${command} ended with ${code}`));
    });
  });
}

const ranks = (size) => Array.from({ length: Math.max(size, 1) }, (_, rank) => String(rank));

/**
 * Milliseconds of a step, which are those of the slowest process, and processor time of all of them, in all and for
 * messages.
 */
async function measure(processes) {
  const results = await Promise.all(processes);
  const sum = (key) => results.reduce((total, each) => total + (each[key] ?? 0), 0);
  const [cpu, messages] = [sum('cpu'), sum('messages')];
  return { ...results[0], ms: Math.max(...results.map(({ ms }) => ms)), cpu, messages };
}

function ours(name, size) {
  const file = path.join(folder, `ours-${++groups}`);
  const args = (rank) => [path.join(HERE, 'ours.mjs'), name, file, rank, String(size), values.seconds];
  return measure(ranks(size).map((rank) => start(process.execPath, args(rank), rank, size)));
}

/**
 * Two processes that know nothing of each other, each with half a step. Milliseconds of the slower one of any two of their
 * steps: what processes that wait for each other after each step would reach if communication took no time.
 */
async function strangers(name) {
  const args = [path.join(HERE, 'ours.mjs'), name, '', '0', '0', values.seconds, '2'];
  const found = await Promise.all([0, 1].map(() => start(process.execPath, args, '0', 0)));
  const [one, other] = found.map(({ times }) => times);
  return { ms: median(one.flatMap((a) => other.map((b) => Math.max(a, b)))) };
}

/** `bucket`: megabytes of gradients that DistributedDataParallel sends at a time, while it computes the others. */
function twin({ width, height }, size, bucket) {
  const file = path.join(folder, `twin-${++groups}`);
  const numbers = [size, values.seconds, BATCHES, width, height, bucket].map(String);
  const args = (rank) => [path.join(HERE, 'twin.py'), file, rank, ...numbers];
  return measure(ranks(size).map((rank) => start(python, args(rank), rank, size)));
}

/** Small buckets are sent during the backward pass. A single bucket is sent after it. Nearly all fits in PyTorch's 25 MB. */
const BUCKETS = { 'sending early': 4, 'sending last': 100_000 };
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

/** Where the milliseconds of a step of two processes go, beyond half of those of one. Each process has one core. */
function parts({ without, two }) {
  const computing = (two.cpu - two.messages) / 2 - without.ms / 2;
  const messages = two.messages / 2;
  return { computing, messages, waiting: two.ms - without.ms / 2 - computing - messages };
}
const percent = (share) => `${(100 * share).toFixed(1)} %`;

console.log(`load before: ${os.loadavg()[0].toFixed(1)}; figures of a busy machine are worth nothing\n`);
const COLUMNS = [
  ...['case', 'one process', 'one with a group', 'two processes', 'efficiency of two', 'overhead of a group'],
  ...['efficiency of two strangers', 'more computing', 'messages', 'waiting', 'MB a step'],
];
console.log(`| ${COLUMNS.join(' | ')} |`);
console.log(`|${' --- |'.repeat(COLUMNS.length)}`);
for (const [name, entry] of Object.entries(CASES)) {
  if (!name.includes(values.case)) continue;
  const sides = { 'bidiseg: ': [0, 1, 2].map((size) => () => ours(name, size)) };
  if (entry.hasTwin) {
    for (const [what, bucket] of Object.entries(BUCKETS)) {
      sides[`DistributedDataParallel, ${what}: `] = [
        null,
        () => twin(entry, 1, bucket),
        () => twin(entry, 2, bucket),
      ];
    }
  }
  for (const [side, [without, one, two]] of Object.entries(sides)) {
    const found = [];
    for (let pair = 0; pair < Number(values.pairs); pair++) {
      const alone = without && { without: await without(), apart: await strangers(name) };
      found.push({ ...alone, one: await one(), two: await two() });
    }
    const base = ({ without, one }) => (without ?? one).ms;
    const cell = (pick) => `${median(found.map(pick)).toFixed(0)} ms`;
    const sent = found[0].two.sent;
    const row = [
      side + name,
      without ? cell(({ without }) => without.ms) : '–',
      cell(({ one }) => one.ms),
      cell(({ two }) => two.ms),
      percent(median(found.map((each) => base(each) / (2 * each.two.ms)))),
      without ? percent(median(found.map(({ without, one }) => one.ms / without.ms - 1))) : '–',
      without ? percent(median(found.map(({ without, apart }) => without.ms / (2 * apart.ms)))) : '–',
      ...['computing', 'messages', 'waiting'].map((part) =>
        without ? cell((each) => parts(each)[part]) : '–',
      ),
      sent ? (sent / 1e6).toFixed(2) : '–',
    ];
    console.log(`| ${row.join(' | ')} |`);
  }
}

// A ring sends 2 (W - 1) / W of the gradients' bytes from each GPU, so that a step waits t = 2 (W - 1) / W · bytes / speed.
const RESNET_101 = 4 * (43_795_724 + 2_781_121); // float32 gradients of DeepLab-v2 and the discriminator
const STEP = 0.0708; // seconds of a step in TF32 on an H200, see results/nvidia-h200/segmentation-step.md
console.log(
  '\nWhat is to be expected of GPUs, by arithmetic: the share of its time that a GPU computes, n c / (n c + t).',
);
console.log(
  `c = ${1000 * STEP} ms is one batch of DeepLab-v2 with ResNet-101 and its discriminator at the size of the paper,`,
);
console.log(
  'n = `accumulation` / W, and t = 2 (W − 1) / W · 186 MB / speed the wait for the sum of W GPUs.\n',
);
const links = { '1 Gbit/s': 0.125e9, '10 Gbit/s': 1.25e9, '100 Gbit/s': 12.5e9, '400 Gbit/s': 50e9 };
console.log(`| GPUs | n | ${Object.keys(links).join(' | ')} |`);
console.log(`| --- | --- |${' --- |'.repeat(Object.keys(links).length)}`);
for (const gpus of [8, 64, 512]) {
  for (const batches of [1, 8]) {
    const computing = batches * STEP;
    const shares = Object.values(links).map((speed) => {
      const wait = ((2 * (gpus - 1)) / gpus) * (RESNET_101 / speed);
      return percent(computing / (computing + wait));
    });
    console.log(`| ${gpus} | ${batches} | ${shares.join(' | ')} |`);
  }
}
