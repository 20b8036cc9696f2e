// Predicts with onnxruntime-node, in the form of a Segmenter. The model is what exportOnnx() wrote, upsampling included.
// The package is not a dependency (115 MB): npm install --no-save --ignore-scripts onnxruntime-node
import os from 'node:os';
import { argmax, networkInput } from '../harness/onnx-images.mjs';

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
