/**
 * Types of the native exports (native/binding/*.cc), and nothing else. Users never see them.
 *
 * Every function that returns a promise queues work on the compute thread of this Node environment, in the order of the
 * calls. Arguments are copied before the function returns. See docs/design/boundary.md#rules-of-a-call.
 */
import type { Convolutions } from './convolutions.js';
import type { Precision } from './precision.js';

declare const kind: unique symbol;

/** All events of one name in a profile: an operation or a call of CUDA, or a kernel or a copy on the device. */
export interface ProfileLine {
  name: string;
  onDevice: boolean;
  count: number;
  /** Sum over the events. An operation includes the operations that it calls. */
  seconds: number;
}

/** Bytes of tensors on a CUDA device. */
export interface DeviceMemory {
  /** In tensors. */
  allocated: number;
  /** Taken from the device, with what is kept for later tensors. */
  reserved: number;
  /** Most in tensors since the last report. */
  peak: number;
}

/** Members that all native objects have. */
export interface NativeHandle {
  dispose(): void;
  readonly disposed: boolean;
}
export interface TensorHandle extends NativeHandle {
  readonly [kind]: 'Tensor';
}
export interface NetworkHandle extends NativeHandle {
  readonly [kind]: 'Network';
}
export interface OptimizerHandle extends NativeHandle {
  readonly [kind]: 'Optimizer';
}
export interface SegmentationStepHandle extends NativeHandle {
  readonly [kind]: 'SegmentationStep';
}
export interface TranslationStepHandle extends NativeHandle {
  readonly [kind]: 'TranslationStep';
}
export interface PairedTranslationStepHandle extends NativeHandle {
  readonly [kind]: 'PairedTranslationStep';
}
export interface UploadedBatchHandle extends NativeHandle {
  readonly [kind]: 'UploadedBatch';
}
export interface ThresholdHistogramHandle extends NativeHandle {
  readonly [kind]: 'ThresholdHistogram';
}
export interface ProcessGroupHandle extends NativeHandle {
  readonly [kind]: 'ProcessGroup';
}
export interface CancellationToken extends NativeHandle {
  readonly [kind]: 'CancellationToken';
}
export interface MemoryReservation extends NativeHandle {
  readonly [kind]: 'MemoryReservation';
}

export type TypedArray = Float32Array | Float64Array | Uint8Array | Int32Array | BigInt64Array;
export type Dtype = 'float32' | 'float64' | 'uint8' | 'int32' | 'int64' | 'float16' | 'bfloat16';

/** Dtypes that networks can compute in. */
export type NetworkDtype = Extract<Dtype, 'float32' | 'float64'>;

export interface TensorInfo {
  shape: number[];
  dtype: Dtype;
  device: string;
  requiresGrad: boolean;
}

export interface NamedTensor {
  name: string;
  tensor: TensorHandle;
}

export interface StateEntry extends NamedTensor {
  kind: 'parameter' | 'buffer';
}

/**
 * Bytes of images [count, height, width, 3] and labels [count, height, width]. `weights` says how much each labeled
 * pixel counts: 0 to 255 for 0 to 1. Without weights, all pixels count equally. `weakImages` are the same target images
 * as a teacher sees them, by default `images`.
 */
export interface NativeBatch {
  images: Uint8Array;
  labels?: Uint8Array | undefined;
  weights?: Uint8Array | undefined;
  weakImages?: Uint8Array | undefined;
  count: number;
  height: number;
  width: number;
}

/*
 * Bags of options, one type each. TypeScript has checked and completed them, because C++ has no defaults. A test
 * compares the keys that C++ reads with the keys that are given (test/boundary/border.test.ts).
 */

interface NativeNetworkPlace {
  seed: number;
  device: string;
  dtype: NetworkDtype;
  /** Limit for networks that an untrusted file describes; see createNetwork in native/binding/networks.cc. */
  maxParameters: number | undefined;
}

export interface NativeProcessGroupOptions {
  backend: 'gloo' | 'nccl';
  rank: number;
  size: number;
  store: 'tcp' | 'file';
  host: string;
  port: number;
  hostsStore: boolean;
  file: string;
  name: string;
  timeoutSeconds: number;
}

