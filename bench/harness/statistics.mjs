/** The `share` quantile, 0 … 1, interpolated linearly between ranks as numpy does. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = share * (sorted.length - 1);
  const low = Math.floor(rank);
  const high = Math.ceil(rank);
  return sorted[low] + (sorted[high] - sorted[low]) * (rank - low);
}

export const median = (values) => quantile(values, 0.5);

// How far a result is from the fp64 computation's. Both are arrays of numbers of one length.

/** Norm of the difference over the norm of the truth; 0 where nothing differs, NaN where a result is NaN. */
export function relativeError(result, truth) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < truth.length; ++i) {
    difference += (result[i] - truth[i]) ** 2;
    norm += truth[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** The largest relative error of a single number. */
export function largestRelativeError(result, truth) {
  return Math.max(...Array.from(truth, (value, i) => relativeError([result[i]], [value])));
}

export function largestDifference(result, truth) {
  return Math.max(...Array.from(truth, (value, i) => Math.abs(result[i] - value)));
}

/** 0 … 1. */
export function shareDifferent(result, truth) {
  let different = 0;
  for (let i = 0; i < truth.length; ++i) if (result[i] !== truth[i]) ++different;
  return different / truth.length;
}
