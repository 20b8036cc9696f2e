import { native } from './binding.js';
import type {
  NamedTensor,
  NativeBatch,
  NetworkHandle,
  PairedTranslationLosses,
  PairedTranslationStepHandle,
  SegmentationLosses,
  SegmentationStepHandle,
  TensorHandle,
  TranslationLosses,
  TranslationStepHandle,
  UploadedBatchHandle,
} from './binding-types.js';
import { ALIGNMENTS, segmentationSchema, teacherSchema, translationSchema } from './config/schema.js';
import { InvalidArgumentError } from './errors.js';
import { FeatureDiscriminator } from './models/feature-discriminator.js';
import { Network } from './models/network.js';
import { OutputDiscriminator } from './models/output-discriminator.js';
import { Segmenter } from './models/segmenter.js';
import { Translator } from './models/translator.js';
import { call, callSync, handleOf, NativeObject } from './native-object.js';
import type { Precision } from './precision.js';
import { Tensor, type TensorMap } from './tensor.js';
import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkNumber,
  checkObject,
  invalidArgument,
} from './validate.js';

export type { PairedTranslationLosses, SegmentationLosses, TranslationLosses } from './binding-types.js';

/** Images [count, height, width, 3] in RGB and, where there are any, label maps [count, height, width], as bytes. */
export type StepBatch = NativeBatch;

