import { ImageDataset, type Sample } from '../data/dataset.js';
import { labelsByName, requireAll } from '../data/file-names.js';
import { writeImage } from '../data/image-codec.js';
import { labelMap as findLabelMap } from '../data/label-maps.js';
import { labelWarnings } from '../data/label-survey.js';
import { type DatasetLayout, type DatasetPart, findDataset } from '../data/layouts.js';
import { spreadPalette } from '../data/palette.js';
import { BidisegError } from '../support/errors.js';
import { counted, oneLine, percent } from '../support/format.js';
import { readAhead } from '../support/generators.js';
import { spread } from '../support/spread.js';
import { type Classes, classesOfLabelMap, type LabelMapChoice, labelMapText } from './classes.js';
import { ContactSheet } from './contact-sheet.js';
import { QuietFailure } from './exit.js';
import { prepareOutputFile } from './output-folder.js';
import type { CommandContext } from './run-command.js';
import { table } from './table.js';

export interface DatasetInfoOptions {
  /** Folder of the label maps. `folder` then holds the images themselves. */
  labels?: string;
  labelMap?: LabelMapChoice;
  classes?: Classes;
  /** Number of images to read per part. */
  sample: number;
  contactSheet?: string;
  overwrite?: boolean;
  maxPixels?: number;
}

/** Findings about one part of a data set. */
interface PartInfo extends DatasetPart {
  imageCount: number;
  /** null: the part has no labels. */
  labelCount: number | null;
  /** Number of images that were read, with their labels. */
  checked: number;
  /** Number of images per size 'WIDTH×HEIGHT'. */
  sizes: Record<string, number>;
  /** Number of pixels and of label maps per class, in the label maps that were read. */
  pixels: number[];
  maps: number[];
  ignored: number;
  problems: string[];
  /** Findings that are not errors but look wrong. */
  warnings: string[];
}

const IGNORED = 255;
/** Number of samples of each part on the contact sheet. */
const SHOWN = 9;

/** Runs `bidiseg info FOLDER`. Shows what a data set contains and checks a sample of it. */
export async function datasetInfo(
  folder: string,
  options: DatasetInfoOptions,
  context: CommandContext,
): Promise<void> {
  const { layout, parts, ...found } = await layoutOf(folder, options);
  if (options.contactSheet !== undefined) {
    const inputs = parts.flatMap(({ images, labels }) => [images, ...(labels === null ? [] : [labels])]);
    prepareOutputFile(options.contactSheet, { inputs, overwrite: options.overwrite }, context);
  }
  const labelMap = options.labelMap ?? found.labelMap;
  const classes = options.classes ?? classesOfLabelMap(labelMap);
  const palette = classes?.palette ?? spreadPalette(IGNORED);
  const sheet = options.contactSheet === undefined ? undefined : new ContactSheet(palette);
  const infos: PartInfo[] = [];
  for (const part of parts) {
    infos.push(
      await checkPart(
        part,
        { labelMap, classes, sample: options.sample, maxPixels: options.maxPixels },
        sheet,
        context,
      ),
    );
  }
  const picture = sheet?.compose();
  const contactSheet = picture ? options.contactSheet! : undefined;
  if (picture) await writeImage(contactSheet!, picture);

  const names = classNames(classes, infos);
  const problems = infos.flatMap(({ problems }) => problems);
  context.console.result(
    { folder, layout, labelMap, parts: infos.map((info) => toJson(info, names)), contactSheet },
    [
      ...describe({ folder, layout, labelMap: labelMapText(labelMap) }, infos, names),
      ...(contactSheet === undefined ? [] : ['', `Wrote the contact sheet ${contactSheet}`]),
    ].join('\n'),
  );
  if (problems.length > 0) {
    const message = `${counted(problems.length, 'problem')} in ${folder}; the first: ${problems[0]}`;
    process.stderr.write(`bidiseg: ${message}\n`);
    throw new QuietFailure();
  }
}

