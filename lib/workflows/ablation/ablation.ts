import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Config } from '../../config/schema.js';
import { checkRun } from '../../pipeline/checks.js';
import { openDatasets } from '../../pipeline/datasets.js';
import { stageFingerprints } from '../../pipeline/dependencies.js';
import type { StageRecord } from '../../pipeline/events.js';
import { planStages, type Stage } from '../../pipeline/plan.js';
import { writeReport } from '../../report/write-report.js';
import {
  changedData,
  changedDataWarning,
  type DataRecord,
  dataDifferences,
  recordData,
} from '../../run/data-record.js';
import { Lock } from '../../run/lock.js';
import { RunFolder, recordedData } from '../../run/run-folder.js';
import { ConfigError } from '../../support/errors.js';
import { fromCallback } from '../../support/generators.js';
import type { Ablation, AblationVariant } from './ablation-config.js';

/** Stage of one of the runs. */
export interface StageOfRun {
  variant: string;
  seed: number;
  /** Run folder, which holds the run's config. */
  folder: string;
  stage: Stage;
}

export type AblationEvent =
  /**
   * Start of the ablation. `stages` counts the stages of all runs. `different` counts those that differ and need
   * training. `done` counts the different stages that are already complete.
   */
  | { type: 'ablation-start'; runs: number; stages: number; different: number; done: number }
  | ({ type: 'stage-start' } & StageOfRun)
  /** End of a stage. `from` is the run from which an equal stage was taken over. null: the stage ran. */
  | ({ type: 'stage-end'; record: StageRecord; from: string | null } & StageOfRun)
  /** Failure of a stage, which ends its run. */
  | ({ type: 'failure'; message: string } & StageOfRun)
  /** Something that does not stop the run in a folder but that its owner should know. */
  | { type: 'warning'; folder: string; message: string }
  | { type: 'run-end'; variant: string; seed: number; folder: string };

export interface AblationOptions {
  /** Number of stages that run at the same time, ≥ 1. Default 1. */
  jobs?: number;
  /** Names of the variants to run. Default: all. Complete stages of the other variants are taken over. */
  variants?: readonly string[] | undefined;
  /** Resumes runs although their data have changed since they began, see `TrainOptions`. Default false. */
  acceptChangedData?: boolean;
  /** Runs one stage in its run folder. No other process has the folder open meanwhile. */
  runStage: (stage: StageOfRun, signal: AbortSignal) => Promise<StageRecord>;
  signal?: AbortSignal | undefined;
}

/** Plan of a config's stages. */
interface Planned {
  config: Config;
  plan: readonly Stage[];
  /** Fingerprints by the names of the stages. */
  fingerprints: Map<string, string>;
}

/** Run and its progress. */
interface Run extends Planned {
  variant: string;
  seed: number;
  /** Number of complete stages. */
  done: number;
  /** true: no stage of the run may start, because one is running or has failed. */
  busy: boolean;
}

/**
 * Runs every variant with every seed. Each is an ordinary run in `OUTPUT/runs/VARIANT/seed-N`, and interrupted runs
 * continue. A stage that several runs share runs in the first of them. The others take it over. If a run fails, the
 * others continue.
 *
 * @returns the failures
 * @throws ConfigError when a run folder holds a run of another config, or when another process runs the same ablation
 * @throws DataError when a data set cannot be opened, or a run folder cannot be written
 */
export function runAblation(
  ablation: Ablation,
  options: AblationOptions,
): AsyncGenerator<AblationEvent, Extract<AblationEvent, { type: 'failure' }>[]> {
  return fromCallback((emit, signal) => new Scheduler(ablation, options, emit, signal).run(), options.signal);
}

