import { DataError } from '../support/errors.js';
import { type OpenOptions, openWeights, type WeightsFile } from '../weights/weights-file.js';
import type { Architecture, WeightsDescription } from '../weights/weights-metadata.js';
import { guessArchitecture } from './guess-architecture.js';
import { type RenamedWeights, withOwnNames } from './other-names.js';

/** Networks of an unpaired translator. The names of their tensors begin with these. */
const NETWORKS = ['to_target', 'to_source', 'target_discriminator', 'source_discriminator'] as const;

/**
 * Opens the weights of a translator: a file that bidiseg wrote, one CycleGAN generator, or one for each direction.
 * Generators get the names that they have in a translator. The first file's description is valid for all files and lists
 * the networks that are missing.
 *
 * @param back file of the generator from target to source, if `file` is the other generator alone
 * @throws DataError that names the file and what is wrong with it
 */
export async function openTranslator(
  file: string,
  back?: string,
  options: OpenOptions = {},
): Promise<RenamedWeights[]> {
  const weights = await openWeights(file, options);
  const generator = generatorOf(weights);
  if (!generator) {
    if (back === undefined) return [withOwnNames(weights)];
    throw new DataError(`${file}: found ${foundText(weights)}, expected a generator alone beside ${back}`);
  }
  const parts = [named(weights, 'to_target')];
  if (back !== undefined) {
    const backward = await openWeights(back, options);
    const other = generatorOf(backward);
    const [found, expected] = [other, generator].map((options) => options && JSON.stringify(options));
    if (found !== expected) {
      throw new DataError(
        `${back}: found ${other ? `a generator with ${optionsText(other)}` : foundText(backward)}, ` +
          `expected a generator with ${optionsText(generator)}, like ${file}`,
      );
    }
    parts.push(named(backward, 'to_source'));
  }
  const missing = NETWORKS.filter((_, index) => index >= parts.length);
  const description: WeightsDescription = {
    architecture: 'translator',
    options: { ...generator, discriminatorWidth: generator.baseWidth },
    missing,
  };
  parts[0] = { ...parts[0]!, description };
  return parts;
}

/** Returns the options of a generator, or null if the file does not hold a generator alone. */
function generatorOf({ description, tensors }: WeightsFile): Architecture['options'] | null {
  const known = description ?? guessArchitecture(tensors);
  return known?.architecture === 'resnet-generator' ? known.options : null;
}

function named(weights: WeightsFile, network: (typeof NETWORKS)[number]): RenamedWeights {
  const within = <T extends { name: string }>(entries: T[]) =>
    entries.map((entry) => ({ ...entry, name: `${network}.${entry.name}` }));
  const { tensors, skipped } = weights;
  const renamed = [{ from: '', to: `${network}.` }];
  return {
    ...weights,
    description: null,
    tensors: within(tensors),
    skipped: within(skipped),
    renamed,
    converted: [],
  };
}

function foundText({ description, tensors }: WeightsFile): string {
  const known = description ?? guessArchitecture(tensors);
  return known ? `the weights of ${known.architecture}` : 'weights of an unknown network';
}

function optionsText(options: Architecture['options']): string {
  return Object.entries(options)
    .map(([key, value]) => `${key} ${value}`)
    .join(', ');
}