async function layoutOf(folder: string, { labels }: DatasetInfoOptions): Promise<DatasetLayout> {
  if (labels === undefined) return findDataset(folder);
  return { layout: 'folders', labelMap: 'identity', parts: [{ name: '', images: folder, labels }] };
}

async function checkPart(
  part: DatasetPart,
  options: {
    labelMap: LabelMapChoice;
    classes: Classes | undefined;
    sample: number;
    maxPixels: number | undefined;
  },
  sheet: ContactSheet | undefined,
  { console, signal }: CommandContext,
): Promise<PartInfo> {
  const classCount = options.classes?.names.length ?? findLabelMap(options.labelMap).classCount;
  const info: PartInfo = {
    ...part,
    imageCount: 0,
    labelCount: null,
    checked: 0,
    sizes: {},
    pixels: new Array<number>(classCount).fill(0),
    maps: new Array<number>(classCount).fill(0),
    ignored: 0,
    problems: [],
    warnings: [],
  };
  const attempt = async <T>(work: () => Promise<T>): Promise<T | undefined> => {
    const result = await orProblem(work);
    if (!(result instanceof Problem)) return result;
    info.problems.push(result.message);
    return undefined;
  };

  /** Opens the images that have labels. Notes a problem if some have none. */
  const openLabeled = async (images: ImageDataset, labels: string): Promise<ImageDataset> => {
    const names = Array.from({ length: images.length }, (_, index) => images.entry(index).name);
    const files = await labelsByName(labels, { colors: findLabelMap(options.labelMap).idsFrom === 'color' });
    await attempt(async () =>
      requireAll(names, files, (missing) => `${labels}: holds no label PNG for ${missing} of ${part.images}`),
    );
    return images.withLabels(labels, { labelMap: options.labelMap, classCount, sameSize: true });
  };

  const images = await attempt(() =>
    ImageDataset.fromFolder({ images: part.images, maxPixels: options.maxPixels }),
  );
  if (!images) return info;
  info.imageCount = images.length;
  const { labels } = part;
  const labeled = labels === null ? undefined : await attempt(() => openLabeled(images, labels));
  if (labeled) info.labelCount = labeled.length;
  const dataset = labeled && labeled.length > 0 ? labeled : images;
  const indices = spread(dataset.length, options.sample);
  const shown = new Set(spread(indices.length, SHOWN));
  const progress = console.progress(`checking ${part.name}`.trim(), indices.length);
  const samples = readAhead(indices.length, (i) => orProblem(() => dataset.read(indices[i]!)), { signal });
  let done = 0;
  for await (const sample of samples) {
    if (sample instanceof Problem) {
      info.problems.push(sample.message);
    } else {
      count(sample, info);
      if (shown.has(done)) await sheet?.add(await dataset.openImage(indices[done]!), sample.labels);
    }
    progress.update(++done);
  }
  sheet?.endRow();
  if (labeled) info.warnings.push(...warningsOf(info, labeled.length, options));
  return info;
}

/** Finds classes without labels. Without class names, only a single class is suspicious. */
function warningsOf(
  { name, pixels, ignored, checked }: PartInfo,
  total: number,
  { labelMap, classes }: { labelMap: LabelMapChoice; classes: Classes | undefined },
): string[] {
  if (sum(pixels) + ignored === 0) return [];
  const byLabel = Array.from({ length: 256 }, (_, label) => pixels[label] ?? 0);
  byLabel[IGNORED] = ignored;
  const isIdentity = labelMap === 'identity';
  const last = byLabel.findLastIndex((count, label) => label !== IGNORED && count > 0);
  if (!classes && last > 0) return [];
  const names = classes?.names ?? ['class 0', 'class 1'];
  return labelWarnings(
    { files: checked, total, pixels: byLabel },
    { name: name || 'labels', classes: names, ignoreIndex: IGNORED, isIdentity },
  );
}

class Problem {
  constructor(readonly message: string) {}
}

/** Returns the result of the work, or the problem if the data are at fault. */
async function orProblem<T>(work: () => Promise<T>): Promise<T | Problem> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof BidisegError) return new Problem(oneLine(error.message));
    throw error;
  }
}

