/** Assignments that make the preset `demo` small enough for a test. A stage takes a tenth of a second or more. */
export const TINY_RUN: readonly string[] = [
  'segmenter.width=0.0625',
  'discriminator.baseWidth=2',
  'translator={blocks: 6, baseWidth: 2, discriminatorWidth: 2}',
  'sizes={source: [64, 32], target: [64, 32], evaluation: [64, 32], translation: {source: [64, 32], target: [64, 32], crop: [32, 32]}}',
  'segmentation={steps: 3, pseudoLabelSteps: 3, sourceOnlySteps: 3, batchSize: 2}',
  'translation={steps: 2, batchSize: 1}',
  'loop={rounds: 1, selfTrainingRounds: 1, startFrom: initial}',
  'data.embedded={size: [64, 32], sourceCount: 4, targetCount: 3, validationCount: 2}',
  'logEvery=1',
  'sampleCount=2',
  'scoreCount=1',
];
