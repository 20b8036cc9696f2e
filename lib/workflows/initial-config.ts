import path from 'node:path';
import YAML from 'yaml';
import type { PartialConfig } from '../config/schema.js';
import { ImageDataset } from '../data/dataset.js';
import { labelsByName } from '../data/file-names.js';
import { openImage, readImage } from '../data/image-codec.js';
import type { ImageSize, SizePair } from '../data/image-size.js';
import { LabelKindError, openLabels } from '../data/label-codec.js';
import { colorText, type LabelMapName, labelMap } from '../data/label-maps.js';
import { type DatasetLayout, type DatasetPart, findDataset } from '../data/layouts.js';
import { DataError } from '../support/errors.js';
import { counted } from '../support/format.js';

/** Config for a folder of images, and the findings it is based on. */
export interface InitialConfig {
  /** Config as commented YAML. */
  text: string;
  /** Values of the same config. */
  values: PartialConfig;
  /** Findings, one per line. */
  findings: string[];
}

/** Folder of images with a role in the config. */
interface Role {
  part: DatasetPart;
  labelMap: LabelMapName;
}

interface Roles {
  source: Role;
  /** Part of the target domain. null: the folder has no second domain. */
  target: Role | null;
  validation: Role | null;
}

/** Number of label files that are read to find the classes. */
const SAMPLE = 50;
/** Longer side of training images in pixels. A CPU can train at this size in an hour. */
const LONGER_SIDE = 320;
const SHORTEST_SIDE = 32;
const CROP = 96;
const IGNORED = 255;

/**
 * Makes a config that trains on a folder of images.
 *
 * Labeled images are the source, unlabeled images the target. Parts named source, target, train or val have that role.
 * A folder with one domain gives a config that trains on it alone.
 *
 * @param options.target folder of the target domain, if it is a separate data set
 * @param options.output run folder that the config names
 * @param options.relativeTo folder that the config file will be in
 * @param options.schema path or address of the JSON schema, for editors
 * @throws DataError when there are no labeled images, or when a label file cannot be read
 */
export async function initialConfig(
  folder: string,
  options: { target?: string | undefined; output: string; relativeTo: string; schema: string },
): Promise<InitialConfig> {
  const found = await findDataset(folder);
  const other = options.target === undefined ? null : await findDataset(options.target);
  const roles = rolesOf(folder, found, other);
  const classes = await classesOf(roles.source);
  const root = path.resolve(options.relativeTo);
  const place = (file: string) => path.relative(root, path.resolve(file)) || '.';
  const labeled = ({ part, labelMap }: Role) => ({
    images: place(part.images),
    labels: place(part.labels!),
    ...(classes.table ? { labelMap: classes.table } : labelMap !== 'identity' && { labelMap }),
  });
  const target = roles.target ?? roles.source;
  const size = await trainingSize(roles.source.part);
  const crop = Math.min(CROP, size[0] & ~3, size[1] & ~3);
  const values: PartialConfig & { preset: string } = {
    preset: 'cpu-small',
    output: options.output,
    data: {
      classes: classes.names,
      source: labeled(roles.source),
      target: {
        train: { images: place(target.part.images) },
        ...(roles.validation && { val: labeled(roles.validation) }),
      },
    },
    sizes: {
      source: size,
      target: size,
      translation: { source: size, target: size, crop: [crop, crop] },
      evaluation: size,
    },
    loop: roles.target ? { rounds: 1, selfTrainingRounds: 2 } : { rounds: 0 },
  };
  const findings = [
    `source: ${await describe(roles.source.part)}`,
    `target: ${roles.target ? await describe(roles.target.part) : 'none found; the config trains on the source alone'}`,
    `validation: ${roles.validation ? await describe(roles.validation.part) : 'none found; the run reports no mIoU'}`,
    `classes: ${classes.found}`,
  ];
  return { text: textOf(values, findings, roles, options.schema), values, findings };
}

