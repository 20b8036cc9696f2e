import { z } from 'zod';
import {
  augmentationSchema,
  batchSizeOption,
  classNamesOption,
  copyPasteSchema,
  rareClassSamplingSchema,
} from '../data/augmentation-options.js';
import { boolean, choice, integer, number, section } from '../support/options.js';
import {
  adamForm,
  betas,
  computationFields,
  learningRate,
  lossScalingFields,
  seed,
  steps,
  weight,
} from './option-fields.js';
import { scheduleSchema } from './schedules.js';

const margin = () => number(0, 0.5);

export const ALIGNMENTS = [
  'output-discriminator',
  'entropy-discriminator',
  'feature-discriminator',
  'mean',
  'correlation',
  'none',
] as const;

/** Method that aligns the two domains in a segmenter. */
export type Alignment = (typeof ALIGNMENTS)[number];

/**
 * A teacher that labels target images while M trains, as in DACS (Tranheden et al. 2021). It is the average of M's earlier
 * weights, θ′ ← decay·θ′ + (1 − decay)·θ. It sees target images before their colors and sharpness change (weak and strong
 * views). The defaults are DACS's.
 */
export const teacherSchema = section({
  /** Decay of the average. After step t it is min(decay, 1 − 1/(t + 1)), so that the first weights do not linger. */
  decay: number(0, 1).default(0.99),
  /** Confidence threshold. The loss on a batch is weighted by the share of its pixels with a higher probability. */
  threshold: number(0, 1).default(0.968),
  /** Weight of the cross-entropy on the teacher's labels. */
  weight: weight().default(1),
  /**
   * Pastes half of the classes of each source image, with their labels, onto a target image and trains on that (ClassMix,
   * Olsson et al. 2021). Source and target images must be of one size in training.
   */
  classMix: boolean().default(true),
  /**
   * Rows at the top and at the bottom of training images, as shares of their height, where the teacher's labels do not
   * count. They are for borders and for the hood of one's own car. DAFormer leaves out 0.03 and 0.23.
   */
  margins: z.tuple([margin(), margin()], 'two numbers [top, bottom] from 0 to 0.5').default([0, 0]),
  /**
   * Aligns the teacher's probabilities with the shares of the classes in the source's labels (distribution alignment of
   * ReMixMatch, Berthelot et al. 2020): p_c ← p_c·q_c/r_c, normalized, where q is the source's share and r the average of the
   * teacher's own probabilities, with `decay`. It is meant for domains that have about the same classes equally often. Then a
   * class that the teacher loses to another comes back.
   */
  distributionAlignment: boolean().default(false),
  /**
   * Trains on target images with patches removed too, on what the teacher sees in the whole images (MIC, masked image
   * consistency, Hoyer et al. 2023). The teacher's `threshold` weights this loss as well. null: none. `{}`: MIC's numbers.
   */
  masking: section({
    /** Probability that a patch is removed, in the mean color. 0: none, 1: all. */
    ratio: number(0, 1).default(0.7),
    /** Side of a square patch as a share of the shorter side of the training images, at least one pixel. */
    patch: number(0, 1).default(1 / 16),
    /** Weight of the cross-entropy of masked images. */
    weight: weight().default(1),
    /**
     * Masks source images too and trains on them with their own labels, each domain for half of the loss. MIC does so from
     * day to adverse weather and night.
     */
    source: boolean().default(false),
  })
    .nullable()
    .default(null),
});

const CLASS_INDICES = 'a list of class indices';

/**
 * Keeps the features of things near those of the initial weights, on source images (DAFormer, Hoyer et al. 2022). The loss
 * is the mean Euclidean distance over the positions that one of the classes covers. It is meant for pretrained
 * `initialWeights`, which know such things. The defaults are DAFormer's.
 */
export const featureDistanceSchema = section({
  /** Names of classes of things, such as cars, people or signs. */
  classes: classNamesOption(),
  /** Share of a position's pixels that one class must exceed. */
  minimumShare: number(0, 1).default(0.75),
  /** Weight of the distance. */
  weight: weight().default(0.005),
});

