// The live page of a run. It keeps the events of the log that count, and draws them at most once a second.
import type { PictureEvent, RunEvent, StageRecord } from '../../pipeline/events.js';
import type { PlannedStage, RunState } from '../watched-run.js';

/** Library of the report's charts, loaded before. Only what is used here. */
declare const Plot: {
  plot(options: object): SVGElement;
  lineY(points: object[], options: object): object;
};

type Logged = RunEvent & { time: string };
type Point = { step: number; value: number };

/** What the log says about a stage. Only the last attempt counts. */
interface StageView {
  record: StageRecord | null;
  /** Time of the last start and of the last event, in milliseconds. */
  started: number;
  last: number;
  step: number;
  stepsBefore: number;
  steps: number;
  /** Points by the name of their chart. */
  series: Map<string, Point[]>;
  pictures: PictureEvent[];
  warnings: string[];
}

const stages = new Map<string, StageView>();
const dataWarnings: string[] = [];
let plan: readonly PlannedStage[] = [];
let state: RunState | undefined;
let running = '';
let connection: 'connecting' | 'open' | 'lost' = 'connecting';
let lastId = '';

// --- The log ---

function clear(): void {
  stages.clear();
  dataWarnings.length = 0;
  running = '';
}

function stageView(name: string): StageView {
  const known = stages.get(name);
  if (known) return known;
  const view: StageView = {
    ...{ record: null, started: 0, last: 0, step: 0, stepsBefore: 0, steps: 0 },
    ...{ series: new Map(), pictures: [], warnings: [] },
  };
  stages.set(name, view);
  return view;
}

function take(event: Logged): void {
  switch (event.type) {
    case 'run-start':
      running = '';
      return;
    case 'stage-start': {
      const view = stageView(event.stage);
      const { steps, stepsBefore, stage } = event;
      const started = Date.parse(event.time);
      for (const points of view.series.values()) dropFrom(points, stepsBefore + 1);
      Object.assign(view, { steps, stepsBefore, step: stepsBefore, started, last: started });
      Object.assign(view, { record: null, pictures: [], warnings: [] });
      running = stage;
      return;
    }
    case 'stage-end': {
      const view = stageView(event.stage);
      view.record = event.record;
      if (!event.loaded) view.last = Date.parse(event.time);
      if (running === event.stage) running = '';
      return;
    }
    case 'step': {
      const view = stageView(event.stage);
      view.step = event.step;
      view.last = Date.parse(event.time);
      const add = (chart: string, value: number) => addPoint(view, chart, { step: event.step, value });
      for (const [term, value] of Object.entries(event.losses)) add(`loss ${term}`, value);
      add('learning rate', event.learningRate);
      add('ms a step', event.stepMs + event.waitMs);
      return;
    }
    case 'picture':
      stageView(event.stage).pictures.push(event);
      return;
    case 'warning': {
      const warnings = plan.some(({ name }) => name === event.stage)
        ? stageView(event.stage).warnings
        : dataWarnings;
      if (!warnings.includes(event.message)) warnings.push(event.message);
    }
  }
}

function addPoint({ series }: StageView, chart: string, point: Point): void {
  const points = series.get(chart) ?? [];
  dropFrom(points, point.step);
  points.push(point);
  series.set(chart, points);
}

/** Drops the points of an attempt that was continued from an earlier step. */
function dropFrom(points: Point[], step: number): void {
  while (points.length > 0 && points.at(-1)!.step >= step) points.pop();
}

// --- The connection ---

let source: EventSource | undefined;

