import { InvalidArgumentError } from '../support/errors.js';
import type { Random } from './random.js';

/** How many pixels of each class the images of a data set have, in its order. */
export interface ClassCounts {
  /** [images][classes] */
  readonly counts: readonly (readonly number[])[];
  /** Pixels of each image, those of no class included. */
  readonly pixels: readonly number[];
}

/**
 * Rare class sampling (Hoyer, Dai, Van Gool, DAFormer, CVPR 2022, Eq. 3 to 5): images are drawn by class, and classes that
 * few pixels have are drawn more often. With f_c the share of the labeled pixels that class c has,
 *
 *     P(c) = exp((1 − f_c) / T) / Σ exp((1 − f_c′) / T)
 *
 * and of the images with enough of the class that was drawn each is as likely.
 */
export class RareClassSampling {
  /** P(c); 0 for a class of which no image has enough. */
  readonly probabilities: readonly number[];
  readonly #images: readonly (readonly number[])[];

  /**
   * @param options.temperature T, > 0; the lower, the more of the rarest class
   * @param options.minimumShare the share of an image's pixels, 0–1, that a class must have to be drawn for; more than none
   * @throws InvalidArgumentError when no image has so much of any class
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

  /** The index of an image. */
  draw(random: Random): number {
    let left = random.next();
    // What rounding leaves over belongs to the last class that can be drawn.
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
