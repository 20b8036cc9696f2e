import { uploadBatch } from '../../dist/lib/training/steps/upload.js';

/** Converts images [N, H, W, 3] and labels [N, H, W], both { data, shape }, to a batch of a training step. */
export function stepBatch({ data, shape: [count, height, width] }, labels) {
  return { images: data, ...(labels && { labels: labels.data }), count, height, width };
}

/**
 * Hands out the same batches again and again. On CUDA it uploads the next ones while a step computes, as the trainers
 * do.
 */
export function batchesOn(network, batches) {
  if (network.options.device === 'cpu' || network.options.device === undefined) {
    return { next: () => batches, dispose() {} };
  }
  const upload = () =>
    Object.fromEntries(Object.entries(batches).map(([name, batch]) => [name, uploadBatch(network, batch)]));
  let current = {};
  let following = upload();
  const release = (uploaded) => {
    for (const batch of Object.values(uploaded)) batch.dispose();
  };
  return {
    next() {
      release(current);
      [current, following] = [following, upload()];
      return current;
    },
    dispose() {
      release(current);
      release(following);
    },
  };
}
