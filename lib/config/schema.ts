import { z } from 'zod';
import { MAX_PIXELS } from '../data/image-limits.js';
import { type ClassSubset, LABEL_MAP_NAMES, parseLabelKeys } from '../data/label-maps.js';
import { sizeMultiple } from '../models/size-multiple.js';
import { PRECISIONS } from '../native/precision.js';

/*
 * The one source of every option's type, range and default. A message given to zod here is the *expected* half of an
 * error ("a number from 0 to 1"); `parse.ts` adds the key and what was found. The defaults are those of the preset
 * `paper`: GTA5 → Cityscapes with DeepLab-v2, as in the BDL paper.
 */

const number = (min: number, max: number) => {
  const expected = max === Infinity ? `a number ≥ ${min}` : `a number from ${min} to ${max}`;
  return z.number(expected).min(min, expected).max(max, expected);
};

const integer = (min: number, max = Number.MAX_SAFE_INTEGER) => {
  const expected =
    max === Number.MAX_SAFE_INTEGER ? `a whole number ≥ ${min}` : `a whole number from ${min} to ${max}`;
  return z.number(expected).int(expected).min(min, expected).max(max, expected);
};

const boolean = () => z.boolean('true or false');
const text = (expected: string) => z.string(expected).min(1, expected);
const choice = <const T extends readonly [string, ...string[]]>(...choices: T) =>
  z.enum(choices, `one of ${choices.join(', ')}`);

/** A strict object: a key that it does not name is an error. */
const section = <S extends z.ZodRawShape>(shape: S) =>
  z.strictObject(shape, 'a section with keys of its own');

// Five stride-2 layers of the output-space discriminator leave nothing of less.
const side = integer(32, 16_384);
const size = () => z.tuple([side, side], 'a size [width, height] in pixels');

const betas = () => {
  const beta = number(0, 1).refine((value) => value < 1, 'a number ≥ 0 and below 1');
  return z.tuple([beta, beta], 'two numbers [beta1, beta2]');
};

const learningRate = () => number(0, 10);
const weight = () => number(0, 1e6);
const steps = () => integer(1, 1_000_000_000);
const precision = () => choice(...PRECISIONS).default('fp32');

/** How the learning rate falls over a segmentation stage; closed forms in `training/schedules.ts`. */
export const scheduleSchema = z.discriminatedUnion(
  'kind',
  [
    section({
      kind: z.literal('poly'),
      /** Exponent of (1 − step / totalSteps). */
      power: number(0, 10).default(0.9),
      /** Where the factor reaches 0; a stage may stop earlier. null: the stage's own number of steps. */
      totalSteps: steps().nullable().default(null),
    }),
    section({
      kind: z.literal('step'),
      /** Steps between two multiplications with `factor`. */
      every: steps().default(50_000),
      factor: number(0, 1).default(0.1),
    }),
    section({ kind: z.literal('constant') }),
  ],
  'one of poly, step, constant',
);

const LABEL_MAP = `one of ${LABEL_MAP_NAMES.join(', ')}, or a table of label id (0 to 65535) or color (R G B): class index`;

const labelMapSchema = z.union(
  [
    choice(...LABEL_MAP_NAMES),
    z
      .record(z.string(), integer(0, 255), LABEL_MAP)
      .refine((map) => parseLabelKeys(Object.keys(map)) !== undefined, LABEL_MAP),
  ],
  LABEL_MAP,
);

const SCALES = 'two numbers [min, max] from 0.1 to 10';

const HEIGHTS = 'two numbers [min, max] from 0.01 to 2';

const THINGS = 'a list of class names';

const IMAGES_OR_LIST = "exactly one of 'images' (a folder) and 'list' (a file)";

const PART = 'two numbers [from, to] from 0 to 1, the first below the second';

