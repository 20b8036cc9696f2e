import type { Resumable } from '../training/checkpoints.js';
import type { RunSummary, StageRecord } from './events.js';
import type { Stage } from './plan.js';

/** State from which an interrupted stage continues: its trainer's state and the time spent so far. */
export interface StageState extends Resumable {
  /** Time since the stage began, in seconds. */
  seconds: number;
}

/** Start of a stage. */
export interface StageBeginning {
  /** Newest readable state. null: the stage begins with its first step. */
  state: StageState | null;
  /** Problems of newer states that are unreadable, for the owner of the run. */
  warnings: string[];
}

/**
 * Store for the outputs of a run's stages. Later stages read the outputs of earlier ones from it. `RunFolder` is the
 * store on disk. The loop itself knows no file layout.
 */
export interface StageStore {
  readonly folder: string;
  /** Path of the weights that a `source-only`, `segmenter` or `translator` stage writes. */
  weightsFile(stage: Stage): string;
  /** Path of a segmenter's weights that did best on held-out source images. */
  bestWeightsFile(stage: Stage): string;
  /** Path of the average of a segmenter's weights, which was its teacher (`segmentation.teacher`). */
  teacherWeightsFile(stage: Stage): string;
  /** Path of the folder of images that a `translate` or `pseudo-labels` stage writes. */
  imagesFolder(stage: Stage): string;
  /**
   * Path of a stage's picture.
   *
   * @param part distinguishes several pictures of one stage
   */
  pictureFile(stage: Stage, part?: string): string;
  /** Path of the file with the number of pixels of each class in the source images. */
  readonly classCountsFile: string;
  /** Returns the record of a stage. undefined: its outputs are not complete. */
  record(stage: Stage): Promise<StageRecord | undefined>;
  /**
   * Prepares a stage. The stage and all later stages then count as incomplete.
   *
   * @param options.resume true: continue an interrupted attempt. Its outputs stay, and its state is returned.
   *   Otherwise, or without an attempt, the remains of earlier attempts are removed.
   */
  begin(stage: Stage, options: { resume: boolean }): Promise<StageBeginning>;
  /**
   * Saves the state of a stage that has begun. If the process ends at any moment, this state or the previous one is
   * whole.
   */
  save(stage: Stage, state: StageState): Promise<void>;
  /** Marks a stage complete and removes its saved states. Call it when all outputs of the stage are on disk. */
  complete(stage: Stage, record: StageRecord): Promise<void>;
  summary(): Promise<RunSummary>;
}
