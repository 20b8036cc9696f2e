import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildInfo, InvalidArgumentError, maskedCrossEntropy, Tensor } from 'bidiseg';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';
import type { Case } from './upsampled-softmax-child.js';

type Shape = [number, number, number, number];

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Logits of several kinds. */
const LOGITS: Record<string, (n: number, seed: number, shape: Shape) => Float32Array> = {
  normal: (n, seed) => randomNormal(n, seed, 3),
  huge: (n, seed) => randomNormal(n, seed, 1e4),
  ties: (n, seed) => randomNormal(n, seed, 1).map(Math.round),
  constant: (n) => new Float32Array(n).fill(7),
  // One class far above all others, another one at each point.
  certain: (n, seed, [, classes, h, w]) => {
    const plane = h * w;
    const winners = randomBytes(n / classes, seed, classes, 0);
    return randomNormal(n, seed, 1).map((value, i) => {
      const point = Math.floor(i / (classes * plane)) * plane + (i % plane);
      return winners[point] === Math.floor(i / plane) % classes ? value + 200 : value;
    });
  },
};

describe('parity with PyTorch in fp64: softmax of upsampled logits', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);

  const cases: Case[] = [];
  const inputs: Record<string, PlainTensor> = {};

  function add(
    name: string,
    what: Case['do'],
    shape: Shape,
    size: [number, number],
    options: Case['options'] & {
      logits?: keyof typeof LOGITS;
      dtype?: string;
      memoryFormat?: Case['memoryFormat'];
      ignored?: number;
      int64?: boolean;
      pixelWeights?: boolean;
    } = {},
  ): void {
    const {
      logits = 'normal',
      dtype = 'float32',
      memoryFormat = 'contiguous',
      ignored = 0.3,
      int64,
      pixelWeights,
      ...rest
    } = options;
    const seed = cases.length + 1;
    const [count, classes] = shape;
    const pixels = [count, ...size];
    cases.push({ name, do: what, size, dtype, memoryFormat, options: rest });
    inputs[`${name}/logits`] = { data: LOGITS[logits]!(product(shape), seed, shape), shape };
    if (what === 'labels') {
      const ignore = rest.ignoreIndex ?? 255;
      const drop = randomBytes(product(pixels), seed + 500, 2, ignored);
      const labels = randomBytes(product(pixels), seed + 1000, classes, 0);
      const data = int64
        ? BigInt64Array.from(labels, (label, i) => BigInt(drop[i] === 255 ? ignore : label))
        : labels.map((label, i) => (drop[i] === 255 ? ignore : label));
      inputs[`${name}/labels`] = { data, shape: pixels };
    }
    if (pixelWeights) {
      inputs[`${name}/pixelWeights`] = {
        data: randomNormal(product(pixels), seed + 2000, 1).map(Math.abs),
        shape: pixels,
      };
    }
  }

  // Cells of 7 to 9 pixels, as at full size, with a rest that fills no vector.
  const grid: Shape = [2, 19, 13, 17];
  const full: [number, number] = [97, 131];
  add('labels', 'labels', grid, full);
  add('all pixels', 'labels', grid, full, { normalize: 'all' });
  add('nothing ignored', 'labels', grid, full, { ignored: 0 });
  add('most ignored', 'labels', grid, full, { ignored: 0.97 });
  add('all ignored', 'labels', grid, full, { ignored: 1 });
  add('corners not aligned', 'labels', grid, full, { alignCorners: false });
  add('factor 8 exactly', 'labels', [1, 19, 9, 17], [72, 136], { alignCorners: false });
  add('no upsampling', 'labels', [2, 7, 21, 37], [21, 37]);
  add('rows only', 'labels', [1, 7, 9, 37], [65, 37]);
  add('columns only', 'labels', [1, 7, 21, 9], [21, 65]);
  add('hardly any upsampling', 'labels', [1, 5, 40, 50], [41, 51]);
  add('factor 1.5', 'labels', [1, 5, 20, 30], [31, 47], { alignCorners: false });
  add('factor 40', 'labels', [1, 5, 3, 4], [81, 121]);
  add('one pixel', 'labels', [1, 3, 1, 1], [1, 1], { ignored: 0 });
  add('one grid point', 'labels', [2, 3, 1, 1], [5, 7]);
  add('one row', 'labels', [1, 3, 1, 9], [1, 70]);
  add('one column', 'labels', [1, 3, 9, 1], [70, 1]);
  add('2 classes', 'labels', [1, 2, 5, 7], [33, 49]);
  add('40 classes', 'labels', [1, 40, 5, 7], [33, 49]);
  add('256 classes', 'labels', [1, 256, 5, 7], [33, 49], { int64: true, ignoreIndex: -1 });
  add('int64 labels', 'labels', grid, full, { int64: true, ignoreIndex: -100 });
  add('ignore index 3', 'labels', grid, full, { ignoreIndex: 3 });
  add('class weights', 'labels', [1, 5, 9, 9], [65, 65], { classWeights: [1, 0, 0.25, 3, 2] });
  add('pixel weights', 'labels', [1, 5, 9, 9], [65, 65], { pixelWeights: true });
  add('all weights, all pixels', 'labels', [2, 5, 9, 9], [65, 65], {
    classWeights: [1, 0, 0.25, 3, 2],
    pixelWeights: true,
    normalize: 'all',
  });
  add('logits ±1e4', 'labels', grid, full, { logits: 'huge' });
  add('equal logits', 'labels', grid, full, { logits: 'constant' });
  add('ties', 'labels', grid, full, { logits: 'ties' });
  add('certain', 'labels', grid, full, { logits: 'certain' });
  add('channels last', 'labels', grid, full, { memoryFormat: 'channels-last' });
  add('bfloat16, channels last', 'labels', grid, full, { memoryFormat: 'channels-last', dtype: 'bfloat16' });
  add('float64', 'labels', grid, full, { dtype: 'float64' });
  add('float64 ±1e4', 'labels', grid, full, { dtype: 'float64', logits: 'huge' });
  add('float16', 'labels', grid, full, { dtype: 'float16' });
  add('bfloat16', 'labels', grid, full, { dtype: 'bfloat16' });
  add('on-line', 'online', grid, full, { threshold: 0.6 });
  add('on-line, per class', 'online', [1, 3, 9, 9], [65, 65], {
    threshold: [0.5, 0.7, 0.9],
    inclusive: true,
    classWeights: [1, 2, 3],
    normalize: 'all',
  });
  add('on-line, nothing kept', 'online', grid, full, { threshold: 1 });
  add('on-line, certain', 'online', grid, full, { threshold: 0.9, logits: 'certain' });
  add('on-line, ties', 'online', [1, 4, 21, 37], [21, 37], { threshold: 0, logits: 'ties' });
  add('on-line, float64', 'online', grid, full, { threshold: 0.6, dtype: 'float64' });
  for (const order of ['logits', 'probabilities'] as const) {
    add(`pseudo-labels, ${order}`, 'pseudo', grid, full, { threshold: 0.5, order });
    add(`pseudo-labels, ${order}, ±1e4`, 'pseudo', grid, full, { threshold: 0.5, order, logits: 'huge' });
    add(`pseudo-labels, ${order}, ties`, 'pseudo', [1, 4, 21, 37], [21, 37], {
      threshold: 0,
      order,
      logits: 'ties',
    });
    add(`pseudo-labels, ${order}, smaller`, 'pseudo', [1, 6, 21, 37], [10, 11], { threshold: 0.3, order });
  }
  for (const [name, options] of [
    ['probabilities', {}],
    ['probabilities ±1e4', { logits: 'huge' }],
    ['probabilities, certain', { logits: 'certain' }],
    ['probabilities, float64', { dtype: 'float64' }],
  ] as const) {
    add(name, 'probabilities', grid, full, options);
  }
  add('probabilities, no upsampling', 'probabilities', [2, 7, 21, 37], [21, 37]);

  // float16 and bfloat16 gradients are rounded to 11 and 8 bits once computed.
  const GRADIENT_BOUND: Record<string, number> = { float64: 1e-12, float16: 5e-4, bfloat16: 4e-3 };

  function check(title: string, chosen: Case[], errors: Record<string, number>[]): void {
    const rows: Measurement[] = [];
    for (const [i, { name, dtype, do: what }] of chosen.entries()) {
      const double = dtype === 'float64';
      // A float cannot hold an upsampled logit more exactly than this, and e^z turns it into a relative error. Errors
      // of a loss with given labels average out. Errors may not average out for predictions, or for confident logits.
      const largest = (inputs[`${name}/logits`]!.data as Float32Array).reduce(
        (m, z) => Math.max(m, Math.abs(z)),
        0,
      );
      const rounding = what === 'labels' ? 0 : largest * 2 ** -24;
      const bounds: Record<string, number> = {
        loss: double ? 1e-13 : 1e-6 + rounding,
        gradient: GRADIENT_BOUND[dtype] ?? 1e-5 + rounding,
        probabilities: double ? 1e-12 : 1e-6 + rounding,
        confidence: double ? 1e-12 : 1e-6 + rounding,
        labels: 0,
      };
      for (const [item, error] of Object.entries(errors[i]!)) {
        rows.push({ item: `${name}: ${item}`, error, bound: bounds[item]! });
      }
    }
    printAndCheck(title, rows);
  }

  async function compareOn(device: string, environment: NodeJS.ProcessEnv, chosen: Case[]): Promise<void> {
    const [casesFile, inputsFile, resultsFile] = ['cases', 'inputs', 'results'].map((name) =>
      folder.path(name),
    ) as [string, string, string];
    writeFileSync(casesFile, JSON.stringify(chosen));
    writeTensors(inputsFile, inputs);
    const program = join(ROOT, 'dist/test/parity/upsampled-softmax-child.js');
    const child = spawnSync(process.execPath, [program, casesFile, inputsFile, resultsFile, device], {
      env: { ...process.env, ...environment },
      encoding: 'utf8',
    });
    assert.equal(child.status, 0, child.stderr.slice(0, 2000));
    const request = { do: 'upsampledSoftmax', inputs: inputsFile, results: resultsFile, cases: chosen };
    const errors = await twin().ask<Record<string, number>[]>(request);
    check('softmax of upsampled logits: errors', chosen, errors);
  }

  for (const instructions of ['avx512', 'avx2', 'default'] as const) {
    it(`is right with ${instructions} instructions, and the same with any number of threads`, async function () {
      const { cpuCapability } = await buildInfo();
      const widest = ['DEFAULT', 'AVX2', 'AVX512'].indexOf(cpuCapability);
      if (['default', 'avx2', 'avx512'].indexOf(instructions) > widest) {
        console.log(`    skipped: this machine has no ${instructions} (${cpuCapability})`);
        this.skip();
      }
      await compareOn('cpu', { ATEN_CPU_CAPABILITY: instructions }, cases);
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
    const chosen = cases.filter(({ dtype }) => dtype !== 'float64');
    await compareOn('cuda', {}, chosen);
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