/** Options of each kind of network. */
export interface NativeNetworkOptions {
  'deeplab-v2': NativeNetworkPlace & {
    backbone: 'resnet18' | 'resnet34' | 'resnet50' | 'resnet101' | 'vgg16';
    width: number;
    branches: 2 | 4;
    bottleneckStride: 'first' | 'middle';
    classCount: number;
    initialization: 'normal' | 'kaiming';
  };
  'fcn-8s': NativeNetworkPlace & {
    width: number;
    classCount: number;
    initialization: 'normal' | 'kaiming';
  };
  'output-discriminator': NativeNetworkPlace & { classCount: number; baseWidth: number };
  'feature-discriminator': NativeNetworkPlace & { featureCount: number; baseWidth: number };
  'patch-discriminator': NativeNetworkPlace & { inputChannels: number; baseWidth: number };
  'resnet-generator': NativeNetworkPlace & {
    blocks: 6 | 9;
    baseWidth: number;
    residual: boolean;
    resizes: boolean;
  };
  'unet-generator': NativeNetworkPlace & { depth: number; baseWidth: number };
}

interface NativeSgdOptions {
  optimizer: 'sgd';
  momentum: number;
  repeatedStep: boolean;
}

type NativeAdamForm = 'pytorch' | 'pytorch-0.4';

interface NativeAdamOptions {
  optimizer: 'adam';
  adamBetas: readonly number[];
  adamForm: NativeAdamForm;
}

export type NativeOptimizerOptions = (NativeSgdOptions | NativeAdamOptions) & {
  weightDecay: number;
  headLearningRateFactor: number;
};

export type NativeOrder = 'logits' | 'probabilities';
export type NativeGanMode = 'least-squares' | 'bce';
export type NativePerceptualForm = 'l1' | 'normalized-mse';

export interface NativeSegmentationStepOptions {
  optimizer: 'sgd' | 'adam';
  momentum: number;
  repeatedStep: boolean;
  adamBetas: readonly number[];
  weightDecay: number;
  headLearningRateFactor: number;
  discriminatorBetas: readonly number[];
  adamForm: NativeAdamForm;
  accumulation: number;
  normalize: 'valid' | 'all';
  /** One per class. None: 1. */
  classWeights: readonly number[];
  ignoreIndex: number;
  alignment:
    | 'output-discriminator'
    | 'entropy-discriminator'
    | 'feature-discriminator'
    | 'mean'
    | 'correlation'
    | 'none';
  adversarialWeight: number;
  momentWeight: number;
  entropyWeight: number;
  pseudoLabelWeight: number;
  /** Read only if the call has a teacher network. */
  teacher: {
    decay: number;
    threshold: number;
    weight: number;
    classMix: boolean;
    margins: readonly number[];
    classShares: readonly number[];
    masking: { ratio: number; patch: number; weight: number; source: boolean } | null;
    seed: number;
  } | null;
  /** Read only if the call has an anchor network. */
  featureDistance: { classes: readonly number[]; minimumShare: number; weight: number } | null;
  memoryFormat: 'auto' | 'contiguous' | 'channels-last';
  precision: Precision;
  convolutions: Convolutions;
  lossScaling: boolean;
  activationCheckpointing: boolean;
  cudaGraphs: boolean;
  /** Seed of dropout's draws. */
  seed: number;
}

export interface NativeTranslationStepOptions {
  ganMode: NativeGanMode;
  ganWeight: number;
  betas: readonly number[];
  adamForm: NativeAdamForm;
  cycleWeight: number;
  identityWeight: number;
  perceptualForm: NativePerceptualForm;
  perceptualWeight: number;
  perceptualReconstructionWeight: number;
  poolSize: number;
  seed: number;
  /** Number of images, or 0 for the whole batch. */
  microBatchSize: number;
  precision: Precision;
  convolutions: Convolutions;
  lossScaling: boolean;
  activationCheckpointing: boolean;
  cudaGraphs: boolean;
}

export interface NativePairedTranslationStepOptions {
  ganMode: NativeGanMode;
  ganWeight: number;
  betas: readonly number[];
  adamForm: NativeAdamForm;
  l1Weight: number;
  precision: Precision;
  convolutions: Convolutions;
  lossScaling: boolean;
  cudaGraphs: boolean;
}

