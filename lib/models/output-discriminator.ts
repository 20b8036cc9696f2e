import { native } from '../native/binding.js';
import { call } from '../native/native-object.js';
import { checkInteger, checkObject } from '../support/validate.js';
import { checkDevice, checkDtype, Network, type NetworkDtype } from './network.js';

export interface OutputDiscriminatorOptions {
  /** 2 to 256: the segmenter's. */
  classCount: number;
  /** Channels of the first convolution; default 64. */
  baseWidth?: number;
  /** Of the initial weights; default 1. */
  seed?: number;
  /** Default `cpu`. */
  device?: string;
  /** Default `float32`; see SegmenterOptions. */
  dtype?: NetworkDtype;
}

/**
 * D_M: tells by the class probabilities of an image which domain it is from.
 *
 * forward() takes softmax(M(x)) at image resolution, [N, C, H, W], and gives one logit per 32×32 pixels or so: below 0
 * for source, above for target.
 */
export class OutputDiscriminator extends Network {
  readonly options: Readonly<Required<OutputDiscriminatorOptions>>;

  private constructor(
    handle: ConstructorParameters<typeof Network>[0],
    options: Required<OutputDiscriminatorOptions>,
  ) {
    const { classCount, baseWidth } = options;
    super(handle, { architecture: 'output-discriminator', options: { classCount, baseWidth } });
    this.options = options;
  }

  /** @throws InvalidArgumentError naming a bad option. */
  static async create(options: OutputDiscriminatorOptions): Promise<OutputDiscriminator> {
    checkObject('options', options);
    const checked: Required<OutputDiscriminatorOptions> = {
      classCount: checkInteger('classCount', options.classCount, 2, 256),
      baseWidth: checkInteger('baseWidth', options.baseWidth ?? 64, 1, 1024),
      seed: checkInteger('seed', options.seed ?? 1, 0),
      device: checkDevice(options.device),
      dtype: checkDtype(options.dtype),
    };
    return new OutputDiscriminator(
      await call(() => native.createNetwork('output-discriminator', checked)),
      checked,
    );
  }
}
