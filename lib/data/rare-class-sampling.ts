import { InvalidArgumentError } from '../support/errors.js';
import type { Random } from './random.js';

/** Pixels of each class in each image of a data set, in the order of the data set. */
export interface ClassCounts {
  /** Counts [images][classes]. */
  readonly counts: readonly (readonly number[])[];
  /** Pixels of each image, including those of no class. */
  readonly pixels: readonly number[];
}

/**
 * Rare class sampling (Hoyer, Dai, Van Gool, DAFormer, CVPR 2022, Eq. 3 to 5). It draws images by class, and classes
 * with few pixels more often. f_c is the share of the labeled pixels that class c has.
 *
 *    P(c) = exp((1 − f_c) / T) / Σ exp((1 − f_c′) / T)
 *
 * All images with enough pixels of the drawn class are equally likely. See docs/design/data.md#rare-class-sampling.
 */
export class RareClassSampling {
  /** Probability P(c) of each class. 0 for a class of which no image has enough. */
  readonly probabilities: readonly number[];
  readonly #images: readonly (readonly number[])[];

  /**
   * @param options.temperature T, > 0. A lower one draws the rarest class more often
   * @param options.minimumShare smallest share of an image's pixels, 0–1, that a class must cover for the image to be
   * drawn for it. At 0, one pixel is enough
   * @throws InvalidArgumentError when no image has enough of any class
   */
  constructor(
    { counts, pixels }: ClassCounts,
    { temperature, minimumShare }: { temperature: number; minimumShare: number },
  ) {
    const classes = counts[0]?.map((_, index) => index) ?? [];
    const isEnough = (count: number, image: number) => count > 0 && count >= minimumShare * pixels[image]!;
    this.#images = classes.map((c) =>
      [...counts.keys()].filter((image) => isEnough(counts[image]![c]!, image)),
    );
    const totals = classes.map((c) => sum(counts.map((image) => image[c]!)));
    const labeled = sum(totals);
    const rarity = totals.map((total) => 1 - total / labeled);
    // Relative to the largest exponent, which would overflow at a low temperature.
    const rarest = Math.max(...rarity.filter((_, c) => this.#images[c]!.length > 0));
    const weights = rarity.map((value, c) =>
      this.#images[c]!.length > 0 ? Math.exp((value - rarest) / temperature) : 0,
    );
    if (sum(weights) === 0) {
      throw new InvalidArgumentError(
        `Expected a class on at least ${100 * minimumShare} % of an image (rareClassSampling.minimumShare) but no image has one`,
      );
    }
    this.probabilities = weights.map((weight) => weight / sum(weights));
  }

  /** Draws the index of an image. */
  draw(random: Random): number {
    let left = random.next();
    // A remainder from rounding belongs to the last class that can be drawn.
    const last = this.probabilities.findLastIndex((probability) => probability > 0);
    const found = this.probabilities.findIndex((probability) => {
      left -= probability;
      return left < 0;
    });
    const images = this.#images[found === -1 ? last : found]!;
    return images[random.integer(images.length)]!;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
