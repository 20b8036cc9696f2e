import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type { z } from 'zod';
import type { ImageDataset } from '../data/dataset.js';
import { resultFile, weightsFile } from '../data/file-names.js';
import type { ImageSize } from '../data/image-size.js';
import { writeLabels } from '../data/label-codec.js';
import type { Predictor } from '../inference/evaluate.js';
import {
  addCounts,
  checkGroup,
  doneTogether,
  type Group,
  isFirst,
  ownIndices,
} from '../native/group-values.js';
import type { ProcessGroup } from '../native/process-group.js';
import { applyThresholds, ThresholdHistogram } from '../native/thresholds.js';
import { DataError } from '../support/errors.js';
import { requireEmptyFolder, writeFileAtomically } from '../support/files.js';
import { readAhead } from '../support/generators.js';
import { parseOptions } from '../support/options.js';
import { checkInteger } from '../support/validate.js';
import { type Checkpoints, checkpointed, type Resumable } from './checkpoints.js';
import type { CheckpointEvent, WarningEvent } from './events.js';
import { type PseudoLabelChoice, selfTrainingSchema } from './self-training-options.js';

/** Options of {@link SelfTraining}. */
export interface SelfTrainingOptions {
  /** Names of the classes in the order of their indices, 2–255 names. */
  classes: readonly string[];
  /** Size of the images that enter the segmenter, and of the pseudo-labels. */
  size: ImageSize;
  /** Name of the stage in events about checkpoints. Default 'pseudo-labels'. */
  stage?: string;
  /** Label of pixels that are not kept, at most 255 and not a class. Default 255. */
  ignoreIndex?: number;
  /** Options of the config's section `selfTraining`, with its defaults. */
  choice?: z.input<typeof selfTrainingSchema>;
}

/** Makes the options with which a segmenter predicts pseudo-labels for these thresholds. */
export function predictionOptions(
  { method, order }: Pick<PseudoLabelChoice, 'method' | 'order'>,
  thresholds: number[],
) {
  return { order, ...(method === 'class-balanced' && { classThresholds: thresholds }) };
}

/** Statistics of the pseudo-labels of one class. */
export interface KeptClass {
  class: string;
  /** Number of pixels predicted as this class (with `class-balanced`, by p_c / t_c), and of kept ones among them. */
  predicted: number;
  kept: number;
  /** Share kept / predicted. 0 for a class that is never predicted. */
  keptShare: number;
  threshold: number;
  /**
   * Median probability of all pixels predicted as this class, kept or not, rounded down to 1/256. 0 if there are none.
   */
  medianConfidence: number;
}

/** Content of `manifest.json` beside the pseudo-labels. */
export interface PseudoLabelManifest {
  choice: PseudoLabelChoice;
  size: ImageSize;
  /** Number of images, and of images with any kept pixel. Only the latter have a file. */
  images: number;
  keptImages: number;
  /** Share of all pixels that were kept, 0 … 1. */
  keptShare: number;
  classes: KeptClass[];
}

/** State of labeling between two images, after the thresholds are found. `step` counts images. There are no tensors. */
export interface LabelingState extends Resumable {
  /** Threshold and number of kept pixels of each class. */
  thresholds: number[];
  kept: number[];
  keptImages: number;
  /**
   * Histogram of each class: how many pixels predicted as it have a confidence in each of CONFIDENCE_BINS equal parts
   * of [0, 1].
   */
  confidences: number[][];
}

const CONFIDENCE_BINS = 256;

interface Shared {
  signal: AbortSignal | undefined;
  group: Group;
}

/**
 * Progress of pseudo-labeling. The first pass over the images collects `confidences`. A second makes the `thresholds`
 * exact, if one lies below its upper bound. The last pass labels.
 */
export interface PseudoLabelProgress {
  type: 'progress';
  task: 'confidences' | 'thresholds' | 'pseudo-label';
  done: number;
  total: number;
}

const MANIFEST = 'manifest.json';

/** The files that labeling may write into its folder. */
export function labelFiles(dataset: ImageDataset, weighting: PseudoLabelChoice['weighting']): string[] {
  const labels = Array.from({ length: dataset.length }, (_, index) => `${dataset.entry(index).name}.png`);
  return [...labels, ...(weighting === 'soft' ? labels.map(weightsFile) : []), MANIFEST];
}

