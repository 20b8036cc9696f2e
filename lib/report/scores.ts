import { SCORE_TEXTS } from '../pipeline/scores.js';
import { percent } from '../support/format.js';
import { classLabel, type Section, scrolling, segmenters } from './common.js';
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

/** Share of the source's share below which a predicted class stands out. */
const FEW = 1 / 3;

/** Renders how often each segmenter predicts each class on unlabeled target images, beside the labels of the source. */
export function shareSection(run: RunData): Section | null {
  const scored = segmenters(run).flatMap(({ stage, record }) => {
    const { classShares, sourceShares } = record.scores ?? {};
    return classShares && sourceShares ? [{ label: stage.label, classShares, sourceShares }] : [];
  });
  const [first] = scored;
  if (!first) return null;
  const { sourceShares } = first;
  const table = html`<table>
    <thead><tr><th>Class</th><th class="number">Source %</th>${scored.map(({ label }) => html`<th class="number">${label}</th>`)}</tr></thead>
    <tbody>${run.summary.classes.map(
      (name, index) => html`<tr>
        <th scope="row">${classLabel(name, index, run.palette)}</th>
        <td class="number muted">${percent(sourceShares[index]!)}</td>
        ${scored.map(({ classShares }) => {
          const share = classShares[index]!;
          const isFew = share < FEW * sourceShares[index]!;
          return html`<td class="number ${isFew ? 'strong' : ''}">${percent(share)}</td>`;
        })}
      </tr>`,
    )}</tbody></table>`;
  return {
    id: 'shares',
    title: 'Predicted classes',
    note: 'Share of the pixels of the same images that each segmenter predicts as each class, in percent, beside the share in labels of the source. Less than a third of the latter is bold. Such a class may be lost, or the target may have less of it.',
    body: scrolling('Predicted classes', table),
  };
}

/** Formats a place, or a mean of places. */
function place(value: number | null): string {
  return value === null ? '–' : Number.isInteger(value) ? String(value) : value.toFixed(1);
}
