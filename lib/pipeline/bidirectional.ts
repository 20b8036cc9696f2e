import { EventEmitter } from 'node:events';
import { classNames } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import type { ProcessGroup } from '../native/process-group.js';
import { ConfigError } from '../support/errors.js';
import { drain, mapEvents } from '../support/generators.js';
import { dispose } from '../training/checkpoints.js';
import type { Datasets } from './datasets.js';
import { requireDividedSteps } from './divided-steps.js';
import type { RunEvent, RunSummary, StageRecord } from './events.js';
import { planStages, type Stage, selectStage, stageInputs, stageSteps } from './plan.js';
import type { StageStore } from './stage-store.js';
import { runStage } from './stages/run-stage.js';

export interface RunOptions {
  /** Continues an earlier run. Complete stages and saved steps do not run again. Default false. */
  resume?: boolean;
  /**
   * Runs one stage alone, given by its name, label or kind (see `selectStage`). The stages it needs must be complete.
   * An interrupted stage continues from its checkpoint.
   */
  only?: string | undefined;
  /** With `only`: runs the stage from its first step, even if it is complete or was interrupted. Default false. */
  overwrite?: boolean;
  /** Stops the run within one step. The run saves its state, then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Listeners for `on`: one per type of event, and `event` for all events. */
export type RunListeners = { event: [RunEvent] } & {
  [Type in RunEvent['type']]: [Extract<RunEvent, { type: Type }>];
};

/**
 * Bidirectional learning, the whole of Algorithm 1. Trains a segmenter for a domain without labels.
 *
 * Each stage starts from the initial weights, or where `loop.startFrom` says otherwise. It reads the outputs of earlier stages from the store and leaves its own
 * there. So a run can continue at any stage, or run any stage alone. Follow it with `for await (… of
 * learning.events())`, or with `on` and `run()`.
 */
export class BidirectionalLearning extends EventEmitter<RunListeners> {
  /** Stages in the order in which they run. */
  readonly plan: readonly Stage[];
  readonly #config: Config;
  readonly #datasets: Datasets;
  readonly #store: StageStore;
  readonly #group: ProcessGroup | null;

  /**
   * @param options.group processes that run together. Each makes its own instance, with the same config and data, and a
   *   store in which only rank 0 writes. {@link train} makes all of it. Default null: this process alone
   * @throws InvalidArgumentError when the number of processes does not divide the steps
   */
  constructor(
    config: Config,
    datasets: Datasets,
    store: StageStore,
    options: { group?: ProcessGroup | null } = {},
  ) {
    super();
    const { group = null } = options;
    if (group) requireDividedSteps(config, group.size);
    this.#group = group;
    this.plan = planStages(config.loop);
    this.#config = config;
    this.#datasets = datasets;
    this.#store = store;
  }

  /** Runs to the end and notifies listeners. Returns the content of `summary.json`. Throws as `events` does. */
  run(options: RunOptions = {}): Promise<RunSummary> {
    return drain(this.events(options));
  }

  /**
   * Runs while it is iterated. Breaking out of the loop stops the run at that event. Complete stages stay in all cases,
   * and the state of the running stage is saved.
   *
   * @throws InvalidArgumentError when `only` names no stage
   * @throws ConfigError when the stage to run is complete already, or when the output of an earlier stage is missing
   * @throws DataError when an image or a weights file cannot be read or written
   * @throws NonFiniteLossError when a loss or a gradient is NaN or infinite and the config's `nonFinite` allows no more
   */
  events(options: RunOptions = {}): AsyncGenerator<RunEvent, RunSummary> {
    return mapEvents(this.#events(options), (event) => {
      notify(this, event);
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
    // Later stages may depend on the first stage that has to run, so they run as well.
    let loading = resume && !selected;
    const goesOn = selected ? !overwrite : resume;
    for (const [index, stage] of stages.entries()) {
      signal?.throwIfAborted();
      const record: StageRecord | undefined = loading ? await this.#store.record(stage) : undefined;
      loading = record !== undefined;
      if (record) yield { type: 'stage-end', stage: stage.name, record, loaded: true };
      else yield* this.#run(stage, { index, count: stages.length }, { resume: goesOn, signal });
    }
    const summary = await this.#store.summary();
    yield { type: 'run-end', summary };
    return summary;
  }

  async *#run(
    stage: Stage,
    place: { index: number; count: number },
    { resume, signal }: { resume: boolean; signal: AbortSignal | undefined },
  ): AsyncGenerator<RunEvent> {
    const start = performance.now();
    const { name, label, round, kind } = stage;
    const { state, warnings } = await this.#store.begin(stage, { resume });
    const seconds = () => (state?.seconds ?? 0) + (performance.now() - start) / 1000;
    try {
      const steps = stageSteps(stage, this.#config);
      const stepsBefore = Math.min(state?.step ?? 0, steps);
      yield { type: 'stage-start', stage: name, label, kind, round, ...place, steps, stepsBefore };
      for (const message of warnings) yield { type: 'warning', stage: name, message };
      const outcome = yield* runStage(stage, {
        config: this.#config,
        datasets: this.#datasets,
        store: this.#store,
        plan: this.plan,
        stage: (wanted) => this.plan.find((other) => other.name === wanted)!,
        checkpoints: {
          every: this.#config.checkpoint.every,
          state,
          save: (newest) => this.#store.save(stage, { ...newest, seconds: seconds() }),
        },
        group: this.#group,
        signal,
      });
      const record = { name, label, round, kind, seconds: seconds(), ...outcome };
      await this.#store.complete(stage, record);
      yield { type: 'stage-end', stage: name, record, loaded: false };
    } finally {
      // The stage may have failed before it took over the tensors.
      if (state) dispose(state.tensors);
    }
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
        `Stage ${stage.name} needs the output of ${input.name}, which ${this.#store.folder} does not have; run that stage first`,
      );
    }
  }
}

/**
 * Emits an event to its listeners. The parameter is untyped, because TypeScript does not see that an event belongs to
 * its type's name.
 */
function notify(listeners: EventEmitter, event: RunEvent): void {
  listeners.emit('event', event);
  listeners.emit(event.type, event);
}
