// The public API, by name. test/unit/index.test.ts holds the list.

// First, so that a bundle ends with the message of the loader and not with an error of another package.
import './native/binding.js';

// Configs and runs
export { createConfig, loadConfig } from './config/load.js';
export type { Layer } from './config/parse.js';
export { PRESETS, type PresetName } from './config/presets.js';
export type { Config, ConfigInput, LoopOptions, PartialConfig } from './config/schema.js';
// Images, labels and data sets
export type { Augmentation, ColorJitter } from './data/augmentation.js';
export { classSharesOf, countClasses } from './data/class-counts.js';
export type { CopyPaste } from './data/copy-paste.js';
export {
  type DatasetEntry,
  ImageDataset,
  type LabelOptions,
  type ReadOptions,
  type Sample,
} from './data/dataset.js';
export { decodeImage, encodeImage, openImage, readImage, writeImage } from './data/image-codec.js';
export { type DecodeOptions, type ImageLimits, MAX_PIXELS } from './data/image-limits.js';
export type {
  ImageArea,
  ImageFile,
  ImageSize,
  LabelImage,
  RgbImage,
  SizePair,
  View,
} from './data/image-size.js';
export {
  decodeLabels,
  encodeColorLabels,
  encodeLabels,
  type LabelEncoding,
  openLabels,
  readLabels,
  writeColorLabels,
  writeLabels,
} from './data/label-codec.js';
export {
  CAMVID,
  CITYSCAPES,
  type ClassList,
  LabelMap,
  type LabelMapName,
  type LabelTable,
  labelMap,
  SYNTHIA_13_CLASSES,
  SYNTHIA_16_CLASSES,
} from './data/label-maps.js';
export { type DatasetLayout, type DatasetPart, findDataset } from './data/layouts.js';
export { type Batch, BatchLoader, type BatchLoaderOptions } from './data/loader.js';
export { classesOf, colorLabels, overlay } from './data/palette.js';
export type { Random } from './data/random.js';
export type { ClassCounts } from './data/rare-class-sampling.js';
export { createEmbeddedDataset, type EmbeddedDatasetOptions } from './data/scenes/embedded-dataset.js';
export {
  renderScene,
  type SceneLook,
  STREET_SCENE_CLASSES,
  STREET_SCENE_PALETTE,
} from './data/scenes/street-scenes.js';
// Inference
export {
  type ExportOptions,
  exportOnnx,
  exportTorchScript,
  type OnnxExportOptions,
} from './export/segmenter.js';
export {
  BatchedPredictor,
  type BatchingOptions,
  type BatchingStats,
  type WarmUpOptions,
} from './inference/batched-predictor.js';
export {
  type Evaluation,
  type EvaluationOptions,
  type EvaluationProgress,
  evaluate,
  evaluateImages,
  evaluatePredictions,
  type PredictionFolders,
  type Predictor,
  type ScoreOptions,
} from './inference/evaluate.js';
export type { Histogram } from './inference/histogram.js';
export {
  type LabelFreeOptions,
  type LabelFreeScores,
  labelFreeScores,
} from './inference/label-free-scores.js';
export {
  type ImagePrediction,
  type PredictStreamOptions,
  predictStream,
} from './inference/prediction-stream.js';
export type { RankedScores, Ranks, ScoreName } from './inference/score-ranks.js';
export {
  type Segmentation,
  type SegmentOptions,
  type SegmentPredictor,
  segment,
} from './inference/segment.js';
export {
  matchDatasetHistograms,
  type TranslateDatasetOptions,
  translateDataset,
} from './inference/translate-dataset.js';
export type { Converted } from './models/backbones.js';
// Networks
export type {
  CompleteFeatureDiscriminatorOptions,
  CompleteOutputDiscriminatorOptions,
  FeatureDiscriminatorOptions,
  OutputDiscriminatorOptions,
} from './models/discriminator-options.js';
export { FeatureDiscriminator } from './models/feature-discriminator.js';
export {
  type ForwardOptions,
  type FromFileOptions,
  type LoadOptions,
  type LoadReport,
  Network,
  type NetworkDtype,
  type SaveOptions,
} from './models/network.js';
export type { Renaming } from './models/other-names.js';
export { OutputDiscriminator } from './models/output-discriminator.js';
export {
  type PredictOptions,
  Segmenter,
  type SegmenterFileOptions,
  type SegmenterPrediction,
} from './models/segmenter.js';
export type { CompleteSegmenterOptions, SegmenterOptions } from './models/segmenter-options.js';
export { type BackFile, type TranslateOptions, Translator } from './models/translator.js';
export type { CompleteTranslatorOptions, TranslatorOptions } from './models/translator-options.js';
// Tensors, losses and metrics
export type {
  PairedTranslationLosses,
  SegmentationLosses,
  TranslationLosses,
} from './native/binding-types.js';
export type { Convolutions } from './native/convolutions.js';
export {
  type BuildInfo,
  buildInfo,
  computeTimeMs,
  liveObjects,
  memoryInUse,
  setMemoryLimit,
  setThreadCount,
} from './native/device.js';
export {
  type ConfidentPixels,
  classProbabilities,
  correlationDistance,
  domainLoss,
  entropyLoss,
  type GanLossOptions,
  ganLoss,
  l1Loss,
  type MaskedCrossEntropyOptions,
  maskedCrossEntropy,
  meanDistance,
  type OnlineCrossEntropy,
  type PseudoLabelOptions,
  perceptualLoss,
  pseudoLabels,
  selfInformation,
} from './native/losses.js';
export { ConfusionMatrix } from './native/metrics.js';
export {
  type NetworkInputOptions,
  SEGMENTER_MEAN_BGR,
  segmenterInput,
  segmenterInputFromTranslator,
  translatorInput,
  translatorOutputBytes,
} from './native/pixels.js';
export type { Precision } from './native/precision.js';
export { ProcessGroup, type ProcessGroupOptions } from './native/process-group.js';
export { type Dtype, Tensor, type TensorMap, type TypedArray } from './native/tensor.js';
export { applyThresholds, ThresholdHistogram, type ThresholdOptions } from './native/thresholds.js';
export { BidirectionalLearning, type RunListeners, type RunOptions } from './pipeline/bidirectional.js';
export { type Datasets, type OpenedDatasets, openDatasets } from './pipeline/datasets.js';
export type {
  EvaluationEvent,
  PictureColumn,
  PictureEvent,
  ProgressEvent,
  RunEndEvent,
  RunEvent,
  RunStartEvent,
  RunSummary,
  SegmenterScores,
  StageEndEvent,
  StageRanks,
  StageRecord,
  StageStartEvent,
} from './pipeline/events.js';
export {
  type PseudoLabelStage,
  planStages,
  type SegmenterStage,
  type SourceOnlyStage,
  type Stage,
  type StageKind,
  selectStage,
  type TranslateStage,
  type TranslatorStage,
} from './pipeline/plan.js';
export type { StageBeginning, StageState, StageStore } from './pipeline/stage-store.js';
export { writeReport } from './report/write-report.js';
export type { DataRecord, FileRecord, SetRecord } from './run/data-record.js';
export { readSummary, resumeConfig, stageImages, stageWeights } from './run/run-files.js';
export { RunFolder, type RunFolderMode } from './run/run-folder.js';
// Errors
export {
  BidisegError,
  BindingError,
  ConfigError,
  DataError,
  DisposedError,
  InvalidArgumentError,
  NativeError,
  NonFiniteLossError,
  OutOfMemoryError,
  ProcessGroupError,
  QueueFullError,
} from './support/errors.js';
// Training
export type { Best } from './training/best-weights.js';
export type { Checkpoints, Resumable } from './training/checkpoints.js';
export type { CheckpointEvent, StepEvent, WarningEvent } from './training/events.js';
export type { NonFiniteOptions } from './training/loop-options.js';
export { type AdamOptions, Optimizer, type SgdOptions } from './training/optimizers.js';
export {
  type LearningRateFactor,
  linearDecayFactor,
  polyFactor,
  type Schedule,
  scheduleFactor,
} from './training/schedules.js';
export type {
  Alignment,
  SegmentationOptions,
  SegmentationStepOptions,
} from './training/segmentation-options.js';
export { SegmentationTrainer, type SegmentationTrainerOptions } from './training/segmentation-trainer.js';
export {
  type KeptClass,
  type LabelingState,
  type PseudoLabelManifest,
  type PseudoLabelProgress,
  SelfTraining,
  type SelfTrainingOptions,
} from './training/self-training.js';
export type { PseudoLabelChoice } from './training/self-training-options.js';
export { PairedTranslationStep } from './training/steps/paired-translation-step.js';
export { type DomainDiscriminator, SegmentationStep } from './training/steps/segmentation-step.js';
export { type StepBatch, type StepProcesses, TrainingStep } from './training/steps/training-step.js';
export { TranslationStep } from './training/steps/translation-step.js';
export type {
  TrainingEvent,
  TrainingOptions,
  TrainingResult,
  TrainingState,
} from './training/training-loop.js';
export type {
  PairedTranslationStepOptions,
  TranslationOptions,
  TranslationStepOptions,
} from './training/translation-options.js';
export { TranslationTrainer, type TranslationTrainerOptions } from './training/translation-trainer.js';
export type { Skipped } from './weights/safetensors.js';
export type { WeightsDtype } from './weights/weights-dtype.js';
export { type TrainOptions, train } from './workflows/train.js';
