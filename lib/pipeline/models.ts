import { classNames, classPalette } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import { FeatureDiscriminator } from '../models/feature-discriminator.js';
import { OutputDiscriminator } from '../models/output-discriminator.js';
import { Segmenter } from '../models/segmenter.js';
import { Translator } from '../models/translator.js';
import { DataError } from '../support/errors.js';
import type { DomainDiscriminator } from '../training/steps/segmentation-step.js';

/**
 * Creates the config's segmenter with its initial weights. The result is the same each time. A file of initial weights
 * may lack the head or hold a head for other classes, as ImageNet weights do. The head then starts with random weights.
 * All other tensors must be there.
 *
 * @param weights a weights file to load strictly, instead of the initial weights
 * @throws DataError that names the file and the tensors that do not fit
 */
export function createSegmenter(config: Config, weights?: string): Promise<Segmenter> {
  const { initialWeights, ...options } = config.segmenter;
  const { seed, device } = config;
  const names = classNames(config);
  const classes = { classCount: names.length, classNames: names, palette: classPalette(config) };
  const creation = Segmenter.create({ ...options, ...classes, seed, device });
  return prepared(creation, async (segmenter) => {
    if (weights !== undefined) await segmenter.load(weights);
    else if (initialWeights !== null) await loadAllButHead(segmenter, initialWeights);
  });
}

async function loadAllButHead(segmenter: Segmenter, file: string): Promise<void> {
  const { missing, reshaped } = await segmenter.load(file, { strict: false });
  const lacking = [...missing, ...reshaped.map(({ name }) => name)].filter(
    (name) => !name.startsWith('layer5.') && !name.endsWith('.num_batches_tracked'),
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
  const { seed, device } = config;
  const options = { ...config.discriminator, seed, device };
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
  const { seed, device } = config;
  const { pairing } = config.translation;
  return prepared(Translator.create({ ...config.translator, pairing, seed, device }), async (translator) => {
    if (weights !== undefined) await translator.load(weights);
  });
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