/** Which part of the images is used, by their place in the order of names or of the list: [0.5, 1] is the second half. */
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
    /** Folder of label maps with the images' base names. */
    labels: text('a folder of label maps').nullable().default(null),
    /** In place of the two folders: a text file with a line "image label" for each pair, relative to `data.root`. */
    list: text('a list file').nullable().default(null),
    /** From the ids or colors stored in the label files to class indices. */
    labelMap: labelMapSchema.default('identity'),
    /** null: all of them. */
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
    /** In place of the folder: a text file with one image a line, relative to `data.root`. */
    list: text('a list file').nullable().default(null),
    /** null: all of them. */
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
  /** What the other paths of this section are relative to; itself relative to the config file. null: see `embedded`. */
  root: text('a folder').nullable().default(null),
  /** Class names in the order of their indices, or the name of a known list. */
  classes: z.union(
    [choice('cityscapes', 'camvid', 'street-scenes'), classNamesSchema],
    `one of cityscapes, camvid, street-scenes, or ${CLASS_NAMES}`,
  ),
  /** One color a class, for pictures. null: the known list's own colors, or generated ones. */
  palette: z.array(color, 'a list of colors [red, green, blue]').nullable().default(null),
  /** The class index that means "no label". */
  ignoreIndex: integer(0, 255).default(255),
  /** An image or label map of more pixels is an error, before any of them is decoded. */
  maxPixels: integer(1, 2 ** 32).default(MAX_PIXELS),
  /** The classes that means of evaluation are taken over: names, or a part of Cityscapes' classes. null: all. */
  meanClasses: z
    .union([choice(...CLASS_SUBSET_NAMES), z.array(text('a class name')).min(1)], MEAN_CLASSES)
    .nullable()
    .default(null),
  /** Labeled images of the source domain. */
  source: labeledImages(),
  target: section({
    /** Unlabeled images of the target domain. */
    train: unlabeledImages(),
    /** Labeled target images, for reporting only: nothing is trained on them or chosen by them. null: no mIoU. */
    val: labeledImages().nullable().default(null),
  }),
  /**
   * When given, a generated set of labeled street scenes in two looks is written to `data.root` before training; `root`
   * is then `data` in the run folder unless it is set.
   */
  embedded: section({
    seed: integer(0).default(1),
    size: size().default([160, 96]),
    sourceCount: integer(1, 100_000).default(200),
    targetCount: integer(1, 100_000).default(100),
    validationCount: integer(1, 100_000).default(40),
  })
    .nullable()
    .default(null),
});

const sizesSchema = section({
  /** Size at which the segmenter trains on source (or translated) images. */
  source: size().default([1280, 720]),
  /** Size at which it trains on target images, and of pseudo-labels. */
  target: size().default([1024, 512]),
  translation: section({
    /** Size to which source images are scaled for the translator, and of the translated images on disk. */
    source: size().default([1024, 562]),
    target: size().default([1024, 512]),
    /** Random crop taken from both while the translator trains. null: the whole image. */
    crop: size().nullable().default([452, 452]),
  }).prefault({}),
  /** Input size of the segmenter in evaluation. */
  evaluation: size().default([1024, 512]),
  /** Size at which predictions meet the truth: the label files' own, or one size for all. */
  evaluationOutput: z
    .union([z.literal('label'), size()], "'label' or a size [width, height] in pixels")
    .default('label'),
});

const segmenterSchema = section({
  network: choice('deeplab-v2', 'fcn-8s').default('deeplab-v2'),
  /** DeepLab only. */
  backbone: choice('resnet18', 'resnet34', 'resnet50', 'resnet101').default('resnet101'),
  /** Multiplier of every channel count. */
  width: number(1 / 64, 2).default(1),
  /** Dilated branches of DeepLab's head that are summed; 2 for checkpoints from before mid-2020. */
  branches: z.union([z.literal(2), z.literal(4)], '2 or 4').default(4),
  initialization: choice('normal', 'kaiming').default('normal'),
  /**
   * Weights with which every segmenter of the run starts (safetensors or PyTorch's .pth); the head may be missing or be for
   * other classes. null: random, the same each time.
   */
  initialWeights: text('a safetensors or .pth file').nullable().default(null),
});

const discriminatorSchema = section({
  /** Channels of the first layer of the output-space discriminator. */
  baseWidth: integer(1, 1024).default(64),
});

const translatorSchema = section({
  /** Unpaired: residual blocks of each generator. */
  blocks: z.union([z.literal(6), z.literal(9)], '6 or 9').default(9),
  /** Paired: how often the U-Net halves the image, the sides of which have to be divisible by 2 to this power. */
  depth: integer(2, 10).default(8),
  /** Channels after a generator's first layer. */
  baseWidth: integer(1, 512).default(64),
  /** Unpaired: generators that let details pass by and learn what to change; see TranslatorOptions. Not in the paper. */
  residual: boolean().default(false),
  /** Channels after an image discriminator's first layer. */
  discriminatorWidth: integer(1, 512).default(64),
});