/** Options of one training step of a segmenter that its config section has too. */
const stepFields = {
  /** Optimizer of the segmenter. Discriminators always use Adam without weight decay. */
  optimizer: choice('sgd', 'adam').default('sgd'),
  /** Factor on the learning rate of the segmenter's head. */
  headLearningRateFactor: number(0, 1000).default(10),
  /** Momentum of SGD. */
  momentum: number(0, 1).default(0.9),
  /** Weight decay, added to the gradient times the weight. */
  weightDecay: number(0, 1).default(5e-4),
  /** Betas of Adam for the segmenter. */
  adamBetas: betas().default([0.9, 0.99]),
  /** Moves most weights of a ResNet backbone several times a step, as the reference's SGD did. Others stay as they are. */
  repeatedStep: boolean().default(false),
  /** Betas of Adam for the discriminator. */
  discriminatorBetas: betas().default([0.9, 0.99]),
  /**
   * Where Adam adds ε = 1e-8, for segmenter and discriminator. `pytorch`: after the bias correction of √v. `pytorch-0.4`:
   * before it, as in the PyTorch of the published runs. The first updates of small gradients are then smaller. The two
   * agree after a few hundred steps.
   */
  adamForm: adamForm(),
  /**
   * Number of batches whose gradients are averaged, for M and its discriminator, before one update. A step draws
   * accumulation · batchSize images of each domain but needs the memory of batchSize. BatchNorm, moments and the teacher's
   * confident share see each batch alone. Losses are means over the batches. Several processes divide the batches, so
   * that their number must divide this one.
   */
  accumulation: integer(1, 1024).default(1),
  /** Divisor of cross-entropies: `all` pixels (Eq. 1) or the `valid` ones, which have a label (the reference). */
  normalize: choice('all', 'valid').default('all'),
  /**
   * Method that aligns the two domains. A discriminator looks at class probabilities (BDL, after AdaptSegNet), at their
   * self-information −p log p / log C (ADVENT, Vu et al. 2019) or at features (Hoffman et al. 2016). `mean` and
   * `correlation` are the distance of mean features (linear MMD, Tzeng et al. 2014) or of their covariances (Deep CORAL,
   * Sun & Saenko 2016). `none`: nothing. Then M sees target images only with pseudo-labels, entropy or a teacher. Features
   * are the input of the classifier.
   */
  alignment: choice(...ALIGNMENTS).default('output-discriminator'),
  /** λ_adv, the weight of a discriminator's adversarial loss. */
  adversarialWeight: weight().default(1e-3),
  /** Weight of the distance of means or covariances. */
  momentWeight: weight().default(1),
  /** Weight of the mean entropy of target predictions, as a share of log C (MinEnt, Vu et al. 2019). */
  entropyWeight: weight().default(0),
  /** Weight of the masked cross-entropy on pseudo-labels. */
  pseudoLabelWeight: weight().default(1),
  /**
   * Memory format of M's activations. `auto`: the fastest. That is channels-last in tf32, bf16 and fp16. In fp32 on the
   * CPU each convolution has its own.
   */
  memoryFormat: choice('auto', 'contiguous', 'channels-last').default('auto'),
  ...computationFields,
};

export const segmentationStepSchema = section({
  ...stepFields,
  /** Weight of each class in all cross-entropies, by the label of a pixel. Empty: 1 for all. */
  classWeights: z.array(number(0, 1e6), 'a list of weights').max(256, 'at most 256 weights').default([]),
  /** Label of pixels that no loss looks at. */
  ignoreIndex: integer(0, 255).default(255),
  /** Seed of dropout's draws. They follow from the seed, the number of earlier steps, and the place in the step. */
  seed: seed(),
  /** A teacher that labels target images while M trains. null: none. */
  teacher: teacherSchema
    .omit({ distributionAlignment: true })
    .extend({
      /**
       * Share of each class in the source, for the alignment of the teacher's distribution (ReMixMatch, Berthelot et al. 2020):
       * p_c ← p_c·q_c/r_c, normalized, where q is this share and r the average of the teacher's own probabilities, with `decay`.
       * Empty: no alignment.
       */
      classShares: z.array(number(0, 1), 'a list of shares').max(256, 'at most 256 shares').default([]),
      /** Seed of the draws of ClassMix and of patches. */
      seed: seed(),
    })
    .nullable()
    .default(null),
  /**
   * Keeps features of things near those that the segmenter has when the step is made. Classes are indices. null: no such
   * term.
   */
  featureDistance: featureDistanceSchema
    .extend({
      /** Indices of classes of things. */
      classes: z.array(integer(0, 255), CLASS_INDICES).min(1, CLASS_INDICES),
    })
    .nullable()
    .default(null),
  ...lossScalingFields,
});

/** Options of a {@link SegmentationStep}. Omitted ones default to the paper's values. */
export interface SegmentationStepOptions extends z.input<typeof segmentationStepSchema> {}

