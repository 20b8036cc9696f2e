/** Style sheet of the live page, beside the report's. */
export const WATCH_STYLE = `
.status { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 8px; }
.pill { padding: 2px 12px; border-radius: 99px; background: var(--raised); border: 1px solid var(--rule); font-size: 13px; }
.pill.running { border-color: var(--accent); color: var(--accent); }
.pill.running::before { content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 8px; border-radius: 50%; background: var(--accent); animation: pulse 2s infinite; }
.pill.ended { border-color: var(--up); color: var(--up); }
.pill.stopped, .pill.gone, .pill.lost { border-color: var(--down); color: var(--down); }
.alerts .warnings { margin-bottom: 0; }
.current th { font-weight: 600; color: var(--accent); }
td.bar { width: 24%; min-width: 72px; padding-right: 10px; }
td.bar div { background: var(--track); border-radius: 2px; overflow: hidden; }
.bar i { min-width: 0; transition: width .4s; }
.bar i.busy { opacity: .6; animation: pulse 1.2s infinite; }
.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 24px; align-items: start; }
.sheet img { display: block; width: 100%; height: auto; border-radius: 4px; background: #fff; }
.columns { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); font-size: 12px; color: var(--muted); margin-bottom: 4px; }
@keyframes pulse { 50% { opacity: .35; } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
`;
