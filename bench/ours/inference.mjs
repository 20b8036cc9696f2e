// Measures Segmenter.predict(): from bytes of images to class indices of their size.
import { exportOnnx, Segmenter } from 'bidiseg';

export async function create({
  segmenter: shape,
  images: [count, height, width],
  precision,
  device = 'cpu',
}) {
  const segmenter = await Segmenter.create({ ...shape, device });
  const job = { count, height, width, ...(precision && { precision }) };
  let images;
  let labels;

  async function load(inputs) {
    await segmenter.load(inputs.segmenter);
    // For the twins that run it, which compute on the CPU. By default, logits have the size of the images.
    if (device === 'cpu') await exportOnnx(segmenter, `${inputs.segmenter}.onnx`);
    images = inputs.images.data;
  }

  /** Does nothing, so that memory is measured at the first run. */
  async function warmUp() {}

  async function prepare() {}

  async function run() {
    ({ labels } = await segmenter.predict(images, job));
  }

  async function result() {
    return { labels: { data: labels, shape: [count, height, width] } };
  }

  async function dispose() {
    segmenter.dispose();
  }

  return { load, warmUp, prepare, run, result, dispose };
}
