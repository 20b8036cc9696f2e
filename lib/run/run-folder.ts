import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, link, mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import YAML from 'yaml';
import { classNames } from '../config/classes.js';
import { MAX_CONFIG_BYTES } from '../config/load.js';
import type { Config } from '../config/schema.js';
import { CONFIG_VERSION } from '../config/version.js';
import type { RunEvent, RunSummary, StageRecord } from '../pipeline/events.js';
import { planStages, type Stage } from '../pipeline/plan.js';
import type { StageBeginning, StageState, StageStore } from '../pipeline/stage-store.js';
import { ConfigError, DataError } from '../support/errors.js';
import {
  isTemporary,
  removeTemporaryFiles,
  syncFolder,
  syncFolders,
  writeFileAtomically,
} from '../support/files.js';
import { isTable } from '../support/options.js';
import { packageVersion } from '../support/package.js';
import { newestCheckpoint, removeCheckpoints, saveCheckpoint } from './checkpoint-files.js';
import { type DataRecord, dataRecordFile, readDataRecord, writeDataRecord } from './data-record.js';
import { EventLog } from './event-log.js';
import { Lock } from './lock.js';
import {
  configFile,
  flat,
  hasResults,
  readJson,
  requireOwnFiles,
  resumeConfig,
  stageFolder,
  stageImages,
  stageWeights,
  tensorBoardFolder,
  toJson,
} from './run-files.js';
import { TensorBoardLog } from './tensorboard-log.js';

/** What a run writes in its folder beside its config, and all that overwriting a run removes. */
const ENTRIES = [
  'events.jsonl',
  'summary.json',
  'translated',
  'pseudo-labels',
  'pictures',
  'tensorboard',
  'report.html',
  'class-counts.json',
  'data.json',
];

/**
 * Keys that a resumed run may change: they decide where, how far and how observably it runs, and what it does about a
 * step that fails, not what it computes.
 */
const FREE_KEYS = [
  'output',
  'device',
  'logEvery',
  'sampleCount',
  'checkpoint',
  'nonFinite',
  'loop',
  'data.root',
  'data.maxPixels',
];

/** What `stage.json` holds from a stage's beginning on: the stage as planned, which tells whose outputs it rests on. */
interface StageFile {
  stage: Stage;
  /** null while the stage is not complete. */
  record: StageRecord | null;
}

/**
 * What opening a run folder does with the run that it holds: `create` refuses to touch one, `overwrite` removes it,
 * `resume` goes on with it and refuses when there is none, `continue` goes on with it or creates one. Going on takes a
 * config that is the same in all that decides results.
 */
export type RunFolderMode = 'create' | 'overwrite' | 'resume' | 'continue';

/**
 * A run on disk. While it is open, no other process can open it. Everything in it is written whole or not at all, except
 * for the last line of the event log.
 *
 *     config.yaml    the resolved config          events.jsonl   what happened, see EventLog
 *     summary.json   the complete stages          stages/STAGE/{weights.safetensors, stage.json, checkpoint-*}
 *     translated/round-K/NAME.png                 pseudo-labels/round-K-pseudo-labels-I/{NAME.png, manifest.json}
 *     pictures/STAGE.png                          tensorboard/STAGE/events.out.tfevents.*, see TensorBoardLog
 *     report.html                                 data/ (generated data sets only)
 *     stages/STAGE/best.{safetensors,json}        with segmentation.validation only
 *     class-counts.json                           pixels of each class in the source (rare class sampling only)
 *     data.json                                   what the data were when the run began, see DataRecord
 */
export class RunFolder implements StageStore {
  readonly folder: string;
  readonly #config: Config;
  readonly #plan: readonly Stage[];
  readonly #lock: Lock;
  readonly #log: EventLog;
  readonly #tensorBoard: TensorBoardLog;

  private constructor(config: Config, lock: Lock, log: EventLog) {
    this.folder = config.output;
    this.#config = config;
    this.#plan = planStages(config.loop);
    this.#lock = lock;
    this.#log = log;
    this.#tensorBoard = new TensorBoardLog((stage) => tensorBoardFolder(config.output, { name: stage }));
  }

