import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type { z } from 'zod';
import { parseOptions } from '../config/parse.js';
import { type SelfTrainingOptions as Method, selfTrainingSchema } from '../config/schema.js';
import type { ImageDataset } from '../data/dataset.js';
import { type ImageSize, readImage, writeFileAtomically, writeLabels } from '../data/image-files.js';
import type { Predictor } from '../evaluate.js';
import { applyThresholds, ThresholdHistogram } from '../thresholds.js';
import { checkInteger } from '../validate.js';
import { readAhead } from './generators.js';

export interface SelfTrainingOptions {
  /** Names of the classes, in the order of their indices; 2–255. */
  classes: readonly string[];
  /** Size to which images are resized, and of the pseudo-labels. */
  size: ImageSize;
  /** The label of pixels that are not kept, 0–255 and no class; default 255. */
  ignoreIndex?: number;
  /** As the config's section `selfTraining`, with its defaults. */
  choice?: z.input<typeof selfTrainingSchema>;
}

/** What was kept of a class. */
export interface KeptClass {
  class: string;
  /** Pixels predicted as this class, and those of them that were kept. */
  predicted: number;
  kept: number;
  /** kept / predicted; 0 for a class that is never predicted. */
  keptShare: number;
  threshold: number;
  /** The median probability of all pixels predicted as this class, kept or not; 0 for a class that is never predicted. */
  medianConfidence: number;
}

/** What `manifest.json` beside the pseudo-labels says. */
export interface PseudoLabelManifest {
  choice: Method;
  size: ImageSize;
  /** Images looked at, and those with any kept pixel: only these have a file. */
  images: number;
  keptImages: number;
  /** Share of all pixels that were kept, 0 … 1. */
  keptShare: number;
  classes: KeptClass[];
}

/** Progress of pseudo-labelling: finding the thresholds goes over the images once, labelling once more. */
export interface PseudoLabelProgress {
  task: 'confidences' | 'pseudo-label';
  done: number;
  total: number;
}

/**
 * Chooses the pseudo-labels Ŷ_T of a target set: the segmenter's own predictions where it is confident. With `mpt` a pixel
 * is kept above one threshold. With `per-class` the threshold of class c is
 * t_c = min(threshold, the `portion` quantile of the probabilities of all pixels predicted as c), found in a first pass
 * through a histogram, so that memory does not grow with the set.
 */
export class SelfTraining {
  readonly #segmenter: Predictor;
  readonly #classes: readonly string[];
  readonly #size: ImageSize;
  readonly #ignoreIndex: number;
  readonly #choice: Method;

  /** @throws InvalidArgumentError when an option is out of range */
  constructor(segmenter: Predictor, options: SelfTrainingOptions) {
    this.#segmenter = segmenter;
    this.#classes = options.classes;
    this.#size = options.size;
    this.#ignoreIndex = checkInteger('ignoreIndex', options.ignoreIndex ?? 255, options.classes.length, 255);
    this.#choice = parseOptions(selfTrainingSchema, options.choice ?? {}, 'choice');
  }

  /**
   * Writes the pseudo-labels of `dataset` to `folder` as NAME.png (class index, or the ignore index where not kept), each
   * whole or not at all, and `manifest.json` last. An image of which nothing is kept gets no file, so that
   * `dataset.withLabels(folder)` is T_ssl. Yields after each image.
   *
   * @throws DataError when an image cannot be read or a file cannot be written
   */
  async *label(
    dataset: ImageDataset,
    folder: string,
    options: { signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<PseudoLabelProgress, PseudoLabelManifest> {
    const { signal } = options;
    const { method, threshold, inclusive } = this.#choice;
    const manifestFile = path.join(folder, 'manifest.json');
    await mkdir(folder, { recursive: true });
    // From here on it would tell of files that are being replaced.
    await rm(manifestFile, { force: true });
    using histogram = new ThresholdHistogram(this.#classes.length);
    const thresholds =
      method === 'per-class'
        ? yield* this.#findThresholds(histogram, dataset, signal)
        : this.#classes.map(() => threshold);

    const kept = this.#classes.map(() => 0);
    let keptImages = 0;
    for await (const { done, labels, confidence } of this.#predictions(dataset, signal)) {
      if (method === 'mpt') await histogram.add(labels, confidence);
      const chosen = await applyThresholds(labels, confidence, {
        thresholds,
        inclusive,
        ignoreIndex: this.#ignoreIndex,
      });
      const keptPixels = sum(chosen.keptPerClass);
      chosen.keptPerClass.forEach((pixels, index) => {
        kept[index]! += pixels;
      });
      const file = path.join(folder, `${dataset.entry(done - 1).name}.png`);
      if (keptPixels > 0) {
        await writeLabels(file, { data: chosen.labels, ...this.#size });
        keptImages++;
      } else {
        // A file from an earlier labelling would make the image part of T_ssl.
        await rm(file, { force: true });
      }
      yield { task: 'pseudo-label', done, total: dataset.length };
    }

    const { counts, thresholds: medians } = await histogram.thresholds({ portion: 0.5, cap: 1 });
    const manifest: PseudoLabelManifest = {
      choice: this.#choice,
      size: this.#size,
      images: dataset.length,
      keptImages,
      keptShare: sum(kept) / sum(counts),
      classes: this.#classes.map((name, index) => {
        const predicted = counts[index]!;
        const keptShare = predicted > 0 ? kept[index]! / predicted : 0;
        return {
          class: name,
          predicted,
          kept: kept[index]!,
          keptShare,
          threshold: thresholds[index]!,
          medianConfidence: medians[index]!,
        };
      }),
    };
    await writeFileAtomically(manifestFile, `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest;
  }

  async *#findThresholds(
    histogram: ThresholdHistogram,
    dataset: ImageDataset,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<PseudoLabelProgress, number[]> {
    for await (const { done, labels, confidence } of this.#predictions(dataset, signal)) {
      await histogram.add(labels, confidence);
      yield { task: 'confidences', done, total: dataset.length };
    }
    const { portion, threshold: cap } = this.#choice;
    return (await histogram.thresholds({ portion, cap })).thresholds;
  }

  async *#predictions(
    dataset: ImageDataset,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<{ done: number; labels: Uint8Array; confidence: Float32Array }> {
    const read = (index: number) => readImage(dataset.entry(index).image, this.#size);
    let done = 0;
    for await (const image of readAhead(dataset.length, read, { signal })) {
      const { labels, confidence } = await this.#segmenter.predict(image.data, {
        count: 1,
        ...this.#size,
        confidence: true,
        order: this.#choice.order,
        ...(signal && { signal }),
      });
      yield { done: ++done, labels, confidence: confidence! };
    }
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
