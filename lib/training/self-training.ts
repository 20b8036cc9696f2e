import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type { z } from 'zod';
import type { ImageDataset } from '../data/dataset.js';
import { resultFile, weightsFile } from '../data/file-names.js';
import type { ImageSize } from '../data/image-size.js';
import { writeLabels } from '../data/label-codec.js';
import type { Predictor } from '../inference/evaluate.js';
import { applyThresholds, ThresholdHistogram } from '../native/thresholds.js';
import { DataError } from '../support/errors.js';
import { writeFileAtomically } from '../support/files.js';
import { readAhead } from '../support/generators.js';
import { parseOptions } from '../support/options.js';
import { checkInteger } from '../support/validate.js';
import { type Checkpoints, checkpointed, type Resumable } from './checkpoints.js';
import type { CheckpointEvent, WarningEvent } from './events.js';
import { type PseudoLabelChoice, selfTrainingSchema } from './self-training-options.js';

export interface SelfTrainingOptions {
  /** Names of the classes, in the order of their indices; 2–255. */
  classes: readonly string[];
  /** Size to which images are resized, and of the pseudo-labels. */
  size: ImageSize;
  /** Names the events about checkpoints; default 'pseudo-labels'. */
  stage?: string;
  /** The label of pixels that are not kept, 0–255 and no class; default 255. */
  ignoreIndex?: number;
  /** As the config's section `selfTraining`, with its defaults. */
  choice?: z.input<typeof selfTrainingSchema>;
}

/** How a segmenter is to predict, for its predictions to be pseudo-labels with these thresholds. */
export function predictionOptions(
  { method, order }: Pick<PseudoLabelChoice, 'method' | 'order'>,
  thresholds: number[],
) {
  return { order, ...(method === 'class-balanced' && { classThresholds: thresholds }) };
}

/** What was kept of a class. */
export interface KeptClass {
  class: string;
  /** Pixels predicted as this class (with `class-balanced`, by p_c / t_c), and those of them that were kept. */
  predicted: number;
  kept: number;
  /** kept / predicted; 0 for a class that is never predicted. */
  keptShare: number;
  threshold: number;
  /** The median probability of all pixels predicted as this class, kept or not, rounded down to 1/256; 0 for none. */
  medianConfidence: number;
}

/** What `manifest.json` beside the pseudo-labels says. */
export interface PseudoLabelManifest {
  choice: PseudoLabelChoice;
  size: ImageSize;
  /** Images looked at, and those with any kept pixel: only these have a file. */
  images: number;
  keptImages: number;
  /** Share of all pixels that were kept, 0 … 1. */
  keptShare: number;
  classes: KeptClass[];
}

/** Where labeling stands between two images, the thresholds being found. `step` counts images; there are no tensors. */
export interface LabelingState extends Resumable {
  /** Per class. */
  thresholds: number[];
  kept: number[];
  keptImages: number;
  /** Per class: how many of the pixels predicted as it have a confidence in each of CONFIDENCE_BINS equal parts of [0, 1]. */
  confidences: number[][];
}

const CONFIDENCE_BINS = 256;

/** Progress of pseudo-labeling: finding the thresholds goes over the images once, labeling once more. */
export interface PseudoLabelProgress {
  type: 'progress';
  task: 'confidences' | 'pseudo-label';
  done: number;
  total: number;
}

/**
 * Chooses the pseudo-labels Ŷ_T of a target set: the segmenter's own predictions where it is confident. With `mpt` a pixel
 * is kept above one threshold. With `per-class` the threshold of class c is
 * t_c = min(threshold, the `portion` quantile of the probabilities of all pixels predicted as c), found in a first pass
 * through a histogram, so that memory does not grow with the set. With `class-balanced` (CBST, Zou et al. 2018) t_c is that
 * quantile itself, or 1 for a class that is never predicted; a pixel's class is then argmax_c p_c / t_c, kept where that
 * exceeds 1.
 */
