// Measures the pseudo-labels of a set of images: exact thresholds by a histogram, then labels.
import { pseudoLabels, Tensor, ThresholdHistogram } from 'bidiseg';

const PORTION = 0.5;
const CAP = 0.9;
const IGNORE = 255;

/** Runs the first pass on an image: its confidences go into the histogram. */
async function count(histogram, logits, size) {
  const { labels } = await pseudoLabels(logits, { ...size, order: 'probabilities', histogram });
  labels.dispose();
}

/** Runs the second pass on an image and returns its pseudo-labels. */
async function label(logits, size, thresholds) {
  const options = { order: 'probabilities', threshold: thresholds, inclusive: true, ignoreIndex: IGNORE };
  const { labels } = await pseudoLabels(logits, { ...size, ...options });
  const data = await labels.data();
  labels.dispose();
  return data;
}

export function create({ images, labels: [height, width] }) {
  const size = { height, width };
  let set;
  let classes;
  let thresholds;
  let labels;

  async function load({ logits: { data, shape } }) {
    const [distinct, ...image] = shape;
    classes = image[0];
    const length = data.length / distinct;
    const tensor = (_, i) => Tensor.from(data.subarray(i * length, (i + 1) * length), [1, ...image]);
    set = Array.from({ length: distinct }, tensor);
  }

  async function warmUp() {
    const histogram = new ThresholdHistogram(classes);
    await count(histogram, set[0], size);
    await label(set[0], size, new Array(classes).fill(CAP));
    histogram.dispose();
  }

  async function prepare() {}

  async function run() {
    const histogram = new ThresholdHistogram(classes);
    const options = { portion: PORTION, cap: CAP };
    do {
      for (let i = 0; i < images; ++i) await count(histogram, set[i % set.length], size);
    } while (await histogram.refine(options));
    ({ thresholds } = await histogram.thresholds(options));
    histogram.dispose();
    labels = [];
    for (let i = 0; i < images; ++i) {
      // The image is not written to a file. The labels of the distinct logits are kept for the comparison.
      labels[i % set.length] = await label(set[i % set.length], size, thresholds);
    }
  }

  async function result() {
    return {
      thresholds: { data: Float64Array.from(thresholds), shape: [classes] },
      labels: { data: new Uint8Array(Buffer.concat(labels)), shape: [labels.length, height, width] },
    };
  }

  return { load, warmUp, prepare, run, result };
}
