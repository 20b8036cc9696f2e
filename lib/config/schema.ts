import { z } from 'zod';
import { MAX_PIXELS } from '../data/image-limits.js';
import { sizeOption } from '../data/image-size.js';
import { type ClassSubset, labelMapOption } from '../data/label-maps.js';
import { discriminatorFields } from '../models/discriminator-options.js';
import { deviceOption, dtypeOption } from '../models/network-options.js';
import { segmenterFields } from '../models/segmenter-options.js';
import { sizeMultiple, translatorFields } from '../models/translator-options.js';
import { choice, integer, number, section, text } from '../support/options.js';
import { nonFiniteSchema } from '../training/loop-options.js';
import { segmentationSchema } from '../training/segmentation-options.js';
import { selfTrainingSchema } from '../training/self-training-options.js';
import { translationSchema } from '../training/translation-options.js';
import { CLASS_LISTS } from './class-lists.js';

/*
 * The config composes the options of the library's classes and adds the options of a run. Its defaults are those of the
 * preset `paper`: GTA5 → Cityscapes with DeepLab-v2, as in the BDL paper. docs/config.md and docs/config.schema.json
 * are generated from this schema and its doc comments.
 */

const IMAGES_OR_LIST = "exactly one of 'images' (a folder) and 'list' (a file)";

const PART = 'two numbers [from, to] from 0 to 1, the first below the second';

const part = () =>
  z
    .tuple([number(0, 1), number(0, 1)], PART)
    .refine(([from, to]) => from < to, PART)
    .nullable()
    .default(null);

const labeledImages = () =>
  section({
    /** Folder of images. */
    images: text('a folder of images').nullable().default(null),
    /** Folder of label maps with the images' names: paths, or base names that are unique. */
    labels: text('a folder of label maps').nullable().default(null),
    /** Text file with a line "image label" for each pair, relative to `data.root`. It replaces the two folders. */
    list: text('a list file').nullable().default(null),
    /** Converts the ids or colors in the label files to class indices. A name, or a table. */
    labelMap: labelMapOption().default('identity'),
    /** Part of the images to use, by their order: [0.5, 1] is the second half. null: all of them. */
    part: part(),
  })
    .refine((value) => (value.images === null) !== (value.list === null), IMAGES_OR_LIST)
    .refine((value) => value.list !== null || value.labels !== null, {
      path: ['labels'],
      error: 'a folder of label maps',
    });

const unlabeledImages = () =>
  section({
    /** Folder of images. */
    images: text('a folder of images').nullable().default(null),
    /** Text file with one image a line, relative to `data.root`. It replaces the folder. */
    list: text('a list file').nullable().default(null),
    /** Part of the images to use, by their order: [0.5, 1] is the second half. null: all of them. */
    part: part(),
  }).refine((value) => (value.images === null) !== (value.list === null), IMAGES_OR_LIST);

const color = z.tuple([integer(0, 255), integer(0, 255), integer(0, 255)], 'a color [red, green, blue]');

const CLASS_NAMES = 'a list of 2 to 255 different class names';

const classNamesSchema = z
  .array(text('a class name'), CLASS_NAMES)
  .min(2, CLASS_NAMES)
  .max(255, CLASS_NAMES)
  .refine((names) => new Set(names).size === names.length, CLASS_NAMES);

const CLASS_SUBSET_NAMES = ['synthia-16', 'synthia-13'] as const satisfies ClassSubset[];

const MEAN_CLASSES = `one of ${CLASS_SUBSET_NAMES.join(', ')}, or a list of class names`;

