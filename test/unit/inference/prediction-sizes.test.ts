import assert from 'node:assert/strict';
import { SegmentationStep, Segmenter, type SegmenterPrediction } from 'bidiseg';
import { randomBatch, SEGMENTATION } from '../../helpers/batches.js';
import { runFixture } from '../../helpers/child.js';
import { randomBytes } from '../../helpers/random.js';

/** Batches [count, width, height] for which oneDNN wants different layouts, some with Winograd and some without. */
const SIZES = [
  [1, 320, 240],
  [4, 320, 240],
  [1, 160, 120],
  [8, 96, 64],
  [1, 480, 360],
  [2, 47, 33],
  [3, 128, 96],
] as const;

/** Half the width of ResNet-18 has layers of 64 to 256 channels, which use Winograd. */
const NETWORK = { backbone: 'resnet18', width: 1 / 2, classCount: 5, initialization: 'kaiming' } as const;

async function predict(
  segmenter: Segmenter,
  [count, width, height]: readonly [number, number, number],
): Promise<SegmenterPrediction> {
  const images = randomBytes(count * width * height * 3, width);
  return await segmenter.predict(images, { count, width, height, confidence: true });
}

describe('predictions of several sizes', () => {
  it('do not depend on the sizes before, bit for bit', async () => {
    const alone: SegmenterPrediction[] = [];
    for (const size of SIZES) {
      using fresh = await Segmenter.create({ ...NETWORK, seed: 3 });
      alone.push(await predict(fresh, size));
    }
    using mixed = await Segmenter.create({ ...NETWORK, seed: 3 });
    for (const order of [SIZES, SIZES.toReversed()]) {
      for (const size of order) {
        assert.deepEqual(await predict(mixed, size), alone[SIZES.indexOf(size)], `${size}`);
      }
    }
  });

  it('follow the weights at every size', async () => {
    using segmenter = await Segmenter.create({ ...NETWORK, seed: 3 });
    using untouched = await Segmenter.create({ ...NETWORK, seed: 3 });
    for (const size of SIZES) await predict(segmenter, size);
    for (const each of [segmenter, untouched]) {
      using step = await SegmentationStep.create(each, null, SEGMENTATION);
      const source = randomBatch({ count: 1, height: 64, width: 96 }, 1, 5);
      await step.run({ source, learningRate: 1e-2 });
    }
    for (const size of SIZES) {
      assert.deepEqual(await predict(segmenter, size), await predict(untouched, size), `${size}`);
    }
  });

  it('convert no weights when a size comes again', async () => {
    const { code, stdout, stderr } = await runFixture('prediction-sizes.mjs', [JSON.stringify(SIZES)], {
      env: { ONEDNN_VERBOSE: '1' },
    });
    assert.equal(code, 0, stderr);
    const [first, again] = stdout.split('again\n').map((part) => part.split('\n'));
    const those = (lines: string[] | undefined, kind: string) =>
      (lines ?? []).filter((line) => line.includes(`,exec,cpu,${kind},`));
    assert.ok(those(first, 'reorder').length > 20, 'oneDNN did not report that weights were packed');
    assert.ok(those(again, 'convolution').length > 100, 'oneDNN did not report its convolutions');
    assert.deepEqual(those(again, 'reorder'), []);
  });
});
