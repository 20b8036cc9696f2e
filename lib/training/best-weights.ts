import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { ImageDataset } from '../data/dataset.js';
import { type EvaluationOptions, evaluate } from '../inference/evaluate.js';
import type { Segmenter } from '../models/segmenter.js';
import { writeFileAtomically } from '../support/files.js';

/** When a segmenter did best in training on labeled source images that it was not trained on, and how well. */
export interface Best {
  step: number;
  /** 0 … 1. */
  miou: number;
}

/**
 * The weights with which a segmenter in training did best on held-out images, in a file beside those of the last step. They
 * are measured when the steps before are done, so a training that goes on from any checkpoint measures again what it had
 * measured after it, and ends with the same file.
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

  /** @param file where the weights go, as .safetensors; what is known of them is beside it, as .json */
  static async open(
    segmenter: Segmenter,
    heldOut: ImageDataset,
    options: EvaluationOptions,
    file: string,
  ): Promise<BestWeights> {
    const text = await readFile(knownFile(file), 'utf8').catch(() => 'null');
    return new BestWeights({ segmenter, heldOut }, options, file, JSON.parse(text) as Best | null);
  }

  /** null: nothing has been measured. */
  get best(): Best | null {
    return this.#best;
  }

  /**
   * Measures the segmenter after `step` steps, and keeps its weights if they are the best so far. Held-out labels without a
   * pixel that counts measure nothing.
   */
  async measure(step: number): Promise<void> {
    const { meanIou } = await evaluate(this.#segmenter, this.#heldOut, this.#options);
    if (meanIou === null || (this.#best && meanIou <= this.#best.miou)) return;
    // The weights first: were this cut off in between, they would be measured and kept again.
    await this.#segmenter.save(this.#file, { step });
    this.#best = { step, miou: meanIou };
    await writeFileAtomically(knownFile(this.#file), `${JSON.stringify(this.#best)}\n`);
  }
}

function knownFile(file: string): string {
  return path.format({ ...path.parse(file), base: '', ext: '.json' });
}
