// Predicts with onnxruntime-node, in the form of a Segmenter. The model is what exportOnnx() wrote, upsampling included.
// The package is not a dependency (115 MB): npm install --no-save --ignore-scripts onnxruntime-node
import os from 'node:os';
import { argmax, networkInput } from '../harness/onnx-images.mjs';

/** Resizes label maps of one size to others, each pixel as its nearest one. It is the cheapest way to do it. */
function resized(labels, { width, height }, outputs) {
  if (outputs.every((output) => output.width === width && output.height === height)) return labels;
  const result = new Uint8Array(outputs.reduce((sum, output) => sum + output.width * output.height, 0));
  let at = 0;
  for (const [n, output] of outputs.entries()) {
    for (let y = 0; y < output.height; ++y) {
      const row = n * width * height + Math.floor((y * height) / output.height) * width;
      for (let x = 0; x < output.width; ++x) {
        result[at++] = labels[row + Math.floor((x * width) / output.width)];
      }
    }
  }
  return result;
}

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
    async predict(images, { count, width, height, outputWidth = width, outputHeight = height, outputSizes }) {
      const input = networkInput(images, count, width * height);
      const { logits } = await session.run({
        image: new ort.Tensor('float32', input, [count, 3, height, width]),
      });
      const labels = argmax(logits.data, logits.dims[1], count, width * height);
      const outputs = outputSizes ?? new Array(count).fill({ width: outputWidth, height: outputHeight });
      return { labels: resized(labels, { width, height }, outputs) };
    },
    dispose() {},
  };
}
