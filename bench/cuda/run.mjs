// Measures bidiseg on a GPU beside PyTorch on the same card. See ../README.md.
//   npm run bench -- cuda [NAME ...] [--case NAME ...] [--engine NAME ...] [--turns N] [--seconds N] [--output FOLDER]
//   npm run bench -- cuda --device cpu     tries everything on the CPU with tiny sizes; shows no speed
import { randomInt } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Argument, Command } from 'commander';
import { BENCH, findPython, startOurs, startTwin } from '../harness/process.mjs';
import { table, three } from '../harness/report.mjs';
import { median, quantile } from '../harness/statistics.mjs';
import { readValue } from '../harness/values.mjs';
import { CUDA_BENCHMARKS, tiny } from './cases.mjs';

/** Runs before a measurement, in which libraries choose algorithms and graphs are recorded. */
const WARM_UPS = 8;
const WARM_UP_SECONDS = 0.4;

function parseOptions() {
  const collect = (value, values = []) => [...values, value];
  const program = new Command('npm run bench -- cuda')
    .description(
      'Measures bidiseg on a GPU beside PyTorch on the same card, and prints and writes the figures.',
    )
    .addArgument(new Argument('[name...]', 'benchmarks').choices(Object.keys(CUDA_BENCHMARKS)))
    .option('--device <device>', 'cuda, cuda:N, or cpu for a try with tiny sizes', 'cuda')
    .option('--case <name>', 'only this case; may be repeated', collect)
    .option('--engine <name>', 'only this engine; may be repeated', collect)
    .option('--without <text>', 'skip engines whose name contains this')
    .option(
      '--turns <n>',
      'turns of each engine; 0 only makes the engines, and compiles what they need',
      Number,
      3,
    )
    .option('--seconds <n>', 'seconds of a turn', Number, 0.5)
    .option('--seed <n>', 'of the random inputs', Number, randomInt(1, 2 ** 31))
    .option('--cache <folder>', 'compiled code of torch.compile from an earlier run; default: compile anew')
    .option('--no-twin-profiles', 'profile our engines alone; profiles of the twins take seconds each')
    .option('--traces <folder>', 'write a trace of each of our variants there')
    .option('--output <folder>', 'where results are written', path.join(BENCH, 'results'));
  program.parse(process.argv.slice(3), { from: 'user' });
  const names = program.args.length > 0 ? program.args : Object.keys(CUDA_BENCHMARKS);
  return { names, ...program.opts() };
}

const log = (text) => console.error(`bench: ${(performance.now() / 1000).toFixed(0)} s: ${text}`);

/** Makes the inputs of a case and computes what their results should be, on the same device. */
async function prepareCase({ name, benchmark, size, twin, seed, folder, exact }) {
  const threads = os.availableParallelism();
  await twin.ask('create', { ...benchmark.truth, case: size, threads });
  const prefix = path.join(folder, `${name}-inputs`);
  const request = { case: size, condition: benchmark.condition, seed: [seed], prefix };
  const inputs = await twin.ask('inputs', request);
  if (!exact) return { inputs, truth: null };
  await twin.ask('load', { inputs });
  await twin.ask('sample', { seconds: 0, least: 1 });
  const truth = await twin.ask('result', { prefix: `${prefix}-truth` });
  await twin.ask('forget');
  return { inputs, truth };
}

/** Makes an engine, runs it until it is warm, and measures its memory and its error. */
async function prepareEngine(engine, { name, benchmark, device, inputs, truth, folder }) {
  const { side, size, twin } = engine;
  const threads = os.availableParallelism();
  await side.ask('create', { case: size, threads, twin });
  await side.ask('load', { inputs });
  engine.firstSeconds = await side.ask('warm_up');
  await side.ask('sample', { seconds: 0, least: 1 });
  engine.seconds = [];
  engine.errors = {};
  if (truth === null) return;
  const result = await side.ask('result', { prefix: path.join(folder, `${name}-result`) });
  for (const [key, distance] of Object.entries(benchmark.errors)) {
    engine.errors[key] = distance(readValue(result[key]).data, readValue(truth[key]).data);
  }
  engine.memory = device === 'cpu' ? null : await side.ask('device_memory');
  await side.ask('keep', { name: engine.name });
}

/** Reduces a profile of one run to what the table shows. */
function summarize(lines) {
  const total = (chosen) => chosen.reduce((sum, { seconds }) => sum + seconds, 0);
  const count = (pattern) =>
    lines.filter(({ name }) => pattern.test(name)).reduce((sum, line) => sum + line.count, 0);
  const kernels = lines.filter(({ onDevice, name }) => onDevice && !/^(Memcpy|Memset)/.test(name));
  return {
    onDevice: total(lines.filter(({ onDevice }) => onDevice)),
    launches: count(/^cu(da)?(LaunchKernel|GraphLaunch)/),
    kernels: kernels.reduce((sum, line) => sum + line.count, 0),
    // On the CPU, where a step is tried, what would wait on a GPU.
    waits: count(
      kernels.length > 0 ? /^cuda(Stream|Device|Event)Synchronize/ : /^aten::_local_scalar_dense$/,
    ),
    copies: count(/^Memcpy|^cudaMemcpy/),
    top: kernels.sort((a, b) => b.seconds - a.seconds).slice(0, 8),
  };
}

