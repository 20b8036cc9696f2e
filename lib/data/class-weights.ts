import type { ClassCounts } from './rare-class-sampling.js';

/** Share of each class of all labeled pixels. All are 0 if no pixel has a label. */
export function classShares({ counts }: Pick<ClassCounts, 'counts'>): number[] {
  const sums = counts[0]?.map((_, c) => counts.reduce((sum, image) => sum + image[c]!, 0)) ?? [];
  const all = sums.reduce((sum, count) => sum + count, 0);
  return sums.map((count) => (all > 0 ? count / all : 0));
}

/**
 * Computes weights that balance classes by their median frequency (Eigen & Fergus, ICCV 2015): w_c = (median(f) / f_c)^p,
 * where f_c is the share of class c of all pixels of the images that have it. A class without pixels has weight 1.
 *
 * @param power p: 1 in that paper; between 0 and 1, large classes lose less
 */
export function medianFrequencyWeights({ counts, pixels }: ClassCounts, power = 1): number[] {
  const classes = counts[0]?.map((_, index) => index) ?? [];
  const frequencies = classes.map((c) => {
    const own = counts.reduce((sum, image) => sum + image[c]!, 0);
    const all = counts.reduce((sum, image, index) => sum + (image[c]! > 0 ? pixels[index]! : 0), 0);
    return all > 0 ? own / all : 0;
  });
  const middle = median(frequencies.filter((frequency) => frequency > 0));
  return frequencies.map((frequency) => (frequency > 0 ? (middle / frequency) ** power : 1));
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const half = sorted.length / 2;
  return (sorted[Math.ceil(half) - 1]! + sorted[Math.floor(half)]!) / 2;
}
