import { duration, percent } from '../support/format.js';
import type { PseudoLabelManifest } from '../training/self-training.js';
import { type Curve, curveChart } from './charts.js';
import { classLabel, type Section, scrolling } from './common.js';
import { type Html, html } from './html.js';
import type { RunData, StageData } from './run-data.js';

/** Renders every term of the losses over the steps, with a curve for each stage that has the term. */
export function lossSection(run: RunData): Section | null {
  const trained = run.stages.filter(({ history }) => history && history.losses.size > 0);
  const isTranslator = ({ stage }: StageData) => stage.kind === 'translator';
  const groups = [
    { title: 'Segmenters', stages: trained.filter((data) => !isTranslator(data)) },
    { title: 'Translators', stages: trained.filter(isTranslator) },
  ].filter(({ stages }) => stages.length > 0);
  if (groups.length === 0) return null;
  const body = html`${groups.map(
    ({ title, stages }) => html`<h3>${title}</h3>
      <ul class="legend">${stages.map(
        ({ stage }) =>
          html`<li><i class="line" style="background:${stageColor(run, stage.name)}"></i>${stage.label}</li>`,
      )}</ul>
      <div class="charts">${terms(stages).map((term) => chart(run, stages, term))}</div>`,
  )}`;
  return {
    id: 'losses',
    title: 'Losses',
    note: 'Each point is the mean over the steps since the previous line of the log. All terms except the total are shown without their weights. A stage that does not use a term has no curve for it.',
    body,
  };
}

function terms(stages: readonly StageData[]): string[] {
  return [...new Set(stages.flatMap(({ history }) => [...history!.losses.keys()]))];
}

function chart(run: RunData, stages: readonly StageData[], term: string): Html | null {
  const curves = stages.flatMap(({ stage, history }): Curve[] => {
    const points = history!.losses.get(term);
    if (!points?.some(({ value }) => value !== 0)) return [];
    return [{ label: stage.label, color: stageColor(run, stage.name), points }];
  });
  if (curves.length === 0) return null;
  const words = term.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).replace(/^gan\b/, 'GAN');
  const title = words.charAt(0).toUpperCase() + words.slice(1);
  return html`<figure><figcaption>${title}</figcaption>${curveChart(curves, `${title} over training steps`)}</figure>`;
}

/** Hues of the rounds: blue, orange, green, magenta, … Within a round, later stages have stronger colors. */
const HUES = [255, 50, 150, 340, 100, 200];

function stageColor({ stages }: RunData, name: string): string {
  const { stage } = stages.find((data) => data.stage.name === name)!;
  if (stage.round === 0) return 'var(--muted)';
  const peers = stages.filter((data) => data.stage.round === stage.round && data.stage.kind === stage.kind);
  const place = peers.findIndex((data) => data.stage.name === name);
  const strength = peers.length === 1 ? 1 : place / (peers.length - 1);
  const hue = HUES[(stage.round - 1) % HUES.length]!;
  return `oklch(calc(var(--faint) + ${strength.toFixed(2)} * var(--strong)) 0.14 ${hue})`;
}

/** Renders the share of kept pseudo-labels for each class and round. These numbers need no labels. */
export function pseudoLabelSection(run: RunData): Section | null {
  const labeled = run.stages.filter(({ manifest }) => manifest !== null);
  if (labeled.length === 0) return null;
  const body = html`<div class="cards">${labeled.map(
    ({
      stage,
      manifest,
    }) => html`<figure class="card"><figcaption><b>${stage.label}</b> ${percent(manifest!.keptShare)} % kept, ${manifest!.keptImages} of ${manifest!.images} images</figcaption>
      ${scrolling(`Pseudo-labels ${stage.label}`, pseudoLabelTable(run, manifest!))}</figure>`,
  )}</div>`;
  return {
    id: 'pseudo-labels',
    title: 'Pseudo-labels',
    note: 'Statistics over all pixels of the target training images. For each class: the share of pixels predicted as this class, their median probability, the threshold above which they are kept, and the share that is kept.',
    body,
  };
}

function pseudoLabelTable({ palette }: RunData, { classes }: PseudoLabelManifest): Html {
  const pixels = classes.reduce((sum, { predicted }) => sum + predicted, 0);
  return html`<table>
    <thead><tr><th>Class</th><th class="number">Pixels %</th><th class="number">Median</th><th class="number">Threshold</th><th class="wide"></th><th class="number">Kept %</th></tr></thead>
    <tbody>${classes.map(({ class: name, predicted, keptShare, threshold, medianConfidence }, index) => {
      const isAbsent = predicted === 0;
      return html`<tr class="${isAbsent ? 'muted' : ''}">
        <th scope="row">${classLabel(name, index, palette)}</th>
        <td class="number">${percent(predicted / pixels)}</td>
        <td class="number">${isAbsent ? '–' : medianConfidence.toFixed(2)}</td>
        <td class="number">${isAbsent ? '–' : threshold.toFixed(2)}</td>
        <td class="bar wide"><div>${!isAbsent && html`<i style="width:${(100 * keptShare).toFixed(0)}%"></i>`}</div></td>
        <td class="number">${isAbsent ? '–' : (100 * keptShare).toFixed(0)}</td>
      </tr>`;
    })}</tbody></table>`;
}

/** Renders every stage with its time, and the config. */
export function runSection(run: RunData): Section {
  const body = html`${scrolling(
    'Stages',
    html`<table>
      <thead><tr><th>Stage</th><th>Name</th><th class="number">Steps</th><th class="number">Time</th><th class="number">Waiting for data</th></tr></thead>
      <tbody>${run.stages.map(
        ({ stage, record, history }) => html`<tr>
          <th scope="row">${stage.label}</th><td class="muted">${stage.name}</td>
          <td class="number">${(record?.steps ?? history?.steps) || '–'}</td>
          <td class="number">${record ? duration(record.seconds) : 'not finished'}</td>
          <td class="number">${typeof record?.waitShare === 'number' ? `${percent(record.waitShare)} %` : '–'}</td>
        </tr>`,
      )}</tbody></table>`,
  )}
  <details><summary>The complete config</summary><pre>${run.configText}</pre></details>`;
  return { id: 'run', title: 'The run', note: 'Every stage that has begun, in order.', body };
}
