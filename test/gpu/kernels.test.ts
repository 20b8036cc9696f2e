import assert from 'node:assert/strict';
import {
  classProbabilities,
  domainLoss,
  entropyLoss,
  ganLoss,
  l1Loss,
  maskedCrossEntropy,
  pseudoLabels,
  selfInformation,
  Tensor,
} from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { useTwin } from '../helpers/twin.js';
import { parityCases, product, type Shape, SoftmaxCases } from '../helpers/upsampled-softmax.js';
import { DEVICE, describeOnDevice, onDevice, relativeError } from './device.js';

/** Numbers of classes on both sides of every count that has compiled code, and beyond all of them. */
const CLASS_COUNTS = [
  2, 4, 5, 8, 9, 12, 13, 16, 17, 19, 20, 21, 24, 25, 32, 33, 40, 41, 64, 255, 256,
] as const;

function classCounts(): SoftmaxCases {
  const all = new SoftmaxCases();
  for (const count of CLASS_COUNTS) {
    const shape: Shape = [2, count, 5, 7];
    const size: [number, number] = [33, 49];
    const wide = count === 256;
    all.add(`C ${count}`, 'labels', shape, size, wide ? { int64: true, ignoreIndex: -1 } : {});
    // The index of online labels is a byte. Class 255 is then one more ignored label.
    const ignoreIndex = 255;
    const mean = Math.min(0.5, 2 / count);
    if (!wide) all.add(`C ${count}, on-line`, 'online', shape, size, { threshold: mean, ignoreIndex });
    all.add(`C ${count}, pseudo-labels`, 'pseudo', shape, size, { threshold: mean });
    all.add(`C ${count}, softmax`, 'probabilities', shape, size);
  }
  return all;
}

function shapes(): SoftmaxCases {
  const all = new SoftmaxCases();
  const add = (name: string, shape: Shape, size: [number, number]) => {
    for (const classes of [shape[1], 48]) {
      const here: Shape = [shape[0], classes, shape[2], shape[3]];
      const title = `${name}, C ${classes}`;
      all.add(title, 'labels', here, size);
      all.add(`${title}, corners not aligned`, 'labels', here, size, { alignCorners: false });
      all.add(`${title}, on-line`, 'online', here, size, { threshold: 0.2 });
      all.add(`${title}, pseudo-labels`, 'pseudo', here, size, { threshold: 0.2, order: 'probabilities' });
      all.add(`${title}, softmax`, 'probabilities', here, size);
    }
  };
  for (const width of [127, 128, 129, 255, 256, 257]) add(`width ${width}`, [1, 5, 3, 17], [9, width]);
  add('one to one', [1, 3, 1, 1], [1, 1]);
  add('one grid point', [2, 3, 1, 1], [5, 7]);
  add('one row', [1, 3, 1, 9], [1, 70]);
  add('one column', [1, 3, 9, 1], [70, 1]);
  add('one row of the grid', [1, 3, 1, 9], [13, 140]);
  add('one column of the grid', [1, 3, 9, 1], [70, 130]);
  add('same size', [2, 7, 11, 131], [11, 131]);
  add('hardly larger', [1, 5, 40, 50], [41, 51]);
  add('factor 40', [1, 5, 3, 4], [81, 121]);
  add('more than 128 columns between two points', [1, 5, 3, 4], [17, 1027]);
  add('two points, 300 columns', [1, 5, 2, 2], [7, 300]);
  add('batch 4', [4, 19, 6, 9], [41, 65]);
  return all;
}

