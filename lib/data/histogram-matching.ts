import type { RgbImage } from './image-size.js';

const LEVELS = 256;

/**
 * `image` with each channel's histogram as that of `reference`, whose size may be another: a level goes to the level of the
 * reference that has the same rank, interpolated linearly between the levels that the reference has, and rounded.
 *
 * The rank of a level is the middle of its pixels' ranks. The upper end, which scikit-image's `match_histograms` takes, would
 * send a sky that is overexposed (a third of an image at 255) to the brightest pixels of the reference.
 */
export function matchHistograms(image: RgbImage, reference: RgbImage): RgbImage {
  const tables = [0, 1, 2].map((channel) => matching(ranks(image, channel), ranks(reference, channel)));
  const { width, height } = image;
  return { width, height, data: image.data.map((level, index) => tables[index % 3]![level]!) };
}

/** The share of pixels below each level and half of those at it; NaN for a level that the channel does not have. */
function ranks({ data, width, height }: RgbImage, channel: number): Float64Array {
  const counts = new Uint32Array(LEVELS);
  for (let index = channel; index < data.length; index += 3) counts[data[index]!]!++;
  let below = 0;
  return Float64Array.from(counts, (count) => {
    below += count;
    return count > 0 ? (below - count / 2) / (width * height) : Number.NaN;
  });
}

/** For each level that the one has, the level of the other with the same rank; its least or largest beyond these. */
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
