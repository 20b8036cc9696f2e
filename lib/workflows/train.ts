import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { checkClassNames } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import { agree, shareJson } from '../native/group-values.js';
import type { ProcessGroup } from '../native/process-group.js';
import { BidirectionalLearning, type RunOptions } from '../pipeline/bidirectional.js';
import { checkRun } from '../pipeline/checks.js';
import { type OpenedDatasets, openDatasets, surveyDatasets } from '../pipeline/datasets.js';
import type { ProgressEvent, RunEvent, RunSummary } from '../pipeline/events.js';
import { planStages, selectStage } from '../pipeline/plan.js';
import { requireSameConfig, requireSameData } from '../pipeline/processes.js';
import { requireTrainingDevice } from '../pipeline/require-device.js';
import { SharedStore } from '../pipeline/shared-store.js';
import { writeReport } from '../report/write-report.js';
import {
  changedData,
  changedDataWarning,
  type DataRecord,
  dataDifferences,
  recordData,
} from '../run/data-record.js';
import { RunPaths } from '../run/run-files.js';
import { RunFolder, type RunFolderMode, recordedData } from '../run/run-folder.js';
import { ConfigError } from '../support/errors.js';
import { liesIn, realPath } from '../support/files.js';
import { followEvents, fromCallback, mapEvents } from '../support/generators.js';
import type { WarningEvent } from '../training/events.js';

export interface TrainOptions extends RunOptions {
  /**
   * Resumes a run although its data have changed since it began. The report mentions it. Default false: an error lists the
   * first differences.
   */
  acceptChangedData?: boolean;
  /**
   * Processes that train together, from `ProcessGroup.join`. Each calls `train` with the same options. Rank 0 writes the run
   * folder, which all must see. Default null: this process alone.
   */
  group?: ProcessGroup | null | undefined;
  /**
   * Whether the run was started again after a failure. It then continues what it left, even with `overwrite`. Default
   * false.
   */
  restarted?: boolean;
}

/**
 * Trains a whole run in one call. Opens the run folder `config.output` and the data sets, and generates the embedded
 * data set if the config asks for it. Then runs Algorithm 1, or one of its stages, and logs the events. Writes
 * `report.html` at the end. Checks config and data before it creates or changes the run folder.
 *
 *     for await (const event of train(config)) if (event.type === 'stage-end') console.log(event.record);
 *
 * With `only`, the folder may hold a run of the same config. The stage can use that run's complete stages. `overwrite`
 * then applies to that stage alone.
 *
 * @throws ConfigError when the run folder holds a run and neither `resume` nor `overwrite` is set, when it is in use, or
 * when a stage could not work with these data
 * @throws DataError when the data of a run to resume have changed
 * @throws InvalidArgumentError, DataError, NonFiniteLossError when `BidirectionalLearning.events` throws them
 */
export async function* train(
  config: Config,
  options: TrainOptions = {},
): AsyncGenerator<RunEvent, RunSummary> {
  const { only, group, signal, restarted = false } = options;
  const overwrite = options.overwrite && !restarted;
  const resume = options.resume || restarted;
  if (only !== undefined) selectStage(planStages(config.loop), only);
  const run = { ...options, resume: resume ?? false, overwrite: overwrite ?? false };
  const continues = only !== undefined || restarted;
  const mode = continues ? 'continue' : resume ? 'resume' : overwrite ? 'overwrite' : 'create';
  await requireTrainingDevice(config);
  checkClassNames(config);
  if (group && group.size > 1) {
    return yield* trainTogether(config, run, { group, mode });
  }
  // The data sets are opened before the run folder, so that a wrong path leaves no folder. Embedded data are generated
  // in the folder.
  const checked = config.data.embedded
    ? null
    : await checkData(config, await openDatasets(config), mode, options);
  if (overwrite) requireInputsOutside(config, checked?.datasets ?? null);
  const folder = await RunFolder.open(config, mode);
  try {
    const { datasets, warnings, record, changed } =
      checked ?? (await checkData(config, yield* openGenerated(config, signal), mode, options));
    if (record) await folder.keepData(record, { changed });
    const learning = new BidirectionalLearning(config, datasets, folder);
    const told = warnings.map((message): WarningEvent => ({ type: 'warning', stage: 'data', message }));
    const events = followEvents(learning.events(run), ({ type }) => (type === 'run-start' ? told : []));
    const summary = yield* mapEvents(events, async (event) => {
      await folder.log(event);
      return event;
    });
    yield* report(config.output);
    return summary;
  } finally {
    await folder.close();
  }
}

