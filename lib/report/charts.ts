import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { Html } from './html.js';

export interface Curve {
  label: string;
  /** Color of the curve in CSS. */
  color: string;
  points: readonly { step: number; value: number }[];
}

/** Maximum number of points of a curve. More points are merged into their means. */
const MAX_POINTS = 160;

// Plot needs a DOM. This one is plain JavaScript and is never shown.
const { document } = parseHTML('<!doctype html><html></html>');

/** Draws curves over training steps as an SVG. Text and lines take the page's colors. */
export function curveChart(curves: readonly Curve[], ariaLabel: string): Html {
  const svg = Plot.plot({
    document,
    ariaLabel,
    className: 'chart',
    width: 300,
    height: 150,
    marginTop: 8,
    marginRight: 10,
    marginBottom: 22,
    marginLeft: 40,
    x: { label: null, ticks: 4, tickSize: 0, tickFormat: thousands, line: true, zero: true },
    y: { label: null, ticks: 4, tickSize: 0, grid: true, nice: true },
    marks: curves.map(({ label, color, points }) =>
      Plot.lineY(thinned(points), {
        x: 'step',
        y: 'value',
        stroke: color,
        strokeWidth: 1.5,
        title: () => label,
      }),
    ),
  });
  return new Html(svg.outerHTML);
}

function thousands(step: number): string {
  return step >= 1000 ? `${step / 1000}k` : `${step}`;
}

function thinned(points: Curve['points']): Curve['points'] {
  const size = Math.ceil(points.length / MAX_POINTS);
  if (size <= 1) return points;
  return Array.from({ length: Math.ceil(points.length / size) }, (_, index) => {
    const part = points.slice(index * size, (index + 1) * size);
    const mean = (key: 'step' | 'value') => part.reduce((sum, point) => sum + point[key], 0) / part.length;
    return { step: mean('step'), value: mean('value') };
  });
}