/** What all steps have in common. */
interface StepOptions {
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

const SEGMENTATION = segmentationSchema.parse({});
const TEACHER = teacherSchema.parse({});
const TRANSLATION = translationSchema.parse({});

/** `defaults` where `options` has nothing or undefined. */
function withoutUndefined<Defaults extends object, Options extends object>(
  name: string,
  defaults: Defaults,
  options: Options,
) {
  checkObject(name, options);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  return { ...defaults, ...given } as Defaults & Options;
}

/** Options with the defaults of a step's section in the config, and of what all steps have in common. */
function withDefaults<Defaults extends object, Options extends StepOptions>(
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

/** How a segmenter is made to see both domains alike; see the config's `segmentation.alignment`. */
export type Alignment = (typeof ALIGNMENTS)[number];

/** What is left out is as DACS has it. */
export interface TeacherOptions {
  decay?: number;
  threshold?: number;
  weight?: number;
  classMix?: boolean;
  /** Of the draws of ClassMix; default 1. */
  seed?: number;
}

/** What is left out is as the config's `segmentation` has it: the paper's. */
export interface SegmentationStepOptions extends StepOptions {
  /** What cross-entropies are divided by: the pixels that count, or all. */
  normalise?: 'valid' | 'all';
  ignoreIndex?: number;
  /** What draws the domains together; see the config. */
  alignment?: Alignment;
  /** λ_adv. */
  adversarialWeight?: number;
  /** Of the distance of means or covariances. */
  momentWeight?: number;
  /** Of the mean entropy of target predictions. */
  entropyWeight?: number;
  /** Of the masked cross-entropy on pseudo-labels. */
  pseudoLabelWeight?: number;
  /** Labels target images while M trains; see the config. */
  teacher?: TeacherOptions | null;
  /** Of the segmenter; D_M always uses Adam without decay. */
  optimizer?: 'sgd' | 'adam';
  momentum?: number;
  weightDecay?: number;
  headLearningRateFactor?: number;
  repeatedStep?: boolean;
  adamBetas?: [number, number];
  discriminatorBetas?: [number, number];
  /**
   * How many batches a step takes at once, 1–1024. Their images are given one after the other as a single batch,
   * which is cut into as many parts: each goes through the networks alone, which BatchNorm sees, and the gradients are
   * averaged before the one update.
   */
  accumulation?: number;
  /** Of M's activations; auto: channels-last in bf16 and fp16, where it is faster. */
  memoryFormat?: 'auto' | 'contiguous' | 'channels-last';
  /** Whether blocks of M are computed again in the backward pass rather than kept in memory. */
  activationCheckpointing?: boolean;
}

/** @throws InvalidArgumentError where two networks that are to work together compute in different dtypes. */
function checkSameDtype(networks: Record<string, Network | null>): void {
  const found = Object.entries(networks).flatMap(([name, network]) =>
    network ? [[name, network.dtype]] : [],
  );
  if (new Set(found.map(([, dtype]) => dtype)).size > 1) {
    const each = found.map(([name, dtype]) => `${name} is ${dtype}`).join(' and ');
    throw new InvalidArgumentError(`Expected networks of one dtype but ${each}`);
  }
}

function checkTeacher(options: TeacherOptions) {
  const { decay, threshold, weight, classMix, seed = 1 } = withoutUndefined('teacher', TEACHER, options);
  return {
    decay: checkNumber('teacher.decay', decay, 0, 1),
    threshold: checkNumber('teacher.threshold', threshold, 0, 1),
    weight: checkNumber('teacher.weight', weight, 0),
    classMix: checkBoolean('teacher.classMix', classMix),
    seed: checkInteger('teacher.seed', seed, 0),
  };
}

/** One iteration of M's training (Eq. 1, and Eq. 3 with pseudo-labels) in one native call. */
export class SegmentationStep extends NativeObject<SegmentationStepHandle> {
  /**
   * The networks stay the caller's; they must have one dtype, and must not be trained by two steps at once. The
   * discriminator is the alignment's, a FeatureDiscriminator where that asks for one; null: Eq. 1 without ℓ_adv.
   *
   * @throws InvalidArgumentError where the networks' device lacks the precision, or CUDA graphs
   */
  static async create(
    segmenter: Segmenter,
    discriminator: OutputDiscriminator | FeatureDiscriminator | null,
    options: SegmentationStepOptions = {},
  ): Promise<SegmentationStep> {
    const given = withDefaults({ ...SEGMENTATION, ignoreIndex: 255 }, options);
    const alignment = checkChoice('alignment', given.alignment, ALIGNMENTS);
    const complete = {
      ...given,
      alignment,
      accumulation: checkInteger('accumulation', given.accumulation, 1, 1024),
      teacher: given.teacher ? checkTeacher(given.teacher) : null,
    };
    const handles = callSync(() => {
      const kind = alignment === 'feature-discriminator' ? FeatureDiscriminator : OutputDiscriminator;
      const found = [
        handleOf('segmenter', segmenter, Segmenter),
        discriminator === null ? null : handleOf<NetworkHandle>('discriminator', discriminator, kind),
      ] as const;
      if (discriminator !== null && !alignment.endsWith('-discriminator')) {
        throw invalidArgument('discriminator', `null with the alignment '${alignment}'`, discriminator);
      }
      checkSameDtype({ segmenter, discriminator });
      return found;
    });
    // The step gives it M's weights and holds it.
    using teacher = complete.teacher && (await Segmenter.create(segmenter.options));
    return new SegmentationStep(
      await call(() => native.createSegmentationStep(...handles, complete, teacher?.handle ?? null)),
    );
  }

  /** @internal */
  constructor(handle: SegmentationStepHandle) {
    super(handle);
  }

  /**
   * Source forward and backward, target forward and backward, discriminator, both updates; all or nothing. Losses are means
   * over the parts that `accumulation` makes of the batch, whose number of images it must divide.
   *
   * @throws NonFiniteLossError before any weight has moved, where a loss or a gradient is NaN or infinite.
   */
  async run(batch: {
    /** With labels. */
    source: StepBatch | UploadedBatchHandle;
    /** Labels, where present, are pseudo-labels. Absent: training on the source alone. */
    target?: StepBatch | UploadedBatchHandle | undefined;
    learningRate: number;
    discriminatorLearningRate?: number;
    signal?: AbortSignal | undefined;
  }): Promise<SegmentationLosses> {
    checkObject('batch', batch);
    const rates = {
      learningRate: checkNumber('learningRate', batch.learningRate, 0),
      discriminatorLearningRate: checkNumber(
        'discriminatorLearningRate',
        batch.discriminatorLearningRate ?? 0,
        0,
      ),
    };
    return call(
      (token) => native.runSegmentationStep(this.handle, batch.source, batch.target, rates, token),
      batch.signal,
    );
  }

  /**
   * All that later steps depend on: networks with their running statistics, the teacher, optimizers, the random generator of
   * dropout, and the loss scale. The tensors share memory with them: they show what training does.
   */
  async state(): Promise<TensorMap> {
    return toMap(await call(() => native.segmentationStepState(this.handle)));
  }

  /**
   * Goes on from what state() gave of a step made in the same way.
   *
   * @throws InvalidArgumentError naming the first differences of names and shapes; nothing is changed then
   */
  async loadState(state: TensorMap): Promise<void> {
    await call(() => native.segmentationStepLoadState(this.handle, ...namesAndHandles(state)));
  }
}

/** What is left out is as the config's `translation` has it: the paper's. */
export interface TranslationStepOptions extends StepOptions {
  ganMode?: 'least-squares' | 'bce';
  /** λ_GAN. */
  ganWeight?: number;
  /** λ_recon. */
  cycleWeight?: number;
  identityWeight?: number;
  perceptualForm?: 'l1' | 'normalised-mse';
  /** λ_per. */
  perceptualWeight?: number;
  /** λ_per_recon. */
  perceptualReconstructionWeight?: number;
  /** Earlier fakes kept for the discriminators; 0 for none. */
  poolSize?: number;
  /** Of the draws of the pool of target fakes; that of source fakes has the next one. Default 1. */
  seed?: number;
  /** Adam's, for generators and discriminators. */
  betas?: [number, number];
  /** Images of each domain that the networks are given at once, with the gradients of the whole batch. null: all. */
  microBatchSize?: number | null;
  /** Whether blocks of the generators are computed again in the backward pass rather than kept in memory. */
  activationCheckpointing?: boolean;
}

/** One iteration of the translators' training (Eq. 2) in one native call. */
export class TranslationStep extends NativeObject<TranslationStepHandle> {
  /**
   * `segmenter` gives the perceptual terms, has the translator's dtype and is not changed; null: none.
   *
   * @throws InvalidArgumentError where the networks' device lacks the precision, or CUDA graphs
   */
  static async create(
    translator: Translator,
    segmenter: Segmenter | null,
    options: TranslationStepOptions = {},
  ): Promise<TranslationStep> {
    const given = withDefaults({ ...TRANSLATION, seed: 1 }, options);
    if (!(translator instanceof Translator)) {
      throw invalidArgument('translator', 'an instance of Translator', translator);
    }
    return new TranslationStep(
      await call(() => {
        const networks = {
          toTarget: handleOf('translator.toTarget', translator.toTarget, Network),
          toSource: handleOf('translator.toSource', translator.toSource, Network),
          targetCritic: handleOf('translator.targetCritic', translator.targetCritic, Network),
          sourceCritic: handleOf('translator.sourceCritic', translator.sourceCritic, Network),
        };
        const handle = segmenter === null ? null : handleOf('segmenter', segmenter, Segmenter);
        checkSameDtype({ translator: translator.toTarget, segmenter });
        return native.createTranslationStep(networks, handle, {
          ...given,
          // As the addon takes it: 0 for none.
          microBatchSize:
            given.microBatchSize === null ? 0 : checkInteger('microBatchSize', given.microBatchSize, 1),
        });
      }),
    );
  }

  /** @internal */
  constructor(handle: TranslationStepHandle) {
    super(handle);
  }

  /**
   * Generators' and discriminators' losses and updates; all or nothing. Height and width must be multiples of 4 and at
   * least 32, the same for both domains.
   *
   * @throws NonFiniteLossError before any weight has moved, where a loss or a gradient is NaN or infinite.
   */
  async run(batch: {
    source: StepBatch | UploadedBatchHandle;
    target: StepBatch | UploadedBatchHandle;
    learningRate: number;
    signal?: AbortSignal | undefined;
  }): Promise<TranslationLosses> {
    checkObject('batch', batch);
    const rates = { learningRate: checkNumber('learningRate', batch.learningRate, 0) };
    return call(
      (token) => native.runTranslationStep(this.handle, batch.source, batch.target, rates, token),
      batch.signal,
    );
  }

  /**
   * All that later steps depend on: networks, optimizers, image pools with their random generators, and the loss scale. The
   * tensors share memory with them: they show what training does.
   */
  async state(): Promise<TensorMap> {
    return toMap(await call(() => native.translationStepState(this.handle)));
  }

  /**
   * Goes on from what state() gave of a step made in the same way.
   *
   * @throws InvalidArgumentError naming the first differences of names and shapes; nothing is changed then
   */
  async loadState(state: TensorMap): Promise<void> {
    await call(() => native.translationStepLoadState(this.handle, ...namesAndHandles(state)));
  }
}

/** What is left out is as the config's `translation` has it. */
export interface PairedTranslationStepOptions extends StepOptions {
  ganMode?: 'least-squares' | 'bce';
  ganWeight?: number;
  /** Of E|F(S) − T|. */
  l1Weight?: number;
  /** Adam's, for generator and discriminator. */
  betas?: [number, number];
}

/**
 * One iteration of a paired translator's training in one native call: pix2pix (Isola et al. 2017). F is moved against
 * ganWeight·ℓ_GAN(D(S, F(S)), real) + l1Weight·E|F(S) − T|, the conditional discriminator against half of
 * ℓ_GAN(D(S, T), real) + ℓ_GAN(D(S, F(S)), fake).
 */
export class PairedTranslationStep extends NativeObject<PairedTranslationStepHandle> {
  /** @throws InvalidArgumentError where the translator is not paired, or its device lacks the precision or CUDA graphs. */
  static async create(
    translator: Translator,
    options: PairedTranslationStepOptions = {},
  ): Promise<PairedTranslationStep> {
    if (!(translator instanceof Translator) || translator.options?.pairing !== 'paired') {
      throw invalidArgument('translator', 'a paired Translator', translator);
    }
    return new PairedTranslationStep(
      await call(() => {
        const networks = {
          toTarget: handleOf('translator.toTarget', translator.toTarget, Network),
          targetCritic: handleOf('translator.targetCritic', translator.targetCritic, Network),
        };
        return native.createPairedTranslationStep(networks, withDefaults(TRANSLATION, options));
      }),
    );
  }

  /** @internal */
  constructor(handle: PairedTranslationStepHandle) {
    super(handle);
  }

  /**
   * Losses and both updates; all or nothing. Image i of `target` is what image i of `source` should look like. Height and
   * width must be multiples of the translator's `sizeMultiple` and at least 32.
   *
   * @throws NonFiniteLossError before any weight has moved, where a loss or a gradient is NaN or infinite.
   */
  async run(batch: {
    source: StepBatch | UploadedBatchHandle;
    target: StepBatch | UploadedBatchHandle;
    learningRate: number;
    signal?: AbortSignal | undefined;
  }): Promise<PairedTranslationLosses> {
    checkObject('batch', batch);
    const rates = { learningRate: checkNumber('learningRate', batch.learningRate, 0) };
    return call(
      (token) => native.runPairedTranslationStep(this.handle, batch.source, batch.target, rates, token),
      batch.signal,
    );
  }

  /** Networks, optimizers and the loss scale. The tensors share memory with them: they show what training does. */
  async state(): Promise<TensorMap> {
    return toMap(await call(() => native.pairedTranslationStepState(this.handle)));
  }

  /**
   * Goes on from what state() gave of a step made in the same way.
   *
   * @throws InvalidArgumentError naming the first differences of names and shapes; nothing is changed then
   */
  async loadState(state: TensorMap): Promise<void> {
    await call(() => native.pairedTranslationStepLoadState(this.handle, ...namesAndHandles(state)));
  }
}

function toMap(entries: NamedTensor[]): TensorMap {
  return new Map(entries.map(({ name, tensor }) => [name, new Tensor(tensor)]));
}

function namesAndHandles(state: TensorMap): [names: string[], tensors: TensorHandle[]] {
  if (!(state instanceof Map)) throw invalidArgument('state', 'a Map of tensors by name', state);
  return [[...state.keys()], [...state].map(([name, tensor]) => handleOf(name, tensor, Tensor))];
}