/** Trains as one of several processes. */
async function* trainTogether(
  config: Config,
  options: TrainOptions,
  { group, mode }: { group: ProcessGroup; mode: RunFolderMode },
): AsyncGenerator<RunEvent, RunSummary> {
  const { overwrite, only, signal } = options;
  await requireSameConfig(group, config, { mode, only });
  const open = (own: Config) => agree(group, () => openDatasets(own), signal);
  const opened = config.data.embedded ? null : await open(config);
  let found: CheckedData | undefined; // in rank 0
  const check = (datasets: OpenedDatasets) =>
    shareJson(group, async () => {
      found = await checkData(config, datasets, mode, options);
      return found.warnings;
    });
  let warnings = opened && (await check(opened));
  if (overwrite) await agree(group, async () => requireInputsOutside(config, opened));
  let folder: RunFolder | undefined;
  await shareJson(group, async () => {
    folder = await RunFolder.open(config, mode);
    return null;
  });
  try {
    // Rank 0 generates data, and then the others find them.
    if (!opened && folder) yield* openGenerated(config, signal);
    if (!opened) await group.barrier(signal ? { signal } : {});
    const datasets = opened ?? (await open(config));
    await requireSameData(group, config, datasets, folder?.mark ?? null);
    warnings ??= await check(datasets);
    if (found?.record) await folder?.keepData(found.record, { changed: found.changed });
    const store = new SharedStore(group, new RunPaths(config.output), folder ?? null);
    const learning = new BidirectionalLearning(config, datasets, store, { group });
    const told = warnings.map((message): WarningEvent => ({ type: 'warning', stage: 'data', message }));
    const events = followEvents(learning.events(options), ({ type }) => (type === 'run-start' ? told : []));
    const summary = yield* mapEvents(events, async (event) => {
      await folder?.log(event);
      return event;
    });
    if (folder) yield* report(config.output);
    return summary;
  } finally {
    await folder?.close();
  }
}

/** Overwriting a run must not remove what the new run reads. Only its `data` stays. */
function requireInputsOutside({ output, segmenter }: Config, datasets: OpenedDatasets | null): void {
  const [run, data] = [realPath(output), realPath(path.join(output, 'data'))];
  const sets = datasets ? [datasets.source, datasets.target, datasets.validation, datasets.labeled] : [];
  const entries = sets.flatMap((set) =>
    Array.from({ length: set?.length ?? 0 }, (_, index) => set!.entry(index)),
  );
  const inputs = [segmenter.initialWeights, ...entries.flatMap(({ image, label }) => [image, label])];
  for (const input of inputs) {
    if (input === null || input === undefined) continue;
    const place = realPath(input);
    if (!liesIn(place, run) || liesIn(place, data)) continue;
    throw new ConfigError(
      `${input}: lies in the run folder that is to be overwritten; choose another output`,
    );
  }
}

/** Data that a run can be trained on. */
interface CheckedData {
  datasets: OpenedDatasets;
  warnings: string[];
  /** Record of the data for the run folder. null: the folder has it already. */
  record: DataRecord | null;
  /** Whether the data have changed since the run began. */
  changed: boolean;
}

async function checkData(
  config: Config,
  datasets: OpenedDatasets,
  mode: RunFolderMode,
  { acceptChangedData = false, signal }: TrainOptions,
): Promise<CheckedData> {
  await checkRun(config, datasets);
  const continues = mode === 'resume' || mode === 'continue';
  const recorded = continues ? await recordedData(config) : undefined;
  const known = recorded ?? undefined;
  const record = await recordData(datasets, { known, signal });
  const differences = known ? dataDifferences(known, record) : [];
  const changed = differences.length > 0;
  if (changed && !acceptChangedData) throw changedData(config.output, differences);
  const warnings = [...datasets.warnings];
  if (changed) warnings.push(changedDataWarning(differences));
  if (recorded === null) {
    warnings.push('the run has no record of its data yet, so earlier changes are unknown');
  }
  // A resumed run has given these warnings before.
  if (!known || changed) warnings.push(...(await surveyDatasets(config, datasets, { signal })));
  return { datasets, warnings, record: isDeepStrictEqual(known, record) ? null : record, changed };
}

/** The run is complete whatever becomes of its report. */
async function* report(folder: string): AsyncGenerator<WarningEvent, void> {
  try {
    await writeReport(folder);
  } catch (error) {
    yield {
      type: 'warning',
      stage: 'report',
      message: `the report was not written: ${(error as Error).message}`,
    };
  }
}

function openGenerated(
  config: Config,
  signal: AbortSignal | undefined,
): AsyncGenerator<ProgressEvent, OpenedDatasets> {
  const event = { type: 'progress', stage: 'data', task: 'embedded-data' } as const;
  return fromCallback(
    (emit, signal) =>
      openDatasets(config, { signal, onProgress: (progress) => emit({ ...event, ...progress }) }),
    signal,
  );
}
