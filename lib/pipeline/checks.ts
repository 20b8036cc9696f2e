import type { Config } from '../config/schema.js';
import type { ImageDataset } from '../data/dataset.js';
import { ConfigError } from '../support/errors.js';
import { requireWeightsNames } from '../training/self-training.js';
import type { Datasets } from './datasets.js';
import { createSegmenter } from './models.js';
import { planStages, type StageKind } from './plan.js';

/**
 * Checks that config and data fit together, so that no stage fails on them after hours. The schema checks the config alone,
 * and `requireTrainingDevice` the device.
 *
 * @throws ConfigError when a stage of the run could not work with these data
 * @throws DataError when the names of images do not work, or the initial weights cannot be read or do not fit
 */
export async function checkRun(config: Config, datasets: Datasets): Promise<void> {
  const kinds = new Set<StageKind>(planStages(config.loop).map(({ kind }) => kind));
  heldOutCount(datasets.source, config);
  if (kinds.has('translator') && config.translation.pairing === 'paired') requirePairs(datasets);
  if (kinds.has('pseudo-labels') && config.selfTraining.weighting === 'soft') {
    requireWeightsNames(datasets.target);
  }
  if (config.segmenter.initialWeights !== null) {
    const segmenter = await createSegmenter({ ...config, device: 'cpu' });
    segmenter.dispose();
  }
}

/** Returns the number of source images that `segmentation.validation` keeps from training, or 0 without it. */
export function heldOutCount({ length }: ImageDataset, { segmentation: { validation } }: Config): number {
  if (!validation) return 0;
  const count = Math.ceil(validation.share * length);
  if (count < length) return count;
  throw new ConfigError(
    `segmentation.validation.share: ${validation.share} of ${length} source images leaves no image to train on`,
  );
}

function requirePairs({ source, target }: Datasets): void {
  const [pairs] = source.pairsWith(target);
  if (pairs.length > 0) return;
  const examples = `'${source.entry(0).name}' in the source and '${target.entry(0).name}' in the target`;
  throw new ConfigError(
    `translation.pairing: paired needs source and target images of the same names but found none, only such as ${examples}`,
  );
}
