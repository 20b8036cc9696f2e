import { counted } from '../support/format.js';
import { readAhead } from '../support/generators.js';
import { spread } from '../support/spread.js';
import type { ImageDataset } from './dataset.js';

/** Labels that the files of a data set, or a sample of them, hold. */
export interface LabelSurvey {
  /** Number of label files that were read. */
  files: number;
  /** Number of label files in the data set. */
  total: number;
  /** Number of pixels with each label 0–255. */
  pixels: readonly number[];
}

/** Labels that a data set should have. */
export interface ExpectedLabels {
  /** Name of the data set in messages. */
  name: string;
  /** Class names by index. */
  classes: readonly string[];
  /** Indices of the classes that labels should have. Default all. */
  wanted?: readonly number[] | undefined;
  /** Label of pixels without a class. */
  ignoreIndex: number;
  /** Whether the files are read without a label map, so that one might help. */
  isIdentity: boolean;
}

/** Number of label files that a survey reads, by default. */
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

/** Warns of classes without labels. Training or measuring such a class means nothing. */
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

/** Returns the wanted classes without pixels. */
export function missingClasses(pixels: readonly number[], wanted: readonly number[]): number[] {
  return wanted.filter((index) => pixels[index] === 0);
}

/** Formats a list of names: "'a', 'b' and 3 more". */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((name) => `'${name}'`);
  const more = names.length - shown.length;
  return more > 0 ? `${shown.join(', ')} and ${more} more` : shown.join(', ');
}
