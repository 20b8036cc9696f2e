import { Network } from '../models/network.js';
import { native } from '../native/binding.js';
import type { NativeOptimizerOptions, OptimizerHandle } from '../native/binding-types.js';
import { call, handleOf, NativeObject } from '../native/native-object.js';
import { checkBoolean, checkChoice, checkNumber, checkNumbers, checkObject } from '../support/validate.js';

interface CommonOptimizerOptions {
  /** Factor with which a weight is added to its gradient, ≥ 0. Default 0. */
  weightDecay?: number;
  /** Factor on the learning rate of a segmenter's head (DeepLab-v2), ≥ 0. Default 1. */
  headLearningRateFactor?: number;
}

/** Options of {@link Optimizer.sgd}. */
export interface SgdOptions extends CommonOptimizerOptions {
  /** Momentum, 0 to 1. Default 0.9. */
  momentum?: number;
  /** Moves most weights of a ResNet backbone several times a step, as the reference's optimizer did. Default false. */
  repeatedStep?: boolean;
}

/** Options of {@link Optimizer.adam}. */
export interface AdamOptions extends CommonOptimizerOptions {
  /** Decay rates of the first and second moments, 0 to 1. Default [0.9, 0.999]. */
  betas?: [number, number];
  /** Where ε is added: after the bias correction of √v (`pytorch`, default), or before it (`pytorch-0.4`). */
  form?: 'pytorch' | 'pytorch-0.4';
}

/** Moves the trained parameters of one network along their gradients. */
export class Optimizer extends NativeObject<OptimizerHandle> {
  /** Creates SGD with momentum: v ← momentum·v + (g + decay·w); w ← w − lr·v. */
  static async sgd(network: Network, options: SgdOptions = {}): Promise<Optimizer> {
    checkObject('options', options);
    return create(network, {
      optimizer: 'sgd',
      momentum: checkNumber('momentum', options.momentum ?? 0.9, 0, 1),
      repeatedStep: checkBoolean('repeatedStep', options.repeatedStep ?? false),
      ...common(options),
    });
  }

  /** Creates Adam with bias correction and L2 decay, like torch.optim.Adam. */
  static async adam(network: Network, options: AdamOptions = {}): Promise<Optimizer> {
    checkObject('options', options);
    return create(network, {
      optimizer: 'adam',
      adamBetas: checkNumbers('betas', options.betas ?? [0.9, 0.999], 0, 1),
      adamForm: checkChoice('form', options.form ?? 'pytorch', ['pytorch', 'pytorch-0.4']),
      ...common(options),
    });
  }

  /** @internal */
  constructor(handle: OptimizerHandle) {
    super(handle);
  }

  /** Applies the gradients that backward() has accumulated. Parameters without a gradient do not change. */
  async step(learningRate: number): Promise<void> {
    checkNumber('learningRate', learningRate);
    await call(() => native.optimizerStep(this.handle, learningRate));
  }

  /** Clears all gradients. */
  async zeroGrad(): Promise<void> {
    await call(() => native.optimizerZeroGrad(this.handle));
  }
}

function common(options: CommonOptimizerOptions) {
  return {
    weightDecay: checkNumber('weightDecay', options.weightDecay ?? 0, 0),
    headLearningRateFactor: checkNumber('headLearningRateFactor', options.headLearningRateFactor ?? 1, 0),
  };
}

async function create(network: Network, options: NativeOptimizerOptions): Promise<Optimizer> {
  return new Optimizer(
    await call(() => native.createOptimizer(handleOf('network', network, Network), options)),
  );
}
