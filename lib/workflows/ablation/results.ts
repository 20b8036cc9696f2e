import path from 'node:path';
import type { RunSummary, StageRecord } from '../../pipeline/events.js';
import type { Ablation } from './ablation-config.js';

/** Statistics over the seeds that have a value. null: no value. */
export interface Statistics {
  count: number;
  mean: number | null;
  /** Sample standard deviation, with n − 1. null for fewer than two values. */
  deviation: number | null;
}

/** Row of the table. */
export interface AblationResult {
  title: string;
  variant: string;
  /** Label of the stage. */
  stage: string;
  /** Results of the finished seeds. */
  seeds: { seed: number; run: string; miou: number }[];
  miou: Statistics;
  /** Gain over the baseline with the same seed. */
  gain: Statistics;
  /** Mean gain as a share of the ceiling's. null without a ceiling, or if the ceiling gains nothing. */
  closed: number | null;
  /** Mean IoU per class over the seeds. null: the class was never measured. */
  iouPerClass: Record<string, number | null>;
  /** Name of the images on which it is measured, if they are not the baseline's. null: they are the same. */
  otherImages: string | null;
}

/** Content of `results.json`. */
export interface AblationResults {
  version: string;
  seeds: readonly number[];
  baseline: string;
  ceiling: string | null;
  /** true: every row has every seed. */
  complete: boolean;
  rows: AblationResult[];
}

/**
 * Computes the rows of an ablation from the summaries of its runs.
 *
 * @param summaryOf returns the summary of the run in a folder; undefined: it has none yet
 */
export async function ablationResults(
  ablation: Ablation,
  version: string,
  summaryOf: (folder: string) => Promise<RunSummary | undefined>,
): Promise<AblationResults> {
  const { seeds, baseline, ceiling, output } = ablation;
  const configsOf = (variant: string) => ablation.variants.find(({ name }) => name === variant)!.configs;
  const measured = await Promise.all(
    ablation.rows.map(async (row) => {
      const configs = configsOf(row.variant);
      const summaries = await Promise.all(configs.map((config) => summaryOf(config.output)));
      const records = summaries.map((summary) => summary?.stages.find(({ name }) => name === row.stage));
      return { row, configs, records };
    }),
  );
  const find = (title: string | null) => measured.find(({ row }) => row.title === title);
  const base = find(baseline)!;
  const gains = (records: readonly (StageRecord | undefined)[]) =>
    statistics(
      records.flatMap((record, index) => {
        const [one, other] = [record?.miou, base.records[index]?.miou];
        return typeof one === 'number' && typeof other === 'number' ? [one - other] : [];
      }),
    );
  const most = find(ceiling) ? gains(find(ceiling)!.records).mean : null;
  const rows = measured.map(({ row, configs, records }): AblationResult => {
    const finished = records.flatMap((record, index) =>
      typeof record?.miou === 'number'
        ? [{ seed: seeds[index]!, run: path.relative(output, configs[index]!.output), miou: record.miou }]
        : [],
    );
    const gain = gains(records);
    const images = JSON.stringify(configs[0]!.data.target.val);
    return {
      title: row.title,
      variant: row.variant,
      stage: row.label,
      seeds: finished,
      miou: statistics(finished.map(({ miou }) => miou)),
      gain,
      closed: most === null || gain.mean === null || most <= 0 ? null : gain.mean / most,
      iouPerClass: meansPerClass(records),
      otherImages:
        images === JSON.stringify(base.configs[0]!.data.target.val) ? null : imagesText(configs[0]!),
    };
  });
  const complete = rows.every((row) => row.seeds.length === seeds.length);
  return { version, seeds, baseline, ceiling, complete, rows };
}

export function statistics(values: readonly number[]): Statistics {
  const count = values.length;
  if (count === 0) return { count, mean: null, deviation: null };
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { count, mean, deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : null };
}

function meansPerClass(records: readonly (StageRecord | undefined)[]): Record<string, number | null> {
  const ious = records
    .map((record) => record?.iouPerClass)
    .filter((iou) => iou !== null && iou !== undefined);
  return Object.fromEntries(
    Object.keys(ious[0] ?? {}).map((name) => {
      const values = ious.map((iou) => iou[name] ?? null).filter((value) => value !== null);
      return [name, statistics(values).mean];
    }),
  );
}

function imagesText({ data: { target } }: Ablation['variants'][number]['configs'][number]): string {
  if (!target.val) return 'no labeled target images';
  const { images, list, part } = target.val;
  return `${images ?? list}${part ? `, part [${part.join(', ')}]` : ''}`;
}
