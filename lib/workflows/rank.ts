import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { classNames } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import { toSize } from '../data/image-size.js';
import { scoreImages } from '../inference/label-free-scores.js';
import { type Ranks, rankByScores, rankCorrelation, SCORE_NAMES, SCORES } from '../inference/score-ranks.js';
import { openTarget } from '../pipeline/datasets.js';
import type { SegmenterScores, StageRecord } from '../pipeline/events.js';
import { createSegmenter } from '../pipeline/models.js';
import { planStages, type Stage } from '../pipeline/plan.js';
import { labelMaker } from '../pipeline/scores.js';
import { configFile, entriesOf, RunPaths, readSummary, resumeConfig } from '../run/run-files.js';
import { DataError } from '../support/errors.js';

/** Options of {@link rankRuns}. */
export interface RankOptions {
  /** Number of images. Default: `scoreCount` of the first run, or 32 if that is 0. */
  count?: number | undefined;
  /** Seed of the images. Default: seed of the first run. */
  seed?: number | undefined;
  /** Device to compute on. Default `cpu`. */
  device?: string | undefined;
  signal?: AbortSignal | undefined;
}

/** Segmenter of a run. */
export interface Candidate {
  /** Run folder. */
  run: string;
  /** Name and label of the stage that trained it. */
  stage: string;
  label: string;
  /**
   * Which of the stage's weights: the last, those that did best on held-out source images, or the average that was their
   * teacher.
   */
  weights: 'last' | 'best' | 'teacher';
  file: string;
  /** Run folders with the same weights, such as the runs of an ablation that share a stage. */
  also: string[];
  /** mIoU that the run measured, 0 … 1. It is no part of the ranking. null: it measured none. */
  miou: number | null;
}

/** Segmenter with its scores and its places among the others. */
export interface RankedSegmenter extends Candidate, Ranks {
  scores: SegmenterScores;
}

/** A segmenter has its scores, or has the first part of them. */
export interface RankProgress {
  type: 'progress';
  run: string;
  label: string;
  /** Number of images of all segmenters, finished and in all. */
  done: number;
  total: number;
}

/** Ranking of all segmenters. */
export interface Ranking {
  images: number;
  seed: number;
  /** Segmenters, the best first. */
  segmenters: RankedSegmenter[];
}

interface Found extends Omit<Candidate, 'also'> {
  config: Config;
  /** Weights of the segmenter that made the pseudo-labels, or else of the teacher in the training. null: neither. */
  teacher: string | null;
  sourceMiou: number | null;
  /** Shares of the classes in the labels of the run's source. null: a run of version 0.1, or one without scores. */
  sourceShares: number[] | null;
}

/**
 * Ranks the finished segmenters of runs and ablations without target labels. All are scored on the same images: target
 * images of the first run. Labels are not read, except those that a run has measured already.
 *
 * @param folders run folders, and folders of ablations
 * @throws DataError when a folder is neither, no segmenter is finished, or classes differ
 */
export async function* rankRuns(
  folders: readonly string[],
  { count, seed, device = 'cpu', signal }: RankOptions = {},
): AsyncGenerator<RankProgress, Ranking> {
  const runs = [...new Set((await Promise.all(folders.map(runsIn))).flat())];
  const found = (await Promise.all(runs.map(segmentersOf))).flat();
  const [first] = found;
  if (!first) throw new DataError(`${folders.join(', ')}: no segmenter is finished yet`);
  requireSameClasses(found);
  const target = await openTarget(first.config);
  const images = Math.min(target.length, count ?? (first.config.scoreCount || 32));
  // Of the first run, because all must be compared with the same source.
  const { sourceShares } = first;
  const options = { count: images, seed: seed ?? first.config.seed, signal };
  const candidates = await distinct(found);
  const scored: (Found & { also: string[]; scores: SegmenterScores })[] = [];
  for (const candidate of candidates) {
    const { run, label, config, file, teacher: teacherFile, sourceMiou } = candidate;
    signal?.throwIfAborted();
    using segmenter = await createSegmenter({ ...config, device }, file);
    using teacher = teacherFile === null ? null : await createSegmenter({ ...config, device }, teacherFile);
    // One size for all, or the scores would differ by it.
    const size = toSize(first.config.sizes.evaluation);
    const scoring = scoreImages(segmenter, target, { ...options, size, teacher, sourceShares });
    for (;;) {
      const next = await scoring.next();
      if (next.done) {
        scored.push({ ...candidate, scores: { ...next.value, sourceMiou } });
        break;
      }
      const done = scored.length * images + next.value.done;
      yield { type: 'progress', run, label, done, total: candidates.length * images };
    }
  }
  const ranks = rankByScores(scored.map(({ scores }) => scores));
  const segmenters = scored.map(
    ({ config: _, teacher: _teacher, sourceMiou: _source, sourceShares: _shares, ...rest }, index) => ({
      ...rest,
      ...ranks[index]!,
    }),
  );
  segmenters.sort((one, other) => (one.rank ?? Infinity) - (other.rank ?? Infinity));
  return { images, seed: options.seed, segmenters };
}