/** Random changes to the images of one domain while a segmenter trains on them, beside `flip`. Off by default. */
const augmentationSchema = section({
  /** Images are resized to the training size times a factor drawn from [min, max]. null: to the training size. */
  scale: z
    .tuple([number(0.1, 10), number(0.1, 10)], SCALES)
    .refine(([min, max]) => min <= max, SCALES)
    .nullable()
    .default(null),
  /**
   * Then an area of this size is cut out at random; where images are scaled to less, they lie at random on the mean color,
   * with labels to ignore around them. null: the training size.
   */
  crop: size().nullable().default(null),
  /** Colors are changed by factors from 1 − x to 1 + x, hue by up to that share of a circle either way. */
  colorJitter: section({
    brightness: number(0, 1).default(0),
    contrast: number(0, 1).default(0),
    saturation: number(0, 1).default(0),
    hue: number(0, 0.5).default(0),
  }).prefault({}),
  /** Gaussian blur with a σ drawn from 0 to this, in pixels; a σ below 0.3 changes nothing. */
  blur: number(0, 20).default(0),
});

export const ALIGNMENTS = [
  'output-discriminator',
  'entropy-discriminator',
  'feature-discriminator',
  'mean',
  'correlation',
  'none',
] as const;

/** DACS's numbers. */
export const teacherSchema = section({
  /** After step t it is min(decay, 1 − 1/(t + 1)), so that the first weights do not linger. */
  decay: number(0, 1).default(0.99),
  /** The loss on a batch weighs as much as the share of its pixels with a higher probability than this. */
  threshold: number(0, 1).default(0.968),
  weight: weight().default(1),
  /**
   * Paste half of the classes of each source image, with their labels, onto a target image, and train on that (ClassMix,
   * Olsson et al. 2021). Source and target images must then be of one size in training.
   */
  classMix: boolean().default(true),
});

