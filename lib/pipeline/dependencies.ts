import { createHash } from 'node:crypto';
import type { Config } from '../config/schema.js';
import { learnsFromUnlabeledTarget } from '../training/segmentation-options.js';
import { STEPS_KEYS, type Stage, stageInputs, stepsKey } from './plan.js';

/** Keys that change no output of any stage. The effect of `loop` is in the stages themselves. */
const FREE = ['output', 'logEvery', 'checkpoint', 'loop'];

/** Keys about the target domain and its alignment. M⁽⁰⁾ sees no target images. */
const TARGET_ONLY = [
  'discriminator',
  'sizes.target',
  'segmentation.alignment',
  'segmentation.adversarialWeight',
  'segmentation.momentWeight',
  'segmentation.entropyWeight',
  'segmentation.teacher',
  'segmentation.discriminatorLearningRate',
  'segmentation.discriminatorBetas',
  'segmentation.augmentation.target',
  'segmentation.targetStatistics',
];

const PSEUDO_LABELS = ['method', 'threshold', 'portion', 'weighting', 'order', 'inclusive'].map(
  (key) => `selfTraining.${key}`,
);

const TRANSLATION = ['translator', 'translation', 'sizes.translation'];

const SEGMENTATION = ['segmentation', 'discriminator', 'sizes.source'];

/**
 * Returns the keys that a stage does not depend on directly. An effect through its inputs is in their fingerprints. A
 * key that is not listed counts as used. So a new key can only make equal stages look different.
 */
function unusedKeys(stage: Stage, config: Config): string[] {
  const { segmentation, data } = config;
  const used = stepsKey(stage, config);
  const otherSteps = STEPS_KEYS.filter((key) => key !== used);
  const isTranslated = stage.kind === 'segmenter' && stage.translatedFrom !== null;
  const shares = [
    ...(data.target.labeled ? [] : ['segmentation.labeledTargetShare']),
    // 0 is left out, so that stages of earlier releases, which did not know the key, keep their fingerprints.
    ...(isTranslated && segmentation.originalShare > 0 ? [] : ['segmentation.originalShare']),
  ];
  switch (stage.kind) {
    case 'source-only':
      return [
        ...TRANSLATION,
        ...TARGET_ONLY,
        ...PSEUDO_LABELS,
        ...otherSteps,
        'segmentation.pseudoLabelWeight',
        ...shares,
      ];
    case 'segmenter':
      return [
        ...TRANSLATION,
        ...PSEUDO_LABELS,
        ...otherSteps,
        ...shares,
        ...(stage.pseudoLabelsFrom ? [] : ['segmentation.pseudoLabelWeight']),
        ...(stage.pseudoLabelsFrom || learnsFromUnlabeledTarget(segmentation)
          ? []
          : ['segmentation.augmentation.target']),
      ];
    case 'translator':
      return [
        ...SEGMENTATION,
        ...PSEUDO_LABELS,
        'sizes.target',
        'sizes.evaluation',
        'sizes.evaluationOutput',
        ...otherSteps,
        'scoreCount',
        'data.target.labeled',
      ];
    case 'translate':
      return [
        ...[...SEGMENTATION, ...PSEUDO_LABELS, 'sizes.target', 'sizes.evaluation', 'sizes.evaluationOutput'],
        ...['segmenter', 'translation', 'scoreCount', 'data.target.labeled'],
        ...(stage.translatorFrom ? [] : ['translator']),
      ];
    case 'pseudo-labels':
      return [
        ...[...SEGMENTATION, ...TRANSLATION, 'sizes.evaluation', 'sizes.evaluationOutput'],
        ...['scoreCount', 'data.target.labeled'],
      ];
  }
}

/** Returns true if F is trained with perceptual terms of M. Otherwise F is trained alone. */
export function hasPerceptualTerms({ translation }: Config): boolean {
  const { pairing, perceptualWeight, perceptualReconstructionWeight } = translation;
  return pairing === 'unpaired' && (perceptualWeight > 0 || perceptualReconstructionWeight > 0);
}

/**
 * Computes the fingerprint of each stage of `plan`, by name. A fingerprint is a hash of the stage, the keys of the
 * config that it uses and the fingerprints of its inputs. Stages with equal fingerprints have equal outputs, also
 * across runs.
 */
export function stageFingerprints(config: Config, plan: readonly Stage[]): Map<string, string> {
  const fingerprints = new Map<string, string>();
  for (const stage of plan) {
    const isAlone = stage.kind === 'translator' && !hasPerceptualTerms(config);
    const inputs = stageInputs(stage)
      .filter((name) => !isAlone || name !== stage.segmenterFrom)
      .map((name) => fingerprints.get(name));
    const used = without(config, [...FREE, ...unusedKeys(stage, config), ...(isAlone ? ['segmenter'] : [])]);
    const text = JSON.stringify([stage, used, inputs]);
    fingerprints.set(stage.name, createHash('sha256').update(text).digest('hex'));
  }
  return fingerprints;
}

function without(config: Config, keys: readonly string[]): unknown {
  const rest = structuredClone(config) as unknown as Record<string, unknown>;
  for (const key of keys) {
    const path = key.split('.');
    const last = path.pop()!;
    // A key may be listed beside its whole section, which is then gone.
    const table = path.reduce<Record<string, unknown> | undefined>(
      (inner, name) => inner?.[name] as Record<string, unknown> | undefined,
      rest,
    );
    delete table?.[last];
  }
  return rest;
}
