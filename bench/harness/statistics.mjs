/** Computes the `share` quantile, 0 … 1, interpolated linearly between ranks like numpy. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = share * (sorted.length - 1);
  const low = Math.floor(rank);
  const high = Math.ceil(rank);
  return sorted[low] + (sorted[high] - sorted[low]) * (rank - low);
}

export const median = (values) => quantile(values, 0.5);

// Distances of a result from the fp64 computation. Both are arrays of numbers of equal length.

/** Computes the norm of the difference over the norm of the truth. 0 if nothing differs, NaN if a result is NaN. */
export function relativeError(result, truth) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < truth.length; ++i) {
    difference += (result[i] - truth[i]) ** 2;
    norm += truth[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** Computes the largest relative error of a single number. */
export function largestRelativeError(result, truth) {
  return Math.max(...Array.from(truth, (value, i) => relativeError([result[i]], [value])));
}

export function largestDifference(result, truth) {
  return Math.max(...Array.from(truth, (value, i) => Math.abs(result[i] - value)));
}

/** Computes the share of values that differ, 0 … 1. */
export function shareDifferent(result, truth) {
  let different = 0;
  for (let i = 0; i < truth.length; ++i) if (result[i] !== truth[i]) ++different;
  return different / truth.length;
}
