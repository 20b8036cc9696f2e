import { native } from '../native/binding.js';
import type { NativeAveragedOptions, NativePredictOptions } from '../native/binding-types.js';
import { CONVOLUTIONS, type Convolutions } from '../native/convolutions.js';
import { requireDevice } from '../native/device.js';
import { call, callSync, handleOf } from '../native/native-object.js';
import { PRECISIONS, type Precision } from '../native/precision.js';
import { Tensor } from '../native/tensor.js';
import { DataError, InvalidArgumentError } from '../support/errors.js';
import { parseOptions } from '../support/options.js';
import {
  checkBoolean,
  checkChoice,
  checkInteger,
  checkNumber,
  checkNumbers,
  checkObject,
  invalidArgument,
} from '../support/validate.js';
import { openWeights } from '../weights/weights-file.js';
import type { WeightsDescription } from '../weights/weights-metadata.js';
import {
  createFromFile,
  type FilePlace,
  type ForwardOptions,
  type FromFileOptions,
  forwardOptions,
  Network,
} from './network.js';
import { descriptionFor, isBackbone, withOwnNames } from './other-names.js';
import {
  type CompleteSegmenterOptions,
  type SegmenterOptions,
  segmenterSchema,
} from './segmenter-options.js';

/** Options of {@link Segmenter.predict}. */
export interface PredictOptions {
  /** Number of images, ≥ 1. */
  count: number;
  /** Width and height of each image in pixels, ≥ 1. */
  width: number;
  height: number;
  /** Width and height of the label maps in pixels, ≥ 1. Default: the size of the images. */
  outputWidth?: number;
  outputHeight?: number;
  /**
   * Size of the label map of each image, instead of outputWidth and outputHeight. The images share the forward pass. Not
   * allowed with several views.
   */
  outputSizes?: readonly { width: number; height: number }[];
  /** Returns the probability of each pixel's class too. Default false. */
  confidence?: boolean;
  /**
   * Order of operations. `logits` (default): upsample the logits, then take the softmax. `probabilities`: take the
   * softmax, then upsample the probabilities.
   */
  order?: 'logits' | 'probabilities';
  /**
   * Threshold t_c above 0 for each class. A pixel's class is then argmax_c p_c / t_c: the class whose probability
   * exceeds its threshold by the largest factor (class-balanced self-training, Zou et al. 2018). Not allowed with
   * several views. Default: argmax_c p_c.
   */
  classThresholds?: readonly number[];
  /**
   * Precision of the convolutions: `fp32` (default, the segmenter's own dtype), `bf16`, or on CUDA `tf32` or `fp16`.
   * `buildInfo().precisions` must list it for the device. In bf16, probabilities are off by about 1e-2.
   */
  precision?: Precision;
  /** How convolutions on the CPU are computed: `auto` (default) or `direct`. See {@link Convolutions}. */
  convolutions?: Convolutions;
  /**
   * On the CPU, computes with half of the threads, so that two such calls run at a time. Together they take less time than
   * one after the other with all threads. The last bits of probabilities differ. Default false.
   */
  sideBySide?: boolean;
  /** Averages the probabilities with those of the mirrored images. Default false. */
  flip?: boolean;
  /** The same images at other sizes. Probabilities are averaged over these too. Default none. */
  otherSizes?: readonly { images: Uint8Array; width: number; height: number }[];
  signal?: AbortSignal;
}

/** Options of {@link Segmenter.fromFile}. */
export interface SegmenterFileOptions extends FromFileOptions {
  /** Number of classes, from 2 to 256, for a file that is a backbone alone. Default: that of the file. */
  classCount?: number;
}

/** Parameters that a network may have for one of its backbone. FCN-8s has 9 times as many as VGG-16's convolutions. */
const BACKBONE_FACTOR = 10;
/** Parameters of FCN-8s's upsampling for one pair of classes. */
const HEAD_FACTOR = 16 * 16 + 2 * 4 * 4;

/** Result of {@link Segmenter.predict}. */
export interface SegmenterPrediction {
  /** Class of each pixel, [count, outputHeight, outputWidth]. With `outputSizes`, one image after the other. */
  labels: Uint8Array;
  /** Probability of this class, (0, 1], in the same shape. Present if `confidence` is set. */
  confidence?: Float32Array;
}

/**
 * M: a segmentation network.
 *
 * forward() takes BGR minus mean, [N, 3, H, W] (see `segmenterInput`), and returns logits. Their shape is [N, C,
 * ⌊(H+1)/8⌋+1, ⌊(W+1)/8⌋+1] for DeepLab-v2, [N, C, ⌈H/8⌉, ⌈W/8⌉] for DeepLab-v2 on VGG-16, and [N, C, H, W] for FCN-8s.
 */
export class Segmenter extends Network {
  /** Options that the network was created with, with defaults filled in. */
  readonly options: CompleteSegmenterOptions;

  private constructor(handle: ConstructorParameters<typeof Network>[0], options: CompleteSegmenterOptions) {
    super(handle, descriptionOf(options));
    this.options = options;
  }

