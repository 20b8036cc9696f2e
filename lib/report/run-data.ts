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

/** All that a report tells, read from a run folder; the run may be going on. */
export interface RunData {
  /** The run folder's own name; of an ablation's runs, which are all called "seed-N", the variant and the seed. */
  name: string;
  summary: RunSummary;
  config: Config;
  /** The config as YAML. */
  configText: string;
  /** 3 bytes (R, G, B) a class. */
  palette: Uint8Array;
  /** The stages that have begun, in the order of the plan. */
  stages: StageData[];
  /** Number of stages planned. */
  planned: number;
  /** What the log says about the data. */
  dataWarnings: string[];
}

export interface StageData {
  stage: Stage;
  /** Null while the stage is not complete. */
  record: StageRecord | null;
  /** Null when the event log tells nothing of it. */
  history: StageHistory | null;
  /** Of a complete `pseudo-labels` stage. */
  manifest: PseudoLabelManifest | null;
}

/**
 * @throws ConfigError when the folder holds no run, or a link
 * @throws DataError when a file of it cannot be read
 */
export async function readRun(folder: string): Promise<RunData> {
  const config = await resumeConfig(folder);
  await requireOwnFiles(folder);
  const [summary, history] = await Promise.all([readSummary(folder), readHistory(folder)]);
  const records = new Map(summary.stages.map((record) => [record.name, record]));
  const plan = planStages(config.loop);
  // What began last may be running; whatever else began and is not complete was overtaken by a new start.
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

/** An ablation's runs lie in `runs/VARIANT/seed-N`. */
function runName(folder: string): string {
  const [runs, variant, name = ''] = folder.split(path.sep).slice(-3);
  const seed = /^seed-(\d+)$/.exec(name)?.[1];
  return runs === 'runs' && variant && seed ? `${variant}, seed ${seed}` : name;
}

async function readManifest(folder: string): Promise<PseudoLabelManifest | null> {
  const file = path.join(folder, 'manifest.json');
  // A run may have been thinned out to save space; the report can do without.
  if (!existsSync(file)) return null;
  try {
    return JSON.parse(await readFile(file, 'utf8')) as PseudoLabelManifest;
  } catch (error) {
    throw new DataError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
