import { stat } from 'node:fs/promises';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { classNames } from '../config/classes.js';
import { planStages, type Stage, stageSteps } from '../pipeline/plan.js';
import { Lock } from '../run/lock.js';
import { configFile, entriesOf, requireOwnFiles, resumeConfig } from '../run/run-files.js';
import { ConfigError, DataError } from '../support/errors.js';
import { isTemporary } from '../support/files.js';
import { LogTail } from './log-tail.js';

/** Planned stage of a run. */
export type PlannedStage = Pick<Stage, 'name' | 'label' | 'kind' | 'round'> & {
  /** Training steps. 0 for a stage that only processes images. */
  steps: number;
};

/** Description of a run beside its events. */
export interface RunState {
  /** Name of the run folder. */
  name: string;
  /**
   * - `waiting`: no run has begun in the folder
   * - `running`: a process is at work
   * - `stopped`: the run was interrupted or killed and can be resumed
   * - `ended`: the last process went through all its stages
   * - `gone`: the folder no longer exists
   */
  status: 'waiting' | 'running' | 'stopped' | 'ended' | 'gone';
  device: string | null;
  seed: number | null;
  classes: readonly string[];
  stages: readonly PlannedStage[];
  /** Reason why the run cannot be read. null: it can. */
  problem: string | null;
}

/** Interval of looking at the run folder, in milliseconds. */
const INTERVAL_MS = 500;

/** Watches a run folder for any number of viewers. Only reads. */
export class WatchedRun {
  readonly folder: string;
  readonly log: LogTail;
  state: RunState;
  #configTime = 0;
  /** Viewers that wait for a change. */
  readonly #waiting = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  private constructor(folder: string) {
    this.folder = path.resolve(folder);
    this.log = new LogTail(path.join(this.folder, 'events.jsonl'));
    const name = path.basename(this.folder);
    this.state = {
      name,
      status: 'waiting',
      device: null,
      seed: null,
      classes: [],
      stages: [],
      problem: null,
    };
  }

  /**
   * Begins to watch. The folder may still be missing or empty, because its run has not begun.
   *
   * @throws ConfigError when the folder holds something else than a run, or links
   * @throws DataError when it cannot be read
   */
  static async open(folder: string): Promise<WatchedRun> {
    await requireRunOrNothing(folder);
    const run = new WatchedRun(folder);
    await run.#look();
    if (run.state.problem !== null) throw new DataError(run.state.problem);
    run.#wait();
    return run;
  }

  /** Resolves at the next change of the log or the state, after `ms`, or on abort. Never rejects. */
  changed(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, signal.aborted || this.#isClosed ? 0 : ms);
      signal.addEventListener('abort', done, { once: true });
      this.#waiting.add(done);
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#wake();
  }

  #wake(): void {
    for (const done of [...this.#waiting]) done();
  }

  #wait(): void {
    this.#timer = setTimeout(async () => {
      const hasChanged = await this.#look();
      if (this.#isClosed) return;
      if (hasChanged) this.#wake();
      this.#wait();
    }, INTERVAL_MS);
  }

  /** Looks at the folder. Returns true if anything has changed. Never rejects. */
  async #look(): Promise<boolean> {
    const before = this.state;
    let hasLines = false;
    try {
      // The lock comes first. Otherwise a run that ends between the two looks would seem to have stopped.
      const isLocked = await Lock.isHeld(path.join(this.folder, 'lock'));
      const isThere = (await modified(this.folder)) > 0;
      if (isThere) {
        hasLines = await this.log.poll();
        await this.#readConfig();
      }
      this.state = { ...this.state, status: this.#status(isLocked, isThere), problem: null };
    } catch (error) {
      this.state = { ...this.state, problem: (error as Error).message };
    }
    return hasLines || !isDeepStrictEqual(before, this.state);
  }

  #status(isLocked: boolean, isThere: boolean): RunState['status'] {
    if (isLocked) return 'running';
    const last = this.log.lines.at(-1);
    if (!isThere) return last === undefined ? 'waiting' : 'gone';
    if (last === undefined) return 'waiting';
    return (JSON.parse(last.text) as { type?: unknown }).type === 'run-end' ? 'ended' : 'stopped';
  }

  async #readConfig(): Promise<void> {
    const time = await modified(configFile(this.folder));
    if (time === 0 || time === this.#configTime) return;
    const config = await resumeConfig(this.folder);
    this.#configTime = time;
    const { device, seed, loop } = config;
    const stages = planStages(loop).map((stage) => {
      const { name, label, kind, round } = stage;
      return { name, label, kind, round, steps: stageSteps(stage, config) };
    });
    this.state = { ...this.state, device, seed, classes: classNames(config), stages };
  }
}

/** Returns when a file was last modified. 0: it does not exist. */
async function modified(file: string): Promise<number> {
  const info = await stat(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw error;
  });
  return info?.mtimeMs ?? 0;
}

/** Refuses a folder that holds other things than a run. */
async function requireRunOrNothing(folder: string): Promise<void> {
  const info = await stat(folder).catch(() => undefined);
  if (info === undefined) {
    const parent = path.dirname(path.resolve(folder));
    if ((await modified(parent)) > 0) return;
    throw new DataError(`${folder}: expected a run folder, or a place for one, but ${parent} does not exist`);
  }
  if (!info.isDirectory()) throw new DataError(`${folder}: expected a run folder but found a file`);
  const names = (await entriesOf(folder)).map(({ name }) => name);
  if (names.includes('config.yaml')) return requireOwnFiles(folder);
  // What may lie there before a run writes its config.
  const others = names.filter(
    (name) => name !== 'data' && name !== 'lock' && !name.startsWith('.') && !isTemporary(name),
  );
  if (others.length > 0) throw new ConfigError(`${folder}: expected a run folder but found no config.yaml`);
}
