import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, link, mkdir, readdir, rename, rm, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import YAML from 'yaml';
import { classNames } from '../config/classes.js';
import { MAX_CONFIG_BYTES } from '../config/load.js';
import type { Config } from '../config/schema.js';
import { CONFIG_VERSION } from '../config/version.js';
import type { RunEvent, RunSummary, StageRecord } from '../pipeline/events.js';
import { planStages, type Stage } from '../pipeline/plan.js';
import { rankStages } from '../pipeline/scores.js';
import type { StageBeginning, StageState, StageStore } from '../pipeline/stage-store.js';
import { ConfigError, DataError } from '../support/errors.js';
import {
  isTemporary,
  readRegularFile,
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
  entriesOf,
  flat,
  hasResults,
  RunPaths,
  readJson,
  requireOwnFiles,
  resumeConfig,
  stageFolder,
  tensorBoardFolder,
  toJson,
} from './run-files.js';
import { TensorBoardLog } from './tensorboard-log.js';

const HEADER = '# The complete configuration of this run. Paths in data are relative to data.root.\n';

/** Entries that a run writes beside its config and its stages. */
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

/** Files that a run writes in subfolders. STAGE is a stage's name, as `flat` writes it. */
const FILES = new RegExp(
  `^(${[
    'stages/STAGE/((weights|best|teacher|checkpoint-[^/]+)\\.safetensors|(stage|best)\\.json)',
    'translated/round-\\d+/.+\\.png',
    'pseudo-labels/STAGE/(.+\\.png|manifest\\.json)',
    'pictures/STAGE\\.png',
    'tensorboard/STAGE/events\\.out\\.tfevents\\.[^/]+',
  ].join('|')})$`.replaceAll('STAGE', '(source-only|round-\\d+-[^/]+)'),
);
const FOLDERS = ['stages', 'translated', 'pseudo-labels', 'pictures', 'tensorboard'];

/**
 * Keys that a resumed run may change. They change no result. They decide where and how far the run goes, what it logs,
 * and how it handles a failing step.
 */
const FREE_KEYS = [
  'output',
  'device',
  'logEvery',
  'sampleCount',
  'scoreCount',
  'checkpoint',
  'nonFinite',
  'loop',
  'data.root',
  'data.maxPixels',
];

/**
 * Content of `stage.json`, which exists from the beginning of a stage. The planned stage names the stages whose outputs
 * it uses.
 */
interface StageFile {
  stage: Stage;
  /** null while the stage is not complete. */
  record: StageRecord | null;
}

/**
 * Handling of a run that the folder already holds. `create` refuses it, and `overwrite` removes it. `resume` continues
 * it and fails if there is none. `continue` continues it or creates one. Continuing needs a config with the same values
 * for all keys that change results.
 */
export type RunFolderMode = 'create' | 'overwrite' | 'resume' | 'continue';

/**
 * Run on disk. While it is open, no other process can open it. Files are written atomically, except for the last line
 * of the event log.
 *
 *     config.yaml    the resolved config          events.jsonl   the events, see EventLog
 *     summary.json   the complete stages          stages/STAGE/{weights.safetensors, stage.json, checkpoint-*}
 *     translated/round-K/NAME.png                 pseudo-labels/round-K-pseudo-labels-I/{NAME.png, manifest.json}
 *     pictures/STAGE.png                          tensorboard/STAGE/events.out.tfevents.*, see TensorBoardLog
 *     report.html                                 data/ (generated data sets only)
 *     stages/STAGE/best.{safetensors,json}        with segmentation.validation only
 *     stages/STAGE/teacher.safetensors            with segmentation.teacher only
 *     class-counts.json                           pixels of each class in the source (only if options need them)
 *     data.json                                   data of the run when it began, see DataRecord
 */
export class RunFolder extends RunPaths implements StageStore {
  readonly #config: Config;
  readonly #plan: readonly Stage[];
  readonly #lock: Lock;
  readonly #log: EventLog;
  readonly #tensorBoard: TensorBoardLog;

  private constructor(config: Config, lock: Lock, log: EventLog) {
    super(config.output);
    this.#config = config;
    this.#plan = planStages(config.loop);
    this.#lock = lock;
    this.#log = log;
    this.#tensorBoard = new TensorBoardLog((stage) => tensorBoardFolder(config.output, { name: stage }));
  }