const dataSchema = section({
  /** Folder that the other paths of this section are relative to. It is itself relative to the config file. null: the folder of the config file, or with `embedded` the folder `data` of the run. */
  root: text('a folder').nullable().default(null),
  /** Class names in the order of their indices, or the name of a known list. */
  classes: z.union(
    [choice('cityscapes', 'camvid', 'street-scenes'), classNamesSchema],
    `one of cityscapes, camvid, street-scenes, or ${CLASS_NAMES}`,
  ),
  /** One color [red, green, blue] a class, for pictures. null: the known list's own colors, or generated ones. */
  palette: z.array(color, 'a list of colors [red, green, blue]').nullable().default(null),
  /** Class index that means "no label". */
  ignoreIndex: integer(0, 255).default(255),
  /** Largest number of pixels of an image or label map. A larger one is an error before any pixel is decoded. */
  maxPixels: integer(1, 2 ** 32).default(MAX_PIXELS),
  /** Classes that means of evaluation are taken over: names, or a known part of Cityscapes' classes. null: all. */
  meanClasses: z
    .union([choice(...CLASS_SUBSET_NAMES), z.array(text('a class name')).min(1)], MEAN_CLASSES)
    .nullable()
    .default(null),
  /** Labeled images of the source domain. */
  source: labeledImages(),
  /** Images of the target domain. */
  target: section({
    /** Unlabeled images of the target domain. Labels that its list names are not read. */
    train: unlabeledImages(),
    /** Labeled target images, for reports only. Nothing is trained on them or chosen by them. null: no mIoU. */
    val: labeledImages().nullable().default(null),
    /**
     * A few labeled target images to train on beside the source, see `segmentation.labeledTargetShare`. An image that is also in
     * `val` is an error. null: none, as in the paper.
     */
    labeled: labeledImages().nullable().default(null),
  }),
  /** Generates labeled street scenes in two looks and writes them to `data.root` before training. null: the data exist. */
  embedded: section({
    /** Seed of the scenes. */
    seed: integer(0).default(1),
    /** Size [width, height] of the images. */
    size: sizeOption().default([160, 96]),
    /** Number of source images. */
    sourceCount: integer(1, 100_000).default(200),
    /** Number of target images to train on. */
    targetCount: integer(1, 100_000).default(100),
    /** Number of target images to measure on. */
    validationCount: integer(1, 100_000).default(40),
  })
    .nullable()
    .default(null),
});

const sizesSchema = section({
  /** Size [width, height] at which the segmenter trains on source or translated images. */
  source: sizeOption().default([1280, 720]),
  /** Size at which it trains on target images, and of pseudo-labels. */
  target: sizeOption().default([1024, 512]),
  /** Sizes for the translator. */
  translation: section({
    /** Size to which source images are resized for the translator, and of the translated images on disk. */
    source: sizeOption().default([1024, 562]),
    /** Size to which target images are resized for the translator. */
    target: sizeOption().default([1024, 512]),
    /** Random crop of both while the translator trains. null: the whole image. */
    crop: sizeOption().nullable().default([452, 452]),
  }).prefault({}),
  /** Input size of the segmenter in evaluation. */
  evaluation: sizeOption().default([1024, 512]),
  /** Size at which predictions meet the truth: that of each label file (`label`), or one size for all. */
  evaluationOutput: z
    .union([z.literal('label'), sizeOption()], "'label' or a size [width, height] in pixels")
    .default('label'),
});

const segmenterSection = section({
  ...segmenterFields,
  /**
   * Weights with which every segmenter of the run starts: a safetensors file or PyTorch's `.pth`. The head may be missing or
   * be for other classes. null: random weights, the same each time.
   */
  initialWeights: text('a safetensors or .pth file').nullable().default(null),
});

/** How often the state of a stage is saved while it runs, so that the run can continue from it. */
export const checkpointSchema = section({
  /** Training steps, or images to pseudo-label, between two checkpoints. */
  every: integer(1).default(1000),
  /** Number of checkpoints to keep, in case the newest is unreadable. */
  keep: integer(1, 1000).default(2),
});

