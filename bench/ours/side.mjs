// Our side of a benchmark. It executes commands, one line of JSON each, and answers each with one line.
//   node bench/ours/side.mjs BENCHMARK
// BENCHMARK is a module beside this one that exports `create(case)`. Its result has load(inputs), warmUp(), prepare()
// (before each run, not timed), run() and result(). bench/twins/side.py does the same in Python.
import { createInterface } from 'node:readline';
import { buildInfo, setThreadCount } from 'bidiseg';
import { deviceMemory, profile, synchronize } from '../../dist/lib/native/profiling.js';
import { peakAbove, resetPeak } from '../harness/memory.mjs';
import { median } from '../harness/statistics.mjs';
import { readValues, writeValues } from '../harness/values.mjs';

const benchmark = await import(`./${process.argv[2]}.mjs`);
const kept = new Map();
let device = 'cpu';
let ours;

async function run() {
  await ours.run();
  if (device !== 'cpu') await synchronize(device);
}

const commands = {
  async versions() {
    const { version, libtorchVersion, cpuCapability } = await buildInfo();
    return { bidiseg: version, libtorch: libtorchVersion, node: process.versions.node, cpuCapability };
  },

  async create(request) {
    await setThreadCount(request.threads);
    device = request.case.device ?? 'cpu';
    ours = await benchmark.create(request.case, request.threads);
  },

  /** Keeps our side under a name, for turns of several variants. */
  keep({ name }) {
    kept.set(name, ours);
  },

  use({ name }) {
    ours = kept.get(name);
  },

  /** Frees all variants. */
  async forget() {
    for (const variant of kept.values()) await variant.dispose();
    kept.clear();
  },

  /** Measures the seconds of each run, for as long as requested. */
  async sample({ seconds, least }) {
    const times = [];
    for (let total = 0; total < seconds || times.length < least; total += times.at(-1)) {
      await ours.prepare();
      const start = performance.now();
      await run();
      times.push((performance.now() - start) / 1000);
    }
    return times;
  },

  /** Returns what one run does: operations, calls of CUDA, kernels, copies. */
  async profile({ file }) {
    await ours.prepare();
    return profile(run, file ?? null);
  },

  /** Measures the bytes that a run adds on the device at its peak. */
  async device_memory() {
    await ours.prepare();
    const { allocated } = await deviceMemory(device);
    await run();
    const { peak } = await deviceMemory(device);
    return peak - allocated;
  },

  async load({ inputs }) {
    await ours.load(readValues(inputs));
  },

  async warm_up() {
    const start = performance.now();
    await ours.warmUp();
    return (performance.now() - start) / 1000;
  },

  /** Measures the bytes that a run adds to the process at its peak. Null if the system does not report them. */
  async memory() {
    await ours.prepare();
    const before = resetPeak();
    await ours.run();
    return peakAbove(before);
  },

  /** Measures the median seconds of as many runs as fit into the requested time, at least one. */
  async measure(request) {
    const times = [];
    let total = 0;
    while (total < request.seconds || times.length === 0) {
      await ours.prepare();
      const start = performance.now();
      await ours.run();
      times.push((performance.now() - start) / 1000);
      total += times.at(-1);
    }
    return median(times);
  },

  /** Returns the figures that the last run reports. */
  figures() {
    return ours.figures();
  },

  async result({ prefix }) {
    return writeValues(await ours.result(), prefix);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await commands[request.do](request)) ?? null };
  } catch (error) {
    answer = { error: error.message, trace: error.stack };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