  /**
   * Opens `config.output`, which is made if it does not exist.
   *
   * @param mode default `create`
   * @throws ConfigError when `mode` refuses what the folder holds, when that leads out of the folder (links), and when
   *   another process has the folder open
   * @throws DataError when the folder cannot be written
   */
  static async open(config: Config, mode: RunFolderMode = 'create'): Promise<RunFolder> {
    const folder = config.output;
    try {
      await mkdir(folder, { recursive: true });
    } catch (error) {
      throw new DataError(`${folder}: cannot be made: ${(error as Error).message}`, { cause: error });
    }
    await requireOwnFiles(folder);
    const lock = await Lock.take(path.join(folder, 'lock'));
    try {
      await prepare(config, mode);
      removeTemporaryFiles(folder);
      const log = await EventLog.open(path.join(folder, 'events.jsonl'), config.logEvery);
      const run = new RunFolder(config, lock, log);
      await run.#removeOldCheckpoints();
      return run;
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  weightsFile(stage: Stage): string {
    return stageWeights(this.folder, stage);
  }

  bestWeightsFile(stage: Stage): string {
    return path.join(this.#stageFolder(stage), 'best.safetensors');
  }

  imagesFolder(stage: Stage): string {
    return stageImages(this.folder, stage);
  }

  pictureFile(stage: Stage, part?: string): string {
    const suffix = part === undefined ? '' : `-${part}`;
    return path.join(this.folder, 'pictures', `${flat(stage.name)}${suffix}.png`);
  }

  get classCountsFile(): string {
    return path.join(this.folder, 'class-counts.json');
  }

  /** Keeps what the data are now. Where they are others than before, what was derived from them is removed. */
  keepData(record: DataRecord, { changed }: { changed: boolean }): Promise<void> {
    return this.#onDisk(async () => {
      if (changed) await rm(this.classCountsFile, { force: true });
      await writeDataRecord(this.folder, record);
    });
  }

  async record(stage: Stage): Promise<StageRecord | undefined> {
    return (await this.#begun(stage))?.record ?? undefined;
  }

  begin(stage: Stage, { resume }: { resume: boolean }): Promise<StageBeginning> {
    return this.#onDisk(async () => {
      await mkdir(path.join(this.folder, 'stages'), { recursive: true });
      await this.#invalidateLater(stage);
      const cutOff = resume && (await this.#begun(stage))?.record === null;
      if (!cutOff) await this.#clear(stage);
      await this.#writeSummary();
      return newestCheckpoint(this.#stageFolder(stage));
    });
  }

  save(stage: Stage, state: StageState): Promise<void> {
    return saveCheckpoint(this.#stageFolder(stage), state, this.#config.checkpoint.keep);
  }

  complete(stage: Stage, record: StageRecord): Promise<void> {
    return this.#onDisk(async () => {
      // Were the power cut now, a complete stage must not lack an output.
      for (const folder of this.#outputFolders(stage)) await syncFolders(folder);
      await this.#writeStageFile({ stage, record });
      await removeCheckpoints(this.#stageFolder(stage));
      await this.#writeSummary();
    });
  }

  /**
   * Takes a stage over from the run in another folder, where it is complete, instead of running it: to be called only where it
   * would come out the same, see `stageFingerprints`. Files that are never written again are shared with that run (hard links)
   * where the file system can; either run may be removed.
   */
  async adopt(stage: Stage, other: string): Promise<StageRecord> {
    await this.begin(stage, { resume: false });
    return this.#onDisk(async () => {
      const saved = await readJson<StageFile>(path.join(stageFolder(other, stage), 'stage.json'));
      if (!saved?.record) throw new DataError(`${other}: expected stage ${stage.name} to be complete`);
      for (const folder of [...this.#outputFolders(stage), tensorBoardFolder(this.folder, stage)]) {
        const place = path.relative(this.folder, folder);
        await linkFiles(path.join(other, place), folder, (name) => name !== 'stage.json');
      }
      const pictures = [undefined, 'source', 'target'].map((part) =>
        path.basename(this.pictureFile(stage, part)),
      );
      await linkFiles(path.join(other, 'pictures'), path.join(this.folder, 'pictures'), (name) =>
        pictures.includes(name),
      );
      const record = await readDataRecord(other);
      if (record && !existsSync(dataRecordFile(this.folder))) await writeDataRecord(this.folder, record);
      await this.#log.copy(path.join(other, 'events.jsonl'), stage.name);
      await this.complete(stage, saved.record);
      return saved.record;
    });
  }

  async summary(): Promise<RunSummary> {
    const records = await Promise.all(this.#plan.map((stage) => this.record(stage)));
    const stages = records.filter((record) => record !== undefined);
    const { seed, device } = this.#config;
    const complete = stages.length === this.#plan.length;
    return { version: packageVersion(), seed, device, classes: classNames(this.#config), complete, stages };
  }

  /** Appends to the event log, and what TensorBoard can show to its event files. */
  async log(event: RunEvent): Promise<void> {
    const written = await this.#log.write(event);
    if (written) await this.#tensorBoard.write(written);
  }

  /** Closes the logs and lets other processes open the folder. To be called once, when nothing writes in it any more. */
  async close(): Promise<void> {
    try {
      await this.#tensorBoard.close();
      await this.#log.close();
    } finally {
      await this.#lock.release();
    }
  }

  async #writeSummary(): Promise<void> {
    await writeFileAtomically(path.join(this.folder, 'summary.json'), toJson(await this.summary()));
  }

  /** Those of stages that were cut off between their last file and its removal. */
  async #removeOldCheckpoints(): Promise<void> {
    for (const stage of this.#plan) {
      if (await this.record(stage)) await removeCheckpoints(this.#stageFolder(stage));
    }
  }

  /** What `stage.json` says, where the stage as it is planned now has begun. */
  async #begun(stage: Stage): Promise<StageFile | undefined> {
    const saved = await readJson<StageFile>(this.#stageFile(stage));
    return saved && isDeepStrictEqual(saved.stage, stage) ? saved : undefined;
  }

  async #writeStageFile(content: StageFile): Promise<void> {
    await writeFileAtomically(this.#stageFile(content.stage), toJson(content));
    await syncFolder(this.#stageFolder(content.stage));
  }

  /**
   * Makes every stage that may rest on this one count as not begun, those that today's plan does not have included. The
   * last comes first: wherever this is cut off, no stage counts that rests on one that does not.
   */
  async #invalidateLater(stage: Stage): Promise<void> {
    const order = this.#plan.map(({ name }) => flat(name));
    const earlier = order.slice(0, order.indexOf(flat(stage.name)) + 1);
    const folders = (await readdir(path.join(this.folder, 'stages'))).filter(
      (name) => !earlier.includes(name),
    );
    const place = (name: string) => (order.includes(name) ? order.indexOf(name) : order.length);
    for (const name of folders.sort((one, other) => place(other) - place(one))) {
      await rm(path.join(this.folder, 'stages', name, 'stage.json'), { force: true });
    }
  }

  /** Removes what earlier attempts at a stage left, and marks it as begun. */
  async #clear(stage: Stage): Promise<void> {
    await rm(this.#stageFile(stage), { force: true });
    for (const folder of this.#outputFolders(stage)) {
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true });
    }
    await rm(tensorBoardFolder(this.folder, stage), { recursive: true, force: true });
    await mkdir(path.dirname(this.pictureFile(stage)), { recursive: true });
    await this.#writeStageFile({ stage, record: null });
  }

  #outputFolders(stage: Stage): string[] {
    const isOfImages = stage.kind === 'translate' || stage.kind === 'pseudo-labels';
    return [this.#stageFolder(stage), ...(isOfImages ? [this.imagesFolder(stage)] : [])];
  }

  /** Does work in the run folder; what the file system refuses becomes an error that says where. */
  async #onDisk<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof DataError) throw error;
      throw new DataError(`${this.folder}: cannot be written: ${(error as Error).message}`, { cause: error });
    }
  }

