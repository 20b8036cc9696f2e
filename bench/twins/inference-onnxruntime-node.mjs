// Runs the model that bidiseg exports with onnxruntime-node: from bytes of images to class indices of their size. The
// package is not a dependency (115 MB): npm install --no-save --ignore-scripts onnxruntime-node
import { argmax, networkInput } from '../harness/onnx-images.mjs';

export async function create({ images: [count, height, width] }, threads) {
  const ort = await import('onnxruntime-node').catch(() => {
    throw new Error(
      'onnxruntime-node is not installed: npm install --no-save --ignore-scripts onnxruntime-node',
    );
  });
  const pixels = height * width;
  let images;
  let session;
  let labels;

  async function load(inputs) {
    images = inputs.images.data;
    const options = { executionProviders: ['cpu'], intraOpNumThreads: threads };
    session = await ort.InferenceSession.create(`${inputs.segmenter}.onnx`, options);
  }

  /** Does nothing, so that memory is measured at the first run. */
  async function warmUp() {}

  async function prepare() {}

  async function run() {
    const input = new ort.Tensor('float32', networkInput(images, count, pixels), [count, 3, height, width]);
    const { logits } = await session.run({ image: input });
    labels = argmax(logits.data, logits.dims[1], count, pixels);
  }

  async function result() {
    return { labels: { data: labels, shape: [count, height, width] } };
  }

  return { load, warmUp, prepare, run, result };
}