/** Algorithm 1: the number of rounds, and what takes the place of F. */
export const loopSchema = section({
  /** K, the number of rounds. 0 trains M⁽⁰⁾ alone. */
  rounds: integer(0, 20).default(2),
  /**
   * How source images become S′. `learned`: by F⁽ᵏ⁾. `histogram-matching`: the histogram of each channel is matched to the
   * one of a target image, drawn by the seed. `none`: S′ = S. Only with F do later rounds differ from the first, so the
   * others need `rounds` ≤ 1.
   */
  translation: choice('learned', 'histogram-matching', 'none').default('learned'),
  /** N, the number of rounds of self-training in each round. */
  selfTrainingRounds: integer(0, 20).default(2),
  /** N of the last round. null: as in the others. */
  selfTrainingRoundsLast: integer(0, 20).nullable().default(null),
  /**
   * Weights that Mᵢ⁽ᵏ⁾ and F⁽ᵏ⁾ start from. `initial`: the initial weights, as in the paper. `previous`: the last weights of
   * the segmenter before it in the loop, and F⁽ᵏ⁻¹⁾. That segmenter is Mᵢ₋₁⁽ᵏ⁾, which also made the pseudo-labels, and for
   * i = 0 the last one of round k − 1. M⁽⁰⁾, M₀⁽¹⁾ and F⁽¹⁾ always start from the initial weights. M₀⁽¹⁾ does so because M⁽⁰⁾
   * has not seen the target.
   */
  startFrom: choice('initial', 'previous').default('initial'),
});