/** Training of the segmenter M and its output-space discriminator (Eq. 1 and 3). */
export const segmentationSchema = section({
  /** Steps of M₀⁽ᵏ⁾. */
  steps: steps().default(80_000),
  /** Steps of M₁⁽ᵏ⁾, M₂⁽ᵏ⁾, … */
  pseudoLabelSteps: steps().default(120_000),
  /** Steps of M⁽⁰⁾. */
  sourceOnlySteps: steps().default(80_000),
  /** Images of each domain that go through M together. */
  batchSize: integer(1, 1024).default(1),
  /**
   * Batches whose gradients are averaged, for M and its discriminator, before one step is taken: a step draws accumulation ·
   * batchSize images of each domain in the memory of batchSize. BatchNorm sees, and its running statistics follow, each batch
   * alone, and so do moments and the teacher's confident share; losses are means over the batches.
   */
  accumulation: integer(1, 1024).default(1),
  /** Mirror half of the images, at random. */
  flip: boolean().default(false),
  augmentation: section({
    source: augmentationSchema.prefault({}),
    target: augmentationSchema.prefault({}),
  }).prefault({}),
  /**
   * Draws source images by class, rare classes more often (DAFormer, Hoyer et al. 2022): P(c) ∝ exp((1 − f_c) / T) with the
   * share f_c of the source's labeled pixels. null: all images in turn. `{}` has DAFormer's numbers.
   */
  rareClassSampling: section({
    /** T */
    temperature: number(1e-4, 1e4).default(0.01),
    /** The share of an image's pixels that a class must have for the image to be drawn for it. */
    minimumShare: number(0, 1).default(0.0015),
  })
    .nullable()
    .default(null),
  /**
   * Pastes objects of other source images at random places (Ghiasi et al., "Simple Copy-Paste", 2021), so that what lies where
   * cannot be learned by heart. An object is a connected area of one of the classes. null: none.
   */
  copyPaste: section({
    /** Names of classes of things: cars, people, signs. */
    classes: z.array(text('a class name'), THINGS).min(1, THINGS),
    /** The share of the images that get an object. */
    probability: number(0, 1).default(0.5),
    /** The object is resized to a height from this range, as shares of the training image's; up to 3 times its own. */
    height: z
      .tuple([number(0.01, 2), number(0.01, 2)], HEIGHTS)
      .refine(([min, max]) => min <= max, HEIGHTS)
      .default([0.15, 1]),
    /** The share of its own image that an object has at least. */
    minimumShare: number(0, 1).default(0.005),
  })
    .nullable()
    .default(null),
  /**
   * Keeps a part of the source images from training and measures the segmenter on them while it trains; the weights that do
   * best are kept beside those of the last step, which all that follows goes on using. Target labels have no say in it.
   */
  validation: section({
    /** The share of the source images, from the end of their order. */
    share: number(0.001, 0.9).default(0.1),
    /** Steps from one measurement to the next; the last step is measured too. */
    every: steps().default(1000),
  })
    .nullable()
    .default(null),
  optimizer: choice('sgd', 'adam').default('sgd'),
  learningRate: learningRate().default(2.5e-4),
  /** The head's learning rate as a multiple of `learningRate`. */
  headLearningRateFactor: number(0, 1000).default(10),
  /** SGD only. */
  momentum: number(0, 1).default(0.9),
  weightDecay: number(0, 1).default(5e-4),
  /** Adam only. */
  adamBetas: betas().default([0.9, 0.99]),
  schedule: scheduleSchema.prefault({ kind: 'poly', power: 0.9, totalSteps: 250_000 }),
  /** Follows the segmenter's schedule. */
  discriminatorLearningRate: learningRate().default(1e-4),
  discriminatorBetas: betas().default([0.9, 0.99]),
  /** Cross-entropy is summed over pixels and divided by all of them (Eq. 1) or by those that have a label. */
  normalize: choice('all', 'valid').default('all'),
  /**
   * What M is moved against so that it sees both domains alike: a discriminator on class probabilities (BDL, after
   * AdaptSegNet), on their self-information −p log p / log C (ADVENT, Vu et al. 2019) or on features (Hoffman et al. 2016); the
   * distance of mean features (linear MMD, Tzeng et al. 2014) or of their covariances (Deep CORAL, Sun & Saenko 2016); or
   * nothing: where no pseudo-labels, entropy or teacher look at target images either, M then never sees them. Features are
   * what the classifier looks at.
   */
  alignment: choice(...ALIGNMENTS).default('output-discriminator'),
  /** λ_adv, of a discriminator's adversarial loss. */
  adversarialWeight: weight().default(1e-3),
  /** Of the distance of means or covariances. */
  momentWeight: weight().default(1),
  /** Of the mean entropy of target predictions, as a share of log C (MinEnt, Vu et al. 2019). */
  entropyWeight: weight().default(0),
  pseudoLabelWeight: weight().default(1),
  /**
   * A teacher that labels target images while M trains, as in DACS (Tranheden et al. 2021): the average of M's earlier weights,
   * θ′ ← decay·θ′ + (1 − decay)·θ. Beside pseudo-labels, where there are any. null: none. `{}` has DACS's numbers.
   */
  teacher: teacherSchema.nullable().default(null),
  /**
   * At the end of each training but M⁽⁰⁾'s, take BatchNorm's running statistics from the target's training images alone (AdaBN,
   * Li et al. 2016), in batches of `batchSize`. DeepLab only.
   */
  targetStatistics: boolean().default(false),
  /** The reference's optimizer step that moves most backbone weights several times. */
  repeatedStep: boolean().default(false),
  /**
   * What convolutions compute in: fp32; tf32 (CUDA); bf16, weights and losses staying float32; or fp16 (CUDA), the same with
   * losses scaled as `torch.amp.GradScaler` does it: a step whose gradients overflow is not applied, and halves the scale.
   */
  precision: precision(),
  /** In which order M's activations lie in memory; auto: channels-last in bf16 and fp16, where it is faster. */
  memoryFormat: choice('auto', 'contiguous', 'channels-last').default('auto'),
  /** Compute the blocks of M again in the backward pass rather than keep them: a third more time, much less memory. */
  activationCheckpointing: boolean().default(false),
  /**
   * CUDA, DeepLab-v2: record forward and backward passes as CUDA graphs and replay them, for the same results with fewer
   * launches. Draws, checks and updates stay outside.
   */
  cudaGraphs: boolean().default(false),
});