export interface NativeCrossEntropyOptions {
  normalize: 'valid' | 'all';
  ignoreIndex: number;
  alignCorners: boolean;
  classWeights: readonly number[];
  pixelWeights: TensorHandle | undefined;
}

interface NativeConfidentPixels {
  height: number;
  width: number;
  thresholds: readonly number[];
  inclusive: boolean;
}

export type NativeOnlineCrossEntropyOptions = NativeCrossEntropyOptions &
  NativeConfidentPixels & { prediction: boolean };

export type NativePseudoLabelOptions = NativeConfidentPixels & {
  alignCorners: boolean;
  order: NativeOrder;
  ignoreIndex: number;
  confidence: boolean;
};

interface NativeForwardOptions {
  convolutions: Convolutions;
}

interface NativeImages {
  count: number;
  width: number;
  height: number;
}

interface NativeOutput {
  outputWidth: number;
  outputHeight: number;
  confidence: boolean;
  order: NativeOrder;
  precision: Precision;
  convolutions: Convolutions;
  sideBySide: boolean;
}

export type NativePredictOptions = NativeImages &
  NativeOutput & {
    classThresholds: readonly number[];
    /** Height and width of each image in turn. Empty: outputHeight and outputWidth for all. */
    outputSizes: readonly number[];
  };
export type NativeAveragedOptions = NativeOutput & { flip: boolean };

/** Losses of one {@link SegmentationStep}. */
export interface SegmentationLosses {
  /** Loss that the segmenter's step minimizes: the weighted sum of the next eight. Terms that are switched off are 0. */
  total: number;
  /** Cross-entropy on the source, ℓ_seg(M(S′), Y_S). */
  segmentation: number;
  /** Adversarial loss ℓ_adv(M(S′), M(T)), before its weight. */
  adversarial: number;
  /** Distance between the domains' feature means or covariances, before its weight. */
  moments: number;
  /** Mean entropy of target predictions as a share of log C, before its weight. */
  entropy: number;
  /** Masked cross-entropy on pseudo-labels, ℓ_seg(M(T_ssl), Ŷ_T), before its weight. */
  pseudoLabel: number;
  /** Cross-entropy on the teacher's labels, before its weight. With ClassMix, it is taken on the mixed images. */
  teacher: number;
  /**
   * Cross-entropy of masked target images on the teacher's labels, before its weight. If source images are masked too, the
   * mean of this and of their cross-entropy.
   */
  masked: number;
  /** Mean distance of source features on things from those of the initial network, before its weight. */
  featureDistance: number;
  /** Share of target pixels that the teacher is confident about, 0 … 1. */
  confidentShare: number;
  /** Loss of D_M on the source, before the factor ½. */
  discriminatorSource: number;
  /** Loss of D_M on the target, before the factor ½. */
  discriminatorTarget: number;
}

/** Losses of one {@link TranslationStep}. GAN, cycle, identity and perceptual terms are before their weights. */
export interface TranslationLosses {
  /** Loss that the generators' step minimizes: the weighted sum of the next ten. */
  total: number;
  ganSourceToTarget: number;
  ganTargetToSource: number;
  cycleSource: number;
  cycleTarget: number;
  identitySource: number;
  identityTarget: number;
  perceptualSource: number;
  perceptualTarget: number;
  perceptualReconstructionSource: number;
  perceptualReconstructionTarget: number;
  /** Loss of the discriminator that judges source images, with its factor ½. */
  discriminatorSource: number;
  /** Loss of the discriminator that judges target images, with its factor ½. */
  discriminatorTarget: number;
}

/** Losses of one {@link PairedTranslationStep}. GAN and L1 terms are before their weights. */
export interface PairedTranslationLosses {
  /** Loss that the generator's step minimizes: the weighted sum of the next two. */
  total: number;
  ganSourceToTarget: number;
  /** Mean absolute difference E|F(S) − T|. */
  l1: number;
  /** Loss of the conditional discriminator, with its factor ½. */
  discriminatorTarget: number;
}

export interface NativeBuildInfo {
  libtorchVersion: string;
  libtorchOrigin: string;
  cuda: boolean;
  /** Precisions that each device has instructions for. `cpu` comes first. */
  precisions: Record<string, Precision[]>;
  threads: number;
  cpuCapability: string;
}

