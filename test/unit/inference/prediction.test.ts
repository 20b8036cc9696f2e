import assert from 'node:assert/strict';
import {
  buildInfo,
  classProbabilities,
  SegmentationStep,
  Segmenter,
  type SegmenterOptions,
  segmenterInput,
  Tensor,
} from 'bidiseg';
import { randomBatch, SEGMENTATION } from '../../helpers/batches.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { randomBytes } from '../../helpers/random.js';
import { printAndCheck } from '../../helpers/table.js';
import { changeWeights, randomizeWeights } from '../../helpers/tensor-file.js';

const NETWORKS: Record<string, SegmenterOptions> = {
  'DeepLab-v2, bottlenecks': { backbone: 'resnet50', width: 1 / 8, classCount: 5 },
  'DeepLab-v2, 2 branches': { backbone: 'resnet18', width: 1 / 4, branches: 2, classCount: 5 },
  'DeepLab-v2 on VGG-16': { backbone: 'vgg16', width: 1 / 8, classCount: 5 },
  'FCN-8s': { network: 'fcn-8s', width: 1 / 16, classCount: 5 },
};
const SIZE = { width: 97, height: 65 };

/** Computes the largest difference, relative to the largest value of `truth`. */
function error(result: ArrayLike<number>, truth: ArrayLike<number>): number {
  assert.equal(result.length, truth.length);
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < truth.length; i++) {
    difference = Math.max(difference, Math.abs(result[i]! - truth[i]!));
    largest = Math.max(largest, Math.abs(truth[i]!));
  }
  return difference / largest;
}

function rootMeanSquare(result: Float32Array, truth: Float32Array): number {
  return Math.sqrt(result.reduce((sum, value, i) => sum + (value - truth[i]!) ** 2, 0) / result.length);
}

