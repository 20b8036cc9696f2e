import { native } from '../native/binding.js';
import type { NativeNetworkOptions } from '../native/binding-types.js';
import { requireDevice } from '../native/device.js';
import { call } from '../native/native-object.js';
import { parseOptions } from '../support/options.js';
import {
  type CompleteOutputDiscriminatorOptions,
  type OutputDiscriminatorOptions,
  outputDiscriminatorSchema,
} from './discriminator-options.js';
import { Network } from './network.js';

/**
 * D_M: discriminator that judges the domain of an image by its class probabilities.
 *
 * forward() takes softmax(M(x)) at image resolution, [N, C, H, W]. It returns about one logit per 32×32 pixels: below 0
 * for source, above 0 for target.
 */
export class OutputDiscriminator extends Network {
  /** Options that the network was created with, with defaults filled in. */
  readonly options: CompleteOutputDiscriminatorOptions;

  private constructor(
    handle: ConstructorParameters<typeof Network>[0],
    options: CompleteOutputDiscriminatorOptions,
  ) {
    const { classCount, baseWidth } = options;
    super(handle, { architecture: 'output-discriminator', options: { classCount, baseWidth } });
    this.options = options;
  }

  /** Creates the discriminator with seeded initial weights. @throws InvalidArgumentError that names a bad option */
  static async create(options: OutputDiscriminatorOptions): Promise<OutputDiscriminator> {
    const checked = parseOptions(outputDiscriminatorSchema, options);
    requireDevice(checked.device);
    const given = {
      ...checked,
      maxParameters: undefined,
    } satisfies NativeNetworkOptions['output-discriminator'];
    return new OutputDiscriminator(
      await call(() => native.createNetwork('output-discriminator', given)),
      checked,
    );
  }
}
