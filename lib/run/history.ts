import { createReadStream, existsSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { EvaluationEvent, PictureEvent, RunEvent, StageStartEvent } from '../pipeline/events.js';
import { DataError } from '../support/errors.js';

type LoggedEvent<Event = RunEvent> = Event & { time: string };

/** History of a stage in the event log of a run. Only the last attempt counts. */
export interface StageHistory {
  stage: string;
  /** Time of the stage's last event, ISO 8601. */
  time: string;
  /** Planned training steps. */
  steps: number;
  /** Losses by term, each with the number of steps done. Values are means over the steps since the previous line. */
  losses: Map<string, { step: number; value: number }[]>;
  evaluation: Pick<EvaluationEvent, 'images' | 'confusion'> | null;
  /** Pictures with the paths that they have now, even if the folder was moved. */
  pictures: Omit<PictureEvent, 'type' | 'stage'>[];
  warnings: string[];
}

/** Stands for a stage in events about the data of a run. */
const DATA = 'data';

/**
 * Reads a run's event log, `events.jsonl`. A run without a log has no history. The steps of a stage only increase. If a
 * stage restarted or continued from an earlier step, its earlier events about later steps are dropped.
 *
 * @returns the stages that have started, by name, in the order of their last start, and `data` if there are warnings about it
 * @throws DataError when the log cannot be read
 */
export async function readHistory(folder: string): Promise<Map<string, StageHistory>> {
  const history = new Map<string, StageHistory>();
  const file = path.join(folder, 'events.jsonl');
  if (!existsSync(file)) return history;
  try {
    for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
      const event = parse(line);
      if (event?.type === 'stage-start') start(history, event);
      else if (event) add(history, event, folder);
    }
  } catch (error) {
    throw new DataError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
  return history;
}

/** Parses a line of the log. undefined: the line is truncated because a process died while writing it. */
function parse(line: string): LoggedEvent | undefined {
  try {
    return JSON.parse(line) as LoggedEvent;
  } catch {
    return undefined;
  }
}

function start(history: Map<string, StageHistory>, event: LoggedEvent<StageStartEvent>): void {
  const { stage, time, steps } = event;
  const losses = history.get(stage)?.losses ?? new Map();
  history.delete(stage);
  history.set(stage, { ...emptyHistory(stage, time), steps, losses });
}

function emptyHistory(stage: string, time: string): StageHistory {
  return { stage, time, steps: 0, losses: new Map(), evaluation: null, pictures: [], warnings: [] };
}

function add(history: Map<string, StageHistory>, event: LoggedEvent, folder: string): void {
  if (event.type === 'warning' && event.stage === DATA && !history.has(DATA)) {
    history.set(DATA, emptyHistory(DATA, event.time));
  }
  const stage = 'stage' in event ? history.get(event.stage) : undefined;
  if (!stage || (event.type === 'stage-end' && event.loaded)) return;
  stage.time = event.time;
  switch (event.type) {
    case 'step':
      for (const [term, value] of Object.entries(event.losses)) {
        const points = stage.losses.get(term) ?? [];
        while (points.length > 0 && points.at(-1)!.step >= event.step) points.pop();
        points.push({ step: event.step, value });
        stage.losses.set(term, points);
      }
      break;
    case 'evaluation':
      stage.evaluation = { images: event.images, confusion: event.confusion };
      break;
    case 'picture': {
      const { domain, columns, rows } = event;
      const file = path.join(folder, 'pictures', path.basename(event.file));
      stage.pictures.push({ file, domain, columns, rows });
      break;
    }
    case 'warning':
      stage.warnings.push(event.message);
  }
}
