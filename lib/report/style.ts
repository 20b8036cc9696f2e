/** The report's style sheet. Nothing in it comes from a run. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #ffffff; --raised: #f6f7f9; --ink: #1c2127; --muted: #5c6670; --rule: #e3e6ea;
  --accent: #2f6fd0; --hit: #8fb8f5; --miss: #f2a98d; --up: #1a7f4b; --down: #b8442a; --track: #d5dae0;
  --faint: .69; --strong: -.31;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --raised: #1c2026; --ink: #e4e7eb; --muted: #99a3ad; --rule: #2c323a;
    --accent: #6ba1f2; --hit: #2d5da8; --miss: #9a4a30; --up: #5cc98f; --down: #f08c70; --track: #3a424c;
    --faint: .5; --strong: .36;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 1160px; padding: 40px 24px 80px;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
h1, h2, h3, p, figure, dl, dd, ul { margin: 0; padding: 0; }
ul { list-style: none; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 20px; line-height: 1.3; }
h3 { font-size: 15px; margin: 24px 0 8px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.kind { color: var(--muted); font-size: 13px; }
.muted, .note, .lead, figcaption { color: var(--muted); }
.note { max-width: 76ch; margin: 4px 0 16px; font-size: 14px; }
.up { color: var(--up); } .down { color: var(--down); }

.tiles { display: flex; flex-wrap: wrap; gap: 12px 48px; margin: 24px 0 8px; }
.tile b { display: block; font-size: 40px; line-height: 1.1; font-weight: 600; letter-spacing: -.02em; }
.tile small { font-size: 20px; font-weight: 500; margin-left: 2px; color: var(--muted); }
.tile span { font-size: 14px; color: var(--muted); }
.tile b span { font-size: inherit; }
.tile .up { color: var(--up); } .tile .down { color: var(--down); }
.lead { font-size: 14px; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 20px 0 0; padding: 16px 0 0; border-top: 1px solid var(--rule); font-size: 14px; }
.facts dt { color: var(--muted); font-size: 12px; }
.warnings { margin-top: 20px; padding: 10px 16px; border-left: 3px solid var(--down); background: var(--raised); font-size: 14px; }

nav { position: sticky; top: 0; z-index: 2; display: flex; gap: 4px 20px; margin: 24px -24px 0; padding: 10px 24px; overflow-x: auto; background: var(--page); border-bottom: 1px solid var(--rule); font-size: 14px; white-space: nowrap; }
section { margin-top: 48px; scroll-margin-top: 48px; }

table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { font-weight: 500; text-align: left; }
thead th { color: var(--muted); font-size: 12px; font-weight: 500; vertical-align: bottom; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
th[scope=row] { white-space: nowrap; }
tfoot th, tfoot td { font-weight: 600; border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.strong { font-weight: 600; }
.scroll { overflow-x: auto; }
.bar { width: 30%; min-width: 48px; padding-right: 0; }
.bar div { position: relative; height: 8px; }
.bar i { display: block; height: 8px; min-width: 1px; border-radius: 2px; background: var(--accent); }
.bar u { position: absolute; top: -6px; bottom: -6px; width: 1px; background: var(--ink); opacity: .45; }
.heat { background: color-mix(in srgb, var(--hit) var(--heat), transparent); }
.class { display: inline-flex; align-items: center; gap: 8px; max-inline-size: 12em; vertical-align: middle; }
.class span { min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.swatch { flex: none; display: inline-block; width: 12px; height: 12px; border-radius: 3px; box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--ink) 25%, transparent); }
.swatch.unlabeled { background: #000; }
.swatch.dropped { background: linear-gradient(135deg, #8a8a8a, #dcdcdc); }

.classes td:has(.track) { width: 30%; min-width: 80px; }
.classes .track-head { text-align: center; }
.track { position: relative; height: 12px; }
.track::before { content: ""; position: absolute; inset: 5px 0; background: var(--track); height: 1px; }
.track i { position: absolute; top: 2px; width: 8px; height: 8px; margin-left: -4px; border-radius: 50%; }
.track i:nth-child(1) { left: var(--low); width: calc(var(--high) - var(--low)); margin: 0; top: 5px; height: 2px; border-radius: 0; }
.track i:nth-child(2) { left: var(--from); background: var(--page); border: 2px solid; }
.track i:nth-child(3) { left: var(--to); }
.rise i:nth-child(odd) { background: var(--up); } .rise i { border-color: var(--up) !important; }
.fall i:nth-child(odd) { background: var(--down); } .fall i { border-color: var(--down) !important; }

.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 24px 32px; align-items: start; }
.stack { display: grid; grid-template-columns: minmax(0, 1fr); gap: 32px; }
figcaption { font-size: 13px; margin-bottom: 6px; }
figcaption b { color: var(--ink); font-weight: 600; }
.confusion { width: auto; font-size: 12px; border-collapse: separate; border-spacing: 1px; }
.confusion th, .confusion td { border: 0; padding: 0; }
.confusion td { width: 30px; min-width: 30px; height: 26px; text-align: center; background: color-mix(in srgb, var(--miss) var(--heat), var(--raised)); }
.confusion td.hit { background: color-mix(in srgb, var(--hit) var(--heat), var(--raised)); }
.confusion thead .class { writing-mode: vertical-rl; transform: rotate(180deg); gap: 6px; padding: 0 4px; }
.confusion thead th { height: 1px; text-align: center; font-weight: 500; color: var(--ink); }
.confusion .corner { vertical-align: bottom; padding: 0 10px 4px 0; color: var(--muted); font-size: 11px; font-weight: 400; text-align: right; white-space: nowrap; }
.confusion th[scope=row] { position: sticky; left: 0; padding-right: 10px; background: var(--page); }
.confusion th[scope=row] .class { flex-direction: row-reverse; justify-content: flex-start; text-align: right; }
.confusion th[scope=row] { text-align: right; }

.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; margin-bottom: 16px; font-size: 13px; }
.legend li { display: inline-flex; align-items: center; gap: 6px; }
.line { width: 18px; height: 3px; border-radius: 2px; }
.grid { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 8px; }
.grid figure { display: flex; flex-direction: column; justify-content: flex-end; min-width: 0; }
.grid img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--raised); }
.prediction img, .truth img { image-rendering: pixelated; }
.rows { display: grid; gap: 8px; }
.translations ~ .translations figcaption { display: none; }
.every { grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); margin-bottom: 8px; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--accent); font-size: 14px; margin-bottom: 12px; }
pre { overflow-x: auto; margin: 0; padding: 16px; border-radius: 8px; background: var(--raised); font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 32px; align-items: start; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 20px 24px; }
.charts figcaption { margin-bottom: 0; color: var(--ink); }
.chart { width: 100%; color: var(--muted); }

@media (min-width: 721px) {
  .predictions ~ .predictions figcaption { display: none; }
}
@media (max-width: 720px) {
  body { padding: 24px 16px 48px; }
  nav { margin-inline: -16px; padding-inline: 16px; }
  .wide { display: none; }
  .tiles { gap: 12px 28px; }
  .tile b { font-size: 30px; }
  th, td { padding-inline: 4px; }
  .class { max-inline-size: 7.5em; }
  .predictions, .every { grid-template-columns: repeat(2, minmax(0, 1fr)); margin-bottom: 16px; }
  .predictions .image { grid-column: 1 / -1; }
}
`;
