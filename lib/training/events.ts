import type {
  PairedTranslationLosses,
  SegmentationLosses,
  TranslationLosses,
} from '../native/binding-types.js';

/** A training step is done. */
export interface StepEvent<Losses = SegmentationLosses | TranslationLosses | PairedTranslationLosses> {
  type: 'step';
  stage: string;
  /** Steps done so far, 1 … `steps`. */
  step: number;
  steps: number;
  losses: Losses;
  /** The learning rate of this step (the segmenter's backbone, or the generators). */
  learningRate: number;
  /** Time the step took, in milliseconds, without waiting for data. */
  stepMs: number;
  /** Time this step waited for its data, in milliseconds. */
  waitMs: number;
}

/** The state of a stage was saved: a run that is cut off goes on from here. */
export interface CheckpointEvent {
  type: 'checkpoint';
  stage: string;
  /** Training steps, or images pseudo-labeled, that are done. */
  step: number;
}

/** Something that does not stop the run but that its owner should know. */
export interface WarningEvent {
  type: 'warning';
  stage: string;
  message: string;
}
