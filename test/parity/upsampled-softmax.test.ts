import assert from 'node:assert/strict';
import { buildInfo, InvalidArgumentError, maskedCrossEntropy, Tensor } from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { useTwin } from '../helpers/twin.js';
import { parityCases, product, type Shape } from '../helpers/upsampled-softmax.js';

describe('parity with PyTorch in fp64: softmax of upsampled logits', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);
  const all = parityCases();

  for (const instructions of ['avx512', 'avx2', 'default'] as const) {
    it(`is right with ${instructions} instructions, and the same with any number of threads`, async function () {
      const { cpuCapability } = await buildInfo();
      const widest = ['DEFAULT', 'AVX2', 'AVX512'].indexOf(cpuCapability);
      if (['default', 'avx2', 'avx512'].indexOf(instructions) > widest) {
        console.log(`    skipped: this machine has no ${instructions} (${cpuCapability})`);
        this.skip();
      }
      await all.compare(twin(), folder.path, { environment: { ATEN_CPU_CAPABILITY: instructions } });
    });
  }

  it('is right on CUDA, and the same each time', async function () {
    const { cuda, cudaDevices } = await buildInfo();
    if (cudaDevices.length === 0) {
      console.log(
        `    skipped: no CUDA device, and ${cuda ? 'CUDA kernels' : 'no CUDA kernels'} in this build`,
      );
      this.skip();
    }
    const chosen = all.cases.filter(({ dtype }) => dtype !== 'float64');
    await all.compare(twin(), folder.path, { device: 'cuda', chosen });
  });
});

describe('masked cross-entropy', () => {
  const shape: Shape = [2, 5, 4, 6];
  const size = [2, 25, 41];
  const values = Float64Array.from(randomNormal(product(shape), 1, 2));
  const labels = randomBytes(product(size), 2, 5, 0.3);

  async function gradientOf(
    data: Float32Array | Float64Array,
    map = labels,
  ): Promise<{ loss: number; gradient: Float64Array }> {
    using logits = await Tensor.from(data, shape).requireGrad();
    using target = Tensor.from(map, size);
    using loss = await maskedCrossEntropy(logits, target);
    await loss.backward();
    using gradient = (await logits.gradient())!;
    return { loss: await loss.item(), gradient: Float64Array.from((await gradient.data()) as Float64Array) };
  }

  const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));

  it('has the gradient that finite differences in fp64 give', async () => {
    const { gradient } = await gradientOf(values);
    const step = 1e-5;
    for (let i = 0; i < values.length; i += 7) {
      const moved = (by: number) => gradientOf(values.map((value, j) => (j === i ? value + by : value)));
      const difference = ((await moved(step)).loss - (await moved(-step)).loss) / (2 * step);
      assert.ok(Math.abs(difference - gradient[i]!) < 1e-9, `${i}: ${difference} and ${gradient[i]}`);
    }
  });

  it('has gradients whose sum over classes is 0 at each grid point', async () => {
    const { gradient } = await gradientOf(Float32Array.from(values));
    const plane = shape[2] * shape[3];
    for (let n = 0; n < shape[0]; n++) {
      for (let i = 0; i < plane; i++) {
        let sum = 0;
        for (let c = 0; c < shape[1]; c++) sum += gradient[(n * shape[1] + c) * plane + i]!;
        assert.ok(Math.abs(sum) < 1e-8, `${sum}`);
      }
    }
  });

  it('does not change with a constant that is added to all classes', async () => {
    const plane = shape[2] * shape[3];
    const offset = randomNormal(plane, 3, 50);
    const a = await gradientOf(values);
    const b = await gradientOf(values.map((value, i) => value + offset[i % plane]!));
    assert.ok(Math.abs(a.loss - b.loss) < 1e-12);
    assert.ok(largest(a.gradient, b.gradient) < 1e-12);
  });

  it('is permuted when classes are', async () => {
    const plane = shape[2] * shape[3];
    const order = [3, 0, 4, 1, 2]; // class order[c] becomes class c
    const permuted = (data: Float64Array) =>
      data.map((_, i) => {
        const c = Math.floor(i / plane) % shape[1];
        return data[i + (order[c]! - c) * plane]!;
      });
    const a = await gradientOf(values);
    const b = await gradientOf(
      permuted(values),
      labels.map((label) => (label === 255 ? 255 : order.indexOf(label))),
    );
    assert.ok(Math.abs(a.loss - b.loss) < 1e-12);
    assert.ok(largest(permuted(a.gradient), b.gradient) < 1e-12);
  });

  it('reports a NaN, and an infinite logit', async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const { loss } = await gradientOf(
        Float32Array.from(values).map((value, i) => (i === 30 ? bad : value)),
      );
      assert.ok(Number.isNaN(loss), `${loss}`);
    }
  });

  it('refuses unsupported inputs, and says why', async () => {
    using logits = Tensor.from(Float32Array.from(values), shape);
    const refuses = async (target: Tensor | null, options: object, message: RegExp) => {
      const call = maskedCrossEntropy(logits, target as Tensor, options);
      await assert.rejects(call, (error: Error) => {
        assert.ok(error instanceof InvalidArgumentError, String(error));
        assert.match(error.message, message);
        return true;
      });
      target?.dispose();
    };
    const map = (value: number, dims = size) => Tensor.from(new Uint8Array(product(dims)).fill(value), dims);
    await refuses(map(9), {}, /labels from 0 to 4 or the ignore index 255 but found 9/);
    const far = new BigInt64Array(product(size)).fill(2n ** 40n + 1n);
    await refuses(Tensor.from(far, size), {}, /but found 1099511627777/);
    await refuses(map(0, [2, 3, 41]), {}, /H >= h and W >= w .*\[2, 5, 4, 6\] and \[2, 3, 41\]/);
    await refuses(
      map(0),
      { classWeights: [1, 2] },
      /Expected 5 class weights, one per class, but received 2/,
    );
    await refuses(map(0), { classWeights: [1, 2, 3, 4, -1] }, /classWeights\[4\]/);
    await refuses(map(0), { pixelWeights: logits }, /pixel weights of the shape of the labels/);
    await refuses(map(0), { alignCorners: 1 }, /a boolean for alignCorners/);
    await refuses(null, { height: 25, width: 41 }, /threshold/);
    await refuses(null, { height: 3, width: 41, threshold: 0.5 }, /height and width not below/);
    await refuses(null, { height: 25, width: 41, threshold: [0.5, 0.5] }, /Expected 5 thresholds/);
  });
});
