import { counted } from '../support/format.js';
import { readAhead } from '../support/generators.js';
import { spread } from '../support/spread.js';
import type { ImageDataset } from './dataset.js';

/** What the label files of a data set, or a sample of them, hold. */
export interface LabelSurvey {
  /** Label files that were read. */
  files: number;
  /** Label files of the data set. */
  total: number;
  /** Number of pixels with each label 0–255. */
  pixels: readonly number[];
}

/** What labels should hold. */
export interface ExpectedLabels {
  /** How messages call the data set. */
  name: string;
  /** Class names in the order of their indices. */
  classes: readonly string[];
  /** Indices of the classes that labels should have; default all. */
  wanted?: readonly number[] | undefined;
  /** The label of pixels that belong to no class. */
  ignoreIndex: number;
  /** Whether a label map of the user's own could give other classes: the files are read as they are. */
  isIdentity: boolean;
}

/** Label files that a survey reads, unless it is told otherwise. */
const SAMPLE = 50;

/**
 * Counts the labels in `count` label files, evenly spread over a data set with labels.
 *
 * @throws {DataError} when one of them cannot be read
 */
export async function surveyLabels(
  dataset: ImageDataset,
  { count = SAMPLE, signal }: { count?: number; signal?: AbortSignal | undefined } = {},
): Promise<LabelSurvey> {
  const indices = spread(dataset.length, count);
  const pixels = new Array<number>(256).fill(0);
  const read = (i: number) => dataset.readLabels(indices[i]!);
  for await (const { data } of readAhead(indices.length, read, { signal })) {
    for (const label of data) pixels[label]!++;
  }
  return { files: indices.length, total: dataset.length, pixels };
}

/** Says which classes no label has. Training or measuring such a class means nothing. */
export function labelWarnings({ files, total, pixels }: LabelSurvey, expected: ExpectedLabels): string[] {
  const { name, classes, ignoreIndex, isIdentity } = expected;
  if (files === 0) return [];
  const all = counted(total, 'label file');
  const where = files === total ? `any of its ${all}` : `a sample of ${files} of its ${all}`;
  const present = [...pixels.keys()].filter((label) => pixels[label]! > 0);
  const isMask = isIdentity && present.length === 2 && present[0] === 0 && present[1] === 255;
  const hint = isMask
    ? '; these are masks of 0 and 255 (or of one bit), for which the label map is {0: 0, 255: 1}'
    : '';
  if (present.every((label) => label === ignoreIndex)) {
    return [`${name}: no pixel has a class in ${where}, all are ${ignoreIndex} ("no label")`];
  }
  const missing = missingClasses(pixels, expected.wanted ?? [...classes.keys()]);
  if (missing.length === 0) return [];
  return [`${name}: no pixel is of ${listed(missing.map((index) => classes[index]!))} in ${where}${hint}`];
}

/** The wanted classes that have no pixel. */
export function missingClasses(pixels: readonly number[], wanted: readonly number[]): number[] {
  return wanted.filter((index) => pixels[index] === 0);
}

/** "'a', 'b' and 3 more classes" */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((name) => `'${name}'`);
  const more = names.length - shown.length;
  return more > 0 ? `${shown.join(', ')} and ${more} more` : shown.join(', ');
}