export interface NativeBinding {
  createTensor(data: TypedArray, shape: readonly number[]): TensorHandle;
  tensorInfo(tensor: TensorHandle): TensorInfo;
  tensorData(tensor: TensorHandle): Promise<TypedArray>;
  tensorBackward(tensor: TensorHandle, cancellation?: CancellationToken): Promise<void>;
  tensorGradient(tensor: TensorHandle): Promise<TensorHandle | null>;
  tensorDetach(tensor: TensorHandle): Promise<TensorHandle>;
  tensorRequireGrad(tensor: TensorHandle): Promise<void>;
  tensorTo(
    tensor: TensorHandle,
    options: { device: string; dtype: Dtype; memoryFormat: 'preserve' | 'contiguous' | 'channels-last' },
  ): Promise<TensorHandle>;
  tensorAdd(tensor: TensorHandle, other: TensorHandle): Promise<TensorHandle>;
  tensorScale(tensor: TensorHandle, factor: number): Promise<TensorHandle>;
  tensorSoftmax(tensor: TensorHandle): Promise<TensorHandle>;
  tensorResize(tensor: TensorHandle, size: readonly [height: number, width: number]): Promise<TensorHandle>;
  readTensorFile(
    file: string,
    entries: { dtype: Dtype; shape: readonly number[]; offset: number; stride?: readonly number[] }[],
    cancellation?: CancellationToken,
  ): Promise<TensorHandle[]>;
  writeTensorFile(
    file: string,
    header: Uint8Array,
    tensors: TensorHandle[],
    cancellation?: CancellationToken,
  ): Promise<void>;

  createNetwork<Kind extends keyof NativeNetworkOptions>(
    kind: Kind,
    options: NativeNetworkOptions[Kind],
    cancellation?: CancellationToken,
  ): Promise<NetworkHandle>;
  networkForward(
    network: NetworkHandle,
    input: TensorHandle,
    options: NativeForwardOptions,
    cancellation?: CancellationToken,
  ): Promise<TensorHandle>;
  networkForwardWithFeatures(
    segmenter: NetworkHandle,
    input: TensorHandle,
    options: NativeForwardOptions,
    cancellation?: CancellationToken,
  ): Promise<{ features: TensorHandle; logits: TensorHandle }>;
  networkFeatureCount(segmenter: NetworkHandle): number;
  networkSetTraining(network: NetworkHandle, training: boolean): Promise<void>;
  networkSetFrozen(network: NetworkHandle, frozen: boolean): Promise<void>;
  networkState(network: NetworkHandle): Promise<StateEntry[]>;
  networkLoadState(network: NetworkHandle, names: string[], tensors: TensorHandle[]): Promise<void>;
  networkDtype(network: NetworkHandle): NetworkDtype;
  networkParameterCount(network: NetworkHandle): number;
  writeTorchScript(
    segmenter: NetworkHandle,
    file: string,
    options: { upsample: boolean; metadata: string },
    cancellation?: CancellationToken,
  ): Promise<void>;

  createOptimizer(network: NetworkHandle, options: NativeOptimizerOptions): Promise<OptimizerHandle>;
  optimizerStep(optimizer: OptimizerHandle, learningRate: number): Promise<void>;
  optimizerZeroGrad(optimizer: OptimizerHandle): Promise<void>;

  segmenterInput(images: TensorHandle, options: { dtype: NetworkDtype }): Promise<TensorHandle>;
  translatorInput(images: TensorHandle, options: { dtype: NetworkDtype }): Promise<TensorHandle>;
  segmenterInputFromTranslator(images: TensorHandle): Promise<TensorHandle>;
  translatorOutputBytes(images: TensorHandle): Promise<TensorHandle>;