/** Spearman's rank correlation of each score, and of the mean place, with the measured mIoU. 1: the same order. */
export function rankCorrelations(
  segmenters: readonly RankedSegmenter[],
): Record<keyof typeof SCORES | 'meanRank', number | null> {
  const truth = segmenters.map(({ miou }) => miou);
  const byScore = SCORE_NAMES.map((name) => {
    const values = segmenters.map(({ scores }) => scores[name]);
    return [name, rankCorrelation(values, truth, SCORES[name])] as const;
  });
  const places = segmenters.map(({ meanRank }) => meanRank);
  return Object.fromEntries([...byScore, ['meanRank', rankCorrelation(places, truth, 'lower')]]) as Record<
    keyof typeof SCORES | 'meanRank',
    number | null
  >;
}

/** Lists the runs in a folder: the run that it is, or those of the ablation that it is. */
async function runsIn(folder: string): Promise<string[]> {
  if (existsSync(configFile(folder))) return [path.normalize(folder)];
  const subfolders = async (place: string) =>
    (await entriesOf(place)).filter((entry) => entry.isDirectory()).map(({ name }) => path.join(place, name));
  const variants = (await subfolders(path.join(folder, 'runs'))).sort();
  const runs = (await Promise.all(variants.map(subfolders))).flatMap((names) => names.sort());
  const begun = runs.filter((run) => existsSync(configFile(run)));
  if (begun.length > 0) return begun;
  throw new DataError(
    `${folder}: expected the folder of a run or of an ablation but found neither config.yaml nor runs/VARIANT/seed-N`,
  );
}

/** Lists the finished segmenters of a run. */
async function segmentersOf(run: string): Promise<Found[]> {
  if (!existsSync(path.join(run, 'summary.json'))) return [];
  const [config, summary] = await Promise.all([resumeConfig(run), readSummary(run)]);
  const plan = planStages(config.loop);
  const paths = new RunPaths(run);
  return summary.stages.flatMap((record): Found[] => {
    const stage = plan.find(({ name }) => name === record.name);
    if (!stage || !['source-only', 'segmenter'].includes(record.kind)) return [];
    const maker = labelMaker(stage, plan);
    const sourceShares = record.scores?.sourceShares ?? null;
    const common = { run, stage: stage.name, label: stage.label, config, sourceShares };
    const average = paths.teacherWeightsFile(stage);
    const hasAverage = existsSync(average);
    const teacher = maker ? paths.weightsFile(maker) : hasAverage ? average : null;
    const last: Found = {
      ...common,
      weights: 'last',
      file: paths.weightsFile(stage),
      teacher,
      sourceMiou: record.scores?.sourceMiou ?? null,
      miou: record.miou,
    };
    // The agreement of two is that of either. Nothing was measured for the average.
    const ofAverage: Found = {
      ...last,
      weights: 'teacher',
      file: average,
      teacher: maker ? teacher : last.file,
      sourceMiou: null,
      miou: null,
    };
    return [last, ...bestOf(last, { record, stage, paths }), ...(hasAverage ? [ofAverage] : [])];
  });
}

/** The weights that did best on held-out source images, if they are not the last. */
function bestOf(
  last: Found,
  { record, stage, paths }: { record: StageRecord; stage: Stage; paths: RunPaths },
): Found[] {
  const file = paths.bestWeightsFile(stage);
  if (!record.best || record.best.step === record.steps || !existsSync(file)) return [];
  return [{ ...last, weights: 'best', file, sourceMiou: record.best.miou, miou: null }];
}

function requireSameClasses(found: readonly Found[]): void {
  const [first] = found;
  const names = JSON.stringify(classNames(first!.config));
  const other = found.find(({ config }) => JSON.stringify(classNames(config)) !== names);
  if (!other) return;
  throw new DataError(
    `${other.run}: has other classes than ${first!.run}; expected runs with the same classes`,
  );
}

/** Joins segmenters with equal weights files. An ablation's runs share stages. */
async function distinct(found: readonly Found[]): Promise<(Found & { also: string[] })[]> {
  const byHash = new Map<string, Found & { also: string[] }>();
  for (const segmenter of found) {
    const hash = await hashOf(segmenter.file);
    const same = byHash.get(hash);
    if (same) same.also.push(segmenter.run);
    else byHash.set(hash, { ...segmenter, also: [] });
  }
  return [...byHash.values()];
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    await pipeline(createReadStream(file), hash);
  } catch (cause) {
    throw new DataError(`${file}: cannot be read: ${(cause as Error).message}`, { cause });
  }
  return hash.digest('hex');
}
