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
export type { Augmentation, ColorJitter } from './data/augmentation.js';
export { countClasses } from './data/class-counts.js';
export * from './data/dataset.js';
export * from './data/image-files.js';
export * from './data/image-limits.js';
export * from './data/label-maps.js';
export * from './data/layouts.js';
export * from './data/loader.js';
export * from './data/random.js';
export * from './data/rare-class-sampling.js';
export * from './data/scenes/embedded-dataset.js';
export * from './data/scenes/street-scenes.js';
export type { ExportOptions } from './export/segmenter.js';
export * from './inference/batched-predictor.js';
export * from './inference/evaluate.js';
export type { ImagePrediction, PredictStreamOptions } from './inference/prediction-stream.js';
export * from './inference/translate-dataset.js';
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
export * from './models/segmenter.js';
export * from './models/translator.js';
export * from './native/device.js';
export * from './native/losses.js';
export * from './native/metrics.js';
export * from './native/pixels.js';
export type { Precision } from './native/precision.js';
export * from './native/tensor.js';
export * from './native/thresholds.js';
export * from './pipeline/bidirectional.js';
export * from './pipeline/datasets.js';
export * from './pipeline/events.js';
export * from './pipeline/models.js';
export * from './pipeline/plan.js';
export type * from './pipeline/stage-store.js';
export * from './report/write-report.js';
export { readSummary, resumeConfig, stageImages, stageWeights } from './run/run-files.js';
export * from './run/run-folder.js';
export * from './support/errors.js';
export type { Best } from './training/best-weights.js';
export type { Checkpoints, Resumable } from './training/checkpoints.js';
export * from './training/optimizers.js';
export * from './training/schedules.js';
export * from './training/segmentation-trainer.js';
export * from './training/self-training.js';
export * from './training/steps/paired-translation-step.js';
export * from './training/steps/segmentation-step.js';
export { type StepBatch, TrainingStep } from './training/steps/training-step.js';
export * from './training/steps/translation-step.js';
export type {
  TrainingEvent,
  TrainingOptions,
  TrainingResult,
  TrainingState,
} from './training/training-loop.js';
export * from './training/translation-trainer.js';
export type { WeightsDtype } from './weights/weights-dtype.js';
export * from './workflows/train.js';
