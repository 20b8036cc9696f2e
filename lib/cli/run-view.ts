import { existsSync } from 'node:fs';
import path from 'node:path';
import type { ProgressEvent, RunEvent, RunSummary, StageRecord } from '../pipeline/events.js';
import { duration, percent, shellWord, signedPercent } from '../support/format.js';
import type { StepEvent } from '../training/events.js';
import type { Progress } from './progress.js';
import type { CommandContext } from './run-command.js';
import { table } from './table.js';

/** Interval between events of steps with --json, in milliseconds. The progress display has its own interval. */
const EVENT_INTERVAL_MS = 1000;

const TASKS: Record<ProgressEvent['task'], string> = {
  'embedded-data': 'generating data',
  'class-counts': 'counting classes',
  statistics: 'target statistics',
  translate: 'translating',
  confidences: 'confidences',
  thresholds: 'thresholds',
  'pseudo-label': 'pseudo-labels',
  evaluate: 'evaluating',
  scores: 'scoring',
};

/**
 * Follows a run to its end and shows it, to people or as JSON. Then shows its results.
 *
 * @param run.folder run folder, for the hint how to resume an interrupted run
 */
export async function followRun(
  context: CommandContext,
  events: AsyncIterable<RunEvent>,
  run: { folder: string },
): Promise<void> {
  const view = new RunView(context, run);
  for await (const event of events) view.show(event);
  view.finish();
}

class RunView {
  readonly #context: CommandContext;
  readonly #folder: string;
  readonly #finished: StageRecord[] = [];
  /** Saved part of the running stage, in words. */
  #saved = '';
  #summary: RunSummary | undefined;
  #stage = '';
  #label = '';
  #progress: Progress | undefined;
  /** Task of the progress display. */
  #task = '';
  #lastEvent = 0;
  /** Time in steps of the running stage, and time in which they waited for data. */
  #computeMs = 0;
  #waitMs = 0;

  constructor(context: CommandContext, run: { folder: string }) {
    this.#context = context;
    this.#folder = shortPath(run.folder);
    // Saving the state may take long on a slow disk. A second signal stops at once.
    context.graceMs = Number.POSITIVE_INFINITY;
    context.kept = () => this.#kept() || `no stage was finished in ${this.#folder}`;
    context.keptAtFailure = () => this.#kept();
  }

  /** Says what is kept, and how to go on. '': nothing. */
  #kept(): string {
    const stages = this.#finished.map(({ label }) => label).join(', ');
    const kept = [stages && `finished stages (${stages})`, this.#saved]
      .filter((part) => part !== '')
      .join(' and ');
    return (
      kept && `${kept} are kept in ${this.#folder}; resume with: bidiseg resume ${shellWord(this.#folder)}`
    );
  }

  show(event: RunEvent): void {
    this.#emitJson(event);
    const { console } = this.#context;
    switch (event.type) {
      case 'run-start':
        console.note(
          `Run folder ${this.#folder}: ${event.stages.length} stages, seed ${event.seed}, on ${event.device}`,
        );
        break;
      case 'stage-start':
        this.#stage = `[${event.index + 1}/${event.count}] ${event.label}`;
        this.#label = event.label;
        this.#task = '';
        this.#computeMs = 0;
        this.#waitMs = 0;
        if (event.stepsBefore > 0) console.note(`${this.#stage}  continues after step ${event.stepsBefore}`);
        break;
      case 'checkpoint':
        this.#saved = `${this.#label} up to step ${event.step}`;
        break;
      case 'step':
        this.#computeMs += event.stepMs;
        this.#waitMs += event.waitMs;
        this.#showProgress('training', event.step, event.steps, this.#detailOf(event));
        break;
      case 'progress':
        this.#showProgress(TASKS[event.task], event.done, event.total);
        break;
      case 'warning':
        console.note([this.#stage, `warning: ${event.message}`].filter((part) => part !== '').join('  '));
        break;
      case 'stage-end':
        this.#finished.push(event.record);
        this.#saved = '';
        console.note(
          `${event.loaded ? event.record.label : this.#stage}  ${describeStage(event.record, event.loaded)}`,
        );
        break;
      case 'run-end':
        this.#summary = event.summary;
        break;
    }
  }

  finish(): void {
    const stages = this.#summary?.stages ?? this.#finished;
    const report = path.join(this.#folder, 'report.html');
    const hasReport = existsSync(report);
    this.#context.console.result(
      {
        folder: path.resolve(this.#folder),
        report: hasReport ? path.resolve(report) : null,
        ...this.#summary,
      },
      [
        '',
        stageTable(stages),
        '',
        ...(hasReport ? [`report    ${report}`] : []),
        `pictures  ${path.join(this.#folder, 'pictures')}`,
        `summary   ${path.join(this.#folder, 'summary.json')}`,
      ].join('\n'),
    );
  }

  #showProgress(task: string, done: number, total: number, detail = ''): void {
    if (task !== this.#task) {
      this.#task = task;
      this.#progress = this.#context.console.progress(`${this.#stage} ${task}`.trim(), total);
    }
    this.#progress?.update(done, detail);
  }

  /** Describes a step: `loss 0.482, 0.3 % of the time waiting for data`. */
  #detailOf({ losses }: StepEvent): string {
    const share = this.#waitMs / (this.#waitMs + this.#computeMs);
    return `loss ${losses.total.toFixed(3)}, ${percent(share)} % of the time waiting for data`;
  }

  #emitJson(event: RunEvent): void {
    const { type, ...data } = event;
    const isFrequent = event.type === 'step' || event.type === 'progress';
    if (isFrequent && !isLast(event) && performance.now() - this.#lastEvent < EVENT_INTERVAL_MS) return;
    if (isFrequent) this.#lastEvent = performance.now();
    // The result contains this and more.
    if (type !== 'run-end') this.#context.console.event(type, data);
  }
}

function isLast(event: StepEvent | ProgressEvent): boolean {
  return event.type === 'step' ? event.step === event.steps : event.done === event.total;
}

function describeStage(record: StageRecord, loaded: boolean): string {
  if (loaded) return 'already complete';
  const parts = [
    record.miou !== null ? `mIoU ${percent(record.miou)} %` : '',
    record.keptShare !== null ? `${percent(record.keptShare)} % of the pixels kept` : '',
    duration(record.seconds),
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** Formats the stages with their mIoU and their gain over the segmenter trained on source images alone. */
export function stageTable(stages: readonly StageRecord[]): string {
  const baseline = stages.find(({ kind }) => kind === 'source-only')?.miou ?? null;
  return table(
    [
      { title: 'stage' },
      { title: 'mIoU %', align: 'right' },
      { title: 'gain over source only', align: 'right' },
      { title: 'steps', align: 'right' },
      { title: 'seconds', align: 'right' },
    ],
    stages.map(({ label, kind, miou, steps, seconds }) => [
      label,
      percent(miou),
      kind === 'source-only' || miou === null || baseline === null ? '–' : signedPercent(miou - baseline),
      steps > 0 ? String(steps) : '–',
      seconds.toFixed(seconds < 10 ? 1 : 0),
    ]),
  );
}

/** Returns a path relative to the working directory if that is shorter. */
export function shortPath(file: string): string {
  const relative = path.relative('', file);
  return relative.startsWith('..') || relative === '' ? file : relative;
}
