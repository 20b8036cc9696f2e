import { DataError } from '../support/errors.js';

/** Version of the description in a weights file. Raise it when older releases would misread it. */
const FORMAT_VERSION = 1;

/** Description of the network that a weights file belongs to. */
export interface Architecture {
  /** Architecture such as `deeplab-v2` or `translator`. */
  architecture: string;
  /** Options that the network was created with, without seed and device. */
  options: Record<string, unknown>;
}

export interface WeightsDescription extends Architecture {
  /** Names of the classes in the order of their indices, if known. */
  classes?: readonly string[];
  /** Colors [R, G, B] of the classes in the order of their indices, if known. */
  palette?: readonly (readonly number[])[];
  /** Number of training steps of the weights, if known. */
  step?: number;
  /** Networks of a translator that the file lacks, such as `to_source`. */
  missing?: readonly string[];
}

/** Serializes a description with its format version. `more` is for people and other tools. */
export function descriptionText(description: WeightsDescription, more: object = {}): string {
  return JSON.stringify({ version: FORMAT_VERSION, ...description, ...more });
}

/** Makes the metadata of a safetensors file. Other tools of the PyTorch world look for `format`. */
export function encodeDescription(description: WeightsDescription): Record<string, string> {
  return { format: 'pt', bidiseg: descriptionText(description) };
}

/**
 * Reads the description that encodeDescription() wrote, or null if there is none.
 *
 * @throws DataError that names the file when the description is damaged or a newer release wrote it
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
  const { version, architecture, options, classes, palette, step, missing } = json;
  if (!Number.isSafeInteger(version) || (version as number) < 1) throw bad('it has no format version');
  if ((version as number) > FORMAT_VERSION) {
    throw new DataError(
      `${file} has format version ${version}, but this release of bidiseg reads versions up to ${FORMAT_VERSION}: update bidiseg`,
    );
  }
  if (typeof architecture !== 'string' || typeof options !== 'object' || options === null) {
    throw bad('it has no architecture or options');
  }
  const description: WeightsDescription = { architecture, options: options as Record<string, unknown> };
  const isNames = (value: unknown) => Array.isArray(value) && value.every((name) => typeof name === 'string');
  if (classes !== undefined) {
    if (!isNames(classes)) throw bad('its classes are not a list of names');
    description.classes = classes as string[];
  }
  if (palette !== undefined) {
    if (!isPalette(palette)) throw bad('its palette is not a list of colors [R, G, B] from 0 to 255');
    description.palette = palette;
  }
  if (missing !== undefined) {
    if (!isNames(missing)) throw bad('its missing networks are not a list of names');
    description.missing = missing as string[];
  }
  if (step !== undefined) {
    if (!Number.isSafeInteger(step) || (step as number) < 0) throw bad('its step is not a whole number');
    description.step = step as number;
  }
  return description;
}

function isPalette(value: unknown): value is number[][] {
  const isByte = (item: unknown) =>
    Number.isInteger(item) && (item as number) >= 0 && (item as number) <= 255;
  return (
    Array.isArray(value) &&
    value.every((color) => Array.isArray(color) && color.length === 3 && color.every(isByte))
  );
}