export const configSchema = section({
  /** Seed of everything random: weights, the order of data and augmentation. */
  seed: integer(0).default(1),
  /** Device that everything computes on: `cpu`, `cuda` or `cuda:N`. */
  device: deviceOption(),
  /**
   * Type of all weights, in which everything computes. `float64` is for checks to the last digit, such as of one process beside
   * several. It takes twice as long or more.
   */
  dtype: dtypeOption(),
  /** Run folder, relative to the working directory. */
  output: text('a folder'),
  /** The images and their classes. */
  data: dataSchema,
  /** Sizes [width, height] in pixels. */
  sizes: sizesSchema.prefault({}),
  /** The segmenter M. */
  segmenter: segmenterSection.prefault({}),
  /** The domain discriminator D_M. */
  discriminator: section(discriminatorFields).prefault({}),
  /** The translators F and F⁻¹ with their discriminators. */
  translator: section(translatorFields).prefault({}),
  /** Training of M. */
  segmentation: segmentationSchema.prefault({}),
  /** Training of F. */
  translation: translationSchema.prefault({}),
  /** Choice of pseudo-labels. */
  selfTraining: selfTrainingSchema.prefault({}),
  /** Algorithm 1. */
  loop: loopSchema.prefault({}),
  /** Losses that are NaN or infinite. */
  nonFinite: nonFiniteSchema.prefault({}),
  /** Saving the state of a run. */
  checkpoint: checkpointSchema.prefault({}),
  /** Steps between two lines of the event log. Each line holds the means over the steps between. */
  logEvery: integer(1).default(100),
  /** Number of images in the pictures of each stage. 0: no pictures. */
  sampleCount: integer(0, 16).default(4),
  /** Number of unlabeled target images on which each segmenter gets scores without labels, drawn by the seed. 0: no scores. */
  scoreCount: integer(0, 100_000).default(32),
}).superRefine((config, context) => {
  const { translation } = config.sizes;
  const expect = (holds: boolean, path: (string | number)[], expected: string) => {
    if (!holds) context.addIssue({ code: 'custom', path, message: expected });
  };
  const [sourceWidth, sourceHeight] = translation.source;
  const [targetWidth, targetHeight] = translation.target;
  const [width, height] = translation.crop ?? translation.source;
  const key = ['sizes', 'translation', translation.crop ? 'crop' : 'source'];
  const { pairing } = config.translation;
  const multiple = sizeMultiple({ pairing, depth: config.translator.depth });
  // Stride-2 layers and their inverse reproduce the input size only if it is a multiple of this.
  expect(
    width % multiple === 0 && height % multiple === 0,
    key,
    `a width and height divisible by ${multiple}${pairing === 'paired' ? ' (2 to the power of translator.depth)' : ''}`,
  );
  expect(
    pairing === 'unpaired' || (sourceWidth === targetWidth && sourceHeight === targetHeight),
    ['sizes', 'translation', 'target'],
    `the size of sizes.translation.source (${sourceWidth}×${sourceHeight}), because paired images have one size,`,
  );
  if (translation.crop) {
    const widest = Math.min(sourceWidth, targetWidth);
    const highest = Math.min(sourceHeight, targetHeight);
    expect(width <= widest && height <= highest, key, `a crop within ${widest}×${highest}, or null`);
  } else {
    const isSame = width === targetWidth && height === targetHeight;
    expect(isSame, key, `the size of sizes.translation.target (${targetWidth}×${targetHeight}), or a crop`);
  }
  const { rounds, translation: translationKind } = config.loop;
  const canRepeat = translationKind === 'learned' || rounds <= 1;
  expect(canRepeat, ['loop', 'translation'], `learned, or loop.rounds 0 or 1 instead of ${rounds},`);
  for (const domain of ['source', 'target'] as const) {
    const [fullWidth, fullHeight] = config.sizes[domain];
    const { scale, crop } = config.segmentation.augmentation[domain];
    const fits = crop === null || scale !== null || (crop[0] <= fullWidth && crop[1] <= fullHeight);
    const place = ['segmentation', 'augmentation', domain, 'crop'];
    expect(
      fits,
      place,
      `a crop within sizes.${domain} (${fullWidth}×${fullHeight}), null, or a scale with it`,
    );
  }
  const trained = (['source', 'target'] as const).map((domain) => {
    const [trainedWidth, trainedHeight] =
      config.segmentation.augmentation[domain].crop ?? config.sizes[domain];
    return `${trainedWidth}×${trainedHeight}`;
  });
  expect(
    !config.segmentation.teacher?.classMix || trained[0] === trained[1],
    ['segmentation', 'teacher', 'classMix'],
    `false, or crops of one size for source (${trained[0]}) and target (${trained[1]}),`,
  );
  expect(
    !config.segmentation.targetStatistics ||
      (config.segmenter.network === 'deeplab-v2' && config.segmenter.backbone !== 'vgg16'),
    ['segmentation', 'targetStatistics'],
    'false, or segmenter.network deeplab-v2 on a ResNet, for BatchNorm',
  );
  const { cudaGraphs, microBatchSize } = config.translation;
  expect(
    !cudaGraphs || microBatchSize === null,
    ['translation', 'cudaGraphs'],
    `false, or translation.microBatchSize null instead of ${microBatchSize},`,
  );
  expect(
    !config.segmentation.cudaGraphs || config.segmenter.network === 'deeplab-v2',
    ['segmentation', 'cudaGraphs'],
    `false, or segmenter.network deeplab-v2 instead of ${config.segmenter.network},`,
  );
  const { constantSteps, steps } = config.translation;
  const flat = constantSteps === null || constantSteps <= steps;
  expect(flat, ['translation', 'constantSteps'], `a whole number up to translation.steps (${steps})`);
  const { dtype, device } = config;
  expect(dtype === 'float32' || device === 'cpu', ['dtype'], `float32, or device cpu instead of ${device},`);
  for (const section of ['segmentation', 'translation'] as const) {
    const { precision } = config[section];
    expect(dtype === 'float32' || precision === 'fp32', [section, 'precision'], 'fp32, or dtype float32,');
  }
  const { classes, ignoreIndex, palette } = config.data;
  const classCount = (typeof classes === 'string' ? CLASS_LISTS[classes].names : classes).length;
  expect(
    ignoreIndex >= classCount,
    ['data', 'ignoreIndex'],
    `a number that is not a class index (0 to ${classCount - 1})`,
  );
  expect(!palette || palette.length === classCount, ['data', 'palette'], `${classCount} colors, one a class`);
});

/**
 * Complete configuration, with a value for every key. `output`, `data.root` and `segmenter.initialWeights` are absolute
 * paths or null. Other paths in `data` are relative to its root.
 */
export interface Config extends z.output<typeof configSchema> {}
/** Config as a file gives it. Keys that have a default may be absent. */
export interface ConfigInput extends z.input<typeof configSchema> {}
export interface LoopOptions extends z.output<typeof loopSchema> {}

/** Part of a `ConfigInput`, as in presets and config files. */
export type PartialConfig = DeepPartial<ConfigInput>;

type DeepPartial<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { [K in keyof T]?: DeepPartial<T[K]> | undefined }
    : T;
