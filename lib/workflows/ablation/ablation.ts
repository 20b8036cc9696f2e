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

/** A stage of one of the runs. */
export interface StageOfRun {
  variant: string;
  seed: number;
  /** The run folder, which holds the run's config. */
  folder: string;
  stage: Stage;
}

export type AblationEvent =
  /** `stages` are to be complete in the end, of which `different` have to be trained by anyone, `done` of these before now. */
  | { type: 'ablation-start'; runs: number; stages: number; different: number; done: number }
  | ({ type: 'stage-start' } & StageOfRun)
  /** `from` is the run that a stage was taken over from, as it would have come out the same; null: it was run. */
  | ({ type: 'stage-end'; record: StageRecord; from: string | null } & StageOfRun)
  /** The stage failed, and with it its run. */
  | ({ type: 'failure'; message: string } & StageOfRun)
  /** Something that does not stop the run in a folder but that its owner should know. */
  | { type: 'warning'; folder: string; message: string }
  | { type: 'run-end'; variant: string; seed: number; folder: string };

export interface AblationOptions {
  /** Stages that run at the same time, ≥ 1; default 1. */
  jobs?: number;
  /** The names of those variants that are run, where that is not all of them; what others have complete is taken over. */
  variants?: readonly string[] | undefined;
  /** Continue runs although their data are not those that they began with; see `TrainOptions`. Default false. */
  acceptChangedData?: boolean;
  /** Runs one stage in its run folder, which no other process has open then. */
  runStage: (stage: StageOfRun, signal: AbortSignal) => Promise<StageRecord>;
  signal?: AbortSignal | undefined;
}

/** What a config comes to. */
interface Planned {
  config: Config;
  plan: readonly Stage[];
  /** By the stage's name. */
  fingerprints: Map<string, string>;
}

/** A run and how far it has come. */
interface Run extends Planned {
  variant: string;
  seed: number;
  /** Number of stages that are complete. */
  done: number;
  /** What it waits for or does is not to be begun again: a stage of it is running, or it has failed. */
  busy: boolean;
}

/**
 * Runs every variant with every seed, each as an ordinary run in `OUTPUT/runs/VARIANT/seed-N`, and what was begun before from
 * where it stands. A stage that several runs have in common is run in the first of them and taken over by the others. A run
 * that fails is left, and the others go on.
 *
 * @returns the failures
 * @throws ConfigError when a run folder holds a run of another config, or another process is at the same ablation
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
  /** By fingerprint, the run folder that has the stage complete. */
  readonly #complete = new Map<string, string>();
  /** By fingerprint, the work on the stages that are running. */
  readonly #running = new Map<string, Promise<void>>();
  /** By fingerprint, why a stage cannot be had. */
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
    this.#tellStart(runs);
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

  /** Finds what is wrong with a data set before hours of training on others; generated ones are made by their runs. */
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
    await writeReport(config.output);
    this.#emit({ type: 'warning', folder: config.output, message });
  }

  /** All variants with the first seed come first, so that a table is there early. */
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

  /** What variants that are not run now have from before. */
  async #noteOthers(): Promise<void> {
    for (const { name, configs } of this.#ablation.variants) {
      if (this.#variants.some((variant) => variant.name === name)) continue;
      for (const config of configs) {
        if (!existsSync(config.output)) continue;
        const planned = plan(config);
        const done = await completeStages(planned).catch((error: unknown) => {
          // Of another config, or somebody is at it: a reason to complain only where the variant is to be run.
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

  #tellStart(runs: readonly Run[]): void {
    const stages = runs.reduce((sum, { plan }) => sum + plan.length, 0);
    const different = new Set(runs.flatMap(({ fingerprints }) => [...fingerprints.values()]));
    const done = [...different].filter((fingerprint) => this.#complete.has(fingerprint)).length;
    this.#emit({ type: 'ablation-start', runs: runs.length, stages, different: different.size, done });
  }

  /** Takes over what other runs have, then starts the run's next stage if there is room and nobody else is at it. */
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
    await writeReport(config.output);
    this.#emit({ type: 'run-end', variant, seed, folder: config.output });
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

/** How many of the first stages are complete. */
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
