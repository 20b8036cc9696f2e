import type { Stage } from '../pipeline/plan.js';
import { duration, percent } from '../support/format.js';
import { learnsFromUnlabeledTarget } from '../training/segmentation-options.js';
import {
  classLabel,
  difference,
  gain,
  type Section,
  type SegmenterStage,
  scrolling,
  segmenters,
  startOf,
} from './common.js';
import { type Html, html } from './html.js';
import type { RunData } from './run-data.js';

/** Renders the mean IoU of the first and the last segmenter, and the gain. */
export function headline(run: RunData): Html {
  const measured = segmenters(run).filter(({ record }) => record.miou !== null);
  const first = measured[0];
  const last = measured.at(-1);
  if (!first || !last) {
    const why = !run.config.data.target.val
      ? 'The config names no labeled target images, so nothing was measured.'
      : segmenters(run).length > 0
        ? 'The labels of the target images have no pixel that counts, so nothing was measured.'
        : 'No segmenter is finished yet.';
    return html`<p class="lead">${why}</p>`;
  }
  const images = last.history?.evaluation?.images;
  const where = `on ${images ?? 'the'} labeled target images`;
  if (first === last) {
    return html`<div class="tiles">${figure(first, first.stage.kind === 'source-only' ? 'source only' : 'segmenter')}</div>
      <p class="lead">Mean intersection over union ${where}; training never sees their labels.</p>`;
  }
  const change = difference(last.record.miou, first.record.miou);
  return html`<div class="tiles">
      ${figure(first, first.stage.kind === 'source-only' ? 'source only' : 'first segmenter')}
      ${figure(last, run.summary.complete ? 'after adaptation' : 'newest so far')}
      <div class="tile"><b>${gain(change)}</b><span>gain, percentage points</span></div>
    </div>
    <p class="lead">Mean intersection over union ${where}; training never sees their labels.</p>`;
}

function figure({ record }: SegmenterStage, what: string): Html {
  return html`<div class="tile"><b>${percent(record.miou)}<small>%</small></b><span>${what}, ${record.label}</span></div>`;
}

/** Renders the mIoU of each segmenter and its gain over the segmenter trained on source images alone. */
export function resultsSection(run: RunData): Section | null {
  const rows = segmenters(run);
  if (rows.length === 0) return null;
  const baseline = rows.find(({ stage }) => stage.kind === 'source-only')?.record.miou ?? null;
  const most = Math.max(...rows.map(({ record }) => record.miou ?? 0), 1e-9);
  const width = (miou: number | null) => `${((100 * (miou ?? 0)) / most).toFixed(1)}%`;
  const table = html`<table class="results">
    <thead><tr><th>Stage</th><th class="wide">Trained on</th><th colspan="2" class="number">mIoU %</th>
      <th class="number">Gain</th><th class="number wide">Accuracy %</th><th class="number wide">Steps</th><th class="number">Time</th></tr></thead>
    <tbody>${rows.map(
      ({ stage, record }) => html`<tr>
        <th scope="row">${stage.label}</th>
        <td class="wide muted">${trainedOn(run, stage)}</td>
        <td class="bar"><div><i style="width:${width(record.miou)}"></i>${baseline !== null && html`<u style="left:${width(baseline)}"></u>`}</div></td>
        <td class="number strong">${percent(record.miou)}</td>
        <td class="number">${gain(stage.kind === 'source-only' ? null : difference(record.miou, baseline))}</td>
        <td class="number wide">${percent(record.pixelAccuracy)}</td>
        <td class="number wide">${record.steps}</td>
        <td class="number">${duration(record.seconds)}</td>
      </tr>`,
    )}</tbody></table>`;
  return {
    id: 'results',
    title: 'Results',
    note: 'Every segmenter of the run, in the order of training. The gain is in percentage points over the segmenter trained on source images alone. The line across the bars marks its mIoU.',
    body: scrolling('Results', table),
  };
}

function trainedOn(run: RunData, stage: Stage): string {
  const { stages, config } = run;
  const labeled = config.data.target.labeled ? ' and labeled target images' : '';
  if (stage.kind !== 'segmenter') return `source images${labeled}`;
  const label = (name: string) => stages.find((other) => other.stage.name === name)?.stage.label ?? name;
  const originals = config.segmentation.originalShare > 0 ? ' and as they were' : '';
  const translated = stage.translatedFrom ? ` as ${label(stage.translatedFrom)}${originals}` : '';
  const source = `source images${translated}${labeled}`;
  const start = startOf(run, stage);
  if (stage.pseudoLabelsFrom) return `${source}, target images with ${label(stage.pseudoLabelsFrom)}${start}`;
  return `${source}${learnsFromUnlabeledTarget(config.segmentation) ? ', target images' : ''}${start}`;
}

