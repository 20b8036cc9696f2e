// Predicts with onnxruntime-node, in the form of a Segmenter. The model is what exportOnnx() wrote, upsampling included.
// The package is not a dependency (115 MB): npm install --no-save --ignore-scripts onnxruntime-node
import os from 'node:os';
import { SEGMENTER_MEAN_BGR } from 'bidiseg';

export async function onnxNetwork(file) {
  const ort = await import('onnxruntime-node').catch(() => {
    throw new Error(
      'onnxruntime-node is not installed: npm install --no-save --ignore-scripts onnxruntime-node',
    );
  });
  const session = await ort.InferenceSession.create(file, {
    executionProviders: ['cpu'],
    intraOpNumThreads: os.availableParallelism(),
  });
  return {
    async predict(images, { count, width, height, outputWidth = width, outputHeight = height }) {
      if (outputWidth !== width || outputHeight !== height)
        throw new Error('Expected images of the size of the input');
      const input = networkInput(images, count, width * height);
      const { logits } = await session.run({
        image: new ort.Tensor('float32', input, [count, 3, height, width]),
      });
      return { labels: argmax(logits.data, logits.dims[1], count, width * height) };
    },
    dispose() {},
  };
}

/** Converts RGB bytes [N, H, W, 3] to BGR [N, 3, H, W] minus the mean. */
function networkInput(images, count, pixels) {
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

function argmax(logits, classes, count, pixels) {
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