async function measureCase(plan) {
  const { caseName, benchmark, size, sides, options } = plan;
  const { inputs, truth } = await prepareCase({ ...plan, twin: sides.twin, exact: options.turns > 0 });
  const wanted = (name) =>
    (!options.engine || options.engine.includes(name)) &&
    !(options.without && name.includes(options.without));
  const ours = Object.entries(size.ours).map(([name, changes]) => ({
    name,
    side: sides.ours,
    size: { ...size, ...changes },
  }));
  const twins = Object.entries(size.twins ?? benchmark.twins).map(([name, { twin, ...changes }]) => ({
    name,
    side: sides.twin,
    size: { ...size, ...changes },
    twin,
  }));
  const engines = [...ours, ...twins].filter(({ name }) => wanted(name));
  for (const engine of engines) {
    try {
      await prepareEngine(engine, { ...plan, inputs, truth });
      if (options.turns > 0) {
        await engine.side.ask('sample', {
          seconds: WARM_UP_SECONDS,
          least: options.device === 'cpu' ? 2 : WARM_UPS,
        });
      }
      log(`${caseName}, ${engine.name}: ready`);
    } catch (error) {
      engine.failure = error.message.split('\n', 1)[0];
      log(`${caseName}, ${engine.name}: ${error.stack}`);
    }
  }
  const working = options.turns > 0 ? engines.filter(({ failure }) => !failure) : [];
  for (let turn = 0; turn < options.turns; ++turn) {
    for (const engine of working) {
      await engine.side.ask('use', { name: engine.name });
      engine.seconds.push(await engine.side.ask('sample', { seconds: options.seconds, least: 3 }));
    }
  }
  for (const engine of working) {
    if (engine.twin && !options.twinProfiles) continue;
    try {
      await engine.side.ask('use', { name: engine.name });
      const trace =
        options.traces && engine.side === sides.ours
          ? path.join(
              options.traces,
              `${plan.name}-${caseName}-${engine.name}.json`.replace(/[^\w.-]+/g, '-'),
            )
          : undefined;
      engine.profile = summarize(await engine.side.ask('profile', { file: trace }));
    } catch (error) {
      log(`${caseName}, ${engine.name}: no profile: ${error.stack}`);
    }
  }
  await sides.ours.ask('forget');
  await sides.twin.ask('forget');
  return engines.map(({ side: _, size: __, ...engine }) => engine);
}

const milliseconds = (seconds) => three(seconds * 1000);

/** Returns the speedups of an engine over a peer, one for each turn. */
function ratios(engine, peer, onDevice) {
  if (onDevice) return [peer.profile.onDevice / engine.profile.onDevice];
  return engine.seconds.map((turn, i) => median(peer.seconds[i]) / median(turn));
}

/** Compares the best of ours with the best of the peers. */
function judge(engines, [mine, peers, target], onDevice) {
  const usable = (names) =>
    [names]
      .flat()
      .map((name) => engines.find((engine) => engine.name === name))
      .filter((engine) => engine?.seconds?.length > 0 && !engine.failure && (!onDevice || engine.profile));
  const time = (engine) => (onDevice ? engine.profile.onDevice : median(engine.seconds.flat()));
  const best = (found) => found.sort((a, b) => time(a) - time(b))[0];
  const [engine, peer] = [best(usable(mine)), best(usable(peers))];
  if (!engine || !peer) return null;
  const all = ratios(engine, peer, onDevice);
  return {
    engine: engine.name,
    peer: peer.name,
    ratio: median(all),
    low: Math.min(...all),
    high: Math.max(...all),
    target,
  };
}

function engineRow({ name, failure, seconds, errors, memory, profile, firstSeconds, twin }, floors = {}) {
  if (failure || seconds.length === 0) {
    const why = failure ?? `first call ${three(firstSeconds)} s`;
    return [name, failure ? 'failed' : '–', '–', '–', '–', '–', '–', '–', '–', why.slice(0, 60)];
  }
  const all = seconds.flat();
  const typical = median(all);
  const precision = Object.keys(floors).find((key) => name.includes(key)) ?? (twin ? 'tf32' : 'fp32');
  const floor = floors[precision];
  return [
    name,
    milliseconds(typical),
    `${milliseconds(quantile(all, 0.2))} … ${milliseconds(quantile(all, 0.8))}`,
    floor ? milliseconds(floor) : '–',
    profile ? milliseconds(profile.onDevice) : '–',
    profile ? `${three(Math.max(0, 100 * (1 - profile.onDevice / typical)))} %` : '–',
    profile ? `${profile.launches} / ${profile.kernels}` : '–',
    profile ? `${profile.waits} / ${profile.copies}` : '–',
    memory === null ? '–' : three(memory / 1e9),
    Object.values(errors)
      .map((value) => value.toExponential(1))
      .join(', ') + (/compile/.test(name) ? `; first call ${three(firstSeconds)} s` : ''),
  ];
}

