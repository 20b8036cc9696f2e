import type { Network } from '../../models/network.js';
import type { NamedTensor, NativeBatch, NativeHandle, TensorHandle } from '../../native/binding-types.js';
import { call, handleOf, NativeObject } from '../../native/native-object.js';
import { Tensor, type TensorMap } from '../../native/tensor.js';
import { InvalidArgumentError } from '../../support/errors.js';
import { invalidArgument } from '../../support/validate.js';

/** Images [count, height, width, 3] in RGB and, where there are any, label maps [count, height, width], as bytes. */
export interface StepBatch extends NativeBatch {}

/** A step's options with `lossScaling` decided: where it is left open, losses are scaled in fp16. */
export function withLossScaling<Options extends { precision: string; lossScaling: boolean | null }>(
  options: Options,
): Options & { lossScaling: boolean } {
  return { ...options, lossScaling: options.lossScaling ?? options.precision === 'fp16' };
}

/** @throws InvalidArgumentError when two networks that are to work together compute in different dtypes. */
export function checkSameDtype(networks: Record<string, Network | null>): void {
  const found = Object.entries(networks).flatMap(([name, network]) =>
    network ? [[name, network.dtype]] : [],
  );
  if (new Set(found.map(([, dtype]) => dtype)).size > 1) {
    const each = found.map(([name, dtype]) => `${name} is ${dtype}`).join(' and ');
    throw new InvalidArgumentError(`Expected networks of one dtype but ${each}`);
  }
}

/** The addon's functions for the state of one kind of step. */
interface StateFunctions<Handle> {
  state(step: Handle): Promise<NamedTensor[]>;
  loadState(step: Handle, names: string[], tensors: TensorHandle[]): Promise<void>;
}

/** One training iteration in one native call. See its kinds. */
export abstract class TrainingStep<Handle extends NativeHandle> extends NativeObject<Handle> {
  readonly #functions: StateFunctions<Handle>;

  /** @internal */
  constructor(handle: Handle, functions: StateFunctions<Handle>) {
    super(handle);
    this.#functions = functions;
  }

  /**
   * Everything that later steps depend on: networks with their running statistics, optimizers, the loss scale, and where
   * the step has them the teacher, image pools and random generators. The tensors share memory with them and change as
   * training continues.
   */
  async state(): Promise<TensorMap> {
    const entries = await call(() => this.#functions.state(this.handle));
    return new Map(entries.map(({ name, tensor }) => [name, new Tensor(tensor)]));
  }

  /**
   * Continues from what state() returned for a step made in the same way.
   *
   * @throws InvalidArgumentError naming the first differences of names and shapes; nothing is changed then
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