function options(): SoftmaxCases {
  const all = new SoftmaxCases();
  const size: [number, number] = [49, 141];
  for (const classes of [5, 43]) {
    const shape: Shape = [2, classes, 7, 18];
    const weights = Array.from({ length: classes }, (_, c) => [1, 0, 0.25, 3, 2][c % 5]!);
    const threshold = Array.from({ length: classes }, (_, c) => 0.2 + 0.1 * (c % 5));
    const add = (name: string, what: 'labels' | 'online' | 'pseudo', given: Parameters<typeof all.add>[4]) =>
      all.add(`C ${classes}, ${what}, ${name}`, what, shape, size, given);
    for (const normalize of ['valid', 'all'] as const) {
      for (const alignCorners of [true, false]) {
        const name = `${normalize}, ${alignCorners ? '' : 'not '}aligned`;
        const plain = { normalize, alignCorners };
        add(`${name}, uint8`, 'labels', plain);
        add(`${name}, int64`, 'labels', { ...plain, int64: true, ignoreIndex: -100 });
        add(`${name}, class weights`, 'labels', { ...plain, classWeights: weights });
        add(`${name}, pixel weights`, 'labels', { ...plain, pixelWeights: true });
        add(`${name}, both`, 'labels', { ...plain, classWeights: weights, pixelWeights: true });
        add(`${name}, one threshold`, 'online', { ...plain, threshold: 0.4 });
        add(`${name}, inclusive`, 'online', { ...plain, threshold: 0.4, inclusive: true });
        add(`${name}, thresholds`, 'online', { ...plain, threshold });
        add(`${name}, thresholds, weights`, 'online', {
          ...{ ...plain, threshold, classWeights: weights, pixelWeights: true },
          inclusive: true,
        });
      }
    }
    for (const order of ['logits', 'probabilities'] as const) {
      for (const alignCorners of [true, false]) {
        const name = `${order}, ${alignCorners ? '' : 'not '}aligned`;
        add(`${name}, one threshold`, 'pseudo', { order, alignCorners, threshold: 0.4 });
        add(`${name}, thresholds, inclusive`, 'pseudo', { order, alignCorners, threshold, inclusive: true });
      }
    }
    add('all ignored', 'labels', { ignored: 1 });
    add('ignore index 3', 'labels', { ignoreIndex: 3 });
    add('±1e4', 'labels', { logits: 'huge' });
    add('certain', 'labels', { logits: 'certain' });
    add('ties', 'pseudo', { logits: 'constant', threshold: 0 });
    add('nothing kept', 'online', { threshold: 1 });
    add('certain', 'online', { threshold: 0.9, logits: 'certain' });
    add('float16', 'labels', { dtype: 'float16' });
    add('bfloat16, channels last', 'labels', { dtype: 'bfloat16', memoryFormat: 'channels-last' });
  }
  return all;
}

function realSizes(): SoftmaxCases {
  const all = new SoftmaxCases();
  all.add('GTA5', 'labels', [1, 19, 91, 161], [720, 1280]);
  all.add('Cityscapes, 4 images', 'labels', [4, 19, 65, 129], [512, 1024]);
  all.add('Cityscapes, on-line', 'online', [1, 19, 65, 129], [512, 1024], { threshold: 0.5 });
  all.add('Cityscapes, pseudo-labels', 'pseudo', [1, 19, 65, 129], [512, 1024], {
    ...{ threshold: 0.5, order: 'probabilities' },
  });
  all.add('Cityscapes, softmax', 'probabilities', [1, 19, 65, 129], [512, 1024]);
  return all;
}

/** Time of a process. A kernel that hangs is then a failed test. */
const PROCESS_MS = 45_000;

describeOnDevice('kernels against PyTorch in float64', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);

  // Each group has a process of its own, so that a failed kernel spoils no other group.
  it('the cases of the parity tests, and the same each time', async () => {
    const all = parityCases();
    const chosen = all.cases.filter(({ dtype }) => dtype !== 'float64');
    await all.compare(twin(), folder.path, { device: DEVICE, chosen, timeoutMs: PROCESS_MS });
  });

  for (const [title, make] of [
    ['every compiled number of classes', classCounts],
    ['shapes', shapes],
    ['options', options],
    ['real sizes', realSizes],
  ] as const) {
    it(title, () => make().compare(twin(), folder.path, { device: DEVICE, timeoutMs: PROCESS_MS }));
  }
});

const SHAPE: Shape = [2, 19, 13, 17];
const [HEIGHT, WIDTH] = [97, 131];
const LOGITS = randomNormal(product(SHAPE), 3, 2);
const LABELS = randomBytes(2 * HEIGHT * WIDTH, 4, 19, 0.3);

/** Gives a loss, and other numbers, of logits. */
type Computation = (logits: Tensor) => Promise<{ loss: Tensor; others?: Tensor[] }>;

