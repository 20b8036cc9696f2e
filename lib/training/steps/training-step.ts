import type { Network } from '../../models/network.js';
import type { NamedTensor, NativeBatch, NativeHandle, TensorHandle } from '../../native/binding-types.js';
import { call, handleOf, NativeObject } from '../../native/native-object.js';
import type { Precision } from '../../native/precision.js';
import { Tensor, type TensorMap } from '../../native/tensor.js';
import { InvalidArgumentError } from '../../support/errors.js';
import { checkBoolean, checkObject, invalidArgument } from '../../support/validate.js';

/** Images [count, height, width, 3] in RGB and, where there are any, label maps [count, height, width], as bytes. */
export type StepBatch = NativeBatch;

/** What all steps have in common. */
export interface StepOptions {
  precision?: Precision;
  /**
   * Whether losses are multiplied by a scale before the backward pass and gradients divided by it behind it, so that the small
   * ones are not 0 in float16. The scale is found as `torch.amp.GradScaler` finds it: begun at 65536, doubled behind 2000
   * steps in a row whose gradients were finite, halved behind one whose were not. That one gives its losses but changes
   * nothing else, and is no error unless the scale is 1 or below already, or the 20 steps before it went the same way.
   * Default: in fp16.
   */
  lossScaling?: boolean;
  /**
   * CUDA: whether forward and backward passes are recorded as CUDA graphs behind three steps, and from then on replayed, which
   * saves launching their thousands of kernels one by one. The same results; more memory. Batches of another shape
   * are recorded anew, so it pays where all have one. What the host decides stays outside: checks, updates, the image pools
   * (hence two graphs in a TranslationStep, and none with `microBatchSize`) and ClassMix's draws. Not for FCN-8s, whose dropout
   * the host draws. Default false.
   */
  cudaGraphs?: boolean;
}

/** `defaults` where `options` has nothing or undefined. */
export function withoutUndefined<Defaults extends object, Options extends object>(
  name: string,
  defaults: Defaults,
  options: Options,
) {
  checkObject(name, options);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  return { ...defaults, ...given } as Defaults & Options;
}

/** Options with the defaults of a step's section in the config, and of what all steps have in common. */
export function withDefaults<Defaults extends object, Options extends StepOptions>(
  defaults: Defaults,
  options: Options,
) {
  const given = withoutUndefined('options', defaults, options);
  return {
    ...given,
    lossScaling: checkBoolean('lossScaling', given.lossScaling ?? given.precision === 'fp16'),
    cudaGraphs: checkBoolean('cudaGraphs', given.cudaGraphs ?? false),
  };
}

/** @throws InvalidArgumentError where two networks that are to work together compute in different dtypes. */
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

/** One iteration of a training in one native call; see its kinds. */
export abstract class TrainingStep<Handle extends NativeHandle> extends NativeObject<Handle> {
  readonly #functions: StateFunctions<Handle>;

  /** @internal */
  constructor(handle: Handle, functions: StateFunctions<Handle>) {
    super(handle);
    this.#functions = functions;
  }

  /**
   * All that later steps depend on: networks with their running statistics, optimizers and the loss scale, and where the step
   * has them the teacher, image pools and random generators. The tensors share memory with them: they show what training does.
   */
  async state(): Promise<TensorMap> {
    const entries = await call(() => this.#functions.state(this.handle));
    return new Map(entries.map(({ name, tensor }) => [name, new Tensor(tensor)]));
  }

  /**
   * Goes on from what state() gave of a step made in the same way.
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
