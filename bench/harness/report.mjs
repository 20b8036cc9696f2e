// Prints and writes the results: JSON with every single time, and the same as Markdown tables.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { median } from './statistics.mjs';

const NONE = '–';

/** Makes a Markdown table. Columns are padded, so that it is readable as plain text too. */
export function table(titles, rows) {
  const widths = titles.map((title, i) => Math.max(3, title.length, ...rows.map((row) => row[i].length)));
  const line = (cells) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`;
  return [
    line(titles),
    `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`,
    ...rows.map(line),
  ].join('\n');
}

export const three = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
const milliseconds = (seconds) => three(median(seconds) * 1000);
const megabytes = (bytes) => (bytes == null ? NONE : three(bytes / 1e6));
const times = (ratio) => `${three(ratio)}×`;
const error = (value) =>
  value === 0 ? '0' : Number.isFinite(value) ? value.toExponential(1) : String(value);
const conditionCell = (value) => (typeof value === 'number' ? `${value * 100} %` : value);

/** Describes a case, such as `logits [1, 19, 91, 161], labels [1, 720, 1280]`. */
export const describeCase = (size) =>
  Object.entries(size)
    .filter(([name]) => !['options', 'against', 'targets'].includes(name))
    .map(
      ([name, value]) =>
        `${name} ${JSON.stringify(value)
          .replace(/"/g, '')
          .replace(/([,:])/g, '$1 ')}`,
    )
    .join(', ');

/** Makes one line for each trial: ratios over all conditions, memory, compile time. */
function summary(benchmark, trials) {
  const targets = Object.values(benchmark.twins).some(({ target }) => target);
  const compiles = Object.values(benchmark.twins).some((twin) => twin.compiles);
  const titles = ['case', 'threads', 'against', 'speedup', ...(targets ? ['target'] : [])];
  titles.push('peak MB, ours', 'twin', 'ours of it', 'needed MB, ours', 'twin');
  if (compiles) titles.push('compiled in');
  const rows = trials.map((trial) => {
    const twin = benchmark.twins[trial.against];
    const size = benchmark.cases[trial.case];
    const target = size.targets?.[trial.against] ?? twin.target;
    const start = [trial.case, String(trial.threads), trial.against];
    if (trial.failure) return [...start, 'none: see below', ...titles.slice(4).map(() => NONE)];
    const ratios = trial.measurements.map(({ ratio }) => ratio.median);
    const range = [Math.min(...ratios), Math.max(...ratios)].map(times);
    const { ours, twin: its } = trial.memory;
    const share = ours === null ? NONE : `${three((100 * ours) / its)} %`;
    return [
      ...start,
      ratios.length > 1 ? range.join(' … ') : range[0],
      ...(targets ? [target ? `≥ ${target}×` : NONE] : []),
      megabytes(ours),
      megabytes(its),
      twin.memoryTarget ? `${share} (≤ ${100 * twin.memoryTarget} %)` : share,
      megabytes(benchmark.bytes?.ours?.(size)),
      megabytes(benchmark.bytes?.[trial.against]?.(size)),
      ...(compiles ? [trial.compileSeconds ? `${three(trial.compileSeconds)} s` : NONE] : []),
    ];
  });
  return table(titles, rows);
}

/** Makes one line for each condition of each trial. */
function details(benchmark, trials) {
  const names = Object.keys(benchmark.errors);
  const conditions = Object.keys(benchmark.conditions[0]);
  const titles = ['case', 'threads', 'against', ...conditions, 'ms, ours', 'twin', 'speedup', '20th … 80th'];
  titles.push('pairs', ...names.flatMap((name) => [`${name} error, ours`, 'twin']));
  if (benchmark.hasFloor) titles.push('GFLOP', 'floor, ms', 'of ours');
  const rows = trials.flatMap(({ measurements = [], ...trial }) =>
    measurements.map(({ condition, seconds, ratio, errors, floor }) => [
      trial.case,
      String(trial.threads),
      trial.against,
      ...conditions.map((name) => conditionCell(condition[name])),
      milliseconds(seconds.ours),
      milliseconds(seconds.twin),
      times(ratio.median),
      `${three(ratio.low)} … ${three(ratio.high)}`,
      String(seconds.ours.length),
      ...names.flatMap((name) => [error(errors.ours[name]), error(errors.twin[name])]),
      ...(benchmark.hasFloor ? floorCells(floor, median(seconds.ours)) : []),
    ]),
  );
  return table(titles, rows);
}

/** Returns the arithmetic of a step, the time that it takes at the least, and its share of our time. */
function floorCells({ GFLOP, 'floor, ms': ms }, seconds) {
  // A compiled twin does not count.
  if (GFLOP === undefined) return [NONE, NONE, NONE];
  return [three(GFLOP), three(ms), `${((0.1 * ms) / seconds).toFixed(0)} %`];
}

/** Makes one line for each figure that the sides report of their last run. */
function figures(benchmark, trials) {
  const rows = trials.flatMap(({ measurements = [], ...trial }) =>
    measurements.flatMap(({ figures: { ours, twin } }) =>
      Object.entries(benchmark.figures)
        .filter(([name]) => name in ours || name in twin)
        .map(([name, target]) => {
          const cell = (value) => (value === undefined ? NONE : three(value));
          const start = [trial.case, String(trial.threads), trial.against, name];
          return [...start, cell(ours[name]), cell(twin[name]), target || NONE];
        }),
    ),
  );
  return table(['case', 'threads', 'against', 'of the last run', 'ours', 'twin', 'target'], rows);
}

export function markdown({ name, benchmark, machine, command, date, seed, trials }) {
  const failures = trials.filter(({ failure }) => failure);
  const cases = Object.entries(benchmark.cases).map(([key, size]) => `- ${key}: ${describeCase(size)}`);
  return [
    `# ${name}`,
    `${benchmark.about[0].toUpperCase()}${benchmark.about.slice(1)}.`,
    `\`${command}\`, ${date.slice(0, 10)}, seed ${seed}:`,
    Object.entries(machine)
      .map(([key, value]) => `- ${key}: ${value}`)
      .join('\n'),
    'Cases:',
    cases.join('\n'),
    summary(benchmark, trials),
    "Speedup: the twin's time by ours, in turns A B A B, median over the pairs; here the lowest and the highest over " +
      'the conditions. Peak: what one run adds to the memory of its process; needed: the same by arithmetic.',
    details(benchmark, trials),
    ...(benchmark.figures ? [figures(benchmark, trials)] : []),
    ...(Object.keys(benchmark.errors).length > 0 ? ['Errors are against the same computed in fp64.'] : []),
    ...(benchmark.notes ? [benchmark.notes.map((note) => `- ${note}`).join('\n')] : []),
    ...failures.map((trial) => `${trial.case}, ${trial.threads} threads, ${trial.against}: ${trial.failure}`),
  ].join('\n\n');
}

/** Writes FOLDER/MACHINE/NAME.json and .md, and returns the name of the latter. */
export function writeResults(folder, result) {
  const { machine, benchmark, ...rest } = result;
  const { CPU, cores, 'vector instructions': vectors } = machine;
  const slug = `${CPU} ${cores} cores ${vectors}`.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  const file = path.join(folder, slug, result.name + (rest.quick ? '-quick' : ''));
  mkdirSync(path.dirname(file), { recursive: true });
  const json = { ...rest, about: benchmark.about, cases: benchmark.cases, machine };
  writeFileSync(`${file}.json`, `${JSON.stringify(json, null, 2)}\n`);
  writeFileSync(`${file}.md`, `${markdown(result)}\n`);
  return `${file}.md`;
}
