import { ConfigError } from '../support/errors.js';

/**
 * Version of what config files say, which each run's own config names. To be raised when a key changes its meaning or
 * goes; `toCurrentVersion` then translates, or says why it cannot. A key that is new and whose default is what was done
 * before needs no new version.
 */
export const CONFIG_VERSION = 1;

/**
 * The values of a config file without their `version`. A file without one is of the current version when somebody wrote
 * it by hand; the configs of runs from before there were versions say the same as version 1.
 *
 * @throws ConfigError for a version that this bidiseg does not know
 */
export function toCurrentVersion(
  file: string,
  { version = CONFIG_VERSION, ...values }: Record<string, unknown>,
): Record<string, unknown> {
  if (version === CONFIG_VERSION) return values;
  const isNewer = typeof version === 'number' && version > CONFIG_VERSION;
  throw new ConfigError(
    `${file}: version: expected ${CONFIG_VERSION} but found ${JSON.stringify(version)}` +
      (isNewer ? ', which a newer bidiseg has written' : ''),
  );
}
