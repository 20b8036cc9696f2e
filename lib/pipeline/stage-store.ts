import type { Resumable } from '../training/checkpoints.js';
import type { RunSummary, StageRecord } from './events.js';
import type { Stage } from './plan.js';

/** What a stage that was cut off goes on from: what its trainer made, and the time spent so far. */
export interface StageState extends Resumable {
  /** Since the stage began, in seconds. */
  seconds: number;
}

/** How a stage begins. */
export interface StageBeginning {
  /** The newest saved state that is readable; null: the stage begins with its first step. */
  state: StageState | null;
  /** What is wrong with newer ones, for the owner of the run. */
  warnings: string[];
}

/**
 * Where the stages of a run leave their outputs and find those of earlier ones. `RunFolder` is the one on disk; the loop
 * itself knows no file layout.
 */
export interface StageStore {
  readonly folder: string;
  /** The weights that a `source-only`, `segmenter` or `translator` stage leaves. */
  weightsFile(stage: Stage): string;
  /** Those of the segmenters among them that did best on held-out source images. */
  bestWeightsFile(stage: Stage): string;
  /** The folder of images that a `translate` or `pseudo-labels` stage leaves. */
  imagesFolder(stage: Stage): string;
  /** @param part tells pictures of one stage apart */
  pictureFile(stage: Stage, part?: string): string;
  /** Where the numbers of pixels of each class in the source images are kept. */
  readonly classCountsFile: string;
  /** The record of a stage whose outputs are complete. */
  record(stage: Stage): Promise<StageRecord | undefined>;
  /**
   * Makes room for a stage; it and all later ones then count as incomplete.
   *
   * @param options.resume whether an attempt that was cut off is gone on with: its outputs stay, and its state is given.
   *   Otherwise, and where there was none, what is left of earlier attempts is removed
   */
  begin(stage: Stage, options: { resume: boolean }): Promise<StageBeginning>;
  /** Saves the state of a stage that has begun; in whatever moment the process ends, this state or the one before is whole. */
  save(stage: Stage, state: StageState): Promise<void>;
  /** Marks a stage complete; to be called when all of its outputs are on disk. Its saved states are removed. */
  complete(stage: Stage, record: StageRecord): Promise<void>;
  summary(): Promise<RunSummary>;
}