describe('a segmenter in evaluation', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  async function create(options: SegmenterOptions): Promise<Segmenter> {
    const segmenter = await Segmenter.create({ ...options, initialization: 'kaiming' });
    await randomizeWeights(segmenter, folder.path('weights'));
    await segmenter.eval();
    return segmenter;
  }

  async function logits(segmenter: Segmenter, images: Uint8Array): Promise<Float32Array | Float64Array> {
    using bytes = Tensor.from(images, [1, SIZE.height, SIZE.width, 3]);
    using input = await segmenterInput(bytes, { dtype: segmenter.dtype });
    using output = await segmenter.forward(input);
    return (await output.data()) as Float32Array;
  }

  it('gives the same with BatchNorm as part of its convolutions', async () => {
    const images = randomBytes(SIZE.height * SIZE.width * 3, 3);
    const rows = [];
    for (const [name, options] of Object.entries(NETWORKS)) {
      using segmenter = await create(options);
      using precise = await Segmenter.create({ ...options, dtype: 'float64' });
      await precise.copyFrom(segmenter);
      await precise.eval();
      using bytes = Tensor.from(images, [1, SIZE.height, SIZE.width, 3]);
      using input = await segmenterInput(bytes, { dtype: 'float64' });
      using logits = await precise.forward(input);
      const [, classes, height, width] = logits.shape as [number, number, number, number];
      const values = (await logits.data()) as Float64Array;
      // At the network's own size nothing is upsampled.
      const truth = Float64Array.from({ length: height * width }, (_, i) => {
        const own = Array.from({ length: classes }, (_, c) => values[c * height * width + i]!);
        const largest = Math.max(...own);
        return 1 / own.reduce((sum, value) => sum + Math.exp(value - largest), 0);
      });
      const job = { count: 1, ...SIZE, outputWidth: width, outputHeight: height, confidence: true };
      for (const [dtype, one, bound] of [
        ['float64', precise, 1e-5],
        ['float32', segmenter, 1e-3],
      ] as const) {
        const { confidence } = await one.predict(images, job);
        rows.push({ item: `${name}, ${dtype}`, error: error(confidence!, truth), bound });
      }
    }
    printAndCheck('probabilities against those of logits in float64 with BatchNorm apart', rows);
  });

  it('sees every change of its weights', async () => {
    const images = randomBytes(SIZE.height * SIZE.width * 3, 3);
    const job = { count: 1, ...SIZE, confidence: true };
    for (const [name, options] of Object.entries(NETWORKS)) {
      for (const optimizer of ['sgd', 'adam'] as const) {
        using segmenter = await create(options);
        using step = await SegmentationStep.create(segmenter, null, { ...SEGMENTATION, optimizer });
        let last: Float32Array | undefined;
        for (let i = 0; i < 3; i++) {
          await segmenter.train();
          const source = randomBatch({ count: 2, height: 33, width: 33 }, i, 5);
          await step.run({ source, learningRate: 1e-5 }); // larger steps saturate every confidence at 1
          await segmenter.eval();
          const { confidence } = await segmenter.predict(images, job);
          using fresh = await Segmenter.create(options);
          await fresh.copyFrom(segmenter);
          assert.deepEqual(
            confidence,
            (await fresh.predict(images, job)).confidence,
            `${name}, ${optimizer}`,
          );
          assert.notDeepEqual(confidence, last, 'the step changed nothing that can be seen');
          last = confidence;
        }
        using other = await create({ ...options, seed: 2 });
        await segmenter.copyFrom(other);
        const { confidence } = await segmenter.predict(images, job);
        assert.deepEqual(confidence, (await other.predict(images, job)).confidence, `${name}, copyFrom()`);
        assert.notDeepEqual(confidence, last);
      }
    }
  });

  it('sees running statistics that moved while no weight did', async () => {
    using segmenter = await create(NETWORKS['DeepLab-v2, bottlenecks']!);
    const images = randomBytes(SIZE.height * SIZE.width * 3, 3);
    const job = { count: 1, ...SIZE, confidence: true };
    await segmenter.freeze();
    const before = await segmenter.predict(images, job);
    await segmenter.train();
    await logits(segmenter, images);
    assert.notDeepEqual(await segmenter.predict(images, job), before);
  });

  it('predicts a batch as it predicts each of its images', async () => {
    const count = 3;
    const length = SIZE.height * SIZE.width;
    const images = randomBytes(count * length * 3, 5);
    const rows = [];
    for (const [item, options] of Object.entries(NETWORKS)) {
      using segmenter = await create(options);
      const whole = await segmenter.predict(images, { count, ...SIZE, confidence: true });
      const singles = [];
      for (let i = 0; i < count; i++) {
        const image = images.slice(i * length * 3, (i + 1) * length * 3);
        singles.push((await segmenter.predict(image, { count: 1, ...SIZE, confidence: true })).confidence!);
      }
      // LibTorch may choose another order of summation for another batch size.
      rows.push({
        item,
        error: error(
          whole.confidence!,
          singles.flatMap((one) => [...one]),
        ),
        bound: 1e-4,
      });
    }
    printAndCheck('probabilities of images in a batch against those of each alone', rows);
  });

  it('is as good in bfloat16 as its 8 bits of mantissa are', async function () {
    if (!(await buildInfo()).precisions.cpu!.includes('bf16')) {
      console.log('    skipped: this processor has no instructions for bfloat16');
      this.skip();
    }
    const images = randomBytes(SIZE.height * SIZE.width * 3, 3);
    const rows = [];
    for (const [item, options] of Object.entries(NETWORKS)) {
      using segmenter = await create(options);
      const job = { count: 1, ...SIZE, confidence: true };
      const truth = await segmenter.predict(images, job);
      const half = await segmenter.predict(images, { ...job, precision: 'bf16' });
      assert.notDeepEqual(half, truth);
      rows.push({ item, error: rootMeanSquare(half.confidence!, truth.confidence!), bound: 5e-2 });
      assert.deepEqual(await segmenter.predict(images, job), truth, 'and in fp32 as before');
      await assert.rejects(segmenter.predict(images, { ...job, precision: 'tf32' }), {
        name: 'InvalidArgumentError',
        message: /that cpu has instructions for \(fp32, bf16\) but received tf32/,
      });
    }
    printAndCheck('probabilities in bf16 against those in fp32, root mean square', rows);
  });

  it("is as good with Winograd's minimal filtering", async () => {
    // Wide and large enough for Winograd's minimal filtering.
    const options: SegmenterOptions = { backbone: 'resnet18', classCount: 5 };
    using segmenter = await create(options);
    using precise = await Segmenter.create({ ...options, dtype: 'float64' });
    await precise.copyFrom(segmenter);
    const rows = [];
    for (const [count, height, width] of [
      [1, 257, 513],
      [2, 241, 399],
    ] as const) {
      const images = randomBytes(count * height * width * 3, 3);
      const job = { count, height, width, confidence: true };
      const [ours, truth] = [await segmenter.predict(images, job), await precise.predict(images, job)];
      const item = `[${[count, height, width]}]`;
      rows.push({ item, error: rootMeanSquare(ours.confidence!, truth.confidence!), bound: 1e-3 });
      const changed = ours.labels.filter((label, i) => label !== truth.labels[i]).length;
      rows.push({
        item: `${item}, share of other classes`,
        error: changed / ours.labels.length,
        bound: 1e-3,
      });
    }
    // Random weights make the probabilities of some pixels steep, so the largest error is not compared.
    printAndCheck('probabilities, root mean square, and classes against float64', rows);
  });

  it('is within 1e-5 of its forward pass, upsampled', async () => {
    const options: SegmenterOptions = { backbone: 'resnet18', classCount: 19 };
    const size = { height: 360, width: 640 };
    using segmenter = await create(options);
    const images = randomBytes(size.height * size.width * 3, 3);
    const forward = async (network: Segmenter): Promise<Tensor> => {
      using bytes = Tensor.from(images, [1, size.height, size.width, 3]);
      using input = await segmenterInput(bytes, { dtype: network.dtype });
      return network.forward(input);
    };
    // Logits as large as those of a trained segmenter. Larger ones would make each error larger.
    using large = await forward(segmenter);
    const largest = Math.max(...((await large.data()) as Float32Array).map(Math.abs));
    await changeWeights(segmenter, folder.path('weights'), (name, data) => {
      if (name.startsWith('layer5.')) for (let i = 0; i < data.length; i++) data[i]! *= 15 / largest;
    });
    using precise = await Segmenter.create({ ...options, dtype: 'float64' });
    await precise.copyFrom(segmenter);
    await precise.eval();
    const ours = await segmenter.predict(images, { count: 1, ...size, confidence: true });
    const rows = [];
    for (const [item, network, bound] of [
      ['forward pass in float32', segmenter, 1e-5],
      ['forward pass in float64', precise, 1e-5],
    ] as const) {
      using logits = await forward(network);
      using probabilities = await classProbabilities(logits, size.height, size.width);
      const values = (await probabilities.data()) as Float32Array | Float64Array;
      const pixels = size.height * size.width;
      let difference = 0;
      let others = 0;
      for (let i = 0; i < pixels; i++) {
        let best = 0;
        for (let c = 1; c < 19; c++) if (values[c * pixels + i]! > values[best * pixels + i]!) best = c;
        difference = Math.max(difference, Math.abs(values[best * pixels + i]! - ours.confidence![i]!));
        if (ours.labels[i] !== best) others++;
      }
      rows.push({ item: `${item}: probabilities`, error: difference, bound });
      // A class can only change where two are equally probable but for these errors.
      rows.push({ item: `${item}: share of other classes`, error: others / pixels, bound: 2e-5 });
    }
    printAndCheck('predictions against forward passes', rows);
  });

  it('predicts in float64 too', async () => {
    using segmenter = await create(NETWORKS['DeepLab-v2, 2 branches']!);
    using precise = await Segmenter.create({ ...NETWORKS['DeepLab-v2, 2 branches']!, dtype: 'float64' });
    await precise.copyFrom(segmenter);
    const images = randomBytes(SIZE.height * SIZE.width * 3, 3);
    for (const flip of [false, true]) {
      const job = { count: 1, ...SIZE, confidence: true, flip };
      const [ours, truth] = [await segmenter.predict(images, job), await precise.predict(images, job)];
      assert.ok(error(ours.confidence!, truth.confidence!) < 1e-4);
      assert.ok(truth.confidence instanceof Float32Array);
    }
  });
});
