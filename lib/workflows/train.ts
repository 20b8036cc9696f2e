import { isDeepStrictEqual } from 'node:util';
import type { Config } from '../config/schema.js';
import { BidirectionalLearning, type RunOptions } from '../pipeline/bidirectional.js';
import { checkRun } from '../pipeline/checks.js';
import { type OpenedDatasets, openDatasets, surveyDatasets } from '../pipeline/datasets.js';
import type { ProgressEvent, RunEvent, RunSummary } from '../pipeline/events.js';
import { planStages, selectStage } from '../pipeline/plan.js';
import { requireTrainingDevice } from '../pipeline/require-device.js';
import { writeReport } from '../report/write-report.js';
import {
  changedData,
  changedDataWarning,
  type DataRecord,
  dataDifferences,
  recordData,
} from '../run/data-record.js';
import { RunFolder, type RunFolderMode, recordedData } from '../run/run-folder.js';
import { followEvents, fromCallback, mapEvents } from '../support/generators.js';
import type { WarningEvent } from '../training/events.js';

export interface TrainOptions extends RunOptions {
  /**
   * Continues a run although its data are not those that it began with. The report says so. Default false: that is an error,
   * which lists the first differences.
   */
  acceptChangedData?: boolean;
}

/**
 * A whole run in one call: opens the run folder `config.output` and the data sets, generating the embedded one if asked,
 * then runs Algorithm 1, or one stage of it, logs what happens, and writes `report.html` at the end. What config and data
 * decide is checked before the run folder is made or changed.
 *
 *     for await (const event of train(config)) if (event.type === 'stage-end') console.log(event.record);
 *
 * With `only`, the folder may hold a run of the same config, whose complete stages the one stage can use; `overwrite` then
 * means that stage alone.
 *
 * @throws ConfigError when the run folder holds a run and neither `resume` nor `overwrite` is set, or is in use, or when a
 *   stage could not work with these data
 * @throws DataError when the data of a run that continues have changed
 * @throws InvalidArgumentError, DataError, NonFiniteLossError as `BidirectionalLearning.events` does
 */
export async function* train(
  config: Config,
  options: TrainOptions = {},
): AsyncGenerator<RunEvent, RunSummary> {
  const { resume, overwrite, only, signal } = options;
  if (only !== undefined) selectStage(planStages(config.loop), only);
  const mode = only !== undefined ? 'continue' : resume ? 'resume' : overwrite ? 'overwrite' : 'create';
  await requireTrainingDevice(config);
  // Before there is a run folder, so that a wrong path leaves none; embedded data are generated in it.
  const checked = config.data.embedded
    ? null
    : await checkData(config, await openDatasets(config), mode, options);
  const folder = await RunFolder.open(config, mode);
  try {
    const { datasets, warnings, record, changed } =
      checked ?? (await checkData(config, yield* openGenerated(config, signal), mode, options));
    if (record) await folder.keepData(record, { changed });
    const learning = new BidirectionalLearning(config, datasets, folder);
    const told = warnings.map((message): WarningEvent => ({ type: 'warning', stage: 'data', message }));
    const events = followEvents(learning.events(options), ({ type }) => (type === 'run-start' ? told : []));
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

/** Data that a run can be trained on. */
interface CheckedData {
  datasets: OpenedDatasets;
  warnings: string[];
  /** What the run folder is to keep of the data; null: it has it. */
  record: DataRecord | null;
  /** Whether the data are others than those the run began with. */
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
    warnings.push('the run kept no record of its data before now, so that changes until now are not known');
  }
  // A run that continues was told already.
  if (!known || changed) warnings.push(...(await surveyDatasets(config, datasets, { signal })));
  return { datasets, warnings, record: isDeepStrictEqual(known, record) ? null : record, changed };
}

/** The run is complete whatever becomes of its report. */
async function* report(folder: string): AsyncGenerator<WarningEvent, void> {
  try {
    await writeReport(folder);
  } catch (error) {
    yield { type: 'warning', stage: 'report', message: `no report: ${(error as Error).message}` };
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
