import type { RgbImage } from './image-files.js';

const LEVELS = 256;

/**
 * `image` with each channel's histogram as that of `reference`, whose size may be another: a level goes to the level at which
 * the reference's cumulative histogram reaches the same share, interpolated linearly between the levels that the reference has
 * (as scikit-image's `match_histograms`), and rounded.
 */
export function matchHistograms(image: RgbImage, reference: RgbImage): RgbImage {
  const tables = [0, 1, 2].map((channel) =>
    matching(cumulative(image, channel), cumulative(reference, channel)),
  );
  const { width, height } = image;
  return { width, height, data: image.data.map((level, index) => tables[index % 3]![level]!) };
}

/** The share of pixels up to each level. */
function cumulative({ data, width, height }: RgbImage, channel: number): Float64Array {
  const counts = new Uint32Array(LEVELS);
  for (let index = channel; index < data.length; index += 3) counts[data[index]!]!++;
  let below = 0;
  return Float64Array.from(counts, (count) => {
    below += count;
    return below / (width * height);
  });
}

/** For each level of the one, the level of the other with the same cumulative share. */
function matching(from: Float64Array, to: Float64Array): Uint8Array {
  const present = [...to.keys()].filter((level) => to[level]! > (to[level - 1] ?? 0));
  return Uint8Array.from(from, (share) => {
    const place = present.findIndex((level) => to[level]! >= share);
    const above = present[place]!;
    if (place === 0) return above;
    const below = present[place - 1]!;
    const part = (share - to[below]!) / (to[above]! - to[below]!);
    return Math.round(below + part * (above - below));
  });
}
