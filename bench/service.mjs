#!/usr/bin/env node
// Measures `bidiseg serve` under load, against the same server with other engines, and prints one table. See README.md
// beside this file.
//   npm run bench:service -- [--size WIDTHxHEIGHT] [--seconds N] [--soak N] [--connections 1,8] [--engine NAME ...] [--output FOLDER]
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import autocannon from 'autocannon';
import { buildInfo, CITYSCAPES, exportOnnx, renderScene, Segmenter } from 'bidiseg';
import { Command, InvalidArgumentError } from 'commander';
import sharp from 'sharp';
import { table, three } from './harness/report.mjs';

/** Sizes of the JPEGs, of about the same number of pixels. */
const SIZES = [
  [320, 240],
  [240, 320],
  [256, 256],
  [384, 216],
  [200, 300],
].map(([width, height]) => ({ width, height }));

const NETWORK = { backbone: 'resnet18', width: 0.5, classCount: CITYSCAPES.names.length };
const ENGINES = ['bidiseg', 'onnxruntime-node'];

/** Options of the server in rows that measure speed. Nothing is refused. */
const FAST = { limit: 8, maxQueue: 1000 };
/** Options of the server in the row that measures backpressure: the defaults of `bidiseg serve`. */
const BOUNDED = { limit: 8, maxQueue: 32 };

function parseOptions() {
  const number = (text) => {
    if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Expected a whole number of at least 0.');
    return Number(text);
  };
  return new Command('npm run bench:service --')
    .description('Measures `bidiseg serve` under load and prints the figures.')
    .option('--seconds <n>', 'duration of a row', number, 60)
    .option('--soak <n>', 'seconds of load to look at the resident set; 0: none', number, 600)
    .option(
      '--connections <list>',
      'numbers of connections',
      (text) => text.split(',').map(number),
      [1, 8, 32, 128],
    )
    .option('--engine <name>', 'only this engine; may be repeated', (name, names = []) => [...names, name])
    .option(
      '--size <width>x<height>',
      'input size of the network; default: each image in its own',
      (text) => {
        const found = /^(\d+)x(\d+)$/.exec(text);
        if (!found) throw new InvalidArgumentError('Expected a size such as 320x240.');
        return { width: Number(found[1]), height: Number(found[2]) };
      },
    )
    .option('--no-overload', 'leave out the row at twice the capacity')
    .option('--output <folder>', 'where results are written', path.join(import.meta.dirname, 'results'))
    .parse()
    .opts();
}

/** A server in a process of its own. */
class Server {
  #child;
  url;

