import type { Batch, BatchLoader } from '../data/loader.js';
import { NonFiniteLossError } from '../errors.js';
import type { StepEvent } from './events.js';

/** What a trainer has done when its last step is. */
export interface TrainingResult {
  steps: number;
  /** Time spent in steps, and time spent waiting for data, in seconds. */
  computeSeconds: number;
  waitSeconds: number;
}

/** The loop that both trainers share: a batch from each loader, one native step, one event. */
export async function* trainingLoop<Losses>(options: {
  stage: string;
  steps: number;
  loaders: readonly BatchLoader[];
  learningRate: (step: number) => number;
  run: (batches: readonly Batch[], step: number) => Promise<Losses>;
}): AsyncGenerator<StepEvent<Losses>, TrainingResult> {
  const { stage, steps, run } = options;
  const iterators = options.loaders.map((loader) => loader[Symbol.asyncIterator]());
  let computeMs = 0;
  let totalWaitMs = 0;
  try {
    for (let step = 0; step < steps; step++) {
      const start = performance.now();
      const results = await Promise.all(iterators.map((iterator) => iterator.next()));
      const batches = results.map((result) => result.value as Batch);
      const ready = performance.now();
      const losses = await run(batches, step).catch((error: unknown) => {
        throw withPlace(error, stage, step, batches);
      });
      const stepMs = performance.now() - ready;
      const waitMs = ready - start;
      computeMs += stepMs;
      totalWaitMs += waitMs;
      const learningRate = options.learningRate(step);
      yield { type: 'step', stage, step: step + 1, steps, losses, learningRate, stepMs, waitMs };
    }
  } finally {
    await Promise.allSettled(iterators.map((iterator) => iterator.return(undefined)));
  }
  return { steps, computeSeconds: computeMs / 1000, waitSeconds: totalWaitMs / 1000 };
}

/** A step knows its numbers but not where it stands: the stage and the images are what its owner can act on. */
function withPlace(error: unknown, stage: string, step: number, batches: readonly Batch[]): unknown {
  if (!(error instanceof NonFiniteLossError)) return error;
  const names = batches.flatMap((batch) => batch.names).join(', ');
  const place = `Stage ${stage}, step ${step + 1}, images ${names}`;
  return new NonFiniteLossError(`${place}: ${error.message}`, { cause: error });
}
