import type { TensorMap } from '../native/tensor.js';
import type { CheckpointEvent, WarningEvent } from './events.js';

/** State from which interrupted work resumes: tensors, and plain data for JSON in further properties. */
export interface Resumable {
  /** Number of finished steps or images. */
  step: number;
  tensors: TensorMap;
}

/** Options for saving the state of work and resuming it. `save` decides where states are kept. */
export interface Checkpoints<State extends Resumable> {
  /** Steps or images between two calls of `save`. It is also called after the last one and when the work ends early. */
  every: number;
  /**
   * State to resume from, as `save` last received it. Its tensors are disposed once they are loaded. null: from the
   * beginning.
   */
  state: State | null;
  /** Saves a state. Its tensors are valid until the promise resolves. */
  save(state: State): Promise<void>;
}

/**
 * Yields the events of work that proceeds in steps, and saves its state after every `every`-th step and after the last.
 * It also saves before an abort, an error or a consumer that leaves early ends the work. See
 * docs/design/runs-and-resume.md#save-first-whatever-ends-training.
 *
 * @param work.done returns the number of finished steps. A step that fails must have changed nothing
 * @param work.state makes the state after the last finished step
 */
export async function* checkpointed<Event, Result, State extends Resumable>(
  events: AsyncGenerator<Event, Result>,
  checkpoints: Checkpoints<State> | undefined,
  work: { stage: string; steps: number; done: () => number; state: () => Promise<State> },
): AsyncGenerator<Event | CheckpointEvent | WarningEvent, Result> {
  if (!checkpoints) return yield* events;
  const { stage, steps, done } = work;
  let saved = done();
  const save = async (): Promise<CheckpointEvent> => {
    saved = done(); // also after a failure, because a second attempt would fail too
    const state = await work.state();
    try {
      await checkpoints.save(state);
    } finally {
      dispose(state.tensors);
    }
    return { type: 'checkpoint', stage, step: state.step };
  };
  try {
    for (;;) {
      const next = await events.next();
      if (next.done) return next.value;
      yield next.value;
      // Processes of a group finish several images at once.
      const isDue = Math.floor(done() / checkpoints.every) > Math.floor(saved / checkpoints.every);
      if (done() > saved && (isDue || done() === steps)) yield await save();
    }
  } catch (error) {
    if (done() > saved) {
      yield await save().catch(({ message }: Error): WarningEvent => {
        return { type: 'warning', stage, message: `the state after step ${saved} is not saved: ${message}` };
      });
    }
    throw error;
  } finally {
    await events.return(undefined as never);
    if (done() > saved) await save();
  }
}

/** Disposes tensors. A second call does no harm. */
export function dispose(tensors: TensorMap): void {
  for (const tensor of tensors.values()) tensor.dispose();
}