/** Connects and continues after the last message. EventSource reconnects by itself, but not after every failure. */
function connect(): void {
  const query = new URLSearchParams(location.search);
  if (lastId !== '') query.set('after', lastId);
  source?.close();
  source = new EventSource(`events?${query}`);
  source.onopen = () => {
    connection = 'open';
    show();
  };
  source.onerror = () => {
    connection = 'lost';
    show();
    if (source?.readyState === EventSource.CLOSED && !document.hidden) setTimeout(connect, 2000);
  };
  source.onmessage = ({ data, lastEventId }: MessageEvent<string>) => {
    lastId = lastEventId;
    for (const event of JSON.parse(data) as Logged[]) {
      try {
        take(event);
      } catch {
        // An event of a shape that this version does not know.
      }
    }
    show();
  };
  source.addEventListener('state', ({ data }: MessageEvent<string>) => {
    state = JSON.parse(data) as RunState;
    plan = state.stages;
    show();
  });
  source.addEventListener('reset', ({ lastEventId }: MessageEvent<string>) => {
    lastId = lastEventId;
    clear();
    show();
  });
}

// A browser opens few connections to one server, so that hidden pages must not hold any.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) connect();
  else source?.close();
});

// --- The page ---

type Child = Node | string | null | undefined | false;

function element(tag: string, attributes: Record<string, string> = {}, ...children: Child[]): HTMLElement {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(
    ...children.filter(
      (child): child is Node | string => child !== null && child !== undefined && child !== false,
    ),
  );
  return made;
}

const percent = (ratio: number | null | undefined) =>
  typeof ratio === 'number' ? (100 * ratio).toFixed(1) : '–';

function signed(difference: number | null): HTMLElement {
  if (difference === null) return element('span', {}, '–');
  const points = (100 * difference).toFixed(1);
  if (/^-?0\.0$/.test(points)) return element('span', {}, '0.0');
  const isUp = difference > 0;
  return element('span', { class: isUp ? 'up' : 'down' }, isUp ? `+${points}` : points.replace('-', '−'));
}

function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Parts of the page, each drawn again only if its content has changed. */
const parts = new Map<string, { box: HTMLElement; key: string }>();

function part(name: string, key: unknown, draw: () => Child[]): HTMLElement {
  const known = parts.get(name) ?? { box: element('div', { class: `part ${name}` }), key: '' };
  const newKey = JSON.stringify(key);
  if (known.key !== newKey) {
    known.box.replaceChildren(...(draw().filter(Boolean) as (Node | string)[]));
    known.key = newKey;
  }
  parts.set(name, known);
  return known.box;
}

const STATUS: Record<RunState['status'], string> = {
  waiting: 'waiting for the run to begin',
  running: 'running',
  stopped: 'stopped before its end',
  ended: 'complete',
  gone: 'the run folder is gone',
};

function statusText({ status, stages: planned }: RunState): string {
  const missing = planned.filter(({ name }) => !stages.get(name)?.record).length;
  // A process may die after its last stage.
  if (status === 'stopped' && planned.length > 0 && missing === 0) return STATUS.ended;
  if (status !== 'ended') return STATUS[status];
  return missing === 0 ? STATUS.ended : `ended, ${missing} of ${planned.length} stages left`;
}

function drawHeader(current: RunState): Child[] {
  const segmenters = plan.flatMap(({ name }) => {
    const record = stages.get(name)?.record;
    return typeof record?.miou === 'number' ? [record] : [];
  });
  const [first, last] = [segmenters[0], segmenters.at(-1)];
  const tile = (label: string, ...value: Child[]) =>
    element('div', { class: 'tile' }, element('b', {}, ...value), element('span', {}, label));
  const unit = () => element('small', {}, '%');
  return [
    element('p', { class: 'kind' }, 'bidiseg watch'),
    element('h1', {}, current.name),
    element(
      'p',
      { class: 'status', role: 'status' },
      element('span', { class: `pill ${current.status}` }, statusText(current)),
      connection !== 'open' && element('span', { class: 'pill lost' }, 'no connection, trying again'),
    ),
    current.problem !== null && element('p', { class: 'warnings' }, current.problem),
    first !== undefined &&
      element(
        'div',
        { class: 'tiles' },
        tile(`mIoU of ${first.label}`, percent(first.miou), unit()),
        last !== first && last !== undefined && tile(`mIoU of ${last.label}`, percent(last.miou), unit()),
        last !== first && last !== undefined && tile('gain in points', signed(last.miou! - first.miou!)),
      ),
  ];
}

