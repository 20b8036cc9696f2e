// Runs the trials of a benchmark: our side and a twin, each in a fresh process, in turns on the same inputs.
import { mkdtempSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { startNodeTwin, startOurs, startTwin } from './process.mjs';
import { median, quantile } from './statistics.mjs';
import { readValue } from './values.mjs';

/** Pause between turns. Threads of the other side may still spin after their work, and go to sleep meanwhile. */
const PAUSE_MS = 20;

/**
 * Yields the outcome of each trial when it is done. An error in one does not end the others: it becomes its `failure`.
 *
 * @param plan name, benchmark (of the table, with the options' changes), threads (a list), python, seed, folder (for
 * files that the processes exchange)
 */
export async function* runTrials(plan) {
  for (const [index, [caseName, size]] of Object.entries(plan.benchmark.cases).entries()) {
    const prepared = await prepareCase(plan, size, index);
    for (const threads of plan.threads) {
      for (const [against, twin] of Object.entries(plan.benchmark.twins)) {
        if (size.against && !size.against.includes(against)) continue;
        const outcome = { case: caseName, threads, against };
        try {
          Object.assign(outcome, await runTrial(plan, { size, threads, against, twin, prepared }));
        } catch (error) {
          console.error(error.stack);
          outcome.failure = error.message.split('\n', 1)[0];
        }
        yield outcome;
      }
    }
  }
}

/** Makes fresh inputs for each condition of a case, and computes their results in fp64. */
async function prepareCase({ name, benchmark, threads, python, seed, folder }, size, caseIndex) {
  const most = Math.max(...threads);
  const side = startTwin(python, name, most, folder);
  try {
    await side.ask('create', { twin: 'fp64', case: size, threads: most });
    const prepared = [];
    for (const [i, condition] of benchmark.conditions.entries()) {
      const prefix = path.join(folder, `${name}-${caseIndex}-${i}`);
      const request = { case: size, condition, seed: [seed, caseIndex, i], prefix };
      const inputs = await side.ask('inputs', request);
      await side.ask('load', { inputs });
      await side.ask('measure', { seconds: 0 });
      const truth = await side.ask('result', { prefix: `${prefix}-truth` });
      prepared.push({ condition, inputs, truth });
    }
    return prepared;
  } finally {
    await side.close();
  }
}

async function runTrial({ name, benchmark, python, folder }, { size, threads, against, twin, prepared }) {
  const cache = mkdtempSync(path.join(folder, 'compiled-'));
  const startIts = () =>
    twin.module ? startNodeTwin(twin.module, threads) : startTwin(python, name, threads, cache);
  const sides = { ours: startOurs(name, threads), twin: startIts() };
  /** Sends one command to both sides, ours first, and never to both at once. */
  const both = async (command, request = {}) => ({
    ours: await sides.ours.ask(command, request),
    twin: await sides.twin.ask(command, request),
  });
  try {
    await both('create', { case: size, threads, twin: against });
    const outcome = { measurements: [] };
    for (const [i, { condition, inputs, truth }] of prepared.entries()) {
      await both('load', { inputs });
      if (i === 0) {
        const warmUp = await both('warm_up');
        if (twin.compiles) outcome.compileSeconds = warmUp.twin;
        outcome.memory = await both('memory');
      }
      if (benchmark.turnSeconds > 0) await both('measure', { seconds: 0 });
      const seconds = { ours: [], twin: [] };
      for (let pair = 0; pair < (twin.pairs ?? benchmark.pairs); ++pair) {
        for (const side of ['ours', 'twin']) {
          await setTimeout(PAUSE_MS);
          seconds[side].push(await sides[side].ask('measure', { seconds: benchmark.turnSeconds }));
        }
      }
      const errors = {};
      for (const side of ['ours', 'twin']) {
        const result = await sides[side].ask('result', { prefix: path.join(folder, side) });
        errors[side] = compare(result, truth, benchmark.errors);
      }
      const figures = benchmark.figures && { figures: await both('figures') };
      const floor = benchmark.hasFloor && { floor: await sides.twin.ask('figures') };
      outcome.measurements.push({
        condition,
        seconds,
        ratio: ratioOf(seconds),
        errors,
        ...figures,
        ...floor,
      });
    }
    return outcome;
  } finally {
    for (const side of Object.values(sides)) await side.close();
  }
}

function compare(result, truth, errors) {
  const distances = Object.entries(errors).map(([name, distance]) => [
    name,
    distance(readValue(result[name]).data, readValue(truth[name]).data),
  ]);
  return Object.fromEntries(distances);
}

/** Computes our speedup over the pairs. */
function ratioOf({ ours, twin }) {
  const ratios = twin.map((seconds, i) => seconds / ours[i]);
  return { median: median(ratios), low: quantile(ratios, 0.2), high: quantile(ratios, 0.8) };
}
