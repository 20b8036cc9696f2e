import { native } from '../native/binding.js';
import { call } from '../native/native-object.js';
import { checkInteger, checkObject } from '../support/validate.js';
import { checkDevice, checkDtype, Network, type NetworkDtype } from './network.js';

export interface FeatureDiscriminatorOptions {
  /** The segmenter's `featureCount`. */
  featureCount: number;
  /** An eighth of the channels between its layers; default 64. */
  baseWidth?: number;
  /** Of the initial weights; default 1. */
  seed?: number;
  /** Default `cpu`. */
  device?: string;
  /** Default `float32`; see SegmenterOptions. */
  dtype?: NetworkDtype;
}

/**
 * Tells by a segmenter's features which domain an image is from, each position by itself (after Hoffman et al. 2016, "FCNs
 * in the Wild"): 1×1 convolutions to 8·baseWidth, 8·baseWidth and 1 channels.
 *
 * forward() takes features, [N, featureCount, h, w], and gives one logit per position, [N, 1, h, w]: below 0 for source,
 * above for target.
 */
export class FeatureDiscriminator extends Network {
  readonly options: Readonly<Required<FeatureDiscriminatorOptions>>;

  private constructor(
    handle: ConstructorParameters<typeof Network>[0],
    options: Required<FeatureDiscriminatorOptions>,
  ) {
    const { featureCount, baseWidth } = options;
    super(handle, { architecture: 'feature-discriminator', options: { featureCount, baseWidth } });
    this.options = options;
  }

  /** @throws InvalidArgumentError naming a bad option. */
  static async create(options: FeatureDiscriminatorOptions): Promise<FeatureDiscriminator> {
    checkObject('options', options);
    const checked: Required<FeatureDiscriminatorOptions> = {
      featureCount: checkInteger('featureCount', options.featureCount, 1, 65_536),
      baseWidth: checkInteger('baseWidth', options.baseWidth ?? 64, 1, 1024),
      seed: checkInteger('seed', options.seed ?? 1, 0),
      device: checkDevice(options.device),
      dtype: checkDtype(options.dtype),
    };
    return new FeatureDiscriminator(
      await call(() => native.createNetwork('feature-discriminator', checked)),
      checked,
    );
  }
}
