import type {
  PairedTranslationLosses,
  SegmentationLosses,
  TranslationLosses,
} from '../native/binding-types.js';

/** Event after each training step. */
export interface StepEvent<Losses = SegmentationLosses | TranslationLosses | PairedTranslationLosses> {
  type: 'step';
  stage: string;
  /** Number of finished steps, 1 … `steps`. */
  step: number;
  steps: number;
  losses: Losses;
  /** Learning rate of this step, for the segmenter's backbone or the generators. */
  learningRate: number;
  /** Duration of the step in milliseconds, without waiting for data. */
  stepMs: number;
  /** Time that this step waited for its data, in milliseconds. */
  waitMs: number;
}

/** Event after the state of a stage was saved. An interrupted run resumes from here. */
export interface CheckpointEvent {
  type: 'checkpoint';
  stage: string;
  /** Number of finished training steps or pseudo-labeled images. */
  step: number;
}

/** Event about a problem that does not stop the run. */
export interface WarningEvent {
  type: 'warning';
  stage: string;
  message: string;
}