/** Computes values and the gradient for the logits. */
async function valuesOf(
  compute: Computation,
  { data = LOGITS, shape = SHAPE, device = DEVICE }: ValuesOptions = {},
): Promise<{ loss: number; gradient: ArrayLike<number>; others: ArrayLike<number>[] }> {
  using host = Tensor.from(data, shape);
  using logits = await (await host.to({ device })).requireGrad();
  const { loss, others = [] } = await compute(logits);
  await loss.backward();
  using gradient = (await logits.gradient())!;
  const result = {
    loss: await loss.item(),
    gradient: (await gradient.data()) as Float32Array,
    others: await Promise.all(others.map(async (tensor) => (await tensor.data()) as Float32Array)),
  };
  for (const tensor of [loss, ...others]) tensor.dispose();
  return result;
}

interface ValuesOptions {
  data?: Float32Array | Float64Array;
  shape?: number[];
  device?: string;
}

const labeled =
  (labels: Uint8Array | BigInt64Array, size = [2, HEIGHT, WIDTH]): Computation =>
  async (logits) => {
    using host = Tensor.from(labels, size);
    using target = await host.to({ device: logits.device });
    return { loss: await maskedCrossEntropy(logits, target) };
  };

const online: Computation = async (logits) => {
  const options = { height: HEIGHT, width: WIDTH, threshold: 0.3, prediction: true };
  const { loss, labels, confidence } = await maskedCrossEntropy(logits, null, options);
  return { loss, others: [labels!, confidence!] };
};

const softmax: Computation = async (logits) => {
  const probabilities = await classProbabilities(logits, HEIGHT, WIDTH);
  return { loss: await ganLoss(probabilities, true), others: [probabilities] };
};