class Scheduler {
  readonly #ablation: Ablation;
  readonly #jobs: number;
  readonly #variants: readonly AblationVariant[];
  readonly #runStage: AblationOptions['runStage'];
  readonly #acceptChangedData: boolean;
  readonly #emit: (event: AblationEvent) => void;
  readonly #signal: AbortSignal;
  readonly #failures: Extract<AblationEvent, { type: 'failure' }>[] = [];
  /** Run folders that hold the complete stage, by fingerprint. */
  readonly #complete = new Map<string, string>();
  /** Running stages, by fingerprint. */
  readonly #running = new Map<string, Promise<void>>();
  /** Reasons of failed stages, by fingerprint. */
  readonly #failed = new Map<string, string>();

  constructor(
    ablation: Ablation,
    { jobs = 1, variants, acceptChangedData = false, runStage }: AblationOptions,
    emit: (event: AblationEvent) => void,
    signal: AbortSignal,
  ) {
    this.#ablation = ablation;
    this.#jobs = jobs;
    this.#variants = variants
      ? ablation.variants.filter(({ name }) => variants.includes(name))
      : ablation.variants;
    this.#runStage = runStage;
    this.#acceptChangedData = acceptChangedData;
    this.#emit = emit;
    this.#signal = signal;
  }

  async run() {
    const lock = await Lock.take(path.join(this.#ablation.output, 'lock'));
    try {
      await this.#checkData();
      await this.#noteOthers();
      return await this.#runAll(await this.#openRuns());
    } finally {
      await lock.release();
    }
  }

  async #runAll(runs: readonly Run[]) {
    this.#emitStart(runs);
    try {
      for (;;) {
        this.#signal.throwIfAborted();
        for (const run of runs) await this.#advance(run);
        if (this.#running.size === 0) break;
        await Promise.race(this.#running.values());
      }
    } finally {
      await Promise.allSettled(this.#running.values());
    }
    return this.#failures;
  }

  /** Checks the data sets before any training. Runs generate the embedded ones themselves. */
  async #checkData(): Promise<void> {
    for (const { configs } of this.#variants) {
      const [first] = configs;
      if (first!.data.embedded) continue;
      const datasets = await openDatasets(first!);
      await checkRun(first!, datasets);
      let record: DataRecord | undefined;
      for (const config of configs) {
        const known = await recordedData(config);
        if (!known) continue;
        // The seed changes no data: they are looked at once.
        record ??= await recordData(datasets, { known, signal: this.#signal });
        const differences = dataDifferences(known, record);
        if (differences.length > 0) await this.#acceptData(config, record, differences);
      }
    }
  }

  async #acceptData(config: Config, record: DataRecord, differences: readonly string[]): Promise<void> {
    if (!this.#acceptChangedData) throw changedData(config.output, differences);
    const message = changedDataWarning(differences);
    await withFolder(config, async (folder) => {
      await folder.keepData(record, { changed: true });
      await folder.log({ type: 'warning', stage: 'data', message });
    });
    await this.#report(config.output);
    this.#emit({ type: 'warning', folder: config.output, message });
  }

  /** Opens the runs. All variants with the first seed come first, so that a first table is ready early. */
  async #openRuns(): Promise<Run[]> {
    const runs: Run[] = [];
    for (const [index, seed] of this.#ablation.seeds.entries()) {
      for (const { name, configs } of this.#variants) {
        const planned = plan(configs[index]!);
        const done = await completeStages(planned);
        this.#noteComplete(planned, done);
        runs.push({ ...planned, variant: name, seed, done, busy: false });
      }
    }
    return runs;
  }

  /** Notes the complete stages of variants that do not run now. */
  async #noteOthers(): Promise<void> {
    for (const { name, configs } of this.#ablation.variants) {
      if (this.#variants.some((variant) => variant.name === name)) continue;
      for (const config of configs) {
        if (!existsSync(config.output)) continue;
        const planned = plan(config);
        const done = await completeStages(planned).catch((error: unknown) => {
          // The folder holds a run of another config or is in use. That is an error only for variants that run now.
          if (error instanceof ConfigError) return 0;
          throw error;
        });
        this.#noteComplete(planned, done);
      }
    }
  }

  #noteComplete({ config, plan, fingerprints }: Planned, done: number) {
    for (const { name } of plan.slice(0, done)) this.#complete.set(fingerprints.get(name)!, config.output);
  }

  #emitStart(runs: readonly Run[]): void {
    const stages = runs.reduce((sum, { plan }) => sum + plan.length, 0);
    const different = new Set(runs.flatMap(({ fingerprints }) => [...fingerprints.values()]));
    const done = [...different].filter((fingerprint) => this.#complete.has(fingerprint)).length;
    this.#emit({ type: 'ablation-start', runs: runs.length, stages, different: different.size, done });
  }

  /**
   * Takes over complete stages of other runs. Then starts the run's next stage if a job is free and no other run has
   * started it.
   */
  async #advance(run: Run): Promise<void> {
    while (!run.busy && run.done < run.plan.length) {
      this.#signal.throwIfAborted();
      const stage = run.plan[run.done]!;
      const fingerprint = run.fingerprints.get(stage.name)!;
      const from = this.#complete.get(fingerprint);
      const reason = this.#failed.get(fingerprint);
      if (from !== undefined) await this.#adopt(run, stage, from);
      else if (reason !== undefined) this.#fail(run, stage, reason);
      else if (this.#running.has(fingerprint) || this.#running.size >= this.#jobs) return;
      else this.#start(run, stage, fingerprint);
    }
  }

  async #adopt(run: Run, stage: Stage, from: string): Promise<void> {
    const record = await withFolder(run.config, (folder) => folder.adopt(stage, from));
    this.#emit({ type: 'stage-end', ...place(run, stage), record, from });
    await this.#count(run);
  }

  #start(run: Run, stage: Stage, fingerprint: string): void {
    run.busy = true;
    this.#emit({ type: 'stage-start', ...place(run, stage) });
    const onSuccess = async (record: StageRecord) => {
      this.#complete.set(fingerprint, run.config.output);
      run.busy = false;
      this.#emit({ type: 'stage-end', ...place(run, stage), record, from: null });
      await this.#count(run);
    };
    const onFailure = ({ message }: Error) => {
      if (this.#signal.aborted) return;
      this.#failed.set(fingerprint, message);
      this.#fail(run, stage, message);
    };
    const work = this.#runStage(place(run, stage), this.#signal).then(onSuccess, onFailure);
    this.#running.set(
      fingerprint,
      work.finally(() => this.#running.delete(fingerprint)),
    );
  }

  async #count(run: Run): Promise<void> {
    run.done++;
    if (run.done < run.plan.length) return;
    const { variant, seed, config } = run;
    await this.#report(config.output);
    this.#emit({ type: 'run-end', variant, seed, folder: config.output });
  }

  /** The runs go on whatever becomes of a report. */
  async #report(folder: string): Promise<void> {
    try {
      await writeReport(folder);
    } catch (error) {
      const message = `the report was not written: ${(error as Error).message}`;
      this.#emit({ type: 'warning', folder, message });
    }
  }

  #fail(run: Run, stage: Stage, message: string): void {
    run.busy = true;
    const failure = { type: 'failure', ...place(run, stage), message } as const;
    this.#failures.push(failure);
    this.#emit(failure);
  }
}

function plan(config: Config): Planned {
  const stages = planStages(config.loop);
  return { config, plan: stages, fingerprints: stageFingerprints(config, stages) };
}

function place({ variant, seed, config }: Run, stage: Stage): StageOfRun {
  return { variant, seed, folder: config.output, stage };
}

/** Counts the complete stages before the first incomplete one. */
async function completeStages({ config, plan }: Planned): Promise<number> {
  const records = await withFolder(config, (folder) =>
    Promise.all(plan.map((stage) => folder.record(stage))),
  );
  const missing = records.indexOf(undefined);
  return missing === -1 ? plan.length : missing;
}

async function withFolder<T>(config: Config, work: (folder: RunFolder) => Promise<T>): Promise<T> {
  const folder = await RunFolder.open(config, 'continue');
  try {
    return await work(folder);
  } finally {
    await folder.close();
  }
}
