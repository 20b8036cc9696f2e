import type { Config } from '../config/schema.js';
import { OutputDiscriminator } from '../models/output-discriminator.js';
import { Segmenter } from '../models/segmenter.js';
import { Translator } from '../models/translator.js';
import { classNames } from './datasets.js';

/**
 * The config's segmenter with its initial weights, the same each time.
 *
 * @param weights a safetensors file to load in place of the initial weights
 */
export function createSegmenter(config: Config, weights?: string): Promise<Segmenter> {
  const { initialWeights, ...options } = config.segmenter;
  return loaded(
    Segmenter.create({
      ...options,
      classCount: classNames(config).length,
      seed: config.seed,
      device: config.device,
    }),
    weights ?? initialWeights,
  );
}

/** The config's output-space discriminator D_M with its initial weights, the same each time. */
export function createDiscriminator(config: Config): Promise<OutputDiscriminator> {
  return OutputDiscriminator.create({
    ...config.discriminator,
    classCount: classNames(config).length,
    seed: config.seed,
    device: config.device,
  });
}

/**
 * The config's translators F and F⁻¹ with their initial weights, the same each time.
 *
 * @param weights a safetensors file to load in place of the initial weights
 */
export function createTranslator(config: Config, weights?: string): Promise<Translator> {
  const { seed, device } = config;
  return loaded(Translator.create({ ...config.translator, seed, device }), weights ?? null);
}

async function loaded<Model extends Segmenter | Translator>(
  creation: Promise<Model>,
  weights: string | null,
): Promise<Model> {
  const model = await creation;
  if (weights === null) return model;
  try {
    await model.load(weights);
    return model;
  } catch (error) {
    model.dispose();
    throw error;
  }
}
