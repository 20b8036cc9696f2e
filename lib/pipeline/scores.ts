import { rankByScores, SCORES } from '../inference/score-ranks.js';
import { percent } from '../support/format.js';
import type { SegmenterScores, StageRanks, StageRecord } from './events.js';
import type { SegmenterStage, SourceOnlyStage, Stage } from './plan.js';

/** Names of the scores for people, and how their values are written. */
export const SCORE_TEXTS = {
  entropy: { name: 'entropy %', format: percent },
  neighborhoodDensity: { name: 'density', format: (value: number | null) => value?.toFixed(2) ?? '–' },
  viewAgreement: { name: 'views %', format: percent },
  classDivergence: { name: 'classes', format: (value: number | null) => value?.toFixed(3) ?? '–' },
  teacherAgreement: { name: 'teacher %', format: percent },
  sourceMiou: { name: 'source mIoU %', format: percent },
} as const satisfies Record<keyof typeof SCORES, { name: string; format: (value: number | null) => string }>;

/** Ranks the segmenters of a run that have scores, in the order of their stages. */
export function rankStages(stages: readonly StageRecord[]): StageRanks[] {
  const scored = stages.flatMap(({ name, label, scores }) => (scores ? [{ name, label, scores }] : []));
  const ranks = rankByScores(scored.map(({ scores }) => scores));
  return scored.map(({ name, label }, index) => ({ name, label, ...ranks[index]! }));
}

/** Returns the stage whose segmenter made the pseudo-labels that a stage trains on. null: there are none. */
export function labelMaker(stage: Stage, plan: readonly Stage[]): Stage | null {
  const find = (wanted: string) => plan.find(({ name }) => name === wanted) ?? null;
  if (stage.kind !== 'segmenter' || stage.pseudoLabelsFrom === null) return null;
  const labels = find(stage.pseudoLabelsFrom);
  return labels?.kind === 'pseudo-labels' ? find(labels.segmenterFrom) : null;
}

/**
 * Returns the segmenters that one should not be worse than: the maker of its pseudo-labels, and for the last segmenter of a
 * round the last one of the round before.
 */
export function segmentersBefore(stage: SourceOnlyStage | SegmenterStage, plan: readonly Stage[]): Stage[] {
  const lastOf = (round: number) =>
    plan.findLast((other) => other.round === round && other.kind === 'segmenter');
  const before = lastOf(stage.round - 1);
  const found = [labelMaker(stage, plan), stage.name === lastOf(stage.round)?.name ? before : undefined];
  return found.filter((other) => other !== null && other !== undefined);
}

/** Change of a score, of 1, from which on it counts as worse. */
const TOLERANCE = 0.005;

/**
 * Scores that are compared between rounds. The teacher is another one in each round. The density grows while all
 * predictions are alike and unsure.
 */
const COMPARED = ['entropy', 'viewAgreement', 'sourceMiou'] as const;

/**
 * Describes the scores that became worse by more than half a percentage point, if these are most of the scores that both
 * have. Otherwise returns null. See docs/design/method.md#scores-without-labels.
 */
export function worseScores(before: SegmenterScores, after: SegmenterScores): string | null {
  if (before.images !== after.images) return null;
  const both = COMPARED.filter((name) => Number.isFinite(before[name]) && Number.isFinite(after[name]));
  const worse = both.filter((name) => {
    const change = (after[name]! - before[name]!) * (SCORES[name] === 'lower' ? -1 : 1);
    return change < -TOLERANCE;
  });
  if (2 * worse.length <= both.length) return null;
  return worse
    .map((name) => {
      const { name: text, format } = SCORE_TEXTS[name];
      return `${text} ${format(before[name])} → ${format(after[name])}`;
    })
    .join(', ');
}

/** Share of the pixels from which on a class counts as predicted, and how much of it must be left. */
const LEAST_SHARE = 0.001;
const LEAST_LEFT = 0.25;

/**
 * Describes the classes that are predicted for less than a quarter of the pixels that they were predicted for before. null:
 * there is none. See docs/design/method.md#scores-without-labels.
 */
export function lostClasses(
  before: SegmenterScores,
  after: SegmenterScores,
  names: readonly string[],
): string | null {
  if (before.images !== after.images) return null;
  const lost = names.flatMap((name, index) => {
    // Scores of earlier versions have no shares.
    const [share = 0, left = 0] = [before.classShares?.[index], after.classShares?.[index]];
    if (share < LEAST_SHARE || left >= LEAST_LEFT * share) return [];
    return [`${name} ${percent(share, 2)} → ${percent(left, 2)} %`];
  });
  return lost.length > 0 ? lost.join(', ') : null;
}
