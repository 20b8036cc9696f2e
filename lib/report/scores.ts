import { SCORE_TEXTS } from '../pipeline/scores.js';
import { percent } from '../support/format.js';
import { type Section, scrolling, segmenters } from './common.js';
import { html } from './html.js';
import type { RunData } from './run-data.js';

type ScoreName = keyof typeof SCORE_TEXTS;

/** Renders the scores of each segmenter that need no labels, with its place by each and by their mean. */
export function scoreSection(run: RunData): Section | null {
  const ranking = run.summary.ranking ?? [];
  const rows = segmenters(run).flatMap(({ stage, record }) => {
    const ranks = ranking.find(({ name }) => name === stage.name);
    return record.scores && ranks ? [{ label: stage.label, record, scores: record.scores, ranks }] : [];
  });
  if (rows.length === 0) return null;
  const names = (Object.keys(SCORE_TEXTS) as ScoreName[]).filter((name) =>
    rows.some(({ scores }) => Number.isFinite(scores[name])),
  );
  const table = html`<table class="scores">
    <thead><tr><th>Stage</th>${names.map((name) => html`<th colspan="2" class="number">${SCORE_TEXTS[name].name}</th>`)}
      <th class="number">Mean place</th><th class="number">Place</th><th class="number">mIoU %</th></tr></thead>
    <tbody>${rows.map(
      ({ label, record, scores, ranks }) => html`<tr>
        <th scope="row">${label}</th>
        ${names.map(
          (name) => html`<td class="number">${SCORE_TEXTS[name].format(scores[name])}</td>
          <td class="number muted">${place(ranks.ranks[name])}</td>`,
        )}
        <td class="number">${place(ranks.meanRank)}</td>
        <td class="number strong">${place(ranks.rank)}</td>
        <td class="number">${percent(record.miou)}</td>
      </tr>`,
    )}</tbody></table>`;
  const { images } = rows[0]!.scores;
  return {
    id: 'scores',
    title: 'Scores without labels',
    note: `Scores on ${images} unlabeled target images, each with its place in gray; 1 is best. The mean place is over the scores that every segmenter has. Labels are only in the last column.`,
    body: scrolling('Scores without labels', table),
  };
}

/** Formats a place, or a mean of places. */
function place(value: number | null): string {
  return value === null ? '–' : Number.isInteger(value) ? String(value) : value.toFixed(1);
}
