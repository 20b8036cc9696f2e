#!/usr/bin/env node
// Measures bidiseg against PyTorch. See README.md beside this file.
//   npm run bench -- [NAME ...] [--list] [--quick] [--case NAME ...] [--against TWIN ...] [--pairs N] [--threads 1,2]
//                    [--output FOLDER]
import { randomInt } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Argument, Command, InvalidArgumentError, Option } from 'commander';
import { lookAround } from './harness/machine.mjs';
import { BENCH } from './harness/process.mjs';
import { describeCase, markdown, writeResults } from './harness/report.mjs';
import { runTrials } from './harness/trial.mjs';
import { BENCHMARKS } from './trials.mjs';

/** Highest load before the first trial. A higher load means that other processes compute too. */
const QUIET_LOAD = 0.3;

function positiveInteger(text) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('Expected a whole number from 1.');
  return value;
}

function parseOptions() {
  const program = new Command('npm run bench --')
    .description('Measures bidiseg against PyTorch, side by side, and prints and writes the figures.')
    .addArgument(new Argument('[name...]', 'benchmarks; default: all').choices(Object.keys(BENCHMARKS)))
    .option('--list', 'say what there is')
    .option('--quick', 'fewer cases and pairs: for trying things out, not for quoting')
    .option('--case <name>', 'only this case; may be repeated', (name, names = []) => [...names, name])
    .option('--against <twin>', 'only beside this twin; may be repeated', (name, names = []) => [
      ...names,
      name,
    ])
    .option('--pairs <n>', 'how often to measure A B', positiveInteger)
    .option('--threads <list>', 'numbers of threads; default: 1 and all cores, or all cores', (text) =>
      text.split(',').map(positiveInteger),
    )
    .option('--images <n>', 'images of the target set, where a benchmark has one', positiveInteger)
    .addOption(new Option('--seed <n>', 'of the random inputs').argParser(positiveInteger))
    .option('--output <folder>', 'where results are written', path.join(BENCH, 'results'));
  program.parse();
  const names = program.args.length > 0 ? program.args : Object.keys(BENCHMARKS);
  return { names, ...program.opts() };
}

/** Returns the entries of `all` with the names of `wanted`; what has another name ends the process. */
function pick(all, wanted, what) {
  const unknown = wanted.find((key) => !Object.hasOwn(all, key));
  if (unknown !== undefined) {
    console.error(`bench: expected ${what} (${Object.keys(all).join('; ')}) but received ${unknown}`);
    process.exit(1);
  }
  return Object.entries(all).filter(([key]) => wanted.includes(key));
}

/** Returns the table's entry, changed by the options. */
function chosen(name, { quick, pairs, images, case: cases, against }) {
  const { quick: less, ...entry } = BENCHMARKS[name];
  const { cases: some = Object.keys(entry.cases), images: fewer, ...changes } = quick ? less : {};
  const resize = (size) =>
    Number.isInteger(size.images) ? { ...size, images: images ?? fewer ?? size.images } : size;
  const sizes = pick(entry.cases, cases ?? some, `a case of ${name}`);
  const twins = pick(entry.twins, against ?? Object.keys(entry.twins), `a twin of ${name}`);
  return {
    ...entry,
    ...changes,
    cases: Object.fromEntries(sizes.map(([key, size]) => [key, resize(size)])),
    twins: Object.fromEntries(twins.map(([key, twin]) => [key, pairs ? { ...twin, pairs } : twin])),
  };
}

function list() {
  for (const [name, { about, cases, twins }] of Object.entries(BENCHMARKS)) {
    console.log(`${name}: ${about}`);
    for (const [key, size] of Object.entries(cases)) console.log(`  case ${key}: ${describeCase(size)}`);
    console.log(`  against: ${Object.keys(twins).join('; ')}`);
  }
}

/** Returns the command that repeats one benchmark, without the folder of the results. */
function commandFor(name, { names, output, list, case: cases = [], against = [], ...options }) {
  const flags = Object.entries(options).map(([key, value]) =>
    value === true ? ` --${key}` : ` --${key} ${value}`,
  );
  const only = [...cases.map((key) => ` --case '${key}'`), ...against.map((key) => ` --against '${key}'`)];
  return `npm run bench -- ${name}${only.join('')}${flags.join('')}`;
}

async function main(options) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bidiseg-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  process.once('SIGINT', () => process.exit(130));

  const { python, machine } = await lookAround(options.names[0], folder);
  if (machine['load before'] > QUIET_LOAD) {
    console.error(
      `bench: the load is ${machine['load before']}; figures of a busy machine are worth nothing`,
    );
  }
  const { quick = false, output, seed = randomInt(1, 2 ** 31) } = options;
  for (const name of options.names) {
    const benchmark = chosen(name, options);
    const threads = options.threads ?? benchmark.threads;
    const about = { command: commandFor(name, options), date: new Date().toISOString(), quick, seed };
    const result = { name, benchmark, machine, ...about, trials: [] };
    for await (const trial of runTrials({ name, benchmark, threads, python, seed, folder })) {
      const seconds = (performance.now() / 1000).toFixed(0);
      const outcome = trial.failure ?? 'measured';
      console.error(
        `bench: ${seconds} s: ${name}, ${trial.case}, ${trial.threads} threads, against ${trial.against}: ${outcome}`,
      );
      result.trials.push(trial);
    }
    if (result.trials.length === 0) {
      console.error(`bench: no case of ${name} is measured beside these twins`);
      process.exitCode = 1;
      continue;
    }
    const file = writeResults(output, result);
    console.log(`${markdown(result)}\n\nWritten to ${path.relative('.', file)} and .json\n`);
  }
}

// Several processes at a time do not fit into the turns of two sides, and neither do many engines on one GPU.
if (process.argv[2] === 'processes') await import('./processes/run.mjs');
else if (process.argv[2] === 'cuda') await (await import('./cuda/run.mjs')).main();
else {
  const options = parseOptions();
  if (options.list) list();
  else await main(options);
}
