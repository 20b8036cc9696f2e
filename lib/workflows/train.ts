import path from 'node:path';
import type { Config } from '../config/schema.js';
import { BidirectionalLearning, type RunOptions } from '../pipeline/bidirectional.js';
import { type Datasets, openDatasets } from '../pipeline/datasets.js';
import type { ProgressEvent, RunEvent, RunSummary } from '../pipeline/events.js';
import { planStages, selectStage } from '../pipeline/plan.js';
import { writeReport } from '../report/write-report.js';
import { RunFolder } from '../run/run-folder.js';
import { ConfigError } from '../support/errors.js';
import { liesIn, realPath } from '../support/files.js';
import { fromCallback, mapEvents } from '../support/generators.js';
import type { WarningEvent } from '../training/events.js';

/**
 * Trains a whole run in one call. Opens the run folder `config.output` and the data sets, and generates the embedded
 * data set if the config asks for it. Then runs Algorithm 1, or one of its stages, and logs the events. Writes
 * `report.html` at the end.
 *
 *     for await (const event of train(config)) if (event.type === 'stage-end') console.log(event.record);
 *
 * With `only`, the folder may hold a run of the same config. The stage can use that run's complete stages. `overwrite`
 * then applies to that stage alone.
 *
 * @throws ConfigError when the run folder holds a run and neither `resume` nor `overwrite` is set, or when it is in use
 * @throws InvalidArgumentError, DataError, NonFiniteLossError when `BidirectionalLearning.events` throws them
 */
export async function* train(config: Config, options: RunOptions = {}): AsyncGenerator<RunEvent, RunSummary> {
  const { resume, overwrite, only, signal } = options;
  if (only !== undefined) selectStage(planStages(config.loop), only);
  const mode = only !== undefined ? 'continue' : resume ? 'resume' : overwrite ? 'overwrite' : 'create';
  // The data sets are opened before the run folder, so that a wrong path leaves no folder. Embedded data are generated
  // in the folder.
  const found = config.data.embedded ? null : await openDatasets(config);
  if (overwrite) requireInputsOutside(config, found);
  const folder = await RunFolder.open(config, mode);
  try {
    const datasets = found ?? (yield* openGenerated(config, signal));
    const learning = new BidirectionalLearning(config, datasets, folder);
    const summary = yield* mapEvents(learning.events(options), async (event) => {
      await folder.log(event);
      return event;
    });
    yield* report(config.output);
    return summary;
  } finally {
    await folder.close();
  }
}

/** Overwriting a run must not remove what the new run reads. Only its `data` stays. */
function requireInputsOutside({ output, segmenter }: Config, datasets: Datasets | null): void {
  const [run, data] = [realPath(output), realPath(path.join(output, 'data'))];
  const sets = datasets ? [datasets.source, datasets.target, datasets.validation] : [];
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
): AsyncGenerator<ProgressEvent, Datasets> {
  const event = { type: 'progress', stage: 'data', task: 'embedded-data' } as const;
  return fromCallback(
    (emit, signal) =>
      openDatasets(config, { signal, onProgress: (progress) => emit({ ...event, ...progress }) }),
    signal,
  );
}
