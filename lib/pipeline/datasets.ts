import { realpath } from 'node:fs/promises';
import path from 'node:path';
import { checkClassNames, classNames, expectedClasses } from '../config/classes.js';
import type { Config } from '../config/schema.js';
import { ImageDataset, type LabelOptions } from '../data/dataset.js';
import { toSize } from '../data/image-size.js';
import { labelWarnings, surveyLabels } from '../data/label-survey.js';
import { createEmbeddedDataset } from '../data/scenes/embedded-dataset.js';
import { ConfigError } from '../support/errors.js';

/** Data sets of a run. */
export interface Datasets {
  /** Labeled source images, S with Y_S. */
  source: ImageDataset;
  /** Unlabeled target images, T. */
  target: ImageDataset;
  /** Labeled target images, for reports only. null: none. */
  validation: ImageDataset | null;
  /** Labeled target images to train on beside the source. null or absent: none. */
  labeled?: ImageDataset | null;
}

/** Data sets of a run, and warnings about them. */
export interface OpenedDatasets extends Datasets {
  warnings: readonly string[];
}

/**
 * Opens the data sets that the config names. Generates the embedded data set first if the config asks for it.
 *
 * @throws DataError when a folder, a list or a label file is missing
 * @throws ConfigError when a list names no labels, the config names an unknown class, or an image is both in
 * `data.target.labeled` and in `data.target.val`
 */
export async function openDatasets(
  config: Config,
  options: {
    signal?: AbortSignal;
    /** Called while the embedded data set is generated. */
    onProgress?: (progress: { done: number; total: number }) => void;
  } = {},
): Promise<OpenedDatasets> {
  const { data } = config;
  const root = dataRoot(config);
  checkClassNames(config);
  if (data.embedded) {
    const { size, ...counts } = data.embedded;
    await createEmbeddedDataset(root, { ...counts, size: toSize(size), ...options });
  }
  const [source, opened, validation, labeled] = await Promise.all([
    openImages(config, 'source', data.source),
    openImages(config, 'target.train', data.target.train),
    data.target.val && openImages(config, 'target.val', data.target.val),
    data.target.labeled && openImages(config, 'target.labeled', data.target.labeled),
  ]);
  requireLabels(source, 'source');
  if (validation) requireLabels(validation, 'target.val');
  if (labeled) requireLabels(labeled, 'target.labeled');
  if (labeled && validation) await requireApart(labeled, validation);
  if (!opened.hasLabels) return { source, target: opened, validation, labeled, warnings: [] };
  const warning = `data.target.train.list: ${data.target.train.list} names labels, which are not read; the target is unlabeled`;
  return { source, target: opened.withoutLabels(), validation, labeled, warnings: [warning] };
}

/**
 * Opens the unlabeled target images alone.
 *
 * @throws DataError when a folder or a list is missing
 */
export async function openTarget(config: Config): Promise<ImageDataset> {
  const target = await openImages(config, 'target.train', config.data.target.train);
  return target.withoutLabels();
}

async function openImages(config: Config, key: string, source: ImageSource): Promise<ImageDataset> {
  const dataset = await openWhole(config, source);
  return source.part ? partOf(dataset, source.part, key) : dataset;
}

function openWhole(config: Config, { images, list, ...labeled }: ImageSource): Promise<ImageDataset> {
  const root = dataRoot(config);
  const { ignoreIndex, maxPixels } = config.data;
  const labelMap = labeled.labelMap ?? 'identity';
  const encoding: LabelOptions = { classCount: classNames(config).length, ignoreIndex, labelMap };
  if (list !== null) {
    return ImageDataset.fromList({ list: path.resolve(root, list), root, maxPixels, ...encoding });
  }
  const folders = {
    images: path.resolve(root, images!),
    ...(labeled.labels && { labels: path.resolve(root, labeled.labels) }),
  };
  return ImageDataset.fromFolder({ ...folders, except: config.output, maxPixels, ...encoding });
}

/**
 * Reads a sample of the labels of a run's data sets.
 *
 * @returns warnings
 * @throws DataError when a label file cannot be read
 */
export async function surveyDatasets(
  config: Config,
  { source, validation, labeled }: Datasets,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<string[]> {
  const { data } = config;
  const { val, labeled: few } = data.target;
  const sets = [
    { key: 'source', dataset: source, labelMap: data.source.labelMap },
    ...(labeled ? [{ key: 'target.labeled', dataset: labeled, labelMap: few?.labelMap ?? 'identity' }] : []),
    ...(validation
      ? [{ key: 'target.val', dataset: validation, labelMap: val?.labelMap ?? 'identity' }]
      : []),
  ];
  const warnings: string[] = [];
  for (const { key, dataset, labelMap } of sets) {
    const survey = await surveyLabels(dataset, options);
    const expected = {
      name: `data.${key}`,
      classes: classNames(config),
      wanted: [...expectedClasses(config).keys()],
      ignoreIndex: data.ignoreIndex,
      isIdentity: labelMap === 'identity',
    };
    warnings.push(...labelWarnings(survey, expected));
  }
  return warnings;
}

/** Returns the absolute root of the data. Generated data live in the run folder unless the config names another root. */
function dataRoot({ data, output }: Config): string {
  return data.root ?? path.join(output, 'data');
}

type ImageSource = {
  images: string | null;
  list: string | null;
  part: [number, number] | null;
  labels?: string | null;
  labelMap?: Config['data']['source']['labelMap'];
};

function partOf(dataset: ImageDataset, [from, to]: [number, number], key: string): ImageDataset {
  const [first, end] = [Math.round(from * dataset.length), Math.round(to * dataset.length)];
  if (first === end) {
    throw new ConfigError(
      `data.${key}.part: expected a part with at least one image but found [${from}, ${to}] of ${dataset.length}`,
    );
  }
  return dataset.subset(Array.from({ length: end - first }, (_, index) => first + index));
}

/** Refuses images that are both trained on and measured on, whatever their paths are. */
async function requireApart(labeled: ImageDataset, validation: ImageDataset): Promise<void> {
  const filesOf = (dataset: ImageDataset) =>
    Promise.all(Array.from({ length: dataset.length }, (_, index) => realpath(dataset.entry(index).image)));
  const measured = new Set(await filesOf(validation));
  const both = (await filesOf(labeled)).find((file) => measured.has(file));
  if (both === undefined) return;
  throw new ConfigError(
    `data.target.labeled: ${both} is also in data.target.val, expected no image that is both trained on and measured on`,
  );
}

function requireLabels(dataset: ImageDataset, key: string): void {
  if (!dataset.hasLabels) {
    throw new ConfigError(`data.${key}.list: expected lines 'image label' but found lines without a label`);
  }
}
