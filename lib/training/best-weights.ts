import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { ImageDataset } from '../data/dataset.js';
import { type EvaluationOptions, evaluate } from '../inference/evaluate.js';
import type { Segmenter } from '../models/segmenter.js';
import { isFirst } from '../native/group-values.js';
import { writeFileAtomically } from '../support/files.js';

/** Step at which a segmenter in training did best on held-out labeled source images, and its score. */
export interface Best {
  step: number;
  /** Mean IoU, 0 … 1. */
  miou: number;
}

/**
 * Keeps the weights with which a segmenter in training did best on held-out images, in their own file. Scores are
 * measured after a step is complete. So a training that resumes from a checkpoint measures again what it measured after
 * it, and ends with the same file. See docs/design/method.md#best-weights.
 */
export class BestWeights {
  readonly #segmenter: Segmenter;
  readonly #heldOut: ImageDataset;
  readonly #options: EvaluationOptions;
  readonly #file: string;
  #best: Best | null;

  private constructor(
    models: { segmenter: Segmenter; heldOut: ImageDataset },
    options: EvaluationOptions,
    file: string,
    best: Best | null,
  ) {
    this.#segmenter = models.segmenter;
    this.#heldOut = models.heldOut;
    this.#options = options;
    this.#file = file;
    this.#best = best;
  }

  /**
   * @param options options of the evaluation. Of its group, if there is one, rank 0 writes the files
   * @param file file for the weights, .safetensors. The step and score go beside it as .json
   */
  static async open(
    segmenter: Segmenter,
    heldOut: ImageDataset,
    options: EvaluationOptions,
    file: string,
  ): Promise<BestWeights> {
    const text = await readFile(knownFile(file), 'utf8').catch(() => 'null');
    return new BestWeights({ segmenter, heldOut }, options, file, JSON.parse(text) as Best | null);
  }

  /** Best step so far. Null if nothing has been measured. */
  get best(): Best | null {
    return this.#best;
  }

  /**
   * Measures the segmenter after `step` steps, and keeps its weights if they are the best so far.
   *
   * @returns mean IoU. null: the held-out labels have no pixel that counts
   */
  async measure(step: number): Promise<number | null> {
    const { meanIou } = await evaluate(this.#segmenter, this.#heldOut, this.#options);
    if (meanIou === null || (this.#best && meanIou <= this.#best.miou)) return meanIou;
    this.#best = { step, miou: meanIou };
    if (!isFirst(this.#options.group)) return meanIou;
    // The weights come first. If the process ended in between, they would be measured and kept again.
    await this.#segmenter.save(this.#file, { step });
    await writeFileAtomically(knownFile(this.#file), `${JSON.stringify(this.#best)}\n`);
    return meanIou;
  }
}

function knownFile(file: string): string {
  return path.format({ ...path.parse(file), base: '', ext: '.json' });
}