  #stageFolder(stage: Stage): string {
    return stageFolder(this.folder, stage);
  }

  #stageFile(stage: Stage): string {
    return path.join(this.#stageFolder(stage), 'stage.json');
  }
}

/** Links the files of a folder and its subfolders into another, which is made; what cannot be linked is copied. No folder: no files. */
async function linkFiles(from: string, to: string, isWanted: (name: string) => boolean): Promise<void> {
  if (!existsSync(from)) return;
  await mkdir(to, { recursive: true });
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [path.join(from, entry.name), path.join(to, entry.name)];
    if (entry.isDirectory()) await linkFiles(source, target, isWanted);
    if (!entry.isFile() || isTemporary(entry.name) || !isWanted(entry.name)) continue;
    await rm(target, { force: true });
    await link(source, target).catch(() => copyFile(source, target));
  }
}

/** Whether `config.output` holds a run that `resume` would go on with: one of the same config. */
export async function holdsRunOf(config: Config): Promise<boolean> {
  if (!existsSync(configFile(config.output))) return false;
  return firstDifference(await resumeConfig(config.output), config) === undefined;
}

/**
 * Refuses to continue a run with another config; where `config.output` holds no run, anything goes.
 *
 * @throws ConfigError naming the first key that differs
 */
async function requireSameConfig(config: Config): Promise<void> {
  if (existsSync(configFile(config.output))) refuseOtherConfig(await resumeConfig(config.output), config);
}