/** Training of the translators F and F⁻¹ and their discriminators (Eq. 2). */
export const translationSchema = section({
  /**
   * unpaired: F and F⁻¹ by Eq. 2. paired: F alone by pix2pix (Isola et al. 2017) on source and target images of the same
   * base name, with ganMode, ganWeight and l1Weight and none of the other terms.
   */
  pairing: choice('unpaired', 'paired').default('unpaired'),
  /** 20 epochs of GTA5's 24,966 images in batches of 4. */
  steps: steps().default(124_840),
  /** Steps at the full learning rate; it then falls linearly, to reach 0 after the last step. null: half of `steps`. */
  constantSteps: integer(0).nullable().default(null),
  /** Images of each domain in a step. */
  batchSize: integer(1, 1024).default(4),
  /** Mirror half of the images, at random. */
  flip: boolean().default(false),
  learningRate: learningRate().default(2e-4),
  betas: betas().default([0.5, 0.999]),
  /** The paper leaves ℓ_GAN's form open; its authors' code uses least squares. */
  ganMode: choice('least-squares', 'bce').default('least-squares'),
  /** λ_GAN */
  ganWeight: weight().default(1),
  /** Paired: of E|F(S) − T|. */
  l1Weight: weight().default(100),
  /** λ_recon */
  cycleWeight: weight().default(10),
  /** Weight of F(T) ≈ T and F⁻¹(S) ≈ S, which Eq. 2 does not have. */
  identityWeight: weight().default(0),
  /** L1 of the logits, or the mean squared error of instance-normalized logits. */
  perceptualForm: choice('l1', 'normalized-mse').default('l1'),
  /** λ_per */
  perceptualWeight: weight().default(0.1),
  /** λ_per_recon */
  perceptualReconstructionWeight: weight().default(10),
  /** Earlier translations that the discriminators are shown, per domain; 0 shows only the newest. */
  poolSize: integer(0, 100_000).default(50),
  /** As `segmentation.precision`. */
  precision: precision(),
  /**
   * Images of each domain that the networks are given at once: a batch in parts needs less memory, and its gradients are
   * those of the whole. null: the whole batch.
   */
  microBatchSize: integer(1, 1024).nullable().default(null),
  /** As `segmentation.activationCheckpointing`, of the generators. */
  activationCheckpointing: boolean().default(false),
  /** As `segmentation.cudaGraphs`; the image pools stay outside too. Not with `microBatchSize`. */
  cudaGraphs: boolean().default(false),
});

/** How the pseudo-labels Ŷ_T are chosen. */
export const selfTrainingSchema = section({
  /**
   * mpt: one threshold for all pixels ("max probability threshold"). per-class: a threshold t_c for each class from the
   * whole target set. class-balanced (CBST, Zou et al. 2018): the same without an upper bound, and a pixel's class is
   * argmax_c p_c / t_c, so that a rare class wins where it is surer than usual.
   */
  method: choice('mpt', 'per-class', 'class-balanced').default('mpt'),
  /** The threshold; with `per-class`, the highest that a class may get; not for `class-balanced`. */
  threshold: number(0, 1).default(0.9),
  /** Not for `mpt`: t_c is the probability below which this share of the pixels predicted as c lies (CBST's 1 − p). */
  portion: number(0, 1).default(0.5),
  /** Whether kept pixels all weigh 1 in the loss, or as much as their confidence. */
  weighting: choice('hard', 'soft').default('hard'),
  /** What is upsampled from the network's resolution: its logits, or their softmax. */
  order: choice('logits', 'probabilities').default('logits'),
  /** Whether a pixel exactly at the threshold is kept. */
  inclusive: boolean().default(false),
});

/** What becomes of a training step with a loss or gradient that is NaN or infinite; it is never applied. */
export const nonFiniteSchema = section({
  /** stop: the run ends with an error that names the images. skip: it warns and goes on with the next step. */
  policy: choice('stop', 'skip').default('stop'),
  /** The most steps in a row that may be skipped; one more ends the run. */
  limit: integer(1).default(10),
});

/** How often a stage is saved while it runs, so that it can go on from there. */
export const checkpointSchema = section({
  /** Training steps, or images to pseudo-label, from one checkpoint to the next. */
  every: integer(1).default(1000),
  /** The newest so many are kept, in case that one turns out to be unreadable. */
  keep: integer(1, 1000).default(2),
});

