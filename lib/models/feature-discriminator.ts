import { native } from '../native/binding.js';
import type { NativeNetworkOptions } from '../native/binding-types.js';
import { requireDevice } from '../native/device.js';
import { call } from '../native/native-object.js';
import { parseOptions } from '../support/options.js';
import {
  type CompleteFeatureDiscriminatorOptions,
  type FeatureDiscriminatorOptions,
  featureDiscriminatorSchema,
} from './discriminator-options.js';
import { Network } from './network.js';

/**
 * Discriminator that judges the domain of an image by a segmenter's features, separately at each position (after
 * Hoffman et al. 2016, "FCNs in the Wild"). It has 1×1 convolutions to 8·baseWidth, 8·baseWidth and 1 channels.
 *
 * forward() takes features [N, featureCount, h, w] and returns one logit per position, [N, 1, h, w]: below 0 for
 * source, above 0 for target.
 */
export class FeatureDiscriminator extends Network {
  /** Options that the network was created with, with defaults filled in. */
  readonly options: CompleteFeatureDiscriminatorOptions;

  private constructor(
    handle: ConstructorParameters<typeof Network>[0],
    options: CompleteFeatureDiscriminatorOptions,
  ) {
    const { featureCount, baseWidth } = options;
    super(handle, { architecture: 'feature-discriminator', options: { featureCount, baseWidth } });
    this.options = options;
  }

  /** Creates the discriminator with seeded initial weights. @throws InvalidArgumentError that names a bad option */
  static async create(options: FeatureDiscriminatorOptions): Promise<FeatureDiscriminator> {
    const checked = parseOptions(featureDiscriminatorSchema, options);
    requireDevice(checked.device);
    const given = {
      ...checked,
      maxParameters: undefined,
    } satisfies NativeNetworkOptions['feature-discriminator'];
    return new FeatureDiscriminator(
      await call(() => native.createNetwork('feature-discriminator', given)),
      checked,
    );
  }
}