/**
 * What the data were that the results in `config.output` were made from; null: the run kept no record of them; undefined:
 * there are no results, so that other data lose nothing.
 *
 * @throws ConfigError when the run there is of another config
 * @throws DataError when the record cannot be read
 */
export async function recordedData(config: Config): Promise<DataRecord | null | undefined> {
  await requireSameConfig(config);
  if (!(await hasResults(config.output))) return undefined;
  return (await readDataRecord(config.output)) ?? null;
}

async function prepare(config: Config, mode: RunFolderMode): Promise<void> {
  const folder = config.output;
  const hasConfig = existsSync(configFile(folder));
  // A run that failed before its first stage, for want of its data perhaps, has nothing to lose.
  const hasStages = existsSync(path.join(folder, 'stages'));
  if (mode === 'resume' && !hasConfig) {
    throw new ConfigError(`${folder}: holds no run to resume (no config.yaml)`);
  }
  if (hasConfig && (mode === 'resume' || mode === 'continue')) {
    await requireSameConfig(config);
  } else if (hasStages && mode !== 'overwrite') {
    throw new ConfigError(
      `${folder}: holds a run already; resume it, choose another output, or overwrite it`,
    );
  } else {
    if (!hasConfig) await refuseStrangeFolder(folder);
    // All stages are gone at once, so that no moment leaves a part of a run that could be taken for the whole.
    const removed = path.join(folder, `stages.${randomUUID()}.tmp`);
    if (hasStages) await rename(path.join(folder, 'stages'), removed);
    for (const entry of ENTRIES) await rm(path.join(folder, entry), { recursive: true, force: true });
  }
  const header = '# The complete configuration of this run. Paths in data are relative to data.root.\n';
  const content = header + YAML.stringify({ version: CONFIG_VERSION, ...config });
  if (Buffer.byteLength(content) > MAX_CONFIG_BYTES) {
    throw new ConfigError(
      `${configFile(folder)}: would have ${Buffer.byteLength(content)} bytes, expected at most ${MAX_CONFIG_BYTES}`,
    );
  }
  await writeFileAtomically(configFile(folder), content);
}

/** A new run clears what an earlier one left, `pictures/` among it, so it must not be let loose on somebody's own folder. */
async function refuseStrangeFolder(folder: string): Promise<void> {
  // Data may be there already: they are made, or put there, before a run.
  const others = (await readdir(folder)).filter(
    (name) => name !== 'data' && !name.startsWith('lock') && !isTemporary(name),
  );
  if (others.length === 0) return;
  throw new ConfigError(
    `${folder}: holds other things than a run (${others.slice(0, 3).join(', ')}); choose an empty or new folder`,
  );
}

function refuseOtherConfig(saved: Config, wanted: Config): void {
  const difference = firstDifference(saved, wanted);
  if (!difference) return;
  const [key, was, is] = difference;
  throw new ConfigError(
    `${configFile(wanted.output)}: ${key} is ${was} in the run to resume but ${is} now; ` +
      'resume with the config of the run, or choose another output',
  );
}

function firstDifference(one: unknown, other: unknown, keys: string[] = []): string[] | undefined {
  const key = keys.join('.');
  if (FREE_KEYS.includes(key) || isDeepStrictEqual(one, other)) return undefined;
  if (!isTable(one) || !isTable(other)) return [key, JSON.stringify(one), JSON.stringify(other)];
  for (const inner of new Set([...Object.keys(one), ...Object.keys(other)])) {
    const difference = firstDifference(one[inner], other[inner], [...keys, inner]);
    if (difference) return difference;
  }
  return undefined;
}
