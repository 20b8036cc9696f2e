#!/usr/bin/env node
// Measures how far float32 is from float64 in losses and gradients of a whole step: ours, with `convolutions: auto` and
// `direct`, and PyTorch eager. All start from the same weights and images, which are new for each seed.
//   node bench/step-errors.mjs [--case NAME] [--seeds 5] [--seed 1] [--threads N]
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { buildInfo } from 'bidiseg';
import { findPython, startOurs, startTwin } from './harness/process.mjs';
import { largestRelativeError, median, relativeError } from './harness/statistics.mjs';
import { readValue } from './harness/values.mjs';
import { BENCHMARKS } from './trials.mjs';

const ERRORS = { losses: largestRelativeError, gradients: relativeError };
const OURS = { auto: {}, direct: { convolutions: 'direct' } };
const TWINS = ['eager', 'eager, channels_last'];
const COLUMNS = [...Object.keys(OURS), ...TWINS];

const { values: options } = parseArgs({
  options: {
    case: { type: 'string', multiple: true },
    seeds: { type: 'string', default: '5' },
    seed: { type: 'string', default: '1' },
    threads: { type: 'string', default: String(os.availableParallelism()) },
  },
});

/** All cases of both steps in fp32. The gradients would hide in the decay of weights, so there is none. */
function cases() {
  const all = ['segmentation-step', 'translation-step'].flatMap((step) =>
    Object.entries(BENCHMARKS[step].cases)
      .filter(([, size]) => size.options.precision === 'fp32')
      .map(([name, size]) => {
        const withoutDecay = step === 'segmentation-step' && { weightDecay: 0 };
        return [`${step}, ${name}`, { ...size, step, options: { ...size.options, ...withoutDecay } }];
      }),
  );
  return all.filter(([name]) => options.case?.some((part) => name.includes(part)) ?? true);
}

/** Runs one step of a fresh network and returns its losses and gradients. */
async function oneStep(side, size, inputs, { twin, prefix }) {
  await side.ask('create', { case: size, twin, threads: Number(options.threads) });
  await side.ask('load', { inputs });
  await side.ask('measure', { seconds: 0 });
  const result = await side.ask('result', { prefix });
  return Object.fromEntries(Object.keys(ERRORS).map((name) => [name, readValue(result[name]).data]));
}

/** Computes the errors of all sides with one seed, by the side's name. */
async function errorsOf(sides, size, seed, prefix) {
  const { ours, twin } = sides;
  const inputs = await twin.ask('inputs', { case: size, condition: {}, seed: [seed, 0, 0], prefix });
  const truth = await oneStep(twin, size, inputs, { twin: 'fp64', prefix: `${prefix}-truth` });
  const compare = (found) => {
    for (const name of Object.keys(ERRORS)) {
      if (found[name].length !== truth[name].length) throw new Error(`the sides have different ${name}`);
    }
    return Object.fromEntries(
      Object.entries(ERRORS).map(([name, distance]) => [name, distance(found[name], truth[name])]),
    );
  };
  const errors = {};
  for (const [name, changes] of Object.entries(OURS)) {
    const changed = { ...size, options: { ...size.options, ...changes } };
    errors[name] = compare(await oneStep(ours, changed, inputs, { prefix: `${prefix}-ours` }));
  }
  for (const name of TWINS) {
    errors[name] = compare(await oneStep(twin, size, inputs, { twin: name, prefix: `${prefix}-twin` }));
  }
  return errors;
}

/** Yields the rows of one case's table. */
async function* rowsOf(name, size, python, folder) {
  const threads = Number(options.threads);
  const sides = {
    ours: startOurs('step-errors', threads),
    twin: startTwin(python, 'step-errors', threads, folder),
  };
  const found = [];
  for (let i = 0; i < Number(options.seeds); ++i) {
    found.push(await errorsOf(sides, size, Number(options.seed) + i, path.join(folder, 'values')));
  }
  for (const side of Object.values(sides)) await side.close();
  for (const kind of Object.keys(ERRORS)) {
    const cells = COLUMNS.map((column) => {
      const all = found.map((errors) => errors[column][kind]);
      return `${median(all).toExponential(1)} (${Math.max(...all).toExponential(1)})`;
    });
    const ratio = median(found.map((errors) => errors.auto[kind] / errors.eager[kind]));
    yield [name, kind, ...cells, `${ratio.toFixed(2)}×`];
  }
}

async function main() {
  const { version, libtorchVersion, cpuCapability } = await buildInfo();
  const python = findPython(libtorchVersion);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bidiseg-step-errors-'));
  console.log(
    `bidiseg ${version}, LibTorch ${libtorchVersion}, ${cpuCapability}, ${options.threads} threads; ` +
      `medians over ${options.seeds} seeds, and the largest; relative to fp64\n`,
  );
  console.log(`| case | of | ${COLUMNS.join(' | ')} | auto by eager |`);
  console.log(`|${' --- |'.repeat(COLUMNS.length + 3)}`);
  try {
    for (const [name, size] of cases()) {
      for await (const row of rowsOf(name, size, python, folder)) console.log(`| ${row.join(' | ')} |`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

await main();