/** Draws what the running stage does now. Changes every second. */
function drawNow(current: RunState): Child[] {
  const view = stages.get(running);
  const planned = plan.find(({ name }) => name === running);
  const finished = plan.filter(({ name }) => stages.get(name)?.record).length;
  const facts: [string, string][] = [];
  if (plan.length > 0) facts.push(['stages', `${finished} of ${plan.length}`]);
  if (view && planned && current.status === 'running') {
    const seconds = (Date.now() - view.started) / 1000;
    facts.push(['stage', planned.label], ['time in this stage', duration(seconds)]);
    if (view.steps > 0) {
      facts.push(['step', `${view.step} of ${view.steps}`]);
      const done = view.step - view.stepsBefore;
      const pace = (view.last - view.started) / 1000 / done;
      if (done > 0 && pace > 0) {
        facts.push(['steps a second', (1 / pace).toPrecision(3)]);
        facts.push(['left in this stage', duration(pace * (view.steps - view.step))]);
      }
      const total = view.series.get('loss total')?.at(-1);
      if (total) facts.push(['loss', total.value.toPrecision(4)]);
    }
  } else if (view && planned) facts.push(['stage', planned.label], ['step', `${view.step} of ${view.steps}`]);
  if (current.status === 'running' && stages.size === 0) facts.push(['stage', 'preparing the data']);
  if (current.device !== null) facts.push(['device', current.device], ['seed', String(current.seed)]);
  return [
    element(
      'dl',
      { class: 'facts' },
      ...facts.map(([name, value]) => element('div', {}, element('dt', {}, name), element('dd', {}, value))),
    ),
  ];
}

function section(title: string, ...children: Child[]): HTMLElement {
  return element('section', {}, element('h2', {}, title), ...children);
}

function drawStages(current: RunState): Child[] {
  if (plan.length === 0) return [];
  const baseline = plan
    .map(({ name }) => stages.get(name)?.record)
    .find((record) => record?.kind === 'source-only');
  const rows = plan.map((planned) => {
    const view = stages.get(planned.name);
    const record = view?.record ?? null;
    const isRunning = planned.name === running;
    const steps = view?.steps || planned.steps;
    const share = record ? 1 : steps > 0 ? (view?.step ?? 0) / steps : 0;
    const busy = isRunning && current.status === 'running' && steps === 0;
    const bar = element('i', { class: busy ? 'busy' : '' });
    bar.style.width = `${busy ? 100 : 100 * share}%`;
    const gain =
      record &&
      record.kind !== 'source-only' &&
      typeof record.miou === 'number' &&
      typeof baseline?.miou === 'number'
        ? record.miou - baseline.miou
        : null;
    const done = record ? record.steps : (view?.step ?? 0);
    return element(
      'tr',
      { class: isRunning ? 'current' : record ? '' : 'muted' },
      element('th', { scope: 'row' }, planned.label),
      element('td', { class: 'wide muted' }, planned.name),
      element('td', { class: 'bar' }, element('div', {}, bar)),
      element('td', { class: 'number' }, steps > 0 ? `${done} / ${steps}` : '–'),
      element('td', { class: 'number strong' }, percent(record?.miou)),
      element('td', { class: 'number' }, signed(gain)),
      element('td', { class: 'number' }, record ? duration(record.seconds) : '–'),
    );
  });
  const head = [
    ['Stage'],
    ['Name', 'wide'],
    ['Progress'],
    ['Steps', 'number'],
    ['mIoU %', 'number'],
    ['Gain', 'number'],
    ['Time', 'number'],
  ];
  return [
    section(
      'Stages',
      element(
        'div',
        { class: 'scroll', role: 'region', 'aria-label': 'Stages', tabindex: '0' },
        element(
          'table',
          {},
          element(
            'thead',
            {},
            element('tr', {}, ...head.map(([name, kind = '']) => element('th', { class: kind }, name))),
          ),
          element('tbody', {}, ...rows),
        ),
      ),
    ),
  ];
}

