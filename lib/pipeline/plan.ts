import type { Config, LoopOptions } from '../config/schema.js';
import { InvalidArgumentError } from '../support/errors.js';

interface StageIdentity {
  /** Unique and stable name, such as `round-1/segmenter-0`. */
  name: string;
  /** Label as in the formulas, such as M0(1). */
  label: string;
  /** Round k of Algorithm 1. 0 for the stage before the loop. */
  round: number;
}

/** Trains M⁽⁰⁾ on source images alone. */
export interface SourceOnlyStage extends StageIdentity {
  kind: 'source-only';
}

/** Trains the translator F⁽ᵏ⁾ with perceptual terms of the newest segmenter. */
export interface TranslatorStage extends StageIdentity {
  kind: 'translator';
  /** Name of the stage whose segmenter provides the perceptual terms. */
  segmenterFrom: string;
  /** Name of the stage whose translators it starts from. Absent: random weights. */
  startsFrom?: string;
}

/** Writes the translated source images S′ ← F⁽ᵏ⁾(S) to disk. */
export interface TranslateStage extends StageIdentity {
  kind: 'translate';
  /** Name of the stage that trained F. null: histogram matching. */
  translatorFrom: string | null;
}

/** Writes the pseudo-labels of T: T_ssl, Ŷ_T. */
export interface PseudoLabelStage extends StageIdentity {
  kind: 'pseudo-labels';
  segmenterFrom: string;
}

/** Trains the segmenter Mᵢ⁽ᵏ⁾ on S′ and T, for i ≥ 1 with pseudo-labels. */
export interface SegmenterStage extends StageIdentity {
  kind: 'segmenter';
  /** Name of the stage that wrote S′. null: S itself. */
  translatedFrom: string | null;
  /** Name of the stage that wrote the pseudo-labels. null for i = 0. */
  pseudoLabelsFrom: string | null;
  /** Name of the stage whose last weights it starts from. Absent: the initial weights. */
  startsFrom?: string;
}

/** Stage of Algorithm 1 as plain data, with the names of the earlier stages that it needs. */
export type Stage = SourceOnlyStage | TranslatorStage | TranslateStage | PseudoLabelStage | SegmenterStage;

export type StageKind = Stage['kind'];

/** Lists the stages of Algorithm 1 in order, for K = `rounds` and N = `selfTrainingRounds`. */
export function planStages(loop: LoopOptions): Stage[] {
  const stages: Stage[] = [{ kind: 'source-only', name: 'source-only', label: 'M(0)', round: 0 }];
  let newest = 'source-only';
  for (let round = 1; round <= loop.rounds; round++) {
    const name = (part: string) => `round-${round}/${part}`;
    const translator = loop.translation === 'learned' ? name('translator') : null;
    const translated = loop.translation === 'none' ? null : name('translate');
    if (translator) {
      stages.push({
        kind: 'translator',
        name: translator,
        label: `F(${round})`,
        round,
        segmenterFrom: newest,
        // Absent from plans without it, so that runs of earlier versions resume.
        ...(loop.startFrom === 'previous' && round > 1 && { startsFrom: `round-${round - 1}/translator` }),
      });
    }
    if (translated) {
      stages.push({
        kind: 'translate',
        name: translated,
        label: `S′(${round})`,
        round,
        translatorFrom: translator,
      });
    }
    const last = round === loop.rounds ? loop.selfTrainingRoundsLast : null;
    for (let i = 0; i <= (last ?? loop.selfTrainingRounds); i++) {
      const pseudoLabels = i > 0 ? name(`pseudo-labels-${i}`) : null;
      if (pseudoLabels) {
        stages.push({
          kind: 'pseudo-labels',
          name: pseudoLabels,
          label: `Ŷ${i}(${round})`,
          round,
          segmenterFrom: newest,
        });
      }
      const continues = loop.startFrom === 'previous' && newest !== 'source-only';
      const startsFrom = continues && { startsFrom: newest };
      newest = name(`segmenter-${i}`);
      stages.push({
        kind: 'segmenter',
        name: newest,
        label: `M${i}(${round})`,
        round,
        translatedFrom: translated,
        pseudoLabelsFrom: pseudoLabels,
        ...startsFrom,
      });
    }
  }
  return stages;
}

/** Keys of the config that hold the training steps of stages. */
export const STEPS_KEYS = [
  'segmentation.sourceOnlySteps',
  'segmentation.steps',
  'segmentation.continuedSteps',
  'segmentation.pseudoLabelSteps',
  'translation.steps',
  'translation.continuedSteps',
] as const;

/** Returns the key that holds the training steps of a stage. null: the stage only processes images. */
export function stepsKey(stage: Stage, config: Config): (typeof STEPS_KEYS)[number] | null {
  switch (stage.kind) {
    case 'source-only':
      return 'segmentation.sourceOnlySteps';
    case 'segmenter':
      return stage.pseudoLabelsFrom
        ? 'segmentation.pseudoLabelSteps'
        : `segmentation.${ownSteps('segmentation')}`;
    case 'translator':
      return `translation.${ownSteps('translation')}`;
    case 'translate':
    case 'pseudo-labels':
      return null;
  }

  function ownSteps(section: 'segmentation' | 'translation') {
    const continues = 'startsFrom' in stage && config[section].continuedSteps !== null;
    return continues ? 'continuedSteps' : 'steps';
  }
}

/** Returns the number of training steps of a stage. 0 for a stage that only processes images. */
export function stageSteps(stage: Stage, config: Config): number {
  const key = stepsKey(stage, config);
  if (!key) return 0;
  // All keys hold numbers, so one of them stands for all.
  const [section, name] = key.split('.') as ['segmentation', 'steps'];
  return config[section][name];
}

/** Returns the names of the stages whose output `stage` uses. */
export function stageInputs(stage: Stage): string[] {
  switch (stage.kind) {
    case 'source-only':
      return [];
    case 'translator':
      return [stage.segmenterFrom, ...(stage.startsFrom ? [stage.startsFrom] : [])];
    case 'pseudo-labels':
      return [stage.segmenterFrom];
    case 'translate':
      return stage.translatorFrom ? [stage.translatorFrom] : [];
    case 'segmenter':
      return [stage.translatedFrom, stage.pseudoLabelsFrom, stage.startsFrom ?? null].filter(
        (name) => name !== null,
      );
  }
}

/**
 * Finds a stage by a name such as `round-2/segmenter-1`, a label such as `M1(2)`, or a kind. A kind selects the first
 * stage of that kind.
 *
 * @throws InvalidArgumentError when the plan has no such stage; the message lists the stages
 */
export function selectStage(plan: readonly Stage[], selector: string): Stage {
  const stage =
    plan.find(({ name, label }) => name === selector || label === selector) ??
    plan.find(({ kind }) => kind === selector);
  if (stage) return stage;
  const names = plan.map(({ name }) => name).join(', ');
  throw new InvalidArgumentError(`No stage '${selector}' in this run; expected one of ${names}`);
}
