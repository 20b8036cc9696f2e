import assert from 'node:assert/strict';
import {
  classProbabilities,
  correlationDistance,
  domainLoss,
  entropyLoss,
  ganLoss,
  l1Loss,
  maskedCrossEntropy,
  meanDistance,
  perceptualLoss,
  selfInformation,
  Tensor,
} from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

const BOUNDS = { float32: { loss: 1e-6, gradient: 1e-5 }, float64: { loss: 1e-13, gradient: 1e-13 } };

const numbers = (shape: number[], seed: number): PlainTensor => ({
  data: randomNormal(
    shape.reduce((a, b) => a * b),
    seed,
    2,
  ),
  shape,
});
const labels = (shape: number[], seed: number, ignoredShare: number): PlainTensor => ({
  data: randomBytes(
    shape.reduce((a, b) => a * b),
    seed,
    7,
    ignoredShare,
  ),
  shape,
});

describe('parity with PyTorch: losses', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);
  let rows: Measurement[];
  let dtype: 'float32' | 'float64';

  /** Compares value and gradient of a loss with the twin's, in the dtype of the test. */
  async function compare(
    item: string,
    name: string,
    options: Record<string, unknown>,
    given: PlainTensor,
    second: PlainTensor | undefined,
    loss: (x: Tensor, other: Tensor) => Promise<Tensor>,
  ): Promise<{ loss: number; gradient: Float32Array | Float64Array }> {
    const ofDtype = ({ data, shape }: PlainTensor): PlainTensor =>
      dtype === 'float64' && data instanceof Float32Array
        ? { data: Float64Array.from(data), shape }
        : { data, shape };
    const x = ofDtype(given);
    const other = second && ofDtype(second);
    using input = await Tensor.from(x.data, x.shape).requireGrad();
    using otherInput = other ? Tensor.from(other.data, other.shape) : undefined;
    using value = await loss(input, otherInput!);
    await value.backward();
    using gradient = (await input.gradient())!;
    assert.deepEqual([value.dtype, gradient.dtype], [dtype, dtype]);
    const data = (await gradient.data()) as Float32Array | Float64Array;
    const lossData = (await value.data()) as Float32Array | Float64Array;
    const file = folder.path('case');
    const tensors: Record<string, PlainTensor> = { x, loss: { data: lossData, shape: [] } };
    tensors.gradient = { data, shape: gradient.shape };
    if (other) tensors.other = other;
    writeTensors(file, tensors);
    const errors = await twin().ask<{ loss: number; gradient: number }>({
      do: 'loss',
      loss: name,
      options,
      case: file,
    });
    rows.push({ item: `${item}, loss`, error: errors.loss, bound: BOUNDS[dtype].loss });
    rows.push({ item: `${item}, gradient`, error: errors.gradient, bound: BOUNDS[dtype].gradient });
    return { loss: lossData[0]!, gradient: data };
  }

  const compareAll = async () => {
    const logits = numbers([2, 7, 9, 13], 1);
    for (const normalize of ['valid', 'all'] as const) {
      for (const [what, map] of [
        ['no label ignored', labels([2, 65, 97], 2, 0)],
        ['half ignored', labels([2, 65, 97], 3, 0.5)],
        ['same size', labels([2, 9, 13], 4, 0.3)],
      ] as const) {
        const options = { normalize, ignoreIndex: 255 };
        await compare(
          `cross-entropy ${normalize}, ${what}`,
          'maskedCrossEntropy',
          options,
          logits,
          map,
          (x, y) => maskedCrossEntropy(x, y, options),
        );
      }
      const options = { normalize, ignoreIndex: 3 };
      await compare(
        `cross-entropy ${normalize}, ignore index 3`,
        'maskedCrossEntropy',
        options,
        logits,
        labels([2, 20, 30], 5, 0),
        (x, y) => maskedCrossEntropy(x, y, options),
      );
      const none = { normalize, ignoreIndex: 255 };
      const empty = await compare(
        `cross-entropy ${normalize}, all ignored`,
        'maskedCrossEntropy',
        none,
        logits,
        labels([2, 20, 30], 6, 1),
        (x, y) => maskedCrossEntropy(x, y, none),
      );
      assert.equal(empty.loss, 0);
      assert.ok(empty.gradient.every((value) => value === 0));
    }
    const int64 = BigInt64Array.from(labels([2, 20, 30], 7, 0).data as Uint8Array, BigInt);
    const options = { normalize: 'valid', ignoreIndex: 255 } as const;
    await compare(
      'cross-entropy, int64 labels',
      'maskedCrossEntropy',
      options,
      logits,
      { data: int64, shape: [2, 20, 30] },
      (x, y) => maskedCrossEntropy(x, y, options),
    );
    const scores = numbers([2, 1, 4, 6], 8);
    for (const domain of ['source', 'target'] as const) {
      await compare(`domain, ${domain}`, 'domainLoss', { domain }, scores, undefined, (x) =>
        domainLoss(x, domain),
      );
    }
    for (const mode of ['least-squares', 'bce'] as const) {
      for (const real of [true, false]) {
        await compare(
          `GAN ${mode}, ${real ? 'real' : 'fake'}`,
          'ganLoss',
          { mode, real },
          scores,
          undefined,
          (x) => ganLoss(x, real, { mode }),
        );
      }
    }
    await compare('L1', 'l1Loss', {}, logits, numbers([2, 7, 9, 13], 9), l1Loss);
    for (const form of ['l1', 'normalized-mse'] as const) {
      const other = numbers([2, 7, 9, 13], 10);
      await compare(`perceptual ${form}`, 'perceptualLoss', { form }, logits, other, (x, y) =>
        perceptualLoss(x, y, form),
      );
    }
    // Features of the two domains differ in number and size.
    const targetFeatures = numbers([1, 7, 11, 10], 11);
    await compare('mean distance', 'meanDistance', {}, logits, targetFeatures, meanDistance);
    await compare(
      'correlation distance',
      'correlationDistance',
      {},
      logits,
      targetFeatures,
      correlationDistance,
    );
    const judged = numbers([2, 7, 20, 30], 12);
    await compare('self-information', 'selfInformation', {}, logits, judged, async (x, y) => {
      using probabilities = await classProbabilities(x, 20, 30);
      using information = await selfInformation(probabilities);
      return l1Loss(information, y);
    });
    await compare('entropy', 'entropyLoss', { size: [20, 30] }, logits, undefined, (x) =>
      entropyLoss(x, 20, 30),
    );
  };

  for (const each of ['float32', 'float64'] as const) {
    it(`gives the same values and gradients: ${each}`, async () => {
      dtype = each;
      rows = [];
      await compareAll();
      printAndCheck(`losses in ${dtype}: relative errors`, rows);
    });
  }
});