function rolesOf(folder: string, found: DatasetLayout, other: DatasetLayout | null): Roles {
  const role =
    ({ labelMap }: DatasetLayout) =>
    (part: DatasetPart): Role => ({ part, labelMap });
  const parts = found.parts.map(role(found));
  const targets = other
    ? other.parts.map(role(other))
    : parts.filter(({ part }) => /target/i.test(part.name));
  const sources = other ? parts : parts.filter((each) => !targets.includes(each));
  const isLabeled = ({ part }: Role) => part.labels !== null;
  const isValidation = ({ part }: Role) => /val|test/i.test(part.name);
  const source =
    sources.find((each) => isLabeled(each) && !isValidation(each)) ?? sources.find(isLabeled) ?? null;
  if (!source) {
    throw new DataError(
      `${folder}: expected folders images and labels beside each other but found no labeled images for the source domain`,
    );
  }
  const rest = [...targets, ...sources.filter((each) => each !== source)];
  const target =
    targets.find((each) => !isValidation(each)) ??
    rest.find((each) => !isLabeled(each)) ??
    targets.find((each) => !isLabeled(each)) ??
    null;
  const validation =
    rest.find((each) => each !== target && isLabeled(each) && isValidation(each)) ??
    rest.find((each) => each !== target && isLabeled(each)) ??
    null;
  return { source, target, validation };
}

interface FoundClasses {
  /** Class names, or the name of a known list. */
  names: string[] | 'cityscapes' | 'camvid';
  /** Map from ids or colors to class indices. null: the label map of the data set. */
  table: Record<string, number> | null;
  found: string;
}

/** Finds the classes: those of a known data set, or one for each id or color in a sample of the label files. */
async function classesOf({ part, labelMap }: Role): Promise<FoundClasses> {
  if (labelMap === 'camvid') return { names: 'camvid', table: null, found: 'the 11 of CamVid' };
  if (labelMap !== 'identity') return { names: 'cityscapes', table: null, found: 'the 19 of Cityscapes' };
  const files = [...(await labelsByName(part.labels!, { colors: false })).values()];
  const step = Math.max(1, Math.floor(files.length / SAMPLE));
  const sample = files.filter((_, index) => index % step === 0).slice(0, SAMPLE);
  const ids = await idsOf(sample).catch((error: unknown) => {
    if (error instanceof LabelKindError) return null;
    throw error;
  });
  const keys = ids ? ids.map(String) : await colorsOf(sample);
  const counted = (ids ?? []).filter((id) => id !== IGNORED);
  if (ids && counted.length >= 2 && counted.every((id, index) => id === index)) {
    return {
      names: counted.map((id) => `class-${id}`),
      table: null,
      found: `ids 0 to ${counted.length - 1} in ${sample.length} label files`,
    };
  }
  // An id of 255 beside several others means "no label". Beside a single other id it is the class of a mask.
  const isIgnored = (key: string) => ids !== null && key === String(IGNORED) && counted.length >= 2;
  const classKeys = keys.filter((key) => !isIgnored(key));
  if (classKeys.length < 2 || classKeys.length > IGNORED) {
    throw new DataError(
      `${part.labels}: expected 2 to ${IGNORED} classes but found ${classKeys.length} ids or colors in ${sample.length} label files`,
    );
  }
  const table = Object.fromEntries(classKeys.map((key, index) => [key, index]));
  for (const key of keys.filter(isIgnored)) table[key] = IGNORED;
  return {
    names: classKeys.map((key) => `class-${key.replaceAll(' ', '-')}`),
    table,
    found: `${ids ? 'ids' : 'colors'} ${classKeys.slice(0, 6).join(', ')}${classKeys.length > 6 ? ' …' : ''} in ${sample.length} label files`,
  };
}

