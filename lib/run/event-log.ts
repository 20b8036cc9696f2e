import { type FileHandle, open, readFile } from 'node:fs/promises';
import type { RunEvent } from '../pipeline/events.js';
import { DataError } from '../support/errors.js';
import type { StepEvent } from '../training/events.js';

/**
 * Append-only log of a run, `events.jsonl`. Each line is a JSON object with the `time` when it was written. Only every
 * `every`-th training step and the last one of a stage is written. Its losses and times are means over the steps since
 * the previous line. Progress over images is not written.
 *
 * A stage that was interrupted and continued has several `stage-start` lines. Each gives in `stepsBefore` the number of
 * steps done. Earlier lines about later steps of that stage no longer count.
 */
export class EventLog {
  readonly #file: string;
  readonly #handle: FileHandle;
  readonly #every: number;
  #steps: StepEvent[] = [];

  private constructor(file: string, handle: FileHandle, every: number) {
    this.#file = file;
    this.#handle = handle;
    this.#every = every;
  }

  /**
   * Opens a log for appending. Creates the file if it does not exist.
   *
   * @param every number of training steps between two lines, ≥ 1
   * @throws DataError when the file cannot be opened
   */
  static async open(file: string, every: number): Promise<EventLog> {
    try {
      const handle = await open(file, 'a+');
      const log = new EventLog(file, handle, every);
      // A process that died while writing leaves half a line. The next line must not be appended to it.
      if (await endsWithinLine(handle)) await handle.appendFile('\n');
      return log;
    } catch (error) {
      throw cannotWrite(file, error);
    }
  }

  /** Writes an event and returns it as written. undefined: the event is not written, or waits for later steps. */
  async write(event: RunEvent): Promise<RunEvent | undefined> {
    if (event.type === 'progress') return undefined;
    if (event.type !== 'step') return this.#append(event);
    this.#steps.push(event);
    if (event.step % this.#every !== 0 && event.step !== event.steps) return undefined;
    const steps = this.#steps;
    this.#steps = [];
    return this.#append(meanOf(steps));
  }

  /** Appends the lines of another log about one stage, unchanged. */
  async copy(other: string, stage: string): Promise<void> {
    const lines = (await readFile(other, 'utf8')).split('\n');
    const own = lines.filter((line) => line.includes(`"stage":${JSON.stringify(stage)}`));
    if (own.length > 0) await this.#handle.appendFile(`${own.join('\n')}\n`);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #append(event: RunEvent): Promise<RunEvent> {
    if (event.type === 'stage-start') this.#steps = [];
    try {
      await this.#handle.appendFile(`${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`);
      return event;
    } catch (error) {
      throw cannotWrite(this.#file, error);
    }
  }
}

/** Returns the last event with the mean losses and times of all events. */
export function meanOf(events: readonly StepEvent[]): StepEvent {
  const last = events.at(-1)!;
  const mean = (value: (event: StepEvent) => number) =>
    events.reduce((sum, event) => sum + value(event), 0) / events.length;
  const losses = { ...last.losses } as Record<string, number>;
  for (const name of Object.keys(losses)) {
    losses[name] = mean((event) => (event.losses as unknown as Record<string, number>)[name]!);
  }
  return {
    ...last,
    losses: losses as unknown as StepEvent['losses'],
    stepMs: mean((event) => event.stepMs),
    waitMs: mean((event) => event.waitMs),
  };
}

async function endsWithinLine(handle: FileHandle): Promise<boolean> {
  const { size } = await handle.stat();
  if (size === 0) return false;
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
  return buffer.toString() !== '\n';
}

function cannotWrite(file: string, error: unknown): DataError {
  return new DataError(`${file}: cannot be written: ${(error as Error).message}`, { cause: error });
}