  maskedCrossEntropy(
    logits: TensorHandle,
    labels: TensorHandle,
    options: NativeCrossEntropyOptions,
  ): Promise<TensorHandle>;
  maskedCrossEntropyOnline(
    logits: TensorHandle,
    options: NativeOnlineCrossEntropyOptions,
    histogram?: ThresholdHistogramHandle,
  ): Promise<{ loss: TensorHandle; labels?: TensorHandle; confidence?: TensorHandle }>;
  classProbabilities(logits: TensorHandle, options: { height: number; width: number }): Promise<TensorHandle>;
  domainLoss(logits: TensorHandle, options: { domain: 'source' | 'target' }): Promise<TensorHandle>;
  ganLoss(scores: TensorHandle, options: { real: boolean; ganMode: NativeGanMode }): Promise<TensorHandle>;
  l1Loss(input: TensorHandle, other: TensorHandle): Promise<TensorHandle>;
  meanDistance(source: TensorHandle, target: TensorHandle): Promise<TensorHandle>;
  correlationDistance(source: TensorHandle, target: TensorHandle): Promise<TensorHandle>;
  selfInformation(probabilities: TensorHandle): Promise<TensorHandle>;
  entropyLoss(logits: TensorHandle, options: { height: number; width: number }): Promise<TensorHandle>;
  perceptualLoss(
    logits: TensorHandle,
    other: TensorHandle,
    options: { perceptualForm: NativePerceptualForm },
  ): Promise<TensorHandle>;

  uploadBatch(network: NetworkHandle, batch: NativeBatch): UploadedBatchHandle;
  createSegmentationStep(
    segmenter: NetworkHandle,
    discriminator: NetworkHandle | null,
    options: NativeSegmentationStepOptions,
    teacher: NetworkHandle | null,
    anchor: NetworkHandle | null,
    group: ProcessGroupHandle | null,
  ): Promise<SegmentationStepHandle>;
  runSegmentationStep(
    step: SegmentationStepHandle,
    source: NativeBatch | UploadedBatchHandle,
    target: NativeBatch | UploadedBatchHandle | undefined,
    options: { learningRate: number; discriminatorLearningRate: number },
    cancellation?: CancellationToken,
  ): Promise<SegmentationLosses>;
  segmentationStepState(step: SegmentationStepHandle): Promise<NamedTensor[]>;
  segmentationStepLoadState(
    step: SegmentationStepHandle,
    names: string[],
    tensors: TensorHandle[],
  ): Promise<void>;
  createTranslationStep(
    networks: {
      toTarget: NetworkHandle;
      toSource: NetworkHandle;
      targetDiscriminator: NetworkHandle;
      sourceDiscriminator: NetworkHandle;
    },
    segmenter: NetworkHandle | null,
    options: NativeTranslationStepOptions,
    group: ProcessGroupHandle | null,
  ): Promise<TranslationStepHandle>;
  runTranslationStep(
    step: TranslationStepHandle,
    source: NativeBatch | UploadedBatchHandle,
    target: NativeBatch | UploadedBatchHandle,
    options: { learningRate: number },
    cancellation?: CancellationToken,
  ): Promise<TranslationLosses>;
  translationStepState(step: TranslationStepHandle): Promise<NamedTensor[]>;
  translationStepLoadState(
    step: TranslationStepHandle,
    names: string[],
    tensors: TensorHandle[],
  ): Promise<void>;
  createPairedTranslationStep(
    networks: { toTarget: NetworkHandle; targetDiscriminator: NetworkHandle },
    options: NativePairedTranslationStepOptions,
    group: ProcessGroupHandle | null,
  ): Promise<PairedTranslationStepHandle>;
  runPairedTranslationStep(
    step: PairedTranslationStepHandle,
    source: NativeBatch | UploadedBatchHandle,
    target: NativeBatch | UploadedBatchHandle,
    options: { learningRate: number },
    cancellation?: CancellationToken,
  ): Promise<PairedTranslationLosses>;
  pairedTranslationStepState(step: PairedTranslationStepHandle): Promise<NamedTensor[]>;
  pairedTranslationStepLoadState(
    step: PairedTranslationStepHandle,
    names: string[],
    tensors: TensorHandle[],
  ): Promise<void>;

