export { createConfig, loadConfig } from './config/load.js';
export { PRESETS, type PresetName } from './config/presets.js';
export type {
  Config,
  ConfigInput,
  LoopOptions,
  NonFiniteOptions,
  PartialConfig,
  Schedule,
  SegmentationOptions,
  SizePair,
  TranslationOptions,
} from './config/schema.js';
export type { Augmentation, ColourJitter } from './data/augmentation.js';
export * from './data/dataset.js';
export * from './data/embedded-dataset.js';
export * from './data/image-files.js';
export * from './data/image-limits.js';
export * from './data/label-maps.js';
export * from './data/layouts.js';
export * from './data/loader.js';
export * from './data/random.js';
export * from './data/rare-class-sampling.js';
export * from './data/street-scenes.js';
export * from './device.js';
export * from './errors.js';
export * from './evaluate.js';
export type { ExportOptions } from './export/segmenter.js';
export type { WeightsDtype } from './io/weights-dtype.js';
export * from './losses.js';
export * from './metrics.js';
export * from './models/batched-predictor.js';
export * from './models/feature-discriminator.js';
export {
  type FromFileOptions,
  type LoadOptions,
  type LoadReport,
  Network,
  type NetworkDtype,
  type SaveOptions,
} from './models/network.js';
export * from './models/output-discriminator.js';
export type { ImagePrediction, PredictStreamOptions } from './models/prediction-stream.js';
export * from './models/segmenter.js';
export * from './models/translator.js';
export * from './optimizers.js';
export * from './pixels.js';
export type { Precision } from './precision.js';
export * from './report/write-report.js';
export { readSummary, resumeConfig, stageImages, stageWeights } from './run/run-files.js';
export * from './run/run-folder.js';
export * from './run/train.js';
export * from './steps/paired-translation-step.js';
export * from './steps/segmentation-step.js';
export { type StepBatch, TrainingStep } from './steps/training-step.js';
export * from './steps/translation-step.js';
export * from './tensor.js';
export * from './thresholds.js';
export type { Best } from './training/best-weights.js';
export * from './training/bidirectional.js';
export type { Checkpoints, Resumable } from './training/checkpoints.js';
export { countClasses } from './training/class-counts.js';
export * from './training/datasets.js';
export * from './training/events.js';
export * from './training/models.js';
export * from './training/plan.js';
export * from './training/schedules.js';
export * from './training/segmentation-trainer.js';
export * from './training/self-training.js';
export type * from './training/stage-store.js';
export type {
  TrainingEvent,
  TrainingOptions,
  TrainingResult,
  TrainingState,
} from './training/training-loop.js';
export * from './training/translate-dataset.js';
export * from './training/translation-trainer.js';
