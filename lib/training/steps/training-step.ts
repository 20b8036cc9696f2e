import type { Network } from '../../models/network.js';
import type {
  NamedTensor,
  NativeBatch,
  NativeHandle,
  ProcessGroupHandle,
  TensorHandle,
} from '../../native/binding-types.js';
import { call, handleOf, NativeObject } from '../../native/native-object.js';
import { ProcessGroup } from '../../native/process-group.js';
import { Tensor, type TensorMap } from '../../native/tensor.js';
import { InvalidArgumentError } from '../../support/errors.js';
import { invalidArgument } from '../../support/validate.js';

/** Bytes of RGB images [count, height, width, 3] and of label maps [count, height, width], if there are any. */
export interface StepBatch extends NativeBatch {}

/** Processes that compute a step together. */
export interface StepProcesses {
  /**
   * Group whose processes compute the step together. Every process makes the same step, gives `run()` its own share of the
   * batches, and gets the losses of all. Default null: this process alone. See
   * docs/design/distribution.md#the-step-has-one-seam.
   */
  group?: ProcessGroup | null | undefined;
}

/** Returns the handle of a group, or null. @throws InvalidArgumentError when it is not a group */
export function groupHandle(group: StepProcesses['group']): ProcessGroupHandle | null {
  return group ? handleOf('group', group, ProcessGroup) : null;
}

/** Sets `lossScaling` if it is left open: losses are scaled in fp16 only. */
export function withLossScaling<Options extends { precision: string; lossScaling: boolean | null }>(
  options: Options,
): Options & { lossScaling: boolean } {
  return { ...options, lossScaling: options.lossScaling ?? options.precision === 'fp16' };
}

/** @throws InvalidArgumentError when networks that work together have different dtypes */
export function checkSameDtype(networks: Record<string, Network | null>): void {
  const found = Object.entries(networks).flatMap(([name, network]) =>
    network ? [[name, network.dtype]] : [],
  );
  if (new Set(found.map(([, dtype]) => dtype)).size > 1) {
    const each = found.map(([name, dtype]) => `${name} is ${dtype}`).join(' and ');
    throw new InvalidArgumentError(`Expected networks of one dtype but ${each}`);
  }
}

/** Functions of the addon for the state of one kind of step. */
interface StateFunctions<Handle> {
  state(step: Handle): Promise<NamedTensor[]>;
  loadState(step: Handle, names: string[], tensors: TensorHandle[]): Promise<void>;
}

/** One training iteration in one native call. Its subclasses are the kinds of step. */
export abstract class TrainingStep<Handle extends NativeHandle> extends NativeObject<Handle> {
  readonly #functions: StateFunctions<Handle>;

  /** @internal */
  constructor(handle: Handle, functions: StateFunctions<Handle>) {
    super(handle);
    this.#functions = functions;
  }

  /**
   * Returns everything that later steps depend on: networks with their running statistics, optimizers and the loss
   * scale. If the step has them, teacher, image pools and the number of steps of dropout belong to it too. The tensors share
   * memory with them and change as training continues.
   */
  async state(): Promise<TensorMap> {
    const entries = await call(() => this.#functions.state(this.handle));
    return new Map(entries.map(({ name, tensor }) => [name, new Tensor(tensor)]));
  }

  /**
   * Continues from a state that state() returned for a step made in the same way.
   *
   * @throws InvalidArgumentError that names the first differences of names and shapes. Nothing is changed then
   */
  async loadState(state: TensorMap): Promise<void> {
    await call(() => {
      const { handle } = this;
      if (!(state instanceof Map)) throw invalidArgument('state', 'a Map of tensors by name', state);
      const tensors = [...state].map(([name, tensor]) => handleOf<TensorHandle>(name, tensor, Tensor));
      return this.#functions.loadState(handle, [...state.keys()], tensors);
    });
  }
}