/** Algorithm 1's K and N, and what takes the place of F. */
export const loopSchema = section({
  /** K; 0 trains M⁽⁰⁾ alone. */
  rounds: integer(0, 20).default(2),
  /**
   * How source images become S′: by F⁽ᵏ⁾; by matching the histogram of each channel to that of a target image drawn by the
   * seed; or not at all, S′ = S. Only with F do later rounds differ from the first, so the others take `rounds` ≤ 1.
   */
  translation: choice('learned', 'histogram-matching', 'none').default('learned'),
  /** N */
  selfTrainingRounds: integer(0, 20).default(2),
  /** N of the last round, when it differs. */
  selfTrainingRoundsLast: integer(0, 20).nullable().default(null),
});

export const configSchema = section({
  /** Weights, the order of data and augmentation derive from it. */
  seed: integer(0).default(1),
  /** cpu, cuda or cuda:N */
  device: z
    .string('cpu, cuda or cuda:N')
    .regex(/^(cpu|cuda(:\d{1,3})?)$/, 'cpu, cuda or cuda:N')
    .default('cpu'),
  /** The run folder, relative to the working directory. */
  output: text('a folder'),
  data: dataSchema,
  sizes: sizesSchema.prefault({}),
  segmenter: segmenterSchema.prefault({}),
  discriminator: discriminatorSchema.prefault({}),
  translator: translatorSchema.prefault({}),
  segmentation: segmentationSchema.prefault({}),
  translation: translationSchema.prefault({}),
  selfTraining: selfTrainingSchema.prefault({}),
  loop: loopSchema.prefault({}),
  nonFinite: nonFiniteSchema.prefault({}),
  checkpoint: checkpointSchema.prefault({}),
  /** Steps between two lines of the event log; each holds the means over the steps between. */
  logEvery: integer(1).default(100),
  /** Images shown for each stage; 0 writes no pictures. */
  sampleCount: integer(0, 16).default(4),
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
  // Stride-2 layers and their inverse give back the size that went in only for multiples of it.
  expect(
    width % multiple === 0 && height % multiple === 0,
    key,
    `a width and height divisible by ${multiple}${pairing === 'paired' ? ' (2 to the power of translator.depth)' : ''}`,
  );
  expect(
    pairing === 'unpaired' || (sourceWidth === targetWidth && sourceHeight === targetHeight),
    ['sizes', 'translation', 'target'],
    `the size of sizes.translation.source (${sourceWidth}×${sourceHeight}), as pairs of images are,`,
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
    !config.segmentation.targetStatistics || config.segmenter.network === 'deeplab-v2',
    ['segmentation', 'targetStatistics'],
    'false, or segmenter.network deeplab-v2, for BatchNorm',
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
  const { classes, ignoreIndex, palette } = config.data;
  if (Array.isArray(classes)) {
    expect(
      ignoreIndex >= classes.length,
      ['data', 'ignoreIndex'],
      `a number that is no class index (0 to ${classes.length - 1})`,
    );
    expect(
      !palette || palette.length === classes.length,
      ['data', 'palette'],
      `${classes.length} colors, one a class`,
    );
  }
});

/**
 * A complete configuration: every key has its value. `output`, `data.root` and `segmenter.initialWeights` are absolute or
 * null, other paths under `data` are relative to its root.
 */
export type Config = z.output<typeof configSchema>;
/** What a config file may say: every key that has a default may be left out. */
export type ConfigInput = z.input<typeof configSchema>;
export type Schedule = z.output<typeof scheduleSchema>;
export type SegmentationOptions = z.output<typeof segmentationSchema>;
export type TranslationOptions = z.output<typeof translationSchema>;
export type SelfTrainingOptions = z.output<typeof selfTrainingSchema>;
export type LoopOptions = z.output<typeof loopSchema>;
export type NonFiniteOptions = z.output<typeof nonFiniteSchema>;
export type SizePair = [width: number, height: number];

/** Part of a `ConfigInput`, as presets and config files give it. */
export type PartialConfig = DeepPartial<ConfigInput>;

type DeepPartial<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { [K in keyof T]?: DeepPartial<T[K]> | undefined }
    : T;
