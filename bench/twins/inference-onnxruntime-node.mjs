// Runs the model that bidiseg exports with onnxruntime-node: from bytes of images to class indices of their size. The
// package is not a dependency (115 MB): npm install --no-save --ignore-scripts onnxruntime-node
import { SEGMENTER_MEAN_BGR } from 'bidiseg';

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

  /** Converts RGB bytes [N, H, W, 3] to BGR [N, 3, H, W] minus the mean. */
  function networkInput() {
    const input = new Float32Array(count * 3 * pixels);
    for (let n = 0; n < count; ++n) {
      for (let c = 0; c < 3; ++c) {
        const mean = SEGMENTER_MEAN_BGR[c];
        const plane = (n * 3 + c) * pixels;
        const first = n * pixels * 3 + 2 - c;
        for (let i = 0; i < pixels; ++i) input[plane + i] = images[first + 3 * i] - mean;
      }
    }
    return new ort.Tensor('float32', input, [count, 3, height, width]);
  }

  function argmax(logits, classes) {
    labels = new Uint8Array(count * pixels);
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
  }

  async function run() {
    const { logits } = await session.run({ image: networkInput() });
    argmax(logits.data, logits.dims[1]);
  }

  async function result() {
    return { labels: { data: labels, shape: [count, height, width] } };
  }

  return { load, warmUp, prepare, run, result };
}
