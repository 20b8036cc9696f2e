import type { RunSummary, StageRecord } from './events.js';
import type { Stage } from './plan.js';

/**
 * Where the stages of a run leave their outputs and find those of earlier ones. `RunFolder` is the one on disk; the loop
 * itself knows no file layout.
 */
export interface StageStore {
  readonly folder: string;
  /** The weights that a `source-only`, `segmenter` or `translator` stage leaves. */
  weightsFile(stage: Stage): string;
  /** The folder of images that a `translate` or `pseudo-labels` stage leaves. */
  imagesFolder(stage: Stage): string;
  /** @param part tells pictures of one stage apart */
  pictureFile(stage: Stage, part?: string): string;
  /** The record of a stage whose outputs are complete. */
  record(stage: Stage): Promise<StageRecord | undefined>;
  /** Makes room for a stage: what an earlier attempt left is removed, and this and all later stages count as incomplete. */
  begin(stage: Stage): Promise<void>;
  /** Marks a stage complete; to be called when all of its outputs are on disk. */
  complete(stage: Stage, record: StageRecord): Promise<void>;
  summary(): Promise<RunSummary>;
}