/** Renders the IoU of every class for every segmenter. */
export function classSection(run: RunData): Section | null {
  const measured = segmenters(run).filter(({ record }) => record.iouPerClass !== null);
  const first = measured[0];
  const last = measured.at(-1);
  if (!first || !last) return null;
  const iou = ({ record }: SegmenterStage, name: string) => record.iouPerClass?.[name] ?? null;
  const shares = classShares(last.history?.evaluation?.confusion);
  const isMiddle = (stage: SegmenterStage) => (stage === first || stage === last ? '' : 'wide');
  const compares = first !== last;
  const table = html`<table class="classes">
    <thead><tr><th>Class</th>${shares && html`<th class="number wide">Pixels %</th>`}
      <th class="track-head">${compares ? `${first.stage.label} → ${last.stage.label}` : ''}</th>
      ${measured.map((stage) => html`<th class="number ${isMiddle(stage)}">${stage.stage.label}</th>`)}
      ${compares && html`<th class="number">Gain</th>`}</tr></thead>
    <tbody>${run.summary.classes.map(
      (name, index) => html`<tr>
        <th scope="row">${classLabel(name, index, run.palette)}</th>
        ${shares && html`<td class="number wide muted">${percent(shares[index])}</td>`}
        <td>${track(iou(first, name), iou(last, name))}</td>
        ${measured.map((stage) => {
          const value = iou(stage, name);
          return html`<td class="number heat ${isMiddle(stage)}" style="--heat:${(100 * (value ?? 0)).toFixed(0)}%">${percent(value)}</td>`;
        })}
        ${compares && html`<td class="number">${gain(difference(iou(last, name), iou(first, name)))}</td>`}
      </tr>`,
    )}</tbody>
    <tfoot><tr><th scope="row">mean</th>${shares && html`<td class="wide"></td>`}
      <td>${track(first.record.miou, last.record.miou)}</td>
      ${measured.map((stage) => html`<td class="number ${isMiddle(stage)}">${percent(stage.record.miou)}</td>`)}
      ${compares && html`<td class="number">${gain(difference(last.record.miou, first.record.miou))}</td>`}</tr></tfoot></table>`;
  return {
    id: 'classes',
    title: 'Classes',
    note: `IoU per class in percent. A dash marks a class that neither truth nor prediction has.${compares ? ' The lines run from the first segmenter (ring) to the last (dot), on a scale from 0 to 100.' : ''}`,
    body: scrolling('IoU per class', table),
  };
}

/** Draws a line from one value to another on a scale from 0 to 1. */
function track(from: number | null, to: number | null): Html {
  if (from === null || to === null) return html`<div class="track"></div>`;
  const at = (value: number) => `${(100 * value).toFixed(1)}%`;
  const direction = to >= from ? 'rise' : 'fall';
  return html`<div class="track ${direction}" style="--from:${at(from)};--to:${at(to)};--low:${at(Math.min(from, to))};--high:${at(Math.max(from, to))}"><i></i><i></i><i></i></div>`;
}

type Confusion = readonly (readonly number[])[];

/** Computes each class's share of the labeled pixels. */
function classShares(confusion: Confusion | undefined): number[] | null {
  if (!confusion) return null;
  const rows = confusion.map(sum);
  const all = sum(rows);
  return rows.map((row) => (all > 0 ? row / all : 0));
}

/** Renders the confusion matrices of the first and the last segmenter. */
export function confusionSection(run: RunData): Section | null {
  const measured = segmenters(run).filter(({ history }) => history?.evaluation);
  const last = measured.at(-1);
  if (!last) return null;
  const shown = measured.length > 1 ? [measured[0]!, last] : [last];
  // Two small matrices fit side by side.
  const body = html`<div class="${run.summary.classes.length <= 12 ? 'pair' : 'stack'}">${shown.map(
    ({ stage, history }) => html`<figure><figcaption><b>${stage.label}</b></figcaption>
      ${scrolling(`Confusion matrix of ${stage.label}`, confusionTable(run, history!.evaluation!.confusion))}</figure>`,
  )}</div>`;
  return {
    id: 'confusion',
    title: 'Confusion',
    note: 'Each row shows how the pixels of a true class were predicted, in percent per predicted class (column). Correct predictions are on the diagonal. Cells below 0.5 % are empty.',
    body,
  };
}

function confusionTable({ summary: { classes }, palette }: RunData, confusion: Confusion): Html {
  return html`<table class="confusion">
    <thead><tr><th class="corner">true ↓ &nbsp; predicted →</th>${classes.map((name, index) => html`<th scope="col">${classLabel(name, index, palette)}</th>`)}</tr></thead>
    <tbody>${confusion.map((row, truth) => {
      const pixels = sum(row);
      return html`<tr><th scope="row">${classLabel(classes[truth] ?? '', truth, palette)}</th>${row.map(
        (count, predicted) => {
          const share = pixels > 0 ? (100 * count) / pixels : 0;
          const text = share >= 0.5 ? share.toFixed(0) : '';
          const kind = truth === predicted ? 'hit' : 'miss';
          const title = `${share.toFixed(1)} % of ${classes[truth]} predicted as ${classes[predicted]}`;
          return html`<td class="${kind}" style="--heat:${share.toFixed(0)}%" title="${title}">${text}</td>`;
        },
      )}</tr>`;
    })}</tbody></table>`;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
