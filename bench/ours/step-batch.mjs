/** Converts images [N, H, W, 3] and labels [N, H, W], both { data, shape }, to a batch of a training step. */
export function stepBatch({ data, shape: [count, height, width] }, labels) {
  return { images: data, ...(labels && { labels: labels.data }), count, height, width };
}
