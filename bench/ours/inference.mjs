// Segmenter.predict(): from bytes of images to class indices of their size.
import { exportOnnx, Segmenter } from 'bidiseg';

export async function create({ segmenter: shape, images: [count, height, width], precision }) {
  const segmenter = await Segmenter.create(shape);
  const job = { count, height, width, ...(precision && { precision }) };
  let images;
  let labels;

  async function load(inputs) {
    await segmenter.load(inputs.segmenter);
    // For the twins that run it: as large as the images, as it is by default.
    await exportOnnx(segmenter, `${inputs.segmenter}.onnx`);
    images = inputs.images.data;
  }

  /** Nothing: memory is that of the first run. */
  async function warmUp() {}

  async function prepare() {}

  async function run() {
    ({ labels } = await segmenter.predict(images, job));
  }

  async function result() {
    return { labels: { data: labels, shape: [count, height, width] } };
  }

  return { load, warmUp, prepare, run, result };
}
