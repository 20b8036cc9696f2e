import type { StageRecord } from '../pipeline/events.js';
import type { Stage } from '../pipeline/plan.js';
import { signedPercent } from '../support/format.js';
import { type Html, html } from './html.js';
import type { RunData, StageData } from './run-data.js';

/** Section of the page with an entry in its navigation. */
export interface Section {
  id: string;
  title: string;
  /** Short explanation of the content. */
  note: string;
  body: Html;
}

/** A finished segmenter. */
export interface SegmenterStage extends StageData {
  record: StageRecord;
}

/** Returns the finished segmenters. The first one is trained on source images alone. The others are compared with it. */
export function segmenters({ stages }: RunData): SegmenterStage[] {
  return stages.filter(
    (data): data is SegmenterStage =>
      data.record !== null && (data.stage.kind === 'source-only' || data.stage.kind === 'segmenter'),
  );
}

/** Says where a training continues from: '; starts from M0(1)'. Empty where it starts from the initial weights. */
export function startOf({ stages }: RunData, stage: Stage): string {
  if (!('startsFrom' in stage)) return '';
  const start = stages.find((other) => other.stage.name === stage.startsFrom);
  return `; starts from ${start?.stage.label ?? stage.startsFrom}`;
}

/** Formats a difference of two ratios in percentage points, colored by its sign: '+3.2', '−0.4'. */
export function gain(difference: number | null): Html {
  if (difference === null) return html`–`;
  const text = signedPercent(difference).replace('-', '−');
  if (/^[+−]0\.0$/.test(text)) return html`0.0`;
  return html`<span class="${difference >= 0 ? 'up' : 'down'}">${text}</span>`;
}

/** Returns `one − other`. null if either is missing. */
export function difference(one: number | null | undefined, other: number | null | undefined): number | null {
  return typeof one === 'number' && typeof other === 'number' ? one - other : null;
}

/** Renders a class's name with its color. */
export function classLabel(name: string, index: number, palette: Uint8Array): Html {
  return html`<span class="class" title="${name}">${swatch(palette, index)}<span>${name}</span></span>`;
}

export function swatch(palette: Uint8Array, index: number): Html {
  return html`<i class="swatch" style="background:rgb(${[...palette.subarray(index * 3, index * 3 + 3)].join(' ')})"></i>`;
}

/** Wraps a table so that it scrolls by itself on a narrow page. */
export function scrolling(label: string, table: Html): Html {
  return html`<div class="scroll" role="region" aria-label="${label}" tabindex="0">${table}</div>`;
}
