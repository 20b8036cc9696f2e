import { EventEmitter } from 'node:events';
import type { Config } from '../config/schema.js';
import { ConfigError } from '../errors.js';
import { classNames, type Datasets } from './datasets.js';
import type { RunEvent, RunSummary, StageRecord } from './events.js';
import { drain, mapEvents } from './generators.js';
import { planStages, type Stage, selectStage, stageInputs } from './plan.js';
import type { StageStore } from './stage-store.js';
import { runStage, stageSteps } from './stages.js';

export interface RunOptions {
  /** Go on where an earlier run stopped: complete stages are not run again. Default false. */
  resume?: boolean;
  /** Run this one stage alone: its name, label or kind, see `selectStage`. The stages it needs must be complete. */
  only?: string | undefined;
  /** With `only`: run the stage although it is complete; its old outputs are removed. Default false. */
  overwrite?: boolean;
  /** Stops the run within a step; it then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** For `on`: a listener per type of event, and `event` for all of them. */
type Listeners = { event: [RunEvent] } & { [Type in RunEvent['type']]: [Extract<RunEvent, { type: Type }>] };

/**
 * Bidirectional learning, the whole of Algorithm 1: a segmenter for a domain without labels.
 *
 * Each stage starts from the initial weights, reads what it needs of earlier ones from the store and leaves its outputs
 * there, so that a run can go on, or run alone, at any stage. Follow it with `for await (… of learning.events())`, or with
 * `on` and `run()`.
 */
export class BidirectionalLearning extends EventEmitter<Listeners> {
  /** The stages in the order in which they run. */
  readonly plan: readonly Stage[];
  readonly #config: Config;
  readonly #datasets: Datasets;
  readonly #store: StageStore;

  constructor(config: Config, datasets: Datasets, store: StageStore) {
    super();
    this.plan = planStages(config.loop);
    this.#config = config;
    this.#datasets = datasets;
    this.#store = store;
  }

  /** Runs to the end, telling listeners, and gives what `summary.json` holds. Throws as `events` does. */
  run(options: RunOptions = {}): Promise<RunSummary> {
    return drain(this.events(options));
  }

  /**
   * Runs for as long as it is iterated; breaking out of the loop stops the run at that event, and what is complete stays.
   *
   * @throws InvalidArgumentError when `only` names no stage
   * @throws ConfigError when the one stage to run is complete already or lacks the output of an earlier one
   * @throws DataError when an image or a weights file cannot be read or written
   * @throws NonFiniteLossError when a loss is NaN or infinite
   */
  events(options: RunOptions = {}): AsyncGenerator<RunEvent, RunSummary> {
    return mapEvents(this.#events(options), (event) => {
      tell(this, event);
      return event;
    });
  }

  async *#events({
    resume = false,
    only,
    overwrite = false,
    signal,
  }: RunOptions): AsyncGenerator<RunEvent, RunSummary> {
    const { seed, device } = this.#config;
    const selected = only === undefined ? null : selectStage(this.plan, only);
    if (selected) await this.#checkReady(selected, overwrite);
    const stages = selected ? [selected] : this.plan;
    const { folder } = this.#store;
    yield { type: 'run-start', folder, seed, device, classes: classNames(this.#config), stages };
    // What follows the first stage that has to run may rest on it, so it runs as well.
    let loading = resume && !selected;
    for (const [index, stage] of stages.entries()) {
      signal?.throwIfAborted();
      const record: StageRecord | undefined = loading ? await this.#store.record(stage) : undefined;
      loading = record !== undefined;
      if (record) yield { type: 'stage-end', stage: stage.name, record, loaded: true };
      else yield* this.#run(stage, { index, count: stages.length }, signal);
    }
    const summary = await this.#store.summary();
    yield { type: 'run-end', summary };
    return summary;
  }

  async *#run(
    stage: Stage,
    place: { index: number; count: number },
    signal: AbortSignal | undefined,
  ): AsyncGenerator<RunEvent> {
    const start = performance.now();
    const { name, label, round, kind } = stage;
    await this.#store.begin(stage);
    const steps = stageSteps(stage, this.#config);
    yield { type: 'stage-start', stage: name, label, kind, round, ...place, steps };
    const outcome = yield* runStage(stage, {
      config: this.#config,
      datasets: this.#datasets,
      store: this.#store,
      stage: (wanted) => this.plan.find((other) => other.name === wanted)!,
      signal,
    });
    const seconds = (performance.now() - start) / 1000;
    const record = { name, label, round, kind, seconds, ...outcome };
    await this.#store.complete(stage, record);
    yield { type: 'stage-end', stage: name, record, loaded: false };
  }

  async #checkReady(stage: Stage, overwrite: boolean): Promise<void> {
    if (!overwrite && (await this.#store.record(stage))) {
      throw new ConfigError(
        `Stage ${stage.name} is complete in ${this.#store.folder}; overwrite it to run it again`,
      );
    }
    for (const input of this.plan.filter(({ name }) => stageInputs(stage).includes(name))) {
      if (await this.#store.record(input)) continue;
      throw new ConfigError(
        `Stage ${stage.name} needs the output of ${input.name}, which ${this.#store.folder} does not have; run that first`,
      );
    }
  }
}

/** Untyped, because TypeScript cannot tell that an event goes with its own type's name. */
function tell(listeners: EventEmitter, event: RunEvent): void {
  listeners.emit('event', event);
  listeners.emit(event.type, event);
}