/** Training of the segmenter M and its discriminator (Eq. 1 and 3). */
export const segmentationSchema = section({
  /** Training steps of M₀⁽ᵏ⁾. */
  steps: steps().default(80_000),
  /**
   * Training steps of an M₀⁽ᵏ⁾ that continues from a segmenter of the round before, with `loop.startFrom: previous`. null: as
   * many as `steps`.
   */
  continuedSteps: steps().nullable().default(null),
  /** Training steps of M₁⁽ᵏ⁾, M₂⁽ᵏ⁾ and so on. */
  pseudoLabelSteps: steps().default(120_000),
  /** Training steps of M⁽⁰⁾. */
  sourceOnlySteps: steps().default(80_000),
  /** Number of images of each domain that go through M together. */
  batchSize: batchSizeOption().default(1),
  /** Mirrors half of the images, at random. */
  flip: boolean().default(false),
  /** Random changes to training images. */
  augmentation: section({
    /** Changes to source images. */
    source: augmentationSchema.prefault({}),
    /** Changes to target images. */
    target: augmentationSchema.prefault({}),
  }).prefault({}),
  /** Draws rare classes more often. null: all images in turn. `{}`: DAFormer's numbers. */
  rareClassSampling: rareClassSamplingSchema.nullable().default(null),
  /**
   * Weights of classes in all cross-entropies, by the label of a pixel. `median-frequency`: w_c = median(f) / f_c, where f_c
   * is the share of class c in the source images that have it (Eigen & Fergus 2015). Small classes are then learned sooner,
   * and predicted more often than they occur. `root-median-frequency`: the square roots of these. `none`: 1 for all, as in
   * the paper.
   */
  classBalance: choice('none', 'median-frequency', 'root-median-frequency').default('none'),
  /** Pastes objects of other source images. null: none. */
  copyPaste: copyPasteSchema.nullable().default(null),
  /**
   * Probability with which a place in a batch of source images holds a labeled target image instead, drawn at random. The image
   * is resized and changed like a source image, without copy-paste. Only with `data.target.labeled`.
   */
  labeledTargetShare: number(0, 1).default(0.25),
  /**
   * Probability with which a place in a batch of translated source images holds the image as it was, drawn at random. Objects are
   * pasted from images of the same kind. Only in stages that train on translated images. 0: none, as in the paper.
   */
  originalShare: number(0, 1).default(0),
  /**
   * Keeps a part of the source images from training and measures the segmenter on them. The weights that do best are saved
   * beside the last ones, which all later stages use. Target labels are never used for it. null: no validation.
   */
  validation: section({
    /** Share of the source images, from the end of their order. */
    share: number(0.001, 0.9).default(0.1),
    /** Number of steps between two measurements. The last step is measured too. */
    every: steps().default(1000),
  })
    .nullable()
    .default(null),
  /** Learning rate of the segmenter's backbone. */
  learningRate: learningRate().default(2.5e-4),
  /** Schedule of the learning rates. */
  schedule: scheduleSchema.prefault({ kind: 'poly', power: 0.9, totalSteps: 250_000 }),
  /**
   * Number of first steps over which the learning rates rise linearly. Step t of these n steps, counted from 1, has t/n of
   * the schedule's rate. 0: none, as in the paper.
   */
  warmUpSteps: integer(0, 1_000_000_000).default(0),
  /** Learning rate of the discriminator. It follows the segmenter's schedule and warm-up. */
  discriminatorLearningRate: learningRate().default(1e-4),
  ...stepFields,
  /** A teacher that labels target images, beside pseudo-labels where there are any. null: none. `{}`: DACS's numbers. */
  teacher: teacherSchema.nullable().default(null),
  /** Keeps features of things near those of the initial weights. null: no such term. */
  featureDistance: featureDistanceSchema.nullable().default(null),
  /**
   * Takes BatchNorm's running statistics from the target's training images alone at the end of each training but M⁽⁰⁾'s
   * (AdaBN, Li et al. 2016), in batches of `batchSize`. DeepLab-v2 on a ResNet only.
   */
  targetStatistics: boolean().default(false),
});

/** Options of a segmenter's training, with defaults filled in. */
export interface SegmentationOptions extends z.output<typeof segmentationSchema> {}

/**
 * Tests whether a segmenter learns from target images without pseudo-labels. If not, M does not see such images,
 * because they would still change its running statistics. See
 * docs/design/method.md#target-images-that-no-loss-uses-are-not-read.
 */
export function learnsFromUnlabeledTarget({
  alignment,
  entropyWeight,
  teacher,
}: Pick<SegmentationOptions, 'alignment' | 'entropyWeight' | 'teacher'>): boolean {
  return alignment !== 'none' || entropyWeight > 0 || teacher !== null;
}