  /** Creates a segmenter with seeded initial weights. @throws InvalidArgumentError that names a bad option */
  static async create(options: SegmenterOptions): Promise<Segmenter> {
    return Segmenter.#create(options);
  }

  static async #create(options: SegmenterOptions, maxParameters?: number): Promise<Segmenter> {
    const checked = parseOptions(segmenterSchema, options);
    const { network, backbone, width, branches, bottleneckStride, initialization } = checked;
    const { classCount, classNames, palette } = checked;
    if (classNames.length > 0 && classNames.length !== classCount) {
      throw invalidArgument('classNames', `${classCount} names, one for each class,`, classNames);
    }
    if (palette.length > 0 && palette.length !== 3 * classCount) {
      throw invalidArgument('palette', `${3 * classCount} bytes, 3 for each class,`, palette);
    }
    requireDevice(checked.device);
    const { seed, device, dtype } = checked;
    const common = { width, classCount, initialization, seed, device, dtype, maxParameters };
    const handle = await call(() =>
      network === 'deeplab-v2'
        ? native.createNetwork(network, { ...common, backbone, branches, bottleneckStride })
        : native.createNetwork(network, common),
    );
    return new Segmenter(handle, checked);
  }

  /**
   * Creates a segmenter from a file that save() wrote, with the file's weights. With `classCount`, the file may be a
   * backbone alone, such as a ResNet of torchvision. The layers that it lacks then start at random. A VGG-16 becomes an
   * FCN-8s. For a DeepLab-v2 on it, use create() with `backbone: 'vgg16'` and load().
   *
   * @throws DataError when the file cannot be read or does not hold a segmenter
   */
  static async fromFile(file: string, options: SegmenterFileOptions = {}): Promise<Segmenter> {
    const kind = { name: 'segmenter', architectures: ['deeplab-v2', 'fcn-8s'] };
    const count = checkObject('options', options).classCount;
    if (count !== undefined) checkInteger('classCount', count, 2, 256);
    const open = async (name: string) => {
      const weights = withOwnNames(await openWeights(name));
      const description = descriptionFor(weights);
      return description && isBackbone(description) ? { ...weights, description } : weights;
    };
    const create = (description: WeightsDescription, { maxParameters, ...where }: FilePlace) => {
      const { architecture, options: shape, classes = [], palette = [] } = description;
      const named = { classNames: classes, palette: Uint8Array.from(palette.flat()) };
      const described = { ...shape, network: architecture, ...named, ...where };
      const isAlone = isBackbone(description);
      if (isAlone && count === undefined) {
        throw new DataError(
          `${file} holds a backbone alone, without ${description.missing?.join(', ') || 'a class count'}; expected a ` +
            'segmenter. To start from it, give classCount, or use segmenter.initialWeights in a config',
        );
      }
      if (!isAlone) {
        if (count !== undefined && count !== shape.classCount) {
          throw new DataError(`${file} holds a segmenter for ${shape.classCount} classes, not for ${count}`);
        }
        return Segmenter.#create(described as unknown as SegmenterOptions, maxParameters);
      }
      const limit = BACKBONE_FACTOR * maxParameters + HEAD_FACTOR * count! ** 2;
      return Segmenter.#create({ ...described, classCount: count } as unknown as SegmenterOptions, limit);
    };
    return createFromFile(file, options, kind, create, { open });
  }

  /** Number of channels of the features that forwardWithFeatures() returns. */
  get featureCount(): number {
    return callSync(() => native.networkFeatureCount(this.handle));
  }

  /**
   * Computes logits and features in one pass. Features are the input of the classifier: DeepLab-v2's layer4, or its last
   * pooling on VGG-16, or FCN-8s's fc7, [N, featureCount, h, w].
   */
  async forwardWithFeatures(
    input: Tensor,
    options: ForwardOptions = {},
  ): Promise<{ features: Tensor; logits: Tensor }> {
    const passed = forwardOptions(options);
    const output = await call(
      (token) =>
        native.networkForwardWithFeatures(this.handle, handleOf('input', input, Tensor), passed, token),
      options.signal,
    );
    return { features: new Tensor(output.features), logits: new Tensor(output.logits) };
  }

  /**
   * Segments RGB images [count, height, width, 3]. With `flip` or `otherSizes`, it averages several predictions of each
   * image, which is slower and usually better (docs/design/method.md#averaging-over-views). For concurrent calls from
   * many places, use {@link BatchedPredictor}.
   *
   * A call does not wait for the end of a training step, unless the step uses this segmenter.
   *
   * @throws InvalidArgumentError that names a bad option
   */
  async predict(images: Uint8Array, options: PredictOptions): Promise<SegmenterPrediction> {
    const { flip = false, otherSizes = [] } = checkObject('options', options);
    checkBoolean('flip', flip);
    if (!Array.isArray(otherSizes)) {
      throw invalidArgument('otherSizes', 'an array of images and sizes', otherSizes);
    }
    const count = checkInteger('count', options.count, 1);
    const width = checkInteger('width', options.width, 1);
    const height = checkInteger('height', options.height, 1);
    const output = {
      outputWidth: checkInteger('outputWidth', options.outputWidth ?? width, 1),
      outputHeight: checkInteger('outputHeight', options.outputHeight ?? height, 1),
      confidence: checkBoolean('confidence', options.confidence ?? false),
      precision: checkChoice('precision', options.precision ?? 'fp32', PRECISIONS),
      convolutions: checkChoice('convolutions', options.convolutions ?? 'auto', CONVOLUTIONS),
      sideBySide: checkBoolean('sideBySide', options.sideBySide ?? false),
      order: checkChoice('order', options.order ?? 'logits', ['logits', 'probabilities']),
    };
    const classThresholds = checkNumbers('classThresholds', options.classThresholds ?? [], 0);
    const outputSizes = checkOutputSizes(options, count).flatMap(({ width, height }) => [height, width]);
    if (!flip && otherSizes.length === 0) {
      const job = {
        ...{ count, width, height, ...output, classThresholds, outputSizes },
      } satisfies NativePredictOptions;
      return call((token) => native.predict(this.handle, images, job, token), options.signal);
    }
    if (classThresholds.length > 0) {
      throw new InvalidArgumentError('Expected no classThresholds with flip or otherSizes');
    }
    if (outputSizes.length > 0) {
      throw new InvalidArgumentError('Expected no outputSizes with flip or otherSizes');
    }
    const others = otherSizes.map((other, i) => ({
      images: checkObject(`otherSizes[${i}]`, other).images,
      count,
      width: checkInteger(`otherSizes[${i}].width`, other.width, 1),
      height: checkInteger(`otherSizes[${i}].height`, other.height, 1),
    }));
    const views = [{ images, count, width, height }, ...others];
    const job = { ...output, flip } satisfies NativeAveragedOptions;
    return call((token) => native.predictAveraged(this.handle, views, job, token), options.signal);
  }

  /**
   * Moves BatchNorm's running statistics, which normalize predictions, toward those of RGB images [count, height,
   * width, 3].
   *
   * They become (1 − momentum)·running + momentum·batch. With momentum 1/i for the i-th of several batches, they end as
   * the means over all batches. On images of another domain, that adapts a segmenter without training (AdaBN, Li et al.
   * 2016). Weights do not change. If the call fails or is aborted, the statistics are unchanged.
   *
   * @throws InvalidArgumentError for a network on VGG-16, which has no BatchNorm
   */
  async updateStatistics(
    images: Uint8Array,
    options: { count: number; width: number; height: number; momentum: number; signal?: AbortSignal },
  ): Promise<void> {
    const { signal } = checkObject('options', options);
    const job = {
      count: checkInteger('count', options.count, 1),
      width: checkInteger('width', options.width, 1),
      height: checkInteger('height', options.height, 1),
      momentum: checkNumber('momentum', options.momentum, 0, 1),
    };
    await call((token) => native.updateStatistics(this.handle, images, job, token), signal);
  }
}