/**
 * Chooses the pseudo-labels Ŷ_T of a target set: the segmenter's own predictions where it is confident.
 *
 * - `mpt`: a pixel is kept if its probability exceeds one threshold.
 * - `per-class`: the threshold of class c is t_c = min(threshold, q_c). q_c is the exact `portion` quantile of the
 *   probabilities of all pixels predicted as c. Two passes find it by a histogram, so memory does not grow with the set.
 * - `class-balanced` (CBST, Zou et al. 2018): t_c = q_c, or 1 for a class that is never predicted. A pixel's class is
 *   then argmax_c p_c / t_c. It is kept if that exceeds 1.
 *
 * See docs/design/method.md#per-class-and-class-balanced-thresholds.
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
   * Writes the pseudo-labels of `dataset` to `folder` and yields after each image.
   *
   * Labels are NAME.png: the class index, or the ignore index for pixels that are not kept. Every file is written whole
   * or not at all, `manifest.json` last. An image without kept pixels gets no file, so `dataset.withLabels(folder)` is
   * T_ssl. With soft weights, NAME.confidence.png holds 8-bit confidences, 0 to 255 for 0 to 1.
   *
   * @param folder new or empty, except for hidden files. With a state to resume from: the folder of the interrupted
   * labeling. Files after the state are replaced or removed
   * @param options.checkpoints how states are saved. Default none. A state to resume from must belong to the files in
   * `folder`. The first state is saved only after the thresholds are found
   * @param options.group processes that label together, each its own images, into one folder that all see. All get the
   * manifest, which rank 0 writes. Default null: this process alone
   * @throws DataError when `folder` holds other files, an image cannot be read or a file cannot be written
   */
  async *label(
    dataset: ImageDataset,
    folder: string,
    options: {
      signal?: AbortSignal | undefined;
      checkpoints?: Checkpoints<LabelingState>;
      group?: ProcessGroup | null | undefined;
    } = {},
  ): AsyncGenerator<PseudoLabelProgress | CheckpointEvent | WarningEvent, PseudoLabelManifest> {
    const { signal, checkpoints } = options;
    const group = checkGroup(options.group);
    if (this.#choice.weighting === 'soft') requireWeightsNames(dataset);
    const manifestFile = path.join(folder, MANIFEST);
    const saved = checkpoints?.state ?? null;
    if (!saved) await requireEmptyFolder(folder);
    await mkdir(folder, { recursive: true });
    // From here on the manifest would describe files that are being replaced.
    if (saved && isFirst(group)) await rm(manifestFile, { force: true });
    await group?.barrier(signal ? { signal } : {}); // no process writes before all have looked
    const state = saved ?? (yield* this.#firstState(dataset, { signal, group }));
    yield* checkpointed(
      this.#labelFrom(state, dataset, folder, { isResumed: saved !== null, signal, group }),
      checkpoints,
      {
        stage: this.#stage,
        steps: dataset.length,
        done: () => state.step,
        state: async () => state,
      },
    );
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
    if (!isFirst(group)) return manifest;
    await writeFileAtomically(manifestFile, `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest;
  }

  /** Makes the state before the first image is labeled. */
  async *#firstState(
    dataset: ImageDataset,
    options: Shared,
  ): AsyncGenerator<PseudoLabelProgress, LabelingState> {
    const { method, threshold } = this.#choice;
    const thresholds =
      method === 'mpt' ? this.#classes.map(() => threshold) : yield* this.#findThresholds(dataset, options);
    const confidences = this.#classes.map(() => new Array<number>(CONFIDENCE_BINS).fill(0));
    const kept = this.#classes.map(() => 0);
    return { step: 0, tensors: new Map(), thresholds, kept, keptImages: 0, confidences };
  }

  /**
   * Labels the images that `state` lacks, and updates it after each. The processes of a group label one image each at a
   * time. So the state is whole, and the same everywhere, whenever one of them stops.
   */
  async *#labelFrom(
    state: LabelingState,
    dataset: ImageDataset,
    folder: string,
    { isResumed, signal, group }: Shared & { isResumed: boolean },
  ): AsyncGenerator<PseudoLabelProgress> {
    const first = state.step;
    const size = group?.size ?? 1;
    const own = ownIndices(dataset.length - first, group).map((index) => first + index);
    const prediction = predictionOptions(this.#choice, state.thresholds);
    const predictions = this.#predictions(dataset, own, prediction, signal);
    try {
      for (let round = 0; state.step < dataset.length; round++) {
        const found = await predictions.next();
        const counts = found.done
          ? this.#noCounts()
          : await this.#labelImage(found.value, state.thresholds, {
              file: await resultFile(folder, dataset.entry(own[round]!).name),
              isResumed,
            });
        if (group) await addCounts(group, counts);
        addTo(state, counts);
        state.step = Math.min(dataset.length, state.step + size);
        yield { type: 'progress', task: 'pseudo-label', done: state.step, total: dataset.length };
      }
    } finally {
      await predictions.return();
    }
  }

  /** Counts of no image: whether any pixel is kept, kept pixels of each class, and the bins of each class. */
  #noCounts(): Float64Array {
    return new Float64Array(1 + this.#classes.length * (1 + CONFIDENCE_BINS));
  }

  /** Writes the labels of one image and returns its counts. */
  async #labelImage(
    { labels, confidence }: { labels: Uint8Array; confidence: Float32Array },
    thresholds: number[],
    { file, isResumed }: { file: string; isResumed: boolean },
  ): Promise<Float64Array> {
    const { inclusive, weighting } = this.#choice;
    const options = { thresholds, inclusive, ignoreIndex: this.#ignoreIndex };
    const chosen = await applyThresholds(labels, confidence, options);
    const hasLabels = sum(chosen.keptPerClass) > 0;
    if (hasLabels) {
      // Weights come first, so that every file of labels has its weights.
      if (weighting === 'soft') {
        const weights = Uint8Array.from(confidence, (value) => Math.round(255 * value));
        await writeLabels(weightsFile(file), { data: weights, ...this.#size });
      }
      await writeLabels(file, { data: chosen.labels, ...this.#size });
    } else if (isResumed) {
      // A file that the interrupted labeling wrote after its last checkpoint would make the image part of T_ssl.
      for (const stale of [file, weightsFile(file)]) await rm(stale, { force: true });
    }
    const counts = this.#noCounts();
    counts[0] = Number(hasLabels);
    counts.set(chosen.keptPerClass, 1);
    const bins = counts.subarray(1 + this.#classes.length);
    for (const [i, label] of labels.entries()) {
      const bin = Math.floor(confidence[i]! * CONFIDENCE_BINS);
      bins[label * CONFIDENCE_BINS + Math.min(bin, CONFIDENCE_BINS - 1)]!++;
    }
    return counts;
  }

  async *#findThresholds(
    dataset: ImageDataset,
    { signal, group }: Shared,
  ): AsyncGenerator<PseudoLabelProgress, number[]> {
    using histogram = new ThresholdHistogram(this.#classes.length);
    const { method, portion, order, threshold } = this.#choice;
    const options = { portion, cap: method === 'per-class' ? threshold : 1 };
    let task: PseudoLabelProgress['task'] = 'confidences';
    const own = ownIndices(dataset.length, group);
    do {
      let counted = 0;
      for await (const { labels, confidence } of this.#predictions(dataset, own, { order }, signal)) {
        await histogram.add(labels, confidence);
        const done = doneTogether(++counted, dataset.length, group);
        yield { type: 'progress', task, done, total: dataset.length };
      }
      if (group) await histogram.combine(group);
      task = 'thresholds';
    } while (await histogram.refine(options));
    const { thresholds, counts } = await histogram.thresholds(options);
    if (method === 'per-class') return thresholds;
    return thresholds.map((quantile, index) => (counts[index]! > 0 ? quantile : 1));
  }

  /** Predicts the images with these indices. */
  async *#predictions(
    dataset: ImageDataset,
    indices: readonly number[],
    options: ReturnType<typeof predictionOptions>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<{ labels: Uint8Array; confidence: Float32Array }, void> {
    const read = (place: number) => dataset.readImage(indices[place]!, this.#size);
    for await (const image of readAhead(indices.length, read, { signal })) {
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

/** Adds the counts of an image, or of several. */
function addTo(state: LabelingState, counts: Float64Array): void {
  const { kept, confidences } = state;
  state.keptImages += counts[0]!;
  for (const index of kept.keys()) kept[index]! += counts[1 + index]!;
  const bins = counts.subarray(1 + kept.length);
  for (const [index, histogram] of confidences.entries()) {
    for (const bin of histogram.keys()) histogram[bin]! += bins[index * CONFIDENCE_BINS + bin]!;
  }
}

/** Computes the median of a histogram of [0, 1] as the lower edge of its bin, or 0 if the histogram is empty. */
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
 * Checks that the files of weights can have names of their own.
 *
 * @throws DataError when the labels of one image would be written to the file of another image's weights, or a name is
 * too long for the file system
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
