import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import YAML from 'yaml';
import { classPalette } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import type { RunSummary, StageRecord } from '../pipeline/events.js';
import { planStages, type Stage } from '../pipeline/plan.js';
import { readHistory, type StageHistory } from '../run/history.js';
import { readSummary, requireOwnFiles, resumeConfig, stageImages } from '../run/run-files.js';
import { DataError } from '../support/errors.js';
import type { PseudoLabelManifest } from '../training/self-training.js';

/** Content of a report, read from a run folder. The run may be in progress. */
export interface RunData {
  /** Name of the run folder. For the runs of an ablation, which are all called "seed-N", the variant and the seed. */
  name: string;
  summary: RunSummary;
  config: Config;
  /** Config as YAML. */
  configText: string;
  /** Colors of the classes, 3 bytes (R, G, B) per class. */
  palette: Uint8Array;
  /** Stages that have begun, in the order of the plan. */
  stages: StageData[];
  /** Number of stages planned. */
  planned: number;
  /** Warnings about the data. */
  dataWarnings: string[];
}

export interface StageData {
  stage: Stage;
  /** Record of the stage. null: it is not complete. */
  record: StageRecord | null;
  /** History of the stage. null: the event log does not mention it. */
  history: StageHistory | null;
  /** Manifest of a complete `pseudo-labels` stage. null for other stages. */
  manifest: PseudoLabelManifest | null;
}

/**
 * Reads a run folder.
 *
 * @throws ConfigError when the folder holds no run, or a link
 * @throws DataError when a file of the run cannot be read
 */
export async function readRun(folder: string): Promise<RunData> {
  const config = await resumeConfig(folder);
  await requireOwnFiles(folder);
  const [summary, history] = await Promise.all([readSummary(folder), readHistory(folder)]);
  const records = new Map(summary.stages.map((record) => [record.name, record]));
  const plan = planStages(config.loop);
  // The stage that began last may be running. Other incomplete stages that began earlier belong to an abandoned
  // attempt.
  const running = [...history.keys()].findLast((name) => plan.some((stage) => stage.name === name));
  const begun = plan.filter(({ name }) => records.has(name) || name === running);
  const stages = begun.map(async (stage): Promise<StageData> => {
    const record = records.get(stage.name) ?? null;
    return {
      stage,
      record,
      history: history.get(stage.name) ?? null,
      manifest:
        record && stage.kind === 'pseudo-labels' ? await readManifest(stageImages(folder, stage)) : null,
    };
  });
  return {
    name: runName(path.resolve(folder)),
    summary,
    config,
    configText: YAML.stringify(config),
    palette: classPalette(config),
    stages: await Promise.all(stages),
    planned: plan.length,
    dataWarnings: [...new Set(history.get('data')?.warnings)],
  };
}

/** Returns the name of a run. An ablation's runs lie in `runs/VARIANT/seed-N`. */
function runName(folder: string): string {
  const [runs, variant, name = ''] = folder.split(path.sep).slice(-3);
  const seed = /^seed-(\d+)$/.exec(name)?.[1];
  return runs === 'runs' && variant && seed ? `${variant}, seed ${seed}` : name;
}

async function readManifest(folder: string): Promise<PseudoLabelManifest | null> {
  const file = path.join(folder, 'manifest.json');
  // The user may have removed files of a run to save space. The report does not need this one.
  if (!existsSync(file)) return null;
  try {
    return JSON.parse(await readFile(file, 'utf8')) as PseudoLabelManifest;
  } catch (error) {
    throw new DataError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