  /**
   * Opens `config.output`. Creates the folder if it does not exist.
   *
   * @param mode default `create`
   * @throws ConfigError when `mode` refuses what the folder holds, when a link leads out of the folder, or when another
   *   process has the folder open
   * @throws DataError when the folder cannot be written
   */
  static async open(config: Config, mode: RunFolderMode = 'create'): Promise<RunFolder> {
    const folder = config.output;
    await requireOwnFiles(folder);
    // Checked before anything is changed, and again under the lock.
    await refuseFolder(config, mode);
    try {
      await mkdir(folder, { recursive: true });
    } catch (error) {
      throw new DataError(`${folder}: cannot be created: ${(error as Error).message}`, { cause: error });
    }
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

  /** Keeps the record of the data. If they have changed, removes what was derived from them. */
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
      const beginning = await newestCheckpoint(this.#stageFolder(stage));
      // Labels without a state come from an attempt whose thresholds are lost.
      if (stage.kind === 'pseudo-labels' && !beginning.state) {
        await removeOwnFiles(this.folder, this.imagesFolder(stage));
      }
      return beginning;
    });
  }

  save(stage: Stage, state: StageState): Promise<void> {
    return saveCheckpoint(this.#stageFolder(stage), state, this.#config.checkpoint.keep);
  }

  complete(stage: Stage, record: StageRecord): Promise<void> {
    return this.#onDisk(async () => {
      // A complete stage must not lack an output after a power cut.
      for (const folder of this.#outputFolders(stage)) await syncFolders(folder);
      await this.#writeStageFile({ stage, record });
      await removeCheckpoints(this.#stageFolder(stage));
      await this.#writeSummary();
    });
  }

  /**
   * Takes over a complete stage of another run folder instead of running it. Call it only for stages with equal
   * fingerprints, see `stageFingerprints`. Files that are never written again become hard links if the file system
   * supports them. Either run may be removed later.
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
    const classes = classNames(this.#config);
    return {
      version: packageVersion(),
      ...{ seed, device, classes, complete, stages },
      ranking: rankStages(stages),
    };
  }

  /** Appends an event to the event log, and to TensorBoard's event files if TensorBoard can show it. */
  async log(event: RunEvent): Promise<void> {
    const written = await this.#log.write(event);
    if (written) await this.#tensorBoard.write(written);
  }

  /** Name of a file that exists as long as this process has the folder open. */
  get mark(): string {
    return this.#lock.file;
  }

  /** Closes the logs and unlocks the folder. Call it once, when nothing writes in the folder any more. */
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

  /** Removes checkpoints of complete stages. They remain if the process ended before it removed them. */
  async #removeOldCheckpoints(): Promise<void> {
    for (const stage of this.#plan) {
      if (await this.record(stage)) await removeCheckpoints(this.#stageFolder(stage));
    }
  }

  /** Reads `stage.json`. undefined: the stage as planned now has not begun. */
  async #begun(stage: Stage): Promise<StageFile | undefined> {
    const saved = await readJson<StageFile>(this.#stageFile(stage));
    return saved && isDeepStrictEqual(saved.stage, stage) ? saved : undefined;
  }

  async #writeStageFile(content: StageFile): Promise<void> {
    await writeFileAtomically(this.#stageFile(content.stage), toJson(content));
    await syncFolder(this.#stageFolder(content.stage));
  }

  /**
   * Marks every stage that may depend on this one as not begun, including stages that the current plan does not have.
   * Starts with the last one. So after an interruption at any point, no remaining stage depends on a removed one.
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

  /** Removes the remains of earlier attempts at a stage and marks the stage as begun. */
  async #clear(stage: Stage): Promise<void> {
    await rm(this.#stageFile(stage), { force: true });
    for (const folder of [...this.#outputFolders(stage), tensorBoardFolder(this.folder, stage)]) {
      await removeOwnFiles(this.folder, folder);
    }
    for (const folder of this.#outputFolders(stage)) await mkdir(folder, { recursive: true });
    await mkdir(path.dirname(this.pictureFile(stage)), { recursive: true });
    await this.#writeStageFile({ stage, record: null });
  }

  #outputFolders(stage: Stage): string[] {
    const isOfImages = stage.kind === 'translate' || stage.kind === 'pseudo-labels';
    return [this.#stageFolder(stage), ...(isOfImages ? [this.imagesFolder(stage)] : [])];
  }

  /** Runs work in the run folder. Converts file system errors to a `DataError` that names the folder. */
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

/**
 * Links the files of a folder and its subfolders into another folder that it creates. Copies files that cannot be linked.
 * Does nothing if the folder does not exist.
 */
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

/** Returns true if `config.output` holds a run of the same config, which `resume` would continue. */
export async function holdsRunOf(config: Config): Promise<boolean> {
  if (!existsSync(configFile(config.output))) return false;
  return firstDifference(await resumeConfig(config.output), config) === undefined;
}

/** Tells whether a mode resumes the run in the folder. */
function goesOn(folder: string, mode: RunFolderMode): boolean {
  return (mode === 'resume' || mode === 'continue') && existsSync(configFile(folder));
}

/**
 * Returns the record of the data that the results in `config.output` were made from. null: the run kept no record.
 * undefined: there are no results, so that other data lose nothing.
 *
 * @throws ConfigError when the run there has another config
 * @throws DataError when the record cannot be read
 */
export async function recordedData(config: Config): Promise<DataRecord | null | undefined> {
  const { output } = config;
  if (existsSync(configFile(output))) refuseOtherConfig(await resumeConfig(output), config);
  if (!(await hasResults(output))) return undefined;
  return (await readDataRecord(output)) ?? null;
}

/** Refuses a folder that does not fit the mode. Changes nothing. */
async function refuseFolder(config: Config, mode: RunFolderMode): Promise<void> {
  const folder = config.output;
  if (goesOn(folder, mode)) return refuseOtherConfig(await resumeConfig(folder), config);
  if (mode === 'resume')
    throw new ConfigError(`${folder}: expected a run to resume but found no config.yaml`);
  if (!(await isRun(folder))) return refuseStrangeFolder(folder);
  // A run that failed before its first stage has nothing to lose. Its data may have been missing.
  if (mode !== 'overwrite' && existsSync(path.join(folder, 'stages'))) {
    throw new ConfigError(
      `${folder}: holds a run already; resume it, choose another output, or overwrite it`,
    );
  }
  for (const name of FOLDERS) {
    for (const file of await filesBelow(path.join(folder, name))) {
      if (isOwn(folder, file)) continue;
      throw new ConfigError(
        `${file}: was not written by the run; move it away before the run is overwritten`,
      );
    }
  }
}

/** Tells whether a folder holds a config that a run wrote. A user's own `config.yaml` does not make a run folder. */
async function isRun(folder: string): Promise<boolean> {
  if (!existsSync(configFile(folder))) return false;
  return String(await readRegularFile(configFile(folder), MAX_CONFIG_BYTES)).startsWith(HEADER);
}

async function prepare(config: Config, mode: RunFolderMode): Promise<void> {
  const folder = config.output;
  await refuseFolder(config, mode);
  if (!goesOn(folder, mode)) {
    // Renaming removes all stages at once, so no remainder can be mistaken for a whole run.
    const removed = path.join(folder, `stages.${randomUUID()}.tmp`);
    if (existsSync(path.join(folder, 'stages'))) await rename(path.join(folder, 'stages'), removed);
    for (const entry of ENTRIES) await rm(path.join(folder, entry), { recursive: true, force: true });
  }
  const content = HEADER + YAML.stringify({ version: CONFIG_VERSION, ...config });
  if (Buffer.byteLength(content) > MAX_CONFIG_BYTES) {
    throw new ConfigError(
      `${configFile(folder)}: expected at most ${MAX_CONFIG_BYTES} bytes but the config needs ${Buffer.byteLength(content)}`,
    );
  }
  await writeFileAtomically(configFile(folder), content);
}

/** Lists the files in a folder and its subfolders. Returns none if it does not exist. */
async function filesBelow(folder: string): Promise<string[]> {
  if (!existsSync(folder)) return [];
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => path.join(parentPath, name));
}

/** Tells whether a file has the name and the place of one that a run writes. */
function isOwn(run: string, file: string): boolean {
  return FILES.test(path.relative(run, file)) || isTemporary(path.basename(file));
}

/** Removes the files that a run wrote in one of its folders. Other files stay. */
async function removeOwnFiles(run: string, folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const places = entries.map((entry) => ({ entry, place: path.join(entry.parentPath, entry.name) }));
  // Folders come after their files.
  for (const { entry, place } of places.sort((one, other) => other.place.length - one.place.length)) {
    if (entry.isDirectory()) await rmdir(place).catch(() => {});
    else if (isOwn(run, place)) await rm(place, { force: true });
  }
}

/** Refuses a folder that holds files of other programs. A new run removes what an earlier one left, such as `pictures/`. */
async function refuseStrangeFolder(folder: string): Promise<void> {
  // Data may be there before the run.
  const others = (await entriesOf(folder))
    .map(({ name }) => name)
    .filter(
      (name) => name !== 'data' && !name.startsWith('lock') && !name.startsWith('.') && !isTemporary(name),
    );
  if (others.length === 0) return;
  throw new ConfigError(
    `${folder}: expected a run folder but found other files (${others.slice(0, 3).join(', ')}); choose an empty or new folder`,
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
