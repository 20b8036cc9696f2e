import type { LabelFreeScores } from './label-free-scores.js';

/** Scores by which segmenters are ranked. null: a segmenter does not have the score. */
export interface RankedScores
  extends Pick<
    LabelFreeScores,
    'entropy' | 'neighborhoodDensity' | 'viewAgreement' | 'classDivergence' | 'teacherAgreement'
  > {
  /** Mean IoU on labeled source images that were kept from training, 0 … 1. */
  sourceMiou: number | null;
}

/** Names of the scores, and whether a higher or a lower value is better. */
export const SCORES = {
  entropy: 'lower',
  neighborhoodDensity: 'higher',
  viewAgreement: 'higher',
  classDivergence: 'lower',
  teacherAgreement: 'higher',
  sourceMiou: 'higher',
} as const satisfies Record<keyof RankedScores, 'higher' | 'lower'>;

/** Name of a score. */
export type ScoreName = keyof RankedScores;

export const SCORE_NAMES = Object.keys(SCORES) as ScoreName[];

/** Place of a segmenter among others. 1 is best. Equal values share the mean of their places. */
export interface Ranks {
  /** Place by each score. null: the segmenter does not have the score. */
  ranks: Record<ScoreName, number | null>;
  /** Mean of the places by the scores that all segmenters have. null: there is no such score. */
  meanRank: number | null;
  /** Place by `meanRank`. null: there is no mean rank. */
  rank: number | null;
}

/**
 * Ranks segmenters by each score and by their mean rank. A score that some segmenter lacks is no part of the mean, because
 * its places would be among fewer.
 */
export function rankByScores(segmenters: readonly RankedScores[]): Ranks[] {
  const places = new Map(
    SCORE_NAMES.map((name) => {
      const sign = SCORES[name] === 'lower' ? 1 : -1;
      return [name, placesOf(segmenters.map((scores) => signed(scores[name], sign)))];
    }),
  );
  const common = SCORE_NAMES.filter((name) => places.get(name)!.every((place) => place !== null));
  const meanRanks = segmenters.map((_, index) =>
    common.length === 0
      ? null
      : common.reduce((sum, name) => sum + places.get(name)![index]!, 0) / common.length,
  );
  const overall = placesOf(meanRanks);
  return segmenters.map((_, index) => ({
    ranks: Object.fromEntries(SCORE_NAMES.map((name) => [name, places.get(name)![index]!])) as Ranks['ranks'],
    meanRank: meanRanks[index]!,
    rank: overall[index]!,
  }));
}

/**
 * Computes Spearman's rank correlation of a score with the truth, −1 … 1. It is 1 if the score has the order of the truth,
 * whether its better values are the higher or the lower ones. Pairs with a missing value do not count.
 *
 * @returns null for fewer than three pairs, or if all values of a side are equal
 */
export function rankCorrelation(
  scores: readonly (number | null)[],
  truth: readonly (number | null)[],
  better: 'higher' | 'lower',
): number | null {
  const pairs = scores.flatMap((score, index) => {
    const value = truth[index] ?? null;
    return signed(score, 1) === null || value === null ? [] : [[score!, value] as const];
  });
  if (pairs.length < 3) return null;
  const sign = better === 'lower' ? -1 : 1;
  const one = placesOf(pairs.map(([score]) => sign * score)) as number[];
  const other = placesOf(pairs.map(([, value]) => value)) as number[];
  const center = (pairs.length + 1) / 2;
  const product = (left: number[], right: number[]) =>
    left.reduce((sum, place, index) => sum + (place - center) * (right[index]! - center), 0);
  const spread = Math.sqrt(product(one, one) * product(other, other));
  return spread > 0 ? product(one, other) / spread : null;
}

/** NaN and infinity are missing values. */
function signed(value: number | null, sign: number): number | null {
  return value !== null && Number.isFinite(value) ? sign * value : null;
}

/** Places in ascending order, from 1. */
function placesOf(values: readonly (number | null)[]): (number | null)[] {
  return values.map((value) => {
    if (value === null) return null;
    const below = values.filter((other) => other !== null && other < value).length;
    const equal = values.filter((other) => other === value).length;
    return below + (equal + 1) / 2;
  });
}
