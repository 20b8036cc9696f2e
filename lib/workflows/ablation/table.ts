import { percent, signedPercent } from '../../support/format.js';
import type { AblationResult, AblationResults, Statistics } from './results.js';

/** Makes the table of an ablation: titles of the columns, and cells of each row. */
export function ablationTable({ rows, baseline, ceiling }: AblationResults): {
  titles: string[];
  lines: string[][];
} {
  const hasCeiling = ceiling !== null;
  return {
    titles: ['variant', 'stage', 'seeds', 'mIoU %', 'gain', ...(hasCeiling ? ['of the gap %'] : [])],
    lines: rows.map((row) => [
      row.otherImages === null ? row.title : `${row.title} *`,
      row.stage,
      String(row.miou.count),
      withDeviation(row.miou, percent),
      row.title === baseline ? '–' : withDeviation(row.gain, signedPercent),
      ...(hasCeiling ? [row.title === baseline ? '–' : percent(row.closed, 0)] : []),
    ]),
  };
}

/** Explains the table's numbers, one note per line. */
export function tableNotes({ rows, baseline, ceiling, seeds }: AblationResults): string[] {
  const other = rows.filter(({ otherImages }) => otherImages !== null);
  return [
    `Mean ± sample standard deviation of mIoU over seeds ${seeds.join(', ')}. The gain is over '${baseline}' with the same seed.`,
    ...(ceiling === null ? [] : [`The gap is the gain of '${ceiling}'.`]),
    ...other.map(({ title, otherImages }) => `* '${title}' is measured on other images: ${otherImages}.`),
  ];
}

/** Formats the table as Markdown, with the IoU of each class and links to the reports of the runs. */
export function ablationMarkdown(results: AblationResults): string {
  const { titles, lines } = ablationTable(results);
  const { rows } = results;
  const classes = [...new Set(rows.flatMap(({ iouPerClass }) => Object.keys(iouPerClass)))];
  const perClass = rows.map(({ title, iouPerClass }) => [
    title,
    ...classes.map((name) => percent(iouPerClass[name])),
  ]);
  return [
    markdownTable(titles, lines),
    ...tableNotes(results).map((note) => note.replace(/^\*/, '\\*')),
    ...(classes.length > 0
      ? ['IoU % of each class, means over the seeds:', markdownTable(['variant', ...classes], perClass)]
      : []),
    `Reports: ${reports(rows).join(', ')}`,
    `bidiseg ${results.version}\n`,
  ].join('\n\n');
}

function reports(rows: readonly AblationResult[]): string[] {
  const runs = new Map(
    rows.flatMap(({ variant, seeds }) => seeds.map(({ seed, run }) => [run, `${variant} ${seed}`] as const)),
  );
  return [...runs].map(([run, text]) => `[${text}](<${run}/report.html>)`);
}

function withDeviation({ mean, deviation }: Statistics, format: (value: number | null) => string): string {
  return deviation === null ? format(mean) : `${format(mean)} ± ${percent(deviation)}`;
}

function markdownTable(titles: readonly string[], lines: readonly (readonly string[])[]): string {
  const row = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('*', '\\*')).join(' | ')} |`;
  const rule = `| ${titles.map((_, index) => (index === 0 ? '---' : '---:')).join(' | ')} |`;
  return [row(titles), rule, ...lines.map(row)].join('\n');
}
