// What models of exportOnnx() take and give, for engines that run in Node.js.
import { SEGMENTER_MEAN_BGR } from 'bidiseg';

/** Converts RGB bytes [N, H, W, 3] to BGR [N, 3, H, W] minus the mean. */
export function networkInput(images, count, pixels) {
  const input = new Float32Array(count * 3 * pixels);
  for (let n = 0; n < count; ++n) {
    for (let c = 0; c < 3; ++c) {
      const mean = SEGMENTER_MEAN_BGR[c];
      const plane = (n * 3 + c) * pixels;
      const first = n * pixels * 3 + 2 - c;
      for (let i = 0; i < pixels; ++i) input[plane + i] = images[first + 3 * i] - mean;
    }
  }
  return input;
}

/** Returns the class of the largest logit of each pixel of [N, C, H, W]. */
export function argmax(logits, classes, count, pixels) {
  const labels = new Uint8Array(count * pixels);
  const best = new Float32Array(pixels);
  for (let n = 0; n < count; ++n) {
    best.fill(Number.NEGATIVE_INFINITY);
    for (let c = 0; c < classes; ++c) {
      const plane = (n * classes + c) * pixels;
      for (let i = 0; i < pixels; ++i) {
        if (logits[plane + i] > best[i]) {
          best[i] = logits[plane + i];
          labels[n * pixels + i] = c;
        }
      }
    }
  }
  return labels;
}
