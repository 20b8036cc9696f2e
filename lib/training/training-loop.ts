import type { Batch } from '../data/loader.js';
import type { UploadedBatchHandle } from '../native/binding-types.js';
import { type Group, gatherJson } from '../native/group-values.js';
import type { TensorMap } from '../native/tensor.js';
import { NonFiniteLossError, ProcessGroupError } from '../support/errors.js';
import { type Checkpoints, checkpointed, dispose, type Resumable } from './checkpoints.js';
import type { CheckpointEvent, StepEvent, WarningEvent } from './events.js';
import type { NonFiniteOptions } from './loop-options.js';

/** Result of a finished training. */
export interface TrainingResult {
  steps: number;
  /** Time spent in steps and time spent waiting for data, in seconds. */
  computeSeconds: number;
  waitSeconds: number;
}

/**
 * State of a training between two steps. The order of data, crops and schedules follow from the step. See
 * docs/design/runs-and-resume.md#what-a-checkpoint-holds.
 */
export interface TrainingState extends Resumable {
  computeSeconds: number;
  waitSeconds: number;
  /** Number of consecutive steps, up to this one, that were skipped because a loss or gradient was not finite. */
  skipped: number;
}

/** Options of running a trainer. */
export interface TrainingOptions {
  /** Signal that stops the training within a step. The trainer then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** How the state is saved and where training resumes. Default none: nothing is saved. */
  checkpoints?: Checkpoints<TrainingState> | undefined;
  /**
   * Callback before each step, with the number of finished steps. It is also called before the first step after
   * resuming. Its time does not count as the step's.
   */
  beforeStep?: ((done: number) => Promise<void>) | undefined;
}

/** Event of a trainer. */
export type TrainingEvent<Losses> = StepEvent<Losses> | CheckpointEvent | WarningEvent;

interface Training<Losses> {
  stage: string;
  steps: number;
  /** Processes that compute each step together. Default none. */
  group?: Group;
  /** Access to the state of the networks and optimizers. */
  step: { state(): Promise<TensorMap>; loadState(state: TensorMap): Promise<void> };
  /** Makes one loader per domain, for the batches from `firstStep` on. */
  loaders: (firstStep: number) => readonly AsyncIterable<Batch>[];
  learningRate: (step: number) => number;
  /**
   * Begins to copy a batch to the device that computes. If given, the batches of a step are uploaded while the step
   * before it computes, and `run` receives the uploaded ones. See
   * docs/design/kernels-and-speed.md#uploading-the-next-batch.
   */
  upload?: ((batch: Batch) => UploadedBatchHandle) | undefined;
  run: (batches: readonly (Batch | UploadedBatchHandle)[], step: number) => Promise<Losses>;
  nonFinite: NonFiniteOptions;
  checkpoints: Checkpoints<TrainingState> | undefined;
  beforeStep?: TrainingOptions['beforeStep'];
}

/** Runs the loop that both trainers share: a batch from each loader, one native step, one event. */
export async function* trainingLoop<Losses>(
  options: Training<Losses>,
): AsyncGenerator<TrainingEvent<Losses>, TrainingResult> {
  const { stage, steps, step, checkpoints, upload } = options;
  const { policy, limit } = options.nonFinite;
  const { state } = checkpoints ?? {};
  let done = 0;
  let computeMs = 0;
  let totalWaitMs = 0;
  let skipped = 0;
  if (state) {
    await step.loadState(state.tensors);
    dispose(state.tensors);
    done = state.step;
    computeMs = state.computeSeconds * 1000;
    totalWaitMs = state.waitSeconds * 1000;
    skipped = state.skipped;
  }

  async function* train(): AsyncGenerator<StepEvent<Losses> | WarningEvent, TrainingResult> {
    const iterators = options.loaders(done).map((loader) => loader[Symbol.asyncIterator]());
    const load = async () => {
      const results = await Promise.all(iterators.map((iterator) => iterator.next()));
      const batches = results.map((result) => result.value as Batch);
      const uploaded = upload ? batches.map((batch) => upload(batch)) : [];
      return { batches, uploaded };
    };
    let ahead: ReturnType<typeof load> | undefined;
    try {
      while (done < steps) {
        await options.beforeStep?.(done);
        const start = performance.now();
        const { batches, uploaded } = await (ahead ?? load());
        ahead = upload && done + 1 < steps ? load() : undefined;
        ahead?.catch(() => {}); // a failure is reported when its step comes
        const ready = performance.now();
        const losses = await options
          .run(upload ? uploaded : batches, done)
          .catch((error: unknown) => failure(error, options, done, batches))
          .finally(() => {
            for (const batch of uploaded) batch.dispose();
          });
        const stepMs = performance.now() - ready;
        const waitMs = ready - start;
        if (losses instanceof NonFiniteLossError) {
          if (policy === 'stop') throw losses;
          if (skipped === limit) throw tooMany(losses, limit);
          skipped++;
          done++;
          yield { type: 'warning', stage, message: losses.message };
          continue;
        }
        skipped = 0;
        computeMs += stepMs;
        totalWaitMs += waitMs;
        const learningRate = options.learningRate(done);
        done++;
        yield { type: 'step', stage, step: done, steps, losses, learningRate, stepMs, waitMs };
      }
    } finally {
      const unused = await ahead?.catch(() => undefined);
      for (const batch of unused?.uploaded ?? []) batch.dispose();
      await Promise.allSettled(iterators.map((iterator) => iterator.return?.(undefined)));
    }
    return { steps, ...seconds() };
  }

  const seconds = () => ({ computeSeconds: computeMs / 1000, waitSeconds: totalWaitMs / 1000 });
  return yield* checkpointed(train(), checkpoints, {
    stage,
    steps,
    done: () => done,
    state: async () => ({ step: done, ...seconds(), skipped, tensors: await step.state() }),
  });
}

/**
 * Adds stage, step and images to an error of a step, which knows only its numbers. Returns an error for the policy, and
 * throws any other.
 */
async function failure(
  error: unknown,
  { stage, group }: Pick<Training<never>, 'stage' | 'group'>,
  step: number,
  batches: readonly Batch[],
): Promise<NonFiniteLossError> {
  const place = `Stage ${stage}, step ${step + 1}`;
  if (error instanceof ProcessGroupError) {
    throw new ProcessGroupError(`${place}: ${error.message}`, { cause: error });
  }
  if (!(error instanceof NonFiniteLossError)) throw error;
  const { rank } = error;
  const own = batches.flatMap((batch) => batch.names);
  // All processes of a group get the same error.
  const names = group && rank !== null ? (await gatherJson(group, own))[rank]! : own;
  const message = `${place}, images ${names.join(', ')}: ${error.message}`;
  return new NonFiniteLossError(message, { cause: error, rank });
}

function tooMany(error: NonFiniteLossError, limit: number) {
  const reason = `It is number ${limit + 1} in a row, and nonFinite.limit allows ${limit}`;
  return new NonFiniteLossError(`${error.message}. ${reason}`, { cause: error, rank: error.rank });
}