/** Hues of the rounds, as in the report. */
const HUES = [255, 50, 150, 340, 100, 200];

function stageColor({ name, round, kind }: PlannedStage): string {
  if (round === 0) return 'var(--muted)';
  const peers = plan.filter((other) => other.round === round && other.kind === kind);
  const place = peers.findIndex((other) => other.name === name);
  const strength = peers.length === 1 ? 1 : place / (peers.length - 1);
  return `oklch(calc(var(--faint) + ${strength.toFixed(2)} * var(--strong)) 0.14 ${HUES[(round - 1) % HUES.length]})`;
}

const MAX_POINTS = 200;

/** Merges neighbors of a long curve into their means. */
function thinned(points: readonly Point[]): Point[] {
  const size = Math.ceil(points.length / MAX_POINTS);
  if (size <= 1) return [...points];
  return Array.from({ length: Math.ceil(points.length / size) }, (_, index) => {
    const some = points.slice(index * size, (index + 1) * size);
    const mean = (key: keyof Point) => some.reduce((sum, point) => sum + point[key], 0) / some.length;
    return { step: mean('step'), value: mean('value') };
  });
}

function chart(title: string, name: string, shown: readonly PlannedStage[]): HTMLElement | null {
  const curves = shown.flatMap((planned) => {
    const points = (stages.get(planned.name)?.series.get(name) ?? []).filter(({ value }) =>
      Number.isFinite(value),
    );
    if (!points.some(({ value }) => value !== 0)) return [];
    return [{ label: planned.label, color: stageColor(planned), points: thinned(points) }];
  });
  if (curves.length === 0) return null;
  const svg = Plot.plot({
    ariaLabel: `${title} over training steps`,
    className: 'chart',
    ...{ width: 300, height: 150, marginTop: 8, marginRight: 10, marginBottom: 22, marginLeft: 46 },
    x: {
      ...{ label: null, ticks: 4, tickSize: 0, line: true, zero: true },
      tickFormat: stepText,
    },
    y: { label: null, ticks: 4, tickSize: 0, grid: true, nice: true, tickFormat: axisNumber },
    marks: curves.map(({ label, color, points }) =>
      Plot.lineY(points, {
        x: 'step',
        y: 'value',
        stroke: color,
        strokeWidth: 1.5,
        title: () => label,
        ...(points.length === 1 && { marker: 'dot' }),
      }),
    ),
  });
  return element('figure', {}, element('figcaption', {}, title), svg);
}

/** Formats a tick of the steps. Ticks between two steps have no text. */
function stepText(step: number): string {
  if (!Number.isInteger(step)) return '';
  return step >= 1000 ? `${step / 1000}k` : `${step}`;
}

function axisNumber(value: number): string {
  if (value !== 0 && Math.abs(value) < 0.01)
    return Number(value.toPrecision(3)).toExponential().replace('-', '−');
  return value >= 10_000 ? `${value / 1000}k` : String(Number(value.toPrecision(6)));
}

const isTranslator = ({ kind }: PlannedStage) => kind === 'translator';

function drawCharts(): Child[] {
  const trained = plan.filter(({ name }) => (stages.get(name)?.series.size ?? 0) > 0);
  const groups: [string, PlannedStage[]][] = [
    ['Segmenters', trained.filter((planned) => !isTranslator(planned))],
    ['Translators', trained.filter(isTranslator)],
  ];
  const drawn = groups
    .filter(([, shown]) => shown.length > 0)
    .map(([title, shown]) => {
      const names = [...new Set(shown.flatMap(({ name }) => [...stages.get(name)!.series.keys()]))];
      const losses = names.filter((name) => name.startsWith('loss '));
      const charts = [...losses, 'learning rate', 'ms a step'].map((name) =>
        chart(titleOf(name), name, shown),
      );
      return [
        element('h3', {}, title),
        element(
          'ul',
          { class: 'legend' },
          ...shown.map((planned) => {
            const line = element('i', { class: 'line' });
            line.style.background = stageColor(planned);
            return element('li', {}, line, planned.label);
          }),
        ),
        element('div', { class: 'charts' }, ...charts),
      ];
    });
  if (drawn.length === 0) return [];
  return [
    section(
      'Losses and speed',
      element(
        'p',
        { class: 'note' },
        'A point is the mean over the steps since the previous line of the log. Terms other than the total are shown without their weights.',
      ),
      ...drawn.flat(),
    ),
  ];
}

