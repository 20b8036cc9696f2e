import assert from 'node:assert/strict';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { type EvaluationOptions, evaluate, type Predictor } from '../../../lib/inference/evaluate.js';
import { Segmenter } from '../../../lib/models/segmenter.js';
import { ConfusionMatrix } from '../../../lib/native/metrics.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { writeFolderPair } from '../../helpers/published-layouts.js';
import { randomBytes } from '../../helpers/random.js';

const INVALID = { code: 'ERR_INVALID_ARGUMENT' };

describe('ConfusionMatrix', () => {
  // Class 0: 6 of 8 are right. Class 1: 1 of 4 is right, and 2 of class 0 are predicted as it. Class 2 is only
  // predicted. Class 3 is absent.
  async function matrix(): Promise<ConfusionMatrix> {
    const result = new ConfusionMatrix(4);
    await result.add(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0), Uint8Array.of(0, 0, 0, 0, 0, 0, 1, 1));
    await result.add(Uint8Array.of(1, 1, 1, 1, 255), Uint8Array.of(1, 0, 2, 2, 3));
    return result;
  }

  it('gives IoU and accuracy of each class, and their means over those that occur', async () => {
    const m = await matrix();
    assert.deepEqual(m.rows(), [
      [6, 2, 0, 0],
      [1, 1, 2, 0],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
    assert.deepEqual(m.truePixels(), [8, 4, 0, 0]);
    assert.deepEqual(m.predictedPixels(), [7, 3, 2, 0]);
    assert.deepEqual(m.iou(), [6 / 9, 1 / 6, 0, null]);
    assert.deepEqual(m.accuracy(), [6 / 8, 1 / 4, null, null]);
    assert.equal(m.meanIou(), (6 / 9 + 1 / 6) / 3);
    assert.equal(m.meanAccuracy(), 0.5);
    assert.equal(m.pixelAccuracy(), 7 / 12);
    assert.equal(m.frequencyWeightedIou(), ((6 / 9) * 8 + (1 / 6) * 4) / 12);
  });

  it('takes means over some classes, whose scores stay as they are', async () => {
    const m = await matrix();
    assert.equal(m.meanIou([1, 3]), 1 / 6);
    assert.equal(m.meanIou([0, 1]), (6 / 9 + 1 / 6) / 2);
    assert.equal(m.meanAccuracy([1, 2]), 1 / 4);
    assert.equal(m.frequencyWeightedIou([1, 2]), 1 / 6);
    assert.deepEqual([m.meanIou([3]), m.meanAccuracy([3]), m.frequencyWeightedIou([3])], [null, null, null]);
    assert.throws(() => m.meanIou([0, 4]), {
      ...INVALID,
      message: /an integer from 0 to 3 for classes\[1\]/,
    });
  });

  it('has no numbers where nothing was added', () => {
    const m = new ConfusionMatrix(2);
    assert.deepEqual(
      [m.meanIou(), m.meanAccuracy(), m.pixelAccuracy(), m.frequencyWeightedIou()],
      [null, null, null, null],
    );
  });
});

describe('evaluation', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  const size = { width: 16, height: 12 };
  let dataset: ImageDataset;
  before(async () => {
    const frame = { ...size, image: randomBytes(3 * 16 * 12, 1), ids: randomBytes(16 * 12, 2, 3) };
    writeFolderPair(folder.path('set'), [frame]);
    const folders = { images: folder.path('set/images'), labels: folder.path('set/labels') };
    dataset = await ImageDataset.fromFolder({ ...folders, classCount: 3 });
  });

  it('asks for the views that its options name, and for nothing more', async () => {
    const asked: object[] = [];
    const predictor: Predictor = {
      async predict(images, { otherSizes, ...options }) {
        const sizes = otherSizes?.map(({ images: { length }, ...other }) => ({ ...other, length }));
        asked.push({ ...options, length: images.length, ...(sizes && { sizes }) });
        return { labels: new Uint8Array(16 * 12) };
      },
    };
    const ask = (options: Partial<EvaluationOptions>) =>
      evaluate(predictor, dataset, { classCount: 3, size: { width: 10, height: 7 }, ...options });
    const output = { count: 1, outputWidth: 16, outputHeight: 12, order: 'probabilities' };
    await ask({});
    await ask({ flip: true, scales: [0.5, 1.25], precision: 'bf16' });
    assert.deepEqual(asked, [
      { ...output, width: 10, height: 7, length: 210 },
      {
        ...output,
        ...{ width: 5, height: 4, length: 60, flip: true, precision: 'bf16' },
        sizes: [{ width: 13, height: 9, length: 351 }],
      },
    ]);
    await assert.rejects(ask({ scales: [] }), { ...INVALID, message: /at least one number for scales/ });
    await assert.rejects(ask({ scales: [1, 0] }), { ...INVALID, message: /for scales\[1\]/ });
    await assert.rejects(ask({ meanClasses: [3] }), { ...INVALID, message: /for classes\[0\]/ });
    assert.equal(asked.length, 2);
  });

  it('a segmenter refuses views of another shape than they say', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 3 });
    const images = new Uint8Array(3 * 16 * 12);
    const options = { count: 1, ...size };
    const both = await segmenter.predict(images, { ...options, otherSizes: [{ images, ...size }] });
    assert.deepEqual(both.labels, (await segmenter.predict(images, options)).labels);
    const other = (change: object) =>
      segmenter.predict(images, { ...options, otherSizes: [{ images, ...size, ...change }] });
    await assert.rejects(other({ width: 17 }), { ...INVALID, message: /612/ });
    await assert.rejects(other({ height: 0 }), { ...INVALID, message: /otherSizes\[0\]\.height/ });
    await assert.rejects(other({ images: new Float32Array(576) as never }), INVALID);
  });
});