export class SelfTraining {
  readonly #segmenter: Predictor;
  readonly #classes: readonly string[];
  readonly #size: ImageSize;
  readonly #stage: string;
  readonly #ignoreIndex: number;
  readonly #choice: PseudoLabelChoice;

  /** @throws InvalidArgumentError when an option is out of range */
  constructor(segmenter: Predictor, options: SelfTrainingOptions) {
    this.#segmenter = segmenter;
    this.#classes = options.classes;
    this.#size = options.size;
    this.#stage = options.stage ?? 'pseudo-labels';
    this.#ignoreIndex = checkInteger('ignoreIndex', options.ignoreIndex ?? 255, options.classes.length, 255);
    this.#choice = parseOptions(selfTrainingSchema, options.choice ?? {}, 'choice');
  }

  /**
   * Writes the pseudo-labels of `dataset` to `folder` as NAME.png (class index, or the ignore index where not kept), each
   * whole or not at all, and `manifest.json` last. An image of which nothing is kept gets no file, so that
   * `dataset.withLabels(folder)` is T_ssl. With soft weights NAME.confidence.png, of 8 bits, has the confidence from 0 to
   * 255. Yields after each image.
   *
   * @param options.checkpoints default none. A state to go on from belongs to what `folder` holds; there is none before
   *   the thresholds are found
   * @throws DataError when an image cannot be read or a file cannot be written
   */
  async *label(
    dataset: ImageDataset,
    folder: string,
    options: { signal?: AbortSignal | undefined; checkpoints?: Checkpoints<LabelingState> } = {},
  ): AsyncGenerator<PseudoLabelProgress | CheckpointEvent | WarningEvent, PseudoLabelManifest> {
    const { signal, checkpoints } = options;
    if (this.#choice.weighting === 'soft') requireWeightsNames(dataset);
    const manifestFile = path.join(folder, 'manifest.json');
    await mkdir(folder, { recursive: true });
    // From here on it would tell of files that are being replaced.
    await rm(manifestFile, { force: true });
    const state = checkpoints?.state ?? (yield* this.#firstState(dataset, signal));
    yield* checkpointed(this.#labelFrom(state, dataset, folder, signal), checkpoints, {
      stage: this.#stage,
      steps: dataset.length,
      done: () => state.step,
      state: async () => state,
    });
    const { thresholds, confidences, kept, keptImages } = state;
    const predicted = confidences.map(sum);
    const manifest: PseudoLabelManifest = {
      choice: this.#choice,
      size: this.#size,
      images: dataset.length,
      keptImages,
      keptShare: sum(kept) / sum(predicted),
      classes: this.#classes.map((name, index) => ({
        class: name,
        predicted: predicted[index]!,
        kept: kept[index]!,
        keptShare: predicted[index]! > 0 ? kept[index]! / predicted[index]! : 0,
        threshold: thresholds[index]!,
        medianConfidence: median(confidences[index]!),
      })),
    };
    await writeFileAtomically(manifestFile, `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest;
  }

  /** The state before the first image is labeled. */
  async *#firstState(
    dataset: ImageDataset,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<PseudoLabelProgress, LabelingState> {
    const { method, threshold } = this.#choice;
    const thresholds =
      method === 'mpt' ? this.#classes.map(() => threshold) : yield* this.#findThresholds(dataset, signal);
    const confidences = this.#classes.map(() => new Array<number>(CONFIDENCE_BINS).fill(0));
    const kept = this.#classes.map(() => 0);
    return { step: 0, tensors: new Map(), thresholds, kept, keptImages: 0, confidences };
  }

  /** Labels the images that `state` lacks, bringing it up to date after each. */
  async *#labelFrom(
    state: LabelingState,
    dataset: ImageDataset,
    folder: string,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<PseudoLabelProgress> {
    const { thresholds, confidences, kept } = state;
    const { inclusive, weighting } = this.#choice;
    const options = { thresholds, inclusive, ignoreIndex: this.#ignoreIndex };
    const prediction = predictionOptions(this.#choice, thresholds);
    for await (const { labels, confidence } of this.#predictions(dataset, state.step, prediction, signal)) {
      const chosen = await applyThresholds(labels, confidence, options);
      const file = await resultFile(folder, dataset.entry(state.step).name);
      if (sum(chosen.keptPerClass) > 0) {
        // Before the labels: where those are, their weights are.
        if (weighting === 'soft') {
          const weights = Uint8Array.from(confidence, (value) => Math.round(255 * value));
          await writeLabels(weightsFile(file), { data: weights, ...this.#size });
        }
        await writeLabels(file, { data: chosen.labels, ...this.#size });
        state.keptImages++;
      } else {
        // A file from an earlier labeling would make the image part of T_ssl.
        for (const stale of [file, weightsFile(file)]) await rm(stale, { force: true });
      }
      for (const [i, label] of labels.entries()) {
        const bin = Math.floor(confidence[i]! * CONFIDENCE_BINS);
        confidences[label]![Math.min(bin, CONFIDENCE_BINS - 1)]!++;
      }
      for (const [index, pixels] of chosen.keptPerClass.entries()) kept[index]! += pixels;
      state.step++;
      yield { type: 'progress', task: 'pseudo-label', done: state.step, total: dataset.length };
    }
  }

  async *#findThresholds(
    dataset: ImageDataset,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<PseudoLabelProgress, number[]> {
    using histogram = new ThresholdHistogram(this.#classes.length);
    let done = 0;
    const { method, portion, order, threshold } = this.#choice;
    for await (const { labels, confidence } of this.#predictions(dataset, 0, { order }, signal)) {
      await histogram.add(labels, confidence);
      yield { type: 'progress', task: 'confidences', done: ++done, total: dataset.length };
    }
    if (method === 'per-class') {
      return (await histogram.thresholds({ portion, cap: threshold })).thresholds;
    }
    const { thresholds, counts } = await histogram.thresholds({ portion, cap: 1 });
    return thresholds.map((quantile, index) => (counts[index]! > 0 ? quantile : 1));
  }

  /** Predictions for the images from `first` on. */
  async *#predictions(
    dataset: ImageDataset,
    first: number,
    options: ReturnType<typeof predictionOptions>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<{ labels: Uint8Array; confidence: Float32Array }> {
    const read = (index: number) => dataset.readImage(first + index, this.#size);
    for await (const image of readAhead(dataset.length - first, read, { signal })) {
      const { labels, confidence } = await this.#segmenter.predict(image.data, {
        count: 1,
        ...this.#size,
        confidence: true,
        ...options,
        ...(signal && { signal }),
      });
      yield { labels, confidence: confidence! };
    }
  }
}

/** The middle value of a histogram of [0, 1], as the lower edge of its bin; 0 where it is empty. */
function median(histogram: readonly number[]): number {
  const rank = Math.floor(sum(histogram) / 2);
  let below = 0;
  const bin = histogram.findIndex((count) => {
    below += count;
    return below > rank;
  });
  return Math.max(bin, 0) / histogram.length;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/**
 * The files of weights need names of their own that file systems allow.
 *
 * @throws DataError where the labels of one image would be written to the file of another's weights, or a name is too long
 */
export function requireWeightsNames(dataset: ImageDataset): void {
  const names = Array.from({ length: dataset.length }, (_, index) => dataset.entry(index).name);
  const taken = new Set(names.map((name) => weightsFile(`${name}.png`)));
  const clash = names.find((name) => taken.has(`${name}.png`));
  if (clash !== undefined) {
    throw new DataError(
      `${clash}: with soft weights, expected no image named as another's weights, NAME.confidence; rename the image`,
    );
  }
  const bytes = (name: string) => Buffer.byteLength(path.basename(weightsFile(`${name}.png`)));
  const long = names.find((name) => bytes(name) > MAX_NAME_BYTES);
  if (long === undefined) return;
  throw new DataError(
    `${long}: with soft weights, the name of NAME.confidence.png has ${bytes(long)} bytes, expected at most ${MAX_NAME_BYTES}; rename the image`,
  );
}

/** What file systems allow. */
const MAX_NAME_BYTES = 255;
