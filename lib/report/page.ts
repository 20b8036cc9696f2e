import { duration } from '../support/format.js';
import type { Section } from './common.js';
import { Html, html } from './html.js';
import { predictionSection, translationSection } from './pictures.js';
import { classSection, confusionSection, headline, resultsSection } from './results.js';
import type { RunData } from './run-data.js';
import { scoreSection, shareSection } from './scores.js';
import { STYLE } from './style.js';
import { lossSection, pseudoLabelSection, runSection } from './training.js';

/** Renders the report as one HTML document. It contains no script and refers to nothing outside itself. */
export async function renderPage(run: RunData): Promise<Html> {
  const all: (Section | null)[] = [
    resultsSection(run),
    scoreSection(run),
    shareSection(run),
    classSection(run),
    await predictionSection(run),
    await translationSection(run),
    confusionSection(run),
    pseudoLabelSection(run),
    lossSection(run),
    runSection(run),
  ];
  const sections = all.filter((section) => section !== null);
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${run.name}: bidiseg report</title>
<style>${new Html(STYLE)}</style>
</head>
<body>
<header>
<p class="kind">bidiseg report</p>
<h1>${run.name}</h1>
${headline(run)}
${facts(run)}
${warnings(run)}
</header>
<nav aria-label="Sections">${sections.map(({ id, title }) => html`<a href="#${id}">${title}</a>`)}</nav>
<main>${sections.map(
    ({ id, title, note, body }) => html`
<section id="${id}"><h2>${title}</h2><p class="note">${note}</p>${body}</section>`,
  )}
</main>
</body>
</html>
`;
}

function facts({ summary, stages, planned, config }: RunData): Html {
  const seconds = stages.reduce((sum, { record }) => sum + (record?.seconds ?? 0), 0);
  const { network, backbone } = config.segmenter;
  const times = stages.flatMap(({ history }) => history?.time.slice(0, 10) ?? []).sort();
  const entries = {
    ...(times.length > 0 && { date: times.at(-1)! }),
    state: summary.complete ? 'complete' : `${summary.stages.length} of ${planned} stages`,
    time: duration(seconds),
    segmenter: network === 'deeplab-v2' ? `${network}, ${backbone}` : network,
    classes: summary.classes.length,
    seed: summary.seed,
    device: summary.device,
    bidiseg: summary.version,
  };
  return html`<dl class="facts">${Object.entries(entries).map(
    ([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`,
  )}</dl>`;
}

function warnings({ stages, dataWarnings }: RunData): Html | null {
  const messages = [
    ...dataWarnings.map((message) => html`<li><b>data</b> ${message}</li>`),
    ...stages.flatMap(({ stage, history }) =>
      (history?.warnings ?? []).map((message) => html`<li><b>${stage.label}</b> ${message}</li>`),
    ),
  ];
  return messages.length > 0 ? html`<ul class="warnings">${messages}</ul>` : null;
}