function count({ image, labels }: Sample, info: PartInfo): void {
  info.checked++;
  const size = `${image.width}×${image.height}`;
  info.sizes[size] = (info.sizes[size] ?? 0) + 1;
  if (!labels) return;
  const histogram = new Array<number>(256).fill(0);
  for (const value of labels.data) histogram[value]!++;
  for (let index = 0; index < info.pixels.length; index++) {
    if (index === IGNORED) continue;
    info.pixels[index]! += histogram[index]!;
    if (histogram[index]! > 0) info.maps[index]!++;
  }
  info.ignored += histogram[IGNORED]!;
}

/** Returns the names of the classes. Without names, numbers the classes up to the last one found. */
function classNames(classes: Classes | undefined, infos: PartInfo[]): readonly string[] {
  if (classes) return classes.names;
  const last = Math.max(-1, ...infos.map(({ pixels }) => pixels.findLastIndex((pixel) => pixel > 0)));
  return Array.from({ length: last + 1 }, (_, index) => `class ${index}`);
}

function toJson({ pixels, maps, ignored, ...info }: PartInfo, names: readonly string[]): object {
  const total = sum(pixels) + ignored;
  if (total === 0) return { ...info, classes: null, ignored: null };
  const share = (count: number) => ({ pixels: count, share: count / total });
  const classes = names.map((name, index) => ({
    class: name,
    ...share(pixels[index]!),
    labelMaps: maps[index]!,
  }));
  return { ...info, classes, ignored: share(ignored) };
}

function describe(
  { folder, layout, labelMap }: { folder: string; layout: string; labelMap: string },
  infos: PartInfo[],
  names: readonly string[],
): string[] {
  const hasLabels = infos.some(({ labelCount }) => labelCount !== null);
  const lines = [
    `folder     ${folder}`,
    `layout     ${layout}`,
    ...(hasLabels ? [`label map  ${labelMap}`] : []),
    '',
    table(
      [
        { title: 'part' },
        { title: 'images', align: 'right' },
        { title: 'labels', align: 'right' },
        { title: 'checked', align: 'right' },
        { title: 'sizes' },
      ],
      infos.map(({ name, imageCount, labelCount, checked, sizes }) => [
        name || 'all',
        String(imageCount),
        labelCount === null ? '–' : String(labelCount),
        String(checked),
        sizesText(sizes),
      ]),
    ),
  ];
  const labeled = infos.filter(({ pixels, ignored }) => sum(pixels) + ignored > 0);
  if (labeled.length > 0) {
    const share = (pixels: number, info: PartInfo) => percent(pixels / (sum(info.pixels) + info.ignored), 2);
    const rows = names.map((name, index) => [
      name,
      ...labeled.map((info) => share(info.pixels[index]!, info)),
    ]);
    rows.push(['no class', ...labeled.map((info) => share(info.ignored, info))]);
    const columns = labeled.map(({ name }) => ({
      title: `${name || 'pixels'} %`,
      align: 'right' as const,
    }));
    lines.push('', table([{ title: 'class' }, ...columns], rows));
  }
  const problems = infos.flatMap((info) => info.problems);
  const checked = sum(infos.map((info) => info.checked));
  lines.push('');
  const warnings = infos.flatMap((info) => info.warnings);
  if (warnings.length > 0) lines.push('Warnings', ...warnings.map((warning) => `  ${warning}`), '');
  if (problems.length === 0) lines.push(`${counted(checked, 'image')} checked, no problem found`);
  else lines.push('Problems', ...problems.map((problem) => `  ${problem}`));
  return lines;
}

/** Formats the three most common sizes. */
function sizesText(sizes: Record<string, number>): string {
  const sorted = Object.entries(sizes).sort(([, one], [, other]) => other - one);
  const shown = sorted
    .slice(0, 3)
    .map(([size, images]) => (sorted.length > 1 ? `${size} (${images})` : size));
  if (sorted.length > 3) shown.push(`${sorted.length - 3} more`);
  return shown.join(', ');
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
