import { ConfigError } from '../support/errors.js';
import { hasPath } from '../support/options.js';
import type { Layer } from './parse.js';

/**
 * Version of what config files say. Each run's own config names it. Raise it when a key changes its meaning or goes. A new
 * key whose default is what was done before needs no new version.
 */
export const CONFIG_VERSION = 2;

/** Versions that say the same once their keys have today's names. */
const KNOWN_VERSIONS: readonly unknown[] = [1, CONFIG_VERSION];

/** Keys that had another name in version 1 (bidiseg 0.1). */
const RENAMED_KEYS = {
  'segmentation.normalise': 'segmentation.normalize',
  'segmentation.augmentation.source.colourJitter': 'segmentation.augmentation.source.colorJitter',
  'segmentation.augmentation.target.colourJitter': 'segmentation.augmentation.target.colorJitter',
  'segmenter.initialisation': 'segmenter.initialization',
};

/** Values that had another name in version 1. */
const RENAMED_VALUES = [{ key: 'translation.perceptualForm', old: 'normalised-mse', now: 'normalized-mse' }];

/**
 * The values of a config file without their `version`. A file without one was written by hand, for the current version.
 *
 * @throws ConfigError for a version that this bidiseg does not know
 */
export function withoutVersion(
  file: string,
  { version = CONFIG_VERSION, ...values }: Record<string, unknown>,
): Record<string, unknown> {
  if (KNOWN_VERSIONS.includes(version)) return values;
  const isNewer = typeof version === 'number' && version > CONFIG_VERSION;
  throw new ConfigError(
    `${file}: version: expected ${CONFIG_VERSION} but found ${JSON.stringify(version)}` +
      (isNewer ? ', which a newer bidiseg has written' : ''),
  );
}

/** @throws ConfigError that names the new key where a layer has an old one */
export function refuseOldNames({ name, values }: Layer): void {
  for (const [old, now] of Object.entries(RENAMED_KEYS)) {
    if (hasPath(values, old.split('.'))) throw new ConfigError(`${name}: ${old} is now called ${now}`);
  }
  for (const { key, old, now } of RENAMED_VALUES) {
    const found = key.split('.').reduce<unknown>((inner, part) => (inner as never)?.[part], values);
    if (found === old) throw new ConfigError(`${name}: ${key}: ${old} is now called ${now}`);
  }
}
