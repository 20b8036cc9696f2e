// maskedCrossEntropy() and backward() through the composable surface.
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

  /** New logits each time: backward() adds to the gradient that is there. */
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

  /** A small problem, so that the first large one finds everything set up but no memory of its own. */
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