const TITLES = [
  'engine',
  'ms',
  '20th … 80th',
  'at least',
  'ms on the device',
  'outside',
  'launches / kernels',
  'waits / copies',
  'peak GB',
  'error',
];

function caseMarkdown({ caseName, size, benchmark, engines }) {
  const onDevice = benchmark.onDevice && size.device !== 'cpu';
  const claims = benchmark.targets
    .map((target) => judge(engines, target, onDevice))
    .filter(Boolean)
    .map(({ engine, peer, ratio, low, high, target }) => [
      engine,
      peer,
      `${three(ratio)}×`,
      `${three(low)} … ${three(high)}`,
      target === null ? '–' : `≥ ${target}×`,
    ]);
  const tops = engines
    .filter(({ profile, twin }) => profile && !twin)
    .map(({ name, profile }) => {
      const lines = profile.top
        .slice(0, 5)
        .map((line) => `- ${milliseconds(line.seconds)} ms, ${line.count}×: \`${line.name.slice(0, 100)}\``);
      return `Longest kernels of ${name}:\n\n${lines.join('\n')}`;
    });
  return [
    `## ${caseName}`,
    table(
      TITLES,
      engines.map((engine) => engineRow(engine, size.floors)),
    ),
    table(['ours', 'best peer', onDevice ? 'speedup on the device' : 'speedup', 'turns', 'target'], claims),
    ...tops,
  ].join('\n\n');
}

function markdown({ name, machine, command, date, seed, cases, benchmark }) {
  return [
    `# ${name} on a GPU`,
    `\`${command}\`, ${date.slice(0, 10)}, seed ${seed}:`,
    Object.entries(machine)
      .map(([key, value]) => `- ${key}: ${value}`)
      .join('\n'),
    ...cases.map((found) => caseMarkdown({ ...found, benchmark })),
    'ms: a run, until the device has finished, median over all turns. At least: the multiply-adds, or the exponentials, ' +
      'at the rate of the data sheet. On the device: kernels and copies of one profiled run. Outside: the rest of the ' +
      'median. Waits: calls that wait for the device. Peak: what a run adds to the tensors on the device. Error: ' +
      'against fp64 for losses, and else against PyTorch in fp32 without TF32; of the first step for steps. All engines ' +
      'compute with cuDNN.',
  ].join('\n\n');
}

async function describeMachine(sides, device) {
  const own = await sides.ours.ask('versions');
  const its = await sides.twin.ask('versions');
  return {
    GPU: its.gpu ?? device,
    CPU: `${os.cpus()[0].model.trim()}, ${os.availableParallelism()} cores`,
    bidiseg: own.bidiseg,
    LibTorch: own.libtorch,
    'Node.js': own.node,
    'torch of the twins': `${its.torch}, Python ${its.python}`,
    ...(its.cudnn && { 'CUDA, cuDNN, driver': `${its.cuda}, ${its.cudnn}` }),
    'load before': os.loadavg()[0].toFixed(2),
  };
}

export async function main() {
  const options = parseOptions();
  const { device, seed, output, names } = options;
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bidiseg-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  process.once('SIGINT', () => process.exit(130));
  const { buildInfo } = await import('bidiseg');
  const python = findPython((await buildInfo()).libtorchVersion);
  if (options.traces) mkdirSync(options.traces, { recursive: true });
  const threads = os.availableParallelism();
  // All at once, because importing torch takes long. They wait until they are asked.
  const started = names.map((name) => ({
    ours: startOurs(name, threads),
    twin: startTwin(python, name, threads, options.cache ?? path.join(folder, name)),
  }));
  for (const [index, name] of names.entries()) {
    const benchmark = CUDA_BENCHMARKS[name];
    const sides = started[index];
    try {
      const machine = await describeMachine(sides, device);
      const cases = [];
      for (const [caseName, given] of Object.entries(benchmark.cases)) {
        if (options.case && !options.case.includes(caseName)) continue;
        const size = { ...(device === 'cpu' ? tiny(given) : given), device };
        try {
          const engines = await measureCase({
            name,
            caseName,
            benchmark,
            size,
            sides,
            options,
            device,
            seed,
            folder,
          });
          cases.push({ caseName, size, engines });
        } catch (error) {
          log(`${name}, ${caseName}: ${error.stack}`);
        }
        const command = `npm run bench -- cuda ${name} --seed ${seed}`;
        const result = { name, machine, command, date: new Date().toISOString(), seed, cases, benchmark };
        const slug = machine.GPU.toLowerCase().replace(/[^a-z0-9]+/g, '-');
        const file = path.join(output, slug, name);
        mkdirSync(path.dirname(file), { recursive: true });
        // After each case, so that a run that is cut short leaves what it has measured.
        writeFileSync(`${file}.json`, `${JSON.stringify({ ...result, benchmark: undefined }, null, 1)}\n`);
        writeFileSync(`${file}.md`, `${markdown(result)}\n`);
      }
      for (const found of cases) console.log(`${caseMarkdown({ ...found, benchmark })}\n`);
    } catch (error) {
      log(`${name}: ${error.stack}`);
    } finally {
      for (const side of Object.values(sides)) await side.close();
    }
  }
}
