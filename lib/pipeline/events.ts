import type { LabelFreeScores } from '../inference/label-free-scores.js';
import type { Ranks } from '../inference/score-ranks.js';
import type { Best } from '../training/best-weights.js';
import type { CheckpointEvent, StepEvent, WarningEvent } from '../training/events.js';
import type { Stage, StageKind } from './plan.js';

/** Progress of a task over images. */
export interface ProgressEvent {
  type: 'progress';
  /** Name of the stage. 'data' for data that are generated before the first stage. */
  stage: string;
  task:
    | 'embedded-data'
    | 'class-counts'
    | 'statistics'
    | 'translate'
    | 'confidences'
    | 'thresholds'
    | 'pseudo-label'
    | 'evaluate'
    | 'scores';
  done: number;
  total: number;
}

/** Start of a run. `stages` lists every stage that it will go through. */
export interface RunStartEvent {
  type: 'run-start';
  folder: string;
  seed: number;
  device: string;
  classes: readonly string[];
  stages: readonly Stage[];
}

export interface StageStartEvent {
  type: 'stage-start';
  stage: string;
  label: string;
  kind: StageKind;
  round: number;
  /** Index of the stage in the run, from 0, and the number of stages. */
  index: number;
  count: number;
  /** Training steps. 0 for a stage that only processes images. */
  steps: number;
  /** Steps that an interrupted run has done already. Events up to this step still count. */
  stepsBefore: number;
}

/** Content of a part of a picture, see `PictureEvent`. */
export type PictureColumn =
  | 'image'
  | 'translated'
  | 'reconstructed'
  | 'reference'
  | 'prediction'
  | 'pseudo-label'
  | 'truth';

/**
 * A picture was written to the run folder. It is a grid of equal parts with a row per image, as `composeGrid` lays it
 * out.
 */
export interface PictureEvent {
  type: 'picture';
  stage: string;
  file: string;
  /** Domain of the images. */
  domain: 'source' | 'target';
  columns: readonly PictureColumn[];
  /** Names of the images. */
  rows: readonly string[];
}

/** A segmenter was evaluated on the target's validation images. */
export interface EvaluationEvent {
  type: 'evaluation';
  stage: string;
  images: number;
  /** Numbers of pixels [true class][predicted class]. */
  confusion: readonly (readonly number[])[];
}

/** Scores of a segmenter that need no target labels. */
export interface SegmenterScores extends LabelFreeScores {
  /**
   * Mean IoU of the last weights on the held-out source images, 0 to 1. null without `segmentation.validation`, or if their
   * labels have no pixel that counts.
   */
  sourceMiou: number | null;
}

/** Record of a finished stage in the summary. null: this kind of stage has no such value. */
export interface StageRecord {
  name: string;
  label: string;
  round: number;
  kind: StageKind;
  /** Mean intersection over union of the classes on the target's validation images, 0 to 1. */
  miou: number | null;
  /** IoU per class, by name. null: neither truth nor prediction has the class. */
  iouPerClass: Record<string, number | null> | null;
  /** Share of labeled pixels that are predicted correctly, 0 to 1. */
  pixelAccuracy: number | null;
  steps: number;
  /**
   * Duration of the whole stage with evaluation, in seconds. After an interruption, the time up to the checkpoint plus
   * the time since.
   */
  seconds: number;
  /**
   * Step at which the segmenter did best on held-out source images, and its mIoU there. null without
   * `segmentation.validation`.
   */
  best: Best | null;
  /** Scores on unlabeled target images. null with `scoreCount: 0`, and missing in runs of version 0.1. */
  scores?: SegmenterScores | null;
  /** Share of the training time that was spent waiting for data, 0 to 1. */
  waitShare: number | null;
  /** Share of pixels kept as pseudo-labels, 0 to 1, and the number of images with any. */
  keptShare: number | null;
  keptImages: number | null;
}

export interface StageEndEvent {
  type: 'stage-end';
  stage: string;
  record: StageRecord;
  /** true: the stage was already complete in the run folder and did not run again. */
  loaded: boolean;
}

/** Content of `summary.json`, which is written after each stage. */
export interface RunSummary {
  /** Version of bidiseg. */
  version: string;
  seed: number;
  device: string;
  classes: string[];
  /** true: `stages` holds every stage of the plan. */
  complete: boolean;
  stages: StageRecord[];
  /** Segmenters with scores, ranked among each other, in the order of `stages`. Missing in runs of version 0.1. */
  ranking?: StageRanks[];
}

/** Places of a segmenter by its scores, among the segmenters of its run. 1 is best. */
export interface StageRanks extends Ranks {
  name: string;
  label: string;
}

export interface RunEndEvent {
  type: 'run-end';
  summary: RunSummary;
}

/** Events of a run. Each is plain data and can be written as one line of JSON. */
export type RunEvent =
  | RunStartEvent
  | StageStartEvent
  | StepEvent
  | ProgressEvent
  | PictureEvent
  | EvaluationEvent
  | CheckpointEvent
  | WarningEvent
  | StageEndEvent
  | RunEndEvent;
