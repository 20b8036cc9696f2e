// Measures maskedCrossEntropy() and backward() through the composable API.
import { maskedCrossEntropy, Tensor } from 'bidiseg';

const OPTIONS = { normalize: 'valid', ignoreIndex: 255 };

export function create() {
  let inputs;
  let logits;
  let labels;
  let loss;

  async function run() {
    loss = await maskedCrossEntropy(logits, labels, OPTIONS);
    await loss.backward();
  }

  /** Makes new logits for each run, because backward() adds to an existing gradient. */
  async function prepare() {
    loss?.dispose();
    logits?.dispose();
    logits = await Tensor.from(inputs.logits.data, inputs.logits.shape).requireGrad();
  }

  async function load(loaded) {
    inputs = loaded;
    labels?.dispose();
    labels = Tensor.from(inputs.labels.data, inputs.labels.shape);
  }

  /** Runs a small problem. The first large one then finds everything set up but no memory of its own. */
  async function warmUp() {
    const small = await Tensor.from(inputs.logits.data.slice(0, 19 * 81), [1, 19, 9, 9]).requireGrad();
    const smallLabels = Tensor.from(new Uint8Array(65 * 65), [1, 65, 65]);
    const smallLoss = await maskedCrossEntropy(small, smallLabels, OPTIONS);
    await smallLoss.backward();
    for (const tensor of [small, smallLabels, smallLoss]) tensor.dispose();
  }

  async function result() {
    const gradient = await logits.gradient();
    const values = {
      loss: { data: await loss.data(), shape: [1] },
      gradient: { data: await gradient.data(), shape: gradient.shape },
    };
    gradient.dispose();
    return values;
  }

  return { load, warmUp, prepare, run, result };
}
