import { stat } from 'node:fs/promises';
import { dirname, relative, resolve, sep } from 'node:path';
import { DataError, InvalidArgumentError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';
import { isVisible, UnicodeNames } from '../support/folders.js';
import { checkInteger, checkString, invalidArgument } from '../support/validate.js';
import {
  duplicateName,
  filesByName,
  labelsByName,
  nameOf,
  partners,
  requireAll,
  weightsFile,
} from './file-names.js';
import { IMAGE_EXTENSIONS } from './image-bytes.js';
import { openImage, readImage } from './image-codec.js';
import type { ImageLimits } from './image-limits.js';
import type { ImageFile, ImageSize, LabelImage, RgbImage, View } from './image-size.js';
import { type LabelEncoding, openLabels } from './label-codec.js';
import { type LabelMap, type LabelMapName, type LabelTable, labelMap } from './label-maps.js';

/** One image of a data set and its label map, if there is one. */
export interface DatasetEntry {
  /**
   * Path of the image relative to the data set's folder, with '/' between folders, without its extension and Cityscapes'
   * `_leftImg8bit`, in Unicode's composed form (NFC). It is unique in the data set.
   */
  readonly name: string;
  /** Path of the image file. */
  readonly image: string;
  /** Path of the label file (PNG). */
  readonly label?: string;
  /** Path of the weights of the labeled pixels (8-bit grayscale PNG), if labels have weights. */
  readonly weights?: string;
}

/** Options for reading label files. */
export interface LabelOptions {
  /** Label map that converts ids or colors in the files to classes. Default 'identity': files hold class indices. */
  labelMap?: LabelMapName | LabelTable | LabelMap;
  /** Number of classes, 1–256. Default: as many as the label map can yield, 256 for 'identity'. */
  classCount?: number;
  /** Value of pixels that belong to no class, 0–255. Default 255. */
  ignoreIndex?: number;
  /**
   * Requires that a label file is as large as its image. Default true, but false for 'gta5': two of its published pairs
   * (15188 and 17705) differ, and that should not end a training. Set false for images made from others, such as
   * translated ones, whose label files kept their size. Both are then resized to the requested size.
   */
  sameSize?: boolean;
}

/** Options of {@link ImageDataset.read}. */
export interface ReadOptions extends View {
  /** Size of the labels, if it differs from the size of the image. 'file': as stored. Not allowed with a crop. */
  labelSize?: ImageSize | 'file';
}

/** One decoded image, with its labels if the data set has them. */
export interface Sample {
  name: string;
  image: RgbImage;
  labels?: LabelImage;
  /** Weight of each labeled pixel, 0 (ignored) to 255 (full). Absent if all pixels count equally. */
  weights?: LabelImage;
}

type Labels = LabelEncoding & { sameSize: boolean };

/**
 * List of images on disk, either all with labels or all without. Nothing is decoded before {@link read}. It is
 * immutable: `subset`, `withLabels` and `withImages` return new data sets.
 */
export class ImageDataset {
  readonly #entries: readonly DatasetEntry[];
  readonly #labels: Labels | undefined;
  readonly #limits: ImageLimits;

  private constructor(
    entries: readonly DatasetEntry[],
    labels: Labels | undefined,
    { maxPixels }: ImageLimits,
  ) {
    this.#entries = entries;
    this.#labels = labels;
    this.#limits = { maxPixels };
  }

  /**
   * Finds all images (PNG, JPEG, WebP, TIFF) of a folder and its subfolders, in the order of their names. Leaves hidden
   * files and folders out. Follows links once. Leaves the subfolder `except` out, where results are written.
   *
   * With `labels`, each image needs the PNG of the same name in that folder. If the folders have different subfolders, the
   * PNG of the same base name belongs to it, provided that both have the base name once. Cityscapes' names pair too: the
   * labels of FRAME_leftImg8bit.png are FRAME_gtFine_labelIds.png, or FRAME_gtFine_color.png with a label map of colors.
   * Label files without an image are ignored. See docs/design/data.md#names-pair-files.
   *
   * @throws {DataError} when a folder is missing or holds no image, a label file is missing, or a name occurs twice in a
   * folder
   * @throws {InvalidArgumentError} when the label map does not fit the class count
   */
  static async fromFolder(
    options: { images: string; labels?: string; except?: string } & LabelOptions & ImageLimits,
  ): Promise<ImageDataset> {
    const folder = checkString('images', options.images);
    const images = await filesByName(folder, IMAGE_EXTENSIONS, { except: options.except });
    if (images.size === 0) {
      throw new DataError(
        `${folder}: holds no image, expected at least one of ${IMAGE_EXTENSIONS.join(', ')}`,
      );
    }
    const entries = [...images].map(([name, image]): DatasetEntry => ({ name, image }));
    if (options.labels === undefined) return new ImageDataset(entries, undefined, options);

    const labelFolder = checkString('labels', options.labels);
    const encoding = resolveLabels(options);
    const found = await labelsByName(labelFolder, {
      colors: encoding.labelMap.idsFrom === 'color',
      except: options.except,
    });
    const labels = requireAll(
      [...images.keys()],
      found,
      (names) => `${labelFolder}: holds no label PNG for ${names} of ${folder}`,
    );
    return new ImageDataset(
      entries.map((entry): DatasetEntry => ({ ...entry, label: labels.get(entry.name)! })),
      encoding,
      options,
    );
  }

  /**
   * Reads a list of images from a text file, in the order of its lines.
   *
   * A line is `image` or `image label`, relative to `root`. Put a path with spaces in double quotes. Empty lines and
   * lines that start with `#` are ignored. Either every line has a label or none has. Names are paths relative to the
   * deepest folder that holds all images of the list.
   *
   * @param options.list path of the text file, UTF-8, at most 256 MiB
   * @param options.root folder that paths are relative to and may not leave. Symbolic links below it are followed.
   * Default: the folder of the list. See docs/design/data.md#lists-stay-below-their-root
   * @throws {DataError} when the list is unreadable, empty or malformed, a name occurs twice, or a file is missing
   * @throws {InvalidArgumentError} when the label map does not fit the class count
   */
  static async fromList(
    options: { list: string; root?: string } & LabelOptions & ImageLimits,
  ): Promise<ImageDataset> {
    const list = checkString('list', options.list);
    const root = resolve(options.root ?? dirname(list));
    const lines: ListLine[] = [];
    for (const [index, line] of (await readList(list)).entries()) {
      const place = `${list}, line ${index + 1}`;
      const text = line.trim();
      if (text === '' || text.startsWith('#')) continue;
      const paths = fieldsOf(text);
      if (!paths || paths.length > 2) {
        throw new DataError(
          `${place}: found ${paths ? `${paths.length} fields` : 'no fields'}, expected 'image' or 'image label' (a path with spaces in double quotes)`,
        );
      }
      const [image, label] = paths.map((path) => below(root, path, place));
      const first = lines[0];
      if (first && (first.label === undefined) !== (label === undefined)) {
        const found = label === undefined ? 'no label' : 'a label';
        throw new DataError(
          `${place}: found ${found}, unlike the lines before; expected labels on all lines or on none`,
        );
      }
      lines.push({ place, image: image!, label });
    }
    const [first] = lines;
    if (!first) throw new DataError(`${list}: lists no image, expected lines 'image' or 'image label'`);
    const entries = await namedEntries(lines);
    return new ImageDataset(entries, first.label === undefined ? undefined : resolveLabels(options), options);
  }

  /** Number of images. */
  get length(): number {
    return this.#entries.length;
  }

  /** True if all images have label maps, false if none has. */
  get hasLabels(): boolean {
    return this.#labels !== undefined;
  }

  /** True if the pixels of all label maps have weights, false if none have. */
  get hasWeights(): boolean {
    return this.#entries[0]?.weights !== undefined;
  }

  /** Returns the files of image `index`, 0 … length − 1. */
  entry(index: number): DatasetEntry {
    return this.#entries[checkInteger('index', index, 0, this.length - 1)]!;
  }

  /**
   * Reads image `index` and its labels. The image is resized bicubically, the labels by nearest neighbor. Both then get
   * the same crop and flip.
   *
   * @throws {DataError} when a file is missing or broken, image and labels differ in size (see {@link
   * LabelOptions.sameSize}), or the labels hold an id outside the map
   * @throws {DataError} when the crop does not lie within the (resized) image
   * @throws {InvalidArgumentError} when the crop is malformed, or `labelSize` is given with a crop
   */
  async read(index: number, options: ReadOptions = {}): Promise<Sample> {
    const { name, image: imageFile, label, weights } = this.entry(index);
    const { labelSize, ...view } = options;
    const image = await openImage(imageFile, this.#limits);
    checkCrop(view, image, imageFile);
    if (label === undefined || this.#labels === undefined) return { name, image: await image.decode(view) };

    if (labelSize !== undefined && view.crop) {
      throw invalidArgument('labelSize', 'undefined where a crop is given', labelSize);
    }
    const labels = await openLabels(label, { ...this.#labels, ...this.#limits });
    if (this.#labels.sameSize && (labels.width !== image.width || labels.height !== image.height)) {
      throw new DataError(
        `${label}: found labels of ${sizeText(labels)}, expected ${sizeText(image)} as ${imageFile}`,
      );
    }
    const size = labelSize === 'file' ? labels : (labelSize ?? view.size ?? image);
    const labelView = { ...view, size };
    // One after the other, so that a caller who reads several images at once uses one thread for each.
    return {
      name,
      image: await image.decode(view),
      labels: await labels.decode(labelView),
      ...(weights !== undefined && {
        weights: await (await openLabels(weights, { ...WEIGHTS, ...this.#limits })).decode(labelView),
      }),
    };
  }

  /**
   * Reads only the labels of image `index`, in the size of their file.
   *
   * @throws {DataError} when the file is missing or broken, or holds an id outside the map
   * @throws {InvalidArgumentError} when the data set has no labels
   */
  async readLabels(index: number): Promise<LabelImage> {
    const { name, label } = this.entry(index);
    if (label === undefined || this.#labels === undefined) {
      throw new InvalidArgumentError(`Expected a data set with labels but ${name} has none`);
    }
    return (await openLabels(label, { ...this.#labels, ...this.#limits })).decode();
  }

  /** Reads only the header of image `index`, like {@link openImage}. */
  openImage(index: number): Promise<ImageFile<RgbImage>> {
    return openImage(this.entry(index).image, this.#limits);
  }

  /** Reads image `index` without its labels, like {@link readImage}. */
  readImage(index: number, size?: ImageSize): Promise<RgbImage> {
    return readImage(this.entry(index).image, size, this.#limits);
  }

  /**
   * Returns the images whose names also occur in `other`, and the matching images of `other`. Both are in this set's
   * order and may be empty. Names match as those of images and labels do, see {@link fromFolder}.
   */
  pairsWith(other: ImageDataset): [own: ImageDataset, others: ImageDataset] {
    const found = partners(this.#names(), new Map(other.#entries.map(({ name }, index) => [name, index])));
    const indices = this.#entries.flatMap(({ name }, index) => (found.has(name) ? [index] : []));
    const others = indices.map((index) => found.get(this.#entries[index]!.name)!);
    return [this.subset(indices), other.subset(others)];
  }

  /** Returns the same images without their labels. */
  withoutLabels(): ImageDataset {
    const entries = this.#entries.map(({ name, image }): DatasetEntry => ({ name, image }));
    return new ImageDataset(entries, undefined, this.#limits);
  }

  /** Returns the images at `indices`, in that order. */
  subset(indices: readonly number[]): ImageDataset {
    return new ImageDataset(
      indices.map((index) => this.entry(index)),
      this.#labels,
      this.#limits,
    );
  }

  /**
   * Returns the images that have a PNG of their name in `folder`, with these PNGs as labels. There may be none. This is
   * meant for pseudo-labels, so `sameSize` is false by default. With `weights`, NAME.confidence.png beside each
   * NAME.png holds the weights of its pixels. A missing file of weights is found only when it is read.
   *
   * @throws {DataError} when the folder cannot be read or a name occurs twice. A missing file of weights is an error only
   * when it is read
   */
  async withLabels(
    folder: string,
    { weights = false, ...options }: LabelOptions & { weights?: boolean } = {},
  ): Promise<ImageDataset> {
    const labels = partners(this.#names(), await labelsByName(folder));
    const entries = this.#entries.flatMap(({ name, image }): DatasetEntry[] => {
      const label = labels.get(name);
      if (label === undefined) return [];
      return [{ name, image, label, ...(weights && { weights: weightsFile(label) }) }];
    });
    return new ImageDataset(entries, resolveLabels({ sameSize: false, ...options }), this.#limits);
  }

  /**
   * Returns the same entries with the images of the same names in `folder`. Labels stay. This is meant for translated
   * images, so image and labels may differ in size.
   *
   * @throws {DataError} when the folder cannot be read, an image is missing, or a name occurs twice
   */
  async withImages(folder: string): Promise<ImageDataset> {
    const images = requireAll(
      this.#names(),
      await filesByName(folder, IMAGE_EXTENSIONS),
      (missing) => `${folder}: holds no image named ${missing}`,
    );
    return new ImageDataset(
      this.#entries.map((entry): DatasetEntry => ({ ...entry, image: images.get(entry.name)! })),
      this.#labels && { ...this.#labels, sameSize: false },
      this.#limits,
    );
  }

  #names(): string[] {
    return this.#entries.map(({ name }) => name);
  }
}

/** Files of weights are read like label maps, every byte unchanged. */
const WEIGHTS: LabelEncoding = { labelMap: labelMap('identity'), classCount: 256, ignoreIndex: 255 };

function resolveLabels(options: LabelOptions): Labels {
  const map = labelMap(options.labelMap ?? 'identity');
  const { classCount = map.classCount, ignoreIndex = 255, sameSize = map.name !== 'gta5' } = options;
  // Asking for the table here reports a misfit of the label map before any file is read.
  map.table(classCount, ignoreIndex);
  return { labelMap: map, classCount, ignoreIndex, sameSize };
}

function checkCrop({ crop, size }: View, image: ImageSize, file: string): void {
  if (!crop) return;
  const { width, height } = size ?? image;
  checkInteger('crop.x', crop.x, 0);
  checkInteger('crop.y', crop.y, 0);
  checkInteger('crop.width', crop.width, 1);
  checkInteger('crop.height', crop.height, 1);
  if (crop.x + crop.width > width || crop.y + crop.height > height) {
    throw new DataError(
      `${file}: a crop of ${sizeText(crop)} at (${crop.x}, ${crop.y}) does not lie within the image of ${width}×${height}`,
    );
  }
}

function sizeText({ width, height }: ImageSize): string {
  return `${width}×${height}`;
}

/** Largest size of a list, enough for a few million images. */
const MAX_LIST_BYTES = 2 ** 28;

async function readList(file: string): Promise<string[]> {
  const bytes = await readRegularFile(file, MAX_LIST_BYTES);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes).split(/\r?\n/);
  } catch (error) {
    throw new DataError(`${file}: is not UTF-8, expected lines of text`, { cause: error });
  }
}

/** Longest line of a list: more than twice the longest path of Linux. */
const MAX_LINE_LENGTH = 2 ** 14;

/** Splits a line into its paths. Returns undefined if a quote is open or inside a path, or if the line is too long. */
function fieldsOf(line: string): string[] | undefined {
  if (line.length > MAX_LINE_LENGTH) return undefined;
  if (!/^(("[^"]+"|[^\s"]+)(\s+|$))+$/.test(line)) return undefined;
  return line.match(/"[^"]+"|[^\s"]+/g)!.map((field) => field.replaceAll('"', ''));
}

/** Resolves a path below the root. A list is data, so it must not reach files outside the folder it is for. */
function below(root: string, path: string, place: string): string {
  const file = resolve(root, path);
  const [first] = relative(root, file).split(sep);
  if (first !== '..' && first !== '') return file;
  throw new DataError(
    `${place}: found ${path}, which leads out of ${root}; expected a path below it (set the root to a folder that holds all of them)`,
  );
}

/** Line of a list, with absolute paths, and its place for messages. */
interface ListLine {
  place: string;
  image: string;
  label: string | undefined;
}

/** Names the images of a list and checks that the files exist. An error now is better than an error hours into a training. */
async function namedEntries(lines: readonly ListLine[]): Promise<DatasetEntry[]> {
  const folder = commonFolder(lines.map(({ image }) => image));
  const named = new Map<string, DatasetEntry>();
  for (const { place, image, label } of lines) {
    const name = nameOf(relative(folder, image).split(sep).join('/'));
    if (!name.split('/').every(isVisible)) {
      throw new DataError(
        `${place}: found the hidden file ${image}, expected names that start without a dot`,
      );
    }
    const twin = named.get(name);
    if (twin) throw duplicateName(place, name, twin.image, image);
    named.set(name, { name, image, ...(label !== undefined && { label }) });
  }
  const unicode = new UnicodeNames();
  const stored = async (file: string, place: string) => {
    if (await isFile(file)) return file;
    const found = await unicode.stored(file);
    if (found === undefined || !(await isFile(found))) {
      throw new DataError(`${place}: there is no file ${file}`);
    }
    return found;
  };
  return allInOrder([...named.values()], async ({ name, image, label }, index): Promise<DatasetEntry> => {
    const { place } = lines[index]!;
    return {
      name,
      image: await stored(image, place),
      ...(label !== undefined && { label: await stored(label, place) }),
    };
  });
}

async function isFile(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined))?.isFile() ?? false;
}

/** Returns the deepest folder that holds all of these files. */
function commonFolder(files: readonly string[]): string {
  const folders = files.map((file) => dirname(file).split(sep));
  const [first = []] = folders;
  const shared = first.findIndex((name, depth) => folders.some((names) => names[depth] !== name));
  return (shared === -1 ? first : first.slice(0, shared)).join(sep) || sep;
}

/** Does work on all items and returns the results. If several fail, throws the failure of the first item. */
async function allInOrder<Item, Result>(
  items: readonly Item[],
  work: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> {
  const results = await Promise.allSettled(items.map(work));
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}
