import type { Best } from '../training/best-weights.js';
import type { CheckpointEvent, StepEvent, WarningEvent } from '../training/events.js';
import type { Stage, StageKind } from './plan.js';

/** Part of a task over images is done. */
export interface ProgressEvent {
  type: 'progress';
  /** The stage it belongs to; 'data' for data made before the first stage. */
  stage: string;
  task:
    | 'embedded-data'
    | 'class-counts'
    | 'statistics'
    | 'translate'
    | 'confidences'
    | 'thresholds'
    | 'pseudo-label'
    | 'evaluate';
  done: number;
  total: number;
}

/** The run begins; `stages` are all that it will go through. */
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
  /** Position in the run, from 0, and the number of stages. */
  index: number;
  count: number;
  /** Training steps; 0 for a stage that only goes over images. */
  steps: number;
  /** How many of them an interrupted run has done already; its events up to there still count. */
  stepsBefore: number;
}

/** What a part of a picture shows; see `PictureEvent`. */
export type PictureColumn =
  | 'image'
  | 'translated'
  | 'reconstructed'
  | 'reference'
  | 'prediction'
  | 'pseudo-label'
  | 'truth';

/** A picture was written to the run folder: a grid of equal parts, a row for each image, as `composeGrid` lays it out. */
export interface PictureEvent {
  type: 'picture';
  stage: string;
  file: string;
  /** The domain of the images. */
  domain: 'source' | 'target';
  columns: readonly PictureColumn[];
  /** Names of the images. */
  rows: readonly string[];
}

/** A segmenter was compared with the labels of the target's validation images. */
export interface EvaluationEvent {
  type: 'evaluation';
  stage: string;
  images: number;
  /** Numbers of pixels [true class][predicted class]. */
  confusion: readonly (readonly number[])[];
}

/** What a finished stage leaves in the summary; null where a kind of stage has no such value. */
export interface StageRecord {
  name: string;
  label: string;
  round: number;
  kind: StageKind;
  /** Mean over classes of intersection over union on the target's validation images, 0 … 1. */
  miou: number | null;
  /** Per class; null for a class that neither truth nor prediction has. */
  iouPerClass: Record<string, number | null> | null;
  /** Share of labeled pixels that are right, 0 … 1. */
  pixelAccuracy: number | null;
  steps: number;
  /** Duration of the whole stage, evaluation included; of an interrupted one, what its checkpoint knows and the rest. */
  seconds: number;
  /** Where `segmentation.validation` asks for it: when the segmenter did best on held-out source images, and how well. */
  best: Best | null;
  /** Share of the training time that was spent waiting for data, 0 … 1. */
  waitShare: number | null;
  /** Pseudo-labels: the share of pixels kept, 0 … 1, and the number of images with any. */
  keptShare: number | null;
  keptImages: number | null;
}

export interface StageEndEvent {
  type: 'stage-end';
  stage: string;
  record: StageRecord;
  /** True when the stage was already complete in the run folder and was not run again. */
  loaded: boolean;
}

/** What `summary.json` holds: written after each stage. */
export interface RunSummary {
  /** bidiseg's version. */
  version: string;
  seed: number;
  device: string;
  classes: string[];
  /** Whether every stage of the plan is among `stages`. */
  complete: boolean;
  stages: StageRecord[];
}

export interface RunEndEvent {
  type: 'run-end';
  summary: RunSummary;
}

/** Everything that a run tells about itself. Plain data: each can be written as one line of JSON. */
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
