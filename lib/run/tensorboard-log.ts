import { readFile } from 'node:fs/promises';
import type { RunEvent, StageRecord } from '../pipeline/events.js';
import { EventFile, type TensorBoardValue } from './event-file.js';

/**
 * Writes the event log for TensorBoard. In `tensorboard --logdir RUN/tensorboard` each stage is a run, so the curves of
 * all stages share a chart. Tags: `loss/TERM`, `learning-rate`, `time/step-ms`, `time/wait-ms`, `evaluation/miou`,
 * `evaluation/pixel-accuracy`, `iou/CLASS`, `pseudo-labels/kept-share` and, as images, `pictures/DOMAIN`.
 *
 * Steps never decrease. A restarted stage has an empty folder. A stage that continues from a checkpoint starts another
 * file, which withdraws later steps of the earlier file.
 */
export class TensorBoardLog {
  readonly #folder: (stage: string) => string;
  /** Training steps of the running stage. Its results are written at this step. */
  #steps = 0;
  #open: { stage: string; file: EventFile } | undefined;

  /**
   * Creates a log.
   *
   * @param folder returns the folder for the event files of a stage
   */
  constructor(folder: (stage: string) => string) {
    this.#folder = folder;
  }

  /**
   * Writes an event.
   *
   * @throws DataError when a file cannot be written
   */
  async write(event: RunEvent): Promise<void> {
    switch (event.type) {
      case 'stage-start':
        this.#steps = event.steps;
        return this.close();
      case 'step': {
        const values = Object.entries(event.losses).map(([term, value]) => scalar(`loss/${term}`, value));
        values.push(
          scalar('learning-rate', event.learningRate),
          scalar('time/step-ms', event.stepMs),
          scalar('time/wait-ms', event.waitMs),
        );
        return this.#write(event.stage, event.step, values);
      }
      case 'picture': {
        const bytes = await readFile(event.file);
        // The header of a PNG starts with width and height.
        const image = { width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20), bytes };
        return this.#write(event.stage, this.#steps, [{ tag: `pictures/${event.domain}`, image }]);
      }
      case 'stage-end':
        if (!event.loaded) return this.#write(event.stage, this.#steps, resultsOf(event.record));
    }
  }

  async close(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    await open?.file.close();
  }

  async #write(stage: string, step: number, values: readonly TensorBoardValue[]): Promise<void> {
    if (values.length === 0) return;
    if (this.#open?.stage !== stage) {
      await this.close();
      this.#open = { stage, file: await EventFile.create(this.#folder(stage)) };
      await this.#open.file.write(step, { restart: true });
    }
    await this.#open!.file.write(step, { values });
  }
}

function resultsOf({ miou, iouPerClass, pixelAccuracy, keptShare }: StageRecord): TensorBoardValue[] {
  const results = {
    'evaluation/miou': miou,
    'evaluation/pixel-accuracy': pixelAccuracy,
    ...Object.fromEntries(Object.entries(iouPerClass ?? {}).map(([name, iou]) => [`iou/${name}`, iou])),
    'pseudo-labels/kept-share': keptShare,
  };
  return Object.entries(results).flatMap(([tag, value]) => (value === null ? [] : [scalar(tag, value)]));
}

function scalar(tag: string, value: number): TensorBoardValue {
  return { tag, scalar: value };
}