/** @internal Checks the size of the label map of each image. Empty: all have one size. */
export function checkOutputSizes(
  options: PredictOptions,
  count: number,
): { width: number; height: number }[] {
  const { outputSizes = [], outputWidth, outputHeight } = options;
  if (!Array.isArray(outputSizes) || ![0, count].includes(outputSizes.length)) {
    throw invalidArgument('outputSizes', `an array of ${count} sizes, one for each image,`, outputSizes);
  }
  if (outputSizes.length > 0 && (outputWidth !== undefined || outputHeight !== undefined)) {
    throw new InvalidArgumentError('Expected either outputSizes or outputWidth and outputHeight');
  }
  return (outputSizes as { width: number; height: number }[]).map((size, i) => ({
    width: checkInteger(
      `outputSizes[${i}].width`,
      checkObject(`outputSizes[${i}]`, size).width,
      1,
      MAX_EXTENT,
    ),
    height: checkInteger(`outputSizes[${i}].height`, size.height, 1, MAX_EXTENT),
  }));
}

const MAX_EXTENT = 2 ** 20;

/** @internal Describes a segmenter for weights files and exported models. */
export function descriptionOf(options: CompleteSegmenterOptions): WeightsDescription {
  const { network, backbone, width, branches, bottleneckStride, classCount, classNames, palette } = options;
  const hasBottlenecks = backbone === 'resnet50' || backbone === 'resnet101';
  // Not written where it is without effect or the default: earlier releases read such files, and no others.
  const stride = hasBottlenecks && bottleneckStride === 'middle' && { bottleneckStride };
  const shape =
    network === 'deeplab-v2' ? { backbone, width, branches, ...stride, classCount } : { width, classCount };
  return {
    architecture: network,
    options: shape,
    ...(classNames.length > 0 && { classes: classNames }),
    ...(palette.length > 0 && { palette: colorsOf(palette) }),
  };
}

function colorsOf(palette: Uint8Array): number[][] {
  return Array.from({ length: palette.length / 3 }, (_, index) => [
    ...palette.subarray(3 * index, 3 * index + 3),
  ]);
}