function titleOf(name: string): string {
  if (name === 'learning rate') return 'Learning rate';
  if (name === 'ms a step') return 'Milliseconds a step';
  const words = name
    .slice('loss '.length)
    .replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
    .replace(/^gan\b/, 'GAN');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function drawPictures(): Child[] {
  const query = location.search;
  const figures = [...plan].reverse().flatMap(({ name, label }) => {
    const view = stages.get(name);
    return (view?.pictures ?? []).map(({ file, columns, domain }) => {
      const picture = file.split(/[\\/]/).at(-1)!;
      // A stage that runs again writes the same file.
      const version = `${query === '' ? '?' : `${query}&`}at=${view!.started}`;
      const image = element('img', {
        src: `pictures/${encodeURIComponent(picture)}${version}`,
        alt: `${label}, ${domain}: ${columns.join(', ')}`,
        loading: 'lazy',
      });
      const heads = element(
        'div',
        { class: 'columns' },
        ...columns.map((column) => element('span', {}, column)),
      );
      const caption = element('figcaption', {}, element('b', {}, label), ` ${domain} images`);
      return element('figure', { class: 'sheet' }, caption, heads, image);
    });
  });
  if (figures.length === 0) return [];
  return [
    section(
      'Pictures',
      element('p', { class: 'note' }, 'The newest come first.'),
      element('div', { class: 'sheets' }, ...figures),
    ),
  ];
}

function allWarnings(): [string, string][] {
  return [
    ...dataWarnings.map((message): [string, string] => ['data', message]),
    ...plan.flatMap(({ name, label }) =>
      (stages.get(name)?.warnings ?? []).map((message): [string, string] => [label, message]),
    ),
  ];
}

function drawWarnings(warnings: [string, string][]): Child[] {
  if (warnings.length === 0) return [];
  return [
    element(
      'ul',
      { class: 'warnings' },
      ...warnings.map(([label, message]) => element('li', {}, element('b', {}, label), ` ${message}`)),
    ),
  ];
}

const app = document.getElementById('app')!;

function draw(): void {
  const current = state;
  if (!current) return;
  document.title = `${current.name}: ${statusText(current)}`;
  const progress = plan.map(({ name }) => {
    const view = stages.get(name);
    return view && [view.step, view.started, view.last, view.record, view.pictures.length];
  });
  const warnings = allWarnings();
  const head = [
    part('head', [current, connection, progress.map((one) => one?.[3])], () => drawHeader(current)),
    part('now', Date.now(), () => drawNow(current)),
    part('alerts', warnings, () => drawWarnings(warnings)),
  ];
  const main = [
    part('stages', [current, running, progress], () => drawStages(current)),
    part('pictures', [plan, progress.map((one) => one && [one[1], one[4]])], drawPictures),
    part('curves', [plan, progress.map((one) => one && [one[0], one[1]])], drawCharts),
  ];
  // The parts stay in place, so that scrolling and focus do too.
  if (head[0]!.isConnected) return;
  app.replaceChildren(element('header', {}, ...head), element('main', {}, ...main));
}

let isDue = false;

/** Draws soon, at most four times a second. */
function show(): void {
  if (isDue) return;
  isDue = true;
  setTimeout(() => {
    isDue = false;
    draw();
  }, 250);
}

setInterval(() => {
  if (state?.status === 'running' && !document.hidden) draw();
}, 1000);
draw();
connect();
