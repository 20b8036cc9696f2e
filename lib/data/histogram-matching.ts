import type { RgbImage } from './image-size.js';

const LEVELS = 256;

/**
 * Changes each channel of `image` so that its histogram matches that of `reference`. Their sizes may differ.
 *
 * A level becomes the level of the reference with the same rank, interpolated linearly between the levels that the
 * reference has, and rounded. The rank of a level is the middle of its pixels' ranks. scikit-image's `match_histograms`
 * takes the upper end. That would send an overexposed sky (a third of an image at 255) to the brightest pixels of the
 * reference. See docs/design/data.md#histogram-matching.
 */
export function matchHistograms(image: RgbImage, reference: RgbImage): RgbImage {
  const tables = [0, 1, 2].map((channel) => matching(ranks(image, channel), ranks(reference, channel)));
  const { width, height } = image;
  return { width, height, data: image.data.map((level, index) => tables[index % 3]![level]!) };
}

/**
 * Computes the rank of each level: the share of pixels below it plus half of those at it. A level without pixels has
 * NaN.
 */
function ranks({ data, width, height }: RgbImage, channel: number): Float64Array {
  const counts = new Uint32Array(LEVELS);
  for (let index = channel; index < data.length; index += 3) counts[data[index]!]!++;
  let below = 0;
  return Float64Array.from(counts, (count) => {
    below += count;
    return count > 0 ? (below - count / 2) / (width * height) : Number.NaN;
  });
}

/**
 * Maps each level of one channel to the level of another with the same rank. Ranks beyond the other's range map to its
 * smallest or largest level.
 */
function matching(from: Float64Array, to: Float64Array): Uint8Array {
  const present = [...to.keys()].filter((level) => to[level]! >= 0);
  return Uint8Array.from(from, (rank) => {
    const place = present.findIndex((level) => to[level]! >= rank);
    if (place === 0) return present[0]!;
    const above = present.at(place)!;
    if (place === -1) return above;
    const below = present[place - 1]!;
    const part = (rank - to[below]!) / (to[above]! - to[below]!);
    return Math.round(below + part * (above - below));
  });
}
