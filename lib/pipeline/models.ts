import { classNames, classPalette } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import { FeatureDiscriminator } from '../models/feature-discriminator.js';
import { bottleneckStrideOf } from '../models/network.js';
import { AFTER_BACKBONE } from '../models/other-names.js';
import { OutputDiscriminator } from '../models/output-discriminator.js';
import { Segmenter } from '../models/segmenter.js';
import { Translator } from '../models/translator.js';
import { DataError } from '../support/errors.js';
import type { DomainDiscriminator } from '../training/steps/segmentation-step.js';

/**
 * Creates the config's segmenter with its initial weights. The result is the same each time. A file of initial weights
 * may lack the head or hold a head for other classes, as ImageNet weights do. The head then starts with random weights,
 * and so do fc6 and fc7 of FCN-8s if the file lacks them. All other tensors must be there. Bottlenecks have their stride
 * where the file needs it.
 *
 * @param weights a weights file to load strictly, instead of the initial weights
 * @throws DataError that names the file and the tensors that do not fit
 */
export async function createSegmenter(config: Config, weights?: string): Promise<Segmenter> {
  const { initialWeights, ...options } = config.segmenter;
  const file = weights ?? initialWeights;
  // Names and shapes of both kinds are the same, so only the file can tell. Without one, the config does.
  const isMiddle = file !== null && (await bottleneckStrideOf(file)) === 'middle';
  const stride = isMiddle && { bottleneckStride: 'middle' as const };
  const { seed, device, dtype } = config;
  const names = classNames(config);
  const classes = { classCount: names.length, classNames: names, palette: classPalette(config) };
  const creation = Segmenter.create({ ...options, ...stride, ...classes, seed, device, dtype });
  return prepared(creation, async (segmenter) => {
    if (weights !== undefined) await segmenter.load(weights);
    else if (initialWeights !== null) await loadAllButHead(segmenter, initialWeights);
  });
}

async function loadAllButHead(segmenter: Segmenter, file: string): Promise<void> {
  const { missing, reshaped } = await segmenter.load(file, { strict: false });
  const layers = AFTER_BACKBONE[segmenter.options.network]!;
  const lacking = [...missing, ...reshaped.map(({ name }) => name)].filter(
    (name) => !layers.some((layer) => name.startsWith(`${layer}.`)) && !name.endsWith('.num_batches_tracked'),
  );
  if (lacking.length === 0) return;
  throw new DataError(
    `${file}: does not hold initial weights for this segmenter: ${lacking.slice(0, 3).join(', ')} ` +
      `${lacking.length > 3 ? `and ${lacking.length - 3} more ` : ''}are missing or have another shape`,
  );
}

/**
 * Creates the discriminator of the config's alignment with its initial weights. The result is the same each time. null:
 * the config uses none.
 */
export async function createDiscriminator(
  config: Config,
  { featureCount }: Pick<Segmenter, 'featureCount'>,
): Promise<DomainDiscriminator | null> {
  const { seed, device, dtype } = config;
  const options = { ...config.discriminator, seed, device, dtype };
  switch (config.segmentation.alignment) {
    case 'output-discriminator':
    case 'entropy-discriminator':
      return OutputDiscriminator.create({ ...options, classCount: classNames(config).length });
    case 'feature-discriminator':
      return FeatureDiscriminator.create({ ...options, featureCount });
    case 'mean':
    case 'correlation':
    case 'none':
      return null;
  }
}

/**
 * Creates the config's translators F and F⁻¹, or the paired F, with their initial weights. The result is the same each
 * time.
 *
 * @param weights a safetensors file to load instead of the initial weights
 */
export function createTranslator(config: Config, weights?: string): Promise<Translator> {
  const { seed, device, dtype } = config;
  const { pairing } = config.translation;
  return prepared(
    Translator.create({ ...config.translator, pairing, seed, device, dtype }),
    async (translator) => {
      if (weights !== undefined) await translator.load(weights);
    },
  );
}

/** Prepares a model and returns it. Disposes it when `prepare` fails. */
async function prepared<Model extends Segmenter | Translator>(
  creation: Promise<Model>,
  prepare: (model: Model) => Promise<void>,
): Promise<Model> {
  const model = await creation;
  try {
    await prepare(model);
    return model;
  } catch (error) {
    model.dispose();
    throw error;
  }
}
