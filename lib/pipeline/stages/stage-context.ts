import type { Config } from '../../config/schema.js';
import { writeImage } from '../../data/image-codec.js';
import type { ProcessGroup } from '../../native/process-group.js';
import type { Checkpoints, Resumable } from '../../training/checkpoints.js';
import type { CheckpointEvent, StepEvent, WarningEvent } from '../../training/events.js';
import type { TrainingResult } from '../../training/training-loop.js';
import type { Datasets } from '../datasets.js';
import type { EvaluationEvent, PictureEvent, ProgressEvent, StageRecord } from '../events.js';
import type { Picture } from '../pictures.js';
import type { Stage } from '../plan.js';
import type { StageStore } from '../stage-store.js';

/**
 * Everything that a stage needs to run. A stage loads the outputs of earlier stages from the store and leaves its own
 * there.
 */
export interface StageContext {
  config: Config;
  datasets: Datasets;
  store: StageStore;
  /** All stages of the run, in their order. */
  plan: readonly Stage[];
  /** Finds a stage by its name. */
  stage: (name: string) => Stage;
  /** State to continue from, and the function that saves new states. */
  checkpoints: Checkpoints<Resumable>;
  /** Processes that run the stage together. null: this process alone. */
  group: ProcessGroup | null;
  signal: AbortSignal | undefined;
}

/** Fields of a stage's record that its work determines. */
export type StageOutcome = Omit<StageRecord, 'name' | 'label' | 'round' | 'kind' | 'seconds'>;

export type StageEvent =
  | StepEvent
  | ProgressEvent
  | PictureEvent
  | EvaluationEvent
  | CheckpointEvent
  | WarningEvent;

/** Returns the stage's checkpoints with the type of its state. A store returns only states that the same stage saved. */
export function ownCheckpoints<State extends Resumable>({ checkpoints }: StageContext): Checkpoints<State> {
  return { ...checkpoints, state: checkpoints.state as State | null };
}

export function progress(stage: Stage, task: ProgressEvent['task']) {
  return ({ done, total }: { done: number; total: number }): ProgressEvent => ({
    type: 'progress',
    stage: stage.name,
    task,
    done,
    total,
  });
}

/**
 * Returns the data set for pictures: the labeled target images if there are any. So all stages show the same images,
 * and the truth is known.
 */
export function shownImages({ datasets }: StageContext) {
  return datasets.validation ?? datasets.target;
}

export async function savePicture(
  stage: Stage,
  domain: PictureEvent['domain'],
  { image, columns, rows }: Picture,
  { store }: StageContext,
): Promise<PictureEvent> {
  const file = store.pictureFile(stage, stage.kind === 'translator' ? domain : undefined);
  await writeImage(file, image);
  return { type: 'picture', stage: stage.name, file, domain, columns, rows };
}

export const NO_OUTCOME: StageOutcome = {
  steps: 0,
  best: null,
  scores: null,
  waitShare: null,
  miou: null,
  iouPerClass: null,
  pixelAccuracy: null,
  keptShare: null,
  keptImages: null,
};

export function trainingOutcome({ steps, computeSeconds, waitSeconds }: TrainingResult) {
  return { steps, waitShare: waitSeconds / (computeSeconds + waitSeconds) };
}
