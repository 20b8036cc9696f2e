// Measures maskedCrossEntropy() and backward() through the composable API.
import { maskedCrossEntropy, Tensor } from 'bidiseg';

const OPTIONS = { normalize: 'valid', ignoreIndex: 255 };

async function tensorOn(device, { data, shape }) {
  const onHost = Tensor.from(data, shape);
  const result = await onHost.to({ device });
  onHost.dispose();
  return result;
}

export function create({ device = 'cpu' }) {
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
    logits = await (await tensorOn(device, inputs.logits)).requireGrad();
  }

  async function dispose() {
    for (const tensor of [loss, logits, labels]) tensor?.dispose();
  }

  async function load(loaded) {
    inputs = loaded;
    labels?.dispose();
    labels = await tensorOn(device, inputs.labels);
  }

  /** Runs a small problem. The first large one then finds everything set up but no memory of its own. */
  async function warmUp() {
    const data = inputs.logits.data.slice(0, 19 * 81);
    const small = await (await tensorOn(device, { data, shape: [1, 19, 9, 9] })).requireGrad();
    const smallLabels = await tensorOn(device, { data: new Uint8Array(65 * 65), shape: [1, 65, 65] });
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

  return { load, warmUp, prepare, run, result, dispose };
}