/** Collects the ids in label files, in ascending order. */
async function idsOf(files: readonly string[]): Promise<number[]> {
  const ids = new Set<number>();
  const encoding = { labelMap: labelMap('identity'), classCount: 256, ignoreIndex: IGNORED };
  for (const file of files) {
    for (const id of (await (await openLabels(file, encoding)).decode()).data) ids.add(id);
  }
  return [...ids].sort((one, other) => one - other);
}

/** Collects the colors in label files as keys of a label table, the most frequent first. */
async function colorsOf(files: readonly string[]): Promise<string[]> {
  const counts = new Map<number, number>();
  for (const file of files) {
    const { data } = await readImage(file);
    for (let at = 0; at < data.length; at += 3) {
      const color = (data[at]! << 16) | (data[at + 1]! << 8) | data[at + 2]!;
      counts.set(color, (counts.get(color) ?? 0) + 1);
    }
  }
  return [...counts].sort(([, one], [, other]) => other - one).map(([color]) => colorText(color));
}

/** Returns the size of the first image, reduced for training on a CPU, with sides divisible by 4. */
async function trainingSize({ images }: DatasetPart): Promise<SizePair> {
  const dataset = await ImageDataset.fromFolder({ images });
  const { width, height }: ImageSize = await openImage(dataset.entry(0).image);
  const scale = Math.max(
    Math.min(1, LONGER_SIDE / Math.max(width, height)),
    SHORTEST_SIDE / Math.min(width, height),
  );
  const side = (length: number) => Math.max(SHORTEST_SIDE, 4 * Math.round((length * scale) / 4));
  return [side(width), side(height)];
}

async function describe({ images, labels }: DatasetPart): Promise<string> {
  const { length } = await ImageDataset.fromFolder({ images });
  return `${counted(length, labels ? 'labeled image' : 'image')} in ${images}`;
}

/** Formats the values as YAML. Comments give the findings and hints for changes. */
function textOf(
  { data, sizes, loop, ...top }: PartialConfig & { preset: string },
  findings: readonly string[],
  { source, target, validation }: Roles,
  schema: string,
): string {
  const flow = (value: unknown) => {
    const document = new YAML.Document(value);
    YAML.visit(document, {
      Seq(_, node) {
        node.flow = true;
      },
    });
    return document.toString({ lineWidth: 110 }).trimEnd();
  };
  const hasTable = typeof data?.source?.labelMap === 'object';
  return [
    `# yaml-language-server: $schema=${schema}`,
    '#',
    '# Config of bidiseg. Train with: bidiseg train THIS_FILE',
    ...findings.map((finding) => `# Found ${finding}.`),
    '# Paths are relative to this file. docs/config.md of the package describes every key.',
    '',
    '# Preset with small networks and images, for a CPU. `paper` and `reference` need a GPU. Delete `sizes` for them.',
    flow({ preset: top.preset }),
    '# The run folder, relative to the working directory.',
    flow({ output: top.output }),
    '',
    'data:',
    ...indented([
      ...(Array.isArray(data?.classes)
        ? ['# Class names in the order of their indices. Replace them by better names.']
        : []),
      flow({ classes: data?.classes }),
      ...(hasTable
        ? ['# labelMap: id or color in the label files → class index. 255 means "no label".']
        : []),
      '# Labeled images of the source domain.',
      flow({ source: data?.source }),
      ...(target
        ? []
        : ['# No target domain was found. Name a folder of its images and set loop.rounds to 1.']),
      ...(validation ? ['# `val` is for reports only. Nothing is trained on it or chosen by it.'] : []),
      flow({ target: data?.target }),
    ]),
    '',
    `# [width, height] in pixels, reduced from ${source.part.images}. Larger sizes are better and slower.`,
    flow({ sizes }),
    '',
    '# Number of rounds of the whole loop, and of self-training in each.',
    flow({ loop }),
    '',
  ].join('\n');
}

function indented(blocks: readonly string[]): string[] {
  return blocks.flatMap((block) => block.split('\n')).map((line) => `  ${line}`);
}
