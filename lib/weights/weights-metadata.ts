import { DataError } from '../support/errors.js';

/** What bidiseg writes beside the tensors of a weights file; raised when older releases would misread it. */
const FORMAT_VERSION = 1;

/** How a weights file says which network it belongs to. */
export interface Architecture {
  /** Such as `deeplab-v2` or `translator`. */
  architecture: string;
  /** The options the network was created with, without seed and device. */
  options: Record<string, unknown>;
}

export interface WeightsDescription extends Architecture {
  /** Names of the classes in the order of their indices, where they are known. */
  classes?: readonly string[];
  /** How many steps the weights were trained for, where that is known. */
  step?: number;
  /** Networks of a translator that the file lacks, such as `to_source`; their tensors' names would begin with these. */
  missing?: readonly string[];
}

/** The description as it is written into files, with its format version, and `more` that only people and other tools read. */
export function descriptionText(description: WeightsDescription, more: object = {}): string {
  return JSON.stringify({ version: FORMAT_VERSION, ...description, ...more });
}

/** The metadata of a safetensors file. `format` is what other tools of the PyTorch world look for. */
export function encodeDescription(description: WeightsDescription): Record<string, string> {
  return { format: 'pt', bidiseg: descriptionText(description) };
}

/**
 * What encodeDescription() wrote; null where a file has nothing of the kind.
 *
 * @throws DataError naming the file where that is damaged, or a newer release wrote it.
 */
export function decodeDescription(
  file: string,
  metadata: Readonly<Record<string, string>>,
): WeightsDescription | null {
  if (metadata.bidiseg === undefined) return null;
  const bad = (what: string, cause?: unknown) =>
    new DataError(`${file} has unusable bidiseg metadata: ${what}`, { cause });
  let json: Record<string, unknown>;
  try {
    json = Object(JSON.parse(metadata.bidiseg));
  } catch (cause) {
    throw bad('it is not JSON', cause);
  }
  const { version, architecture, options, classes, step, missing } = json;
  if (!Number.isSafeInteger(version) || (version as number) < 1) throw bad('it has no format version');
  if ((version as number) > FORMAT_VERSION) {
    throw new DataError(
      `${file} has format version ${version}, but this release of bidiseg reads none above ${FORMAT_VERSION}: update bidiseg`,
    );
  }
  if (typeof architecture !== 'string' || typeof options !== 'object' || options === null) {
    throw bad('it has no architecture or options');
  }
  const description: WeightsDescription = { architecture, options: options as Record<string, unknown> };
  const isNames = (value: unknown) => Array.isArray(value) && value.every((name) => typeof name === 'string');
  if (classes !== undefined) {
    if (!isNames(classes)) throw bad('its classes are no list of names');
    description.classes = classes as string[];
  }
  if (missing !== undefined) {
    if (!isNames(missing)) throw bad('its missing networks are no list of names');
    description.missing = missing as string[];
  }
  if (step !== undefined) {
    if (!Number.isSafeInteger(step) || (step as number) < 0) throw bad('its step is no whole number');
    description.step = step as number;
  }
  return description;
}
