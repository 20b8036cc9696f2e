import type { TensorMap } from '../native/tensor.js';
import type { CheckpointEvent, WarningEvent } from './events.js';

/** What work needs to go on from its middle: tensors, and in further properties plain data that JSON can hold. */
export interface Resumable {
  /** Steps, or images, that are done. */
  step: number;
  tensors: TensorMap;
}

/** How work is saved while it goes on, and where it begins. Where the states are kept is up to `save`. */
export interface Checkpoints<State extends Resumable> {
  /** Steps, or images, between two calls of `save`; it is called after the last one too, and when the work ends early. */
  every: number;
  /** What `save` was last given, to go on from there; null: from the beginning. Its tensors are disposed when taken over. */
  state: State | null;
  /** Its tensors are valid until the promise resolves. */
  save(state: State): Promise<void>;
}

/**
 * Passes on the events of work that goes step by step, saving its state when that is due: after the event of every
 * `every`-th and of the last step, and before an abort, an error or a consumer that leaves early ends it.
 *
 * @param work.done how many steps are done; a step that fails must have changed nothing
 * @param work.state makes the state after the last step that is done
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
    saved = done(); // also where it fails: a second attempt would fail likewise
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
      if (done() > saved && (done() % checkpoints.every === 0 || done() === steps)) yield await save();
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

/** Releases tensors that are not needed any more. Does no harm when called twice. */
export function dispose(tensors: TensorMap): void {
  for (const tensor of tensors.values()) tensor.dispose();
}