describeOnDevice('kernels', () => {
  it('ten runs give the same bits', async () => {
    const labels: Computation = async (logits) => {
      const { loss } = await labeled(LABELS)(logits);
      const found = await pseudoLabels(logits, {
        height: HEIGHT,
        width: WIDTH,
        threshold: 0.3,
        confidence: true,
      });
      return { loss, others: [found.labels, found.confidence!] };
    };
    const rows: Measurement[] = [];
    for (const [item, compute] of Object.entries({ 'labels, pseudo-labels': labels, online, softmax })) {
      for (const [classes, data] of [
        [19, LOGITS],
        [57, randomNormal(2 * 57 * 13 * 17, 5, 2)],
      ] as const) {
        const shape = [2, classes, 13, 17];
        const first = await valuesOf(compute, { data, shape });
        let different = 0;
        for (let run = 1; run < 10; run++) {
          const again = await valuesOf(compute, { data, shape });
          try {
            assert.deepEqual(again, first);
          } catch {
            different++;
          }
        }
        rows.push({ item: `${item}, C ${classes}: runs that differ`, error: different, bound: 0 });
      }
    }
    printAndCheck('ten runs', rows);
  });

  // The parity tests show that the same functions are right on the CPU in float64.
  it('losses on upsampled logits, and others, are those of the CPU in float64', async () => {
    const rows: Measurement[] = [];
    const double = Float64Array.from(LOGITS);
    for (const [item, compute] of Object.entries<Computation>({
      'cross-entropy': labeled(LABELS),
      entropy: async (logits) => ({ loss: await entropyLoss(logits, HEIGHT, WIDTH) }),
      'self-information': async (logits) => {
        using probabilities = await classProbabilities(logits, HEIGHT, WIDTH);
        const information = await selfInformation(probabilities);
        return { loss: await ganLoss(information, false), others: [information] };
      },
      'domain loss': async (logits) => ({ loss: await domainLoss(logits, 'target') }),
      'GAN loss, BCE': async (logits) => ({ loss: await ganLoss(logits, true, { mode: 'bce' }) }),
      'L1 loss': async (logits) => {
        using zeros = await Tensor.from(new Float64Array(double.length), SHAPE).to({
          device: logits.device,
          dtype: logits.dtype,
        });
        return { loss: await l1Loss(logits, zeros) };
      },
      'resized, softmax': async (logits) => {
        using resized = await logits.resize(41, 53);
        const probabilities = await resized.softmax();
        return { loss: await ganLoss(probabilities, true), others: [probabilities] };
      },
    })) {
      try {
        const found = await valuesOf(compute);
        const truth = await valuesOf(compute, { data: double, device: 'cpu' });
        rows.push({ item: `${item}: loss`, error: Math.abs(found.loss / truth.loss - 1), bound: 2e-6 });
        const error = relativeError(found.gradient, truth.gradient);
        rows.push({ item: `${item}: gradient`, error, bound: 1e-5 });
        for (const [i, values] of found.others.entries()) {
          rows.push({ item: `${item}: values`, error: relativeError(values, truth.others[i]!), bound: 1e-5 });
        }
      } catch (error) {
        console.log(`    ${item}: ${error}`);
        rows.push({ item: `${item} failed`, error: Number.POSITIVE_INFINITY, bound: 0 });
      }
    }
    printAndCheck('losses in float32 against the CPU in float64: relative errors', rows);
  });

  for (const [title, wrong, message] of [
    ['uint8', LABELS.with(1234, 77), /labels from 0 to 18 or the ignore index 255 but found 77/],
    [
      'int64',
      BigInt64Array.from(LABELS, (label, i) => (i === 4321 ? 2n ** 40n + 1n : BigInt(label))),
      /but found 1099511627777/,
    ],
    ['negative', BigInt64Array.from(LABELS, (label, i) => (i === 7 ? -5n : BigInt(label))), /but found -5/],
  ] as const) {
    it(`an invalid label (${title}) is an error that names it, and nothing is broken by it`, async () => {
      const before = await valuesOf(labeled(LABELS));
      for (const classes of [19, 57]) {
        const data = randomNormal(2 * classes * 13 * 17, 5, 2);
        const options = { data, shape: [2, classes, 13, 17] };
        const found = valuesOf(labeled(wrong), options);
        if (classes === 19) {
          await assert.rejects(found, { code: 'ERR_INVALID_ARGUMENT', message });
        } else {
          // 77 is no class here either, and the others are out of every range.
          await assert.rejects(found, { code: 'ERR_INVALID_ARGUMENT' });
        }
      }
      assert.deepEqual(await valuesOf(labeled(LABELS)), before);
    });
  }

  it('where all labels are ignored, loss and gradient are 0', async () => {
    for (const classes of [19, 57]) {
      const shape = [2, classes, 13, 17];
      const data = randomNormal(product(shape), 5, 2);
      const { loss, gradient } = await valuesOf(labeled(LABELS.map(() => 255)), { data, shape });
      assert.equal(loss, 0);
      assert.ok(
        Array.from(gradient).every((value) => value === 0),
        `C ${classes}: the gradient is not 0`,
      );
    }
  });

  it('a logit that is NaN or infinite makes the loss NaN', async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const classes of [19, 57]) {
        const shape = [2, classes, 13, 17];
        const data = randomNormal(product(shape), 5, 2).with(300, bad);
        const { loss } = await valuesOf(labeled(LABELS), { data, shape });
        assert.ok(Number.isNaN(loss), `C ${classes}, ${bad}: the loss is ${loss}`);
      }
    }
  });

  it('wrong sizes and numbers are refused as on the CPU', async () => {
    using logits = await onDevice(Tensor.from(LOGITS, SHAPE));
    using small = await onDevice(Tensor.from(LABELS.slice(0, 2 * 5 * 131), [2, 5, 131]));
    using labels = await onDevice(Tensor.from(LABELS, [2, HEIGHT, WIDTH]));
    const INVALID = { code: 'ERR_INVALID_ARGUMENT' };
    await assert.rejects(maskedCrossEntropy(logits, small), { ...INVALID, message: /H >= h and W >= w/ });
    await assert.rejects(maskedCrossEntropy(logits, labels, { classWeights: [1, 2] }), {
      ...INVALID,
      message: /Expected 19 class weights/,
    });
    await assert.rejects(
      maskedCrossEntropy(logits, null, { height: HEIGHT, width: WIDTH, threshold: [0.5, 0.5] }),
      { ...INVALID, message: /Expected 19 thresholds/ },
    );
  });
});