  predict(
    segmenter: NetworkHandle,
    images: Uint8Array,
    options: NativePredictOptions,
    cancellation?: CancellationToken,
  ): Promise<{ labels: Uint8Array; confidence?: Float32Array }>;
  updateStatistics(
    segmenter: NetworkHandle,
    images: Uint8Array,
    options: NativeImages & { momentum: number },
    cancellation?: CancellationToken,
  ): Promise<void>;
  pseudoLabels(
    logits: TensorHandle,
    options: NativePseudoLabelOptions,
    histogram?: ThresholdHistogramHandle,
  ): Promise<{ labels: TensorHandle; confidence?: TensorHandle }>;
  predictAveraged(
    segmenter: NetworkHandle,
    views: readonly (NativeImages & { images: Uint8Array })[],
    options: NativeAveragedOptions,
    cancellation?: CancellationToken,
  ): Promise<{ labels: Uint8Array; confidence?: Float32Array }>;
  translate(
    generator: NetworkHandle,
    images: Uint8Array,
    options: NativeImages,
    cancellation?: CancellationToken,
  ): Promise<Uint8Array>;
  createThresholdHistogram(options: { classCount: number; bins: number }): ThresholdHistogramHandle;
  histogramAdd(
    histogram: ThresholdHistogramHandle,
    labels: Uint8Array,
    confidence: Float32Array,
  ): Promise<void>;
  histogramRefine(
    histogram: ThresholdHistogramHandle,
    options: { portion: number; cap: number },
  ): Promise<boolean>;
  histogramThresholds(
    histogram: ThresholdHistogramHandle,
    options: { portion: number; cap: number },
  ): Promise<{ thresholds: number[]; counts: number[] }>;
  applyThresholds(
    labels: Uint8Array,
    confidence: Float32Array,
    options: { thresholds: number[]; inclusive: boolean; ignoreIndex: number },
  ): Promise<{ labels: Uint8Array; keptPerClass: number[] }>;
  confusionCounts(
    truth: Uint8Array,
    prediction: Uint8Array,
    options: { classCount: number; ignoreIndex: number },
  ): Promise<Float64Array>;

  createProcessGroup(
    options: NativeProcessGroupOptions,
    cancellation?: CancellationToken,
  ): Promise<ProcessGroupHandle>;
  processGroupAdd(
    group: ProcessGroupHandle,
    tensors: readonly TensorHandle[],
    cancellation?: CancellationToken,
  ): Promise<void>;
  processGroupAverage(
    group: ProcessGroupHandle,
    tensors: readonly TensorHandle[],
    cancellation?: CancellationToken,
  ): Promise<void>;
  processGroupAverageGradients(
    group: ProcessGroupHandle,
    network: NetworkHandle,
    cancellation?: CancellationToken,
  ): Promise<void>;
  processGroupBroadcast(
    group: ProcessGroupHandle,
    tensors: readonly TensorHandle[],
    root: number,
    cancellation?: CancellationToken,
  ): Promise<void>;
  processGroupAllGather(
    group: ProcessGroupHandle,
    tensor: TensorHandle,
    cancellation?: CancellationToken,
  ): Promise<TensorHandle[]>;
  combineHistogram(
    histogram: ThresholdHistogramHandle,
    group: ProcessGroupHandle,
    cancellation?: CancellationToken,
  ): Promise<void>;
  combineStatistics(
    network: NetworkHandle,
    group: ProcessGroupHandle,
    batches: { own: number; all: number },
    cancellation?: CancellationToken,
  ): Promise<void>;
  processGroupBarrier(group: ProcessGroupHandle, cancellation?: CancellationToken): Promise<void>;
  processGroupBytesSent(group: ProcessGroupHandle): number;
  processGroupBackends(): ('gloo' | 'nccl')[];

  buildInfo(): Promise<NativeBuildInfo>;
  setThreadCount(threads: number): Promise<void>;
  liveObjects(): Record<string, number>;
  computeTime(): number;
  checkDevice(name: string): void;
  setMemoryLimit(bytes: number | null): void;
  memoryInUse(): number;
  giveBackLargeBlocks(): void;
  reserveMemory(bytes: number): MemoryReservation;
  idle(): Promise<void>;
  startProfile(): Promise<void>;
  stopProfile(file: string | null): Promise<ProfileLine[]>;
  synchronize(device: string): Promise<void>;
  deviceMemory(device: string): Promise<DeviceMemory>;
  shutDown(): void;
  createCancellationToken(): CancellationToken;
  cancel(token: CancellationToken): void;
}