  static async start(engine, folder, options) {
    const server = new Server();
    const file = path.join(import.meta.dirname, 'service/server.mjs');
    server.#child = fork(file, [engine, folder, JSON.stringify(options)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    let errors = '';
    server.#child.stderr.on('data', (text) => {
      errors += text;
    });
    const ended = once(server.#child, 'exit').then(() => {
      throw new Error(/Error: (.*)/.exec(errors)?.[1] ?? errors);
    });
    ended.catch(() => {});
    [{ url: server.url }] = await Promise.race([once(server.#child, 'message'), ended]);
    return server;
  }

  /** Returns CPU time and event loop delay since the last call, and the resident set. */
  async figures() {
    this.#child.send('figures');
    return (await once(this.#child, 'message'))[0];
  }

  async end() {
    const ended = once(this.#child, 'exit');
    this.#child.send('end');
    await ended;
  }
}

/** Sends requests for some seconds. Returns the latencies by status, in milliseconds. */
async function load(server, bodies, { connections, seconds, rate }) {
  const latencies = new Map();
  const requests = bodies.map((body) => ({
    method: 'POST',
    path: '/segment',
    headers: { 'content-type': 'image/jpeg' },
    body,
  }));
  let client = 0;
  const start = performance.now();
  const run = autocannon({
    url: server.url,
    connections,
    duration: seconds,
    timeout: 120,
    requests,
    ...(rate && { overallRate: rate }),
    // Otherwise all connections would send the same size at the same time.
    setupClient: (one) => {
      const first = client++ % requests.length;
      one.setRequests([...requests.slice(first), ...requests.slice(0, first)]);
    },
  });
  run.on('response', (_client, status, _bytes, ms) => {
    const known = latencies.get(status) ?? [];
    latencies.set(status, known);
    known.push(ms);
  });
  const { errors, timeouts } = await run;
  if (errors + timeouts > 0) throw new Error(`${errors} connections failed, ${timeouts} timed out`);
  return { latencies, seconds: (performance.now() - start) / 1000 };
}

function percentile(values, share) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

async function measure(server, bodies, options) {
  await server.figures();
  const { latencies, seconds } = await load(server, bodies, options);
  const { cpuMs, delayP99Ms, rss } = await server.figures();
  const good = latencies.get(200) ?? [];
  const answers = [...latencies.values()].reduce((sum, { length }) => sum + length, 0);
  return {
    connections: options.connections,
    perSecond: good.length / seconds,
    p50: percentile(good, 0.5),
    p99: percentile(good, 0.99),
    cpuMs: cpuMs / good.length,
    delayP99Ms,
    rss,
    refused: (latencies.get(429)?.length ?? 0) / answers,
    others: answers - good.length - (latencies.get(429)?.length ?? 0),
  };
}

/** Measures an engine at each number of connections. A few seconds of load come before, because first calls are slow. */
async function* speedRows(engine, folder, bodies, { connections, seconds, size }) {
  const server = await Server.start(engine, folder, { ...FAST, size });
  try {
    await load(server, bodies, { connections: 8, seconds: Math.min(10, seconds) });
    for (const count of connections) {
      yield { engine, ...(await measure(server, bodies, { connections: count, seconds })) };
    }
  } finally {
    await server.end();
  }
}

/** Sends twice as many requests as the server can answer. */
async function overload(folder, bodies, capacity, { seconds, size }) {
  const server = await Server.start('bidiseg', folder, { ...BOUNDED, size });
  try {
    await load(server, bodies, { connections: 8, seconds: Math.min(10, seconds) });
    const rate = Math.ceil(2 * capacity);
    const row = await measure(server, bodies, { connections: 128, seconds, rate });
    return { ...row, rate, queueMs: (1000 * BOUNDED.maxQueue) / capacity };
  } finally {
    await server.end();
  }
}

/**
 * Looks at the resident set during a long load. Before it, many connections make both lanes meet the largest batches of
 * all sizes, whose memory the process keeps for the next ones.
 */
async function soak(folder, bodies, { seconds, size }) {
  const server = await Server.start('bidiseg', folder, { ...FAST, size });
  const samples = [];
  try {
    await load(server, bodies, { connections: 128, seconds: seconds / 5 });
    await load(server, bodies, { connections: 8, seconds: seconds / 10 });
    const timer = setInterval(
      async () => samples.push((await server.figures()).rss),
      Math.min(10_000, seconds * 50),
    );
    await load(server, bodies, { connections: 8, seconds });
    clearInterval(timer);
  } finally {
    await server.end();
  }
  const quarter = Math.ceil(samples.length / 4);
  const [before, after] = [
    percentile(samples.slice(0, quarter), 0.5),
    percentile(samples.slice(-quarter), 0.5),
  ];
  return { seconds, before, after, change: after / before - 1, samples };
}

const named = ({ width, height }) => `${width}x${height}`;

const mib = (bytes) => (bytes / 2 ** 20).toFixed(0);

function markdown({ machine, command, date, seconds, size, rows, failures, overloaded, soaked }) {
  const titles = [
    'engine',
    'connections',
    'requests/s',
    'p50 ms',
    'p99 ms',
    'CPU ms a request',
    'event loop p99 ms',
    'RSS MiB',
  ];
  const speed = rows.map((row) => [
    row.engine,
    String(row.connections),
    ...[row.perSecond, row.p50, row.p99, row.cpuMs, row.delayP99Ms].map(three),
    mib(row.rss),
  ]);
  const parts = [
    '# service',
    'A segmenter over HTTP, on the loopback: JPEGs in, PNGs of class indices out.',
    `\`${command}\`, ${date.slice(0, 10)}, ${seconds} s a row:`,
    Object.entries(machine)
      .map(([key, value]) => `- ${key}: ${value}`)
      .join('\n'),
    `Network: DeepLab-v2, ResNet-18 of half width, 19 classes, random weights. JPEGs of ${SIZES.map(({ width, height }) => `${width}×${height}`).join(', ')} in turn. The network gets ${size ? `all in ${named(size)}` : 'each in its own size'}. Batches of at most ${FAST.limit}.`,
    table(titles, speed),
    ...failures,
  ];
  if (overloaded) {
    const { rate, refused, p99, queueMs, delayP99Ms, others } = overloaded;
    parts.push(
      `At twice the capacity (${rate} requests/s, queue of ${BOUNDED.maxQueue}): ${(100 * refused).toFixed(1)} % get status 429. ` +
        `p99 of the others ${three(p99)} ms, expected under ${three(2 * queueMs)} ms, twice the time of a full queue. ` +
        `Event loop p99 ${three(delayP99Ms)} ms. Other answers: ${others}.`,
    );
  }
  if (soaked) {
    const { before, after, change } = soaked;
    parts.push(
      `${soaked.seconds} s at 8 connections, after ${soaked.seconds / 5} s at 128: resident set ${mib(before)} MiB in the first quarter, ` +
        `${mib(after)} MiB in the last, ${(100 * change).toFixed(1)} %, expected within ±2 %.`,
    );
  }
  parts.push(
    '- All engines have the same server, with the same batches. Only the object that predicts differs.',
    "- The event loop's delay is measured with a timer of 1 ms, whose period is part of it.",
    '- The client runs on the same machine and takes a part of its time.',
  );
  return parts.join('\n\n').replaceAll('\n\n- ', '\n- ');
}

async function machineOf() {
  const { libtorchVersion, cpuCapability } = await buildInfo();
  return {
    CPU: os.cpus()[0].model.trim(),
    cores: os.availableParallelism(),
    'vector instructions': cpuCapability,
    LibTorch: libtorchVersion,
    'Node.js': process.versions.node,
    'load before': os.loadavg()[0].toFixed(2),
  };
}

async function main({
  seconds,
  soak: soakSeconds,
  size,
  connections,
  engine: engines = ENGINES,
  overload: overloads,
  output,
}) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bidiseg-bench-service-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  process.once('SIGINT', () => process.exit(130));
  const machine = await machineOf();
  if (machine['load before'] > 0.3) {
    console.error(
      `bench: the load is ${machine['load before']}; figures of a busy machine are worth nothing`,
    );
  }
  const segmenter = await Segmenter.create({ ...NETWORK, initialization: 'kaiming' });
  await segmenter.save(path.join(folder, 'network.safetensors'));
  await exportOnnx(segmenter, path.join(folder, 'network.onnx'));
  segmenter.dispose();
  const bodies = await Promise.all(
    SIZES.map(({ width, height }, index) => {
      const { image } = renderScene({ seed: 1, index, look: 'day', width, height });
      return sharp(image, { raw: { width, height, channels: 3 } })
        .jpeg({ quality: 90 })
        .toBuffer();
    }),
  );
  const result = {
    machine,
    command: `npm run bench:service --${size ? ` --size ${named(size)}` : ''} --seconds ${seconds} --soak ${soakSeconds}`,
    date: new Date().toISOString(),
    ...{ seconds, size, rows: [], failures: [], overloaded: null, soaked: null },
  };
  for (const engine of engines) {
    try {
      for await (const row of speedRows(engine, folder, bodies, { connections, seconds, size })) {
        result.rows.push(row);
        console.error(`bench: ${engine}, ${row.connections} connections: ${three(row.perSecond)} requests/s`);
      }
    } catch (error) {
      result.failures.push(`${engine}: ${error.message}`);
      console.error(`bench: ${engine}: ${error.message}`);
    }
  }
  const capacity = Math.max(
    0,
    ...result.rows.filter(({ engine }) => engine === 'bidiseg').map(({ perSecond }) => perSecond),
  );
  if (overloads && capacity > 0)
    result.overloaded = await overload(folder, bodies, capacity, { seconds, size });
  if (soakSeconds > 0) result.soaked = await soak(folder, bodies, { seconds: soakSeconds, size });

  const slug = `${machine.CPU} ${machine.cores} cores ${machine['vector instructions']}`
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-');
  const file = path.join(output, slug, size ? `service-${named(size)}` : 'service');
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(`${file}.json`, `${JSON.stringify(result, null, 2)}\n`);
  writeFileSync(`${file}.md`, `${markdown(result)}\n`);
  console.log(`${markdown(result)}\n\nWritten to ${path.relative('.', file)}.md and .json\n`);
}

await main(parseOptions());
