import { ConfigError } from '../support/errors.js';
import { hasPath } from '../support/options.js';
import type { Layer } from './parse.js';

/**
 * Version of the config format. The config in each run folder names it. Raise it when a key is removed or changes its
 * meaning. A new key needs no new version if its default keeps the old behavior.
 */
export const CONFIG_VERSION = 2;

/** Versions that this bidiseg reads. They differ only in the names of keys and values. */
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
 * Returns the values of a config file without `version`. A file without a version counts as the current version.
 *
 * @throws ConfigError when this bidiseg does not know the version
 */
export function withoutVersion(
  file: string,
  { version = CONFIG_VERSION, ...values }: Record<string, unknown>,
): Record<string, unknown> {
  if (KNOWN_VERSIONS.includes(version)) return values;
  const isNewer = typeof version === 'number' && version > CONFIG_VERSION;
  throw new ConfigError(
    `${file}: version: expected ${CONFIG_VERSION} but found ${JSON.stringify(version)}` +
      (isNewer ? '; a newer bidiseg wrote this file' : ''),
  );
}

/**
 * Checks that a layer uses no key or value of version 1.
 *
 * @throws ConfigError that names the new key when a layer has an old one
 */
export function refuseOldNames({ name, values }: Layer): void {
  for (const [old, now] of Object.entries(RENAMED_KEYS)) {
    if (hasPath(values, old.split('.'))) throw new ConfigError(`${name}: ${old} is now called ${now}`);
  }
  for (const { key, old, now } of RENAMED_VALUES) {
    const found = key.split('.').reduce<unknown>((inner, part) => (inner as never)?.[part], values);
    if (found === old) throw new ConfigError(`${name}: ${key}: ${old} is now called ${now}`);
  }
}
