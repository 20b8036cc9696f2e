import assert from 'node:assert/strict';
import * as bidiseg from 'bidiseg';

/** Public API. Additions and removals belong in CHANGELOG.md. */
const VALUES = {
  'configs and runs': `
    BidirectionalLearning PRESETS RunFolder createConfig loadConfig openDatasets planStages readSummary resumeConfig
    selectStage stageImages stageWeights train writeReport`,
  training: `
    Optimizer PairedTranslationStep SegmentationStep SegmentationTrainer SelfTraining TrainingStep TranslationStep
    TranslationTrainer linearDecayFactor polyFactor scheduleFactor`,
  inference: `
    BatchedPredictor evaluate evaluateImages evaluatePredictions exportOnnx exportTorchScript labelFreeScores
    matchDatasetHistograms predictStream segment translateDataset`,
  networks: 'FeatureDiscriminator Network OutputDiscriminator Segmenter Translator',
  'images, labels and data sets': `
    BatchLoader CAMVID CITYSCAPES ImageDataset LabelMap MAX_PIXELS STREET_SCENE_CLASSES STREET_SCENE_PALETTE
    SYNTHIA_13_CLASSES SYNTHIA_16_CLASSES classSharesOf classesOf colorLabels countClasses createEmbeddedDataset decodeImage decodeLabels
    encodeColorLabels encodeImage encodeLabels findDataset labelMap openImage openLabels overlay readImage readLabels renderScene writeColorLabels writeImage writeLabels`,
  'tensors, losses and metrics': `
    ConfusionMatrix ProcessGroup SEGMENTER_MEAN_BGR Tensor ThresholdHistogram applyThresholds buildInfo classProbabilities
    computeTimeMs correlationDistance domainLoss entropyLoss ganLoss l1Loss liveObjects maskedCrossEntropy meanDistance
    memoryInUse perceptualLoss pseudoLabels segmenterInput segmenterInputFromTranslator selfInformation setMemoryLimit
    setThreadCount translatorInput translatorOutputBytes`,
  errors: `
    BidisegError BindingError ConfigError DataError DisposedError InvalidArgumentError NativeError NonFiniteLossError
    OutOfMemoryError ProcessGroupError QueueFullError`,
};

describe('the public API', () => {
  it('has exactly the values of the list', () => {
    const listed = Object.values(VALUES).flatMap((names) => names.trim().split(/\s+/));
    assert.deepEqual(Object.keys(bidiseg).sort(), listed.sort());
  });
});
