import assert from 'node:assert/strict';
import { ImageDataset, labelFreeScores, renderScene, Segmenter, writeImage } from 'bidiseg';
import {
  divergence,
  drawImages,
  meanEntropy,
  softNeighborhoodDensity,
} from '../../../lib/inference/label-free-scores.js';
import { type RankedScores, rankByScores, rankCorrelation } from '../../../lib/inference/score-ranks.js';
import { temporaryFolder } from '../../helpers/folder.js';

const SIZE = { width: 48, height: 32 };
const NETWORK = {
  network: 'deeplab-v2',
  backbone: 'resnet18',
  width: 0.0625,
  classCount: 5,
  seed: 3,
} as const;

describe('scores without labels', () => {
  const folder = temporaryFolder();
  let dataset: ImageDataset;
  let segmenter: Segmenter;

  before(async () => {
    for (let index = 0; index < 5; index++) {
      const { image } = renderScene({ seed: 1, index, look: 'dusk', ...SIZE });
      await writeImage(folder.path(`${index}.png`), { data: image, ...SIZE });
    }
    dataset = await ImageDataset.fromFolder({ images: folder.path('') });
    segmenter = await Segmenter.create(NETWORK);
  });
  after(() => {
    segmenter.dispose();
    folder.remove();
  });

  it('are known for pixels that are certain, undecided or alike', async () => {
    assert.equal(await meanEntropy(Float32Array.of(1, 0, 0, 1), 2), 0);
    assert(Math.abs((await meanEntropy(new Float32Array(12).fill(0.25), 4)) - 1) < 1e-12);
    // Equal pixels: each is as near to all others, so the softmax is uniform over the others.
    const alike = Array.from({ length: 11 }, () => [0.7, 0.2, 0.1]);
    assert(Math.abs((await softNeighborhoodDensity(alike)) - Math.log(10)) < 1e-12);
    // Two clusters of three: the two others of the same cluster, but for exp(-20).
    const clusters = [...Array(3).fill([1, 0]), ...Array(3).fill([0, 1])] as number[][];
    assert(Math.abs((await softNeighborhoodDensity(clusters)) - Math.log(2)) < 1e-6);
    assert.equal(await softNeighborhoodDensity([[1, 0]]), 0);
  });

  it('are the same each time, and leave the segmenter as it is', async () => {
    await segmenter.train();
    const before = await segmenter.buffers();
    const sums = async () =>
      Promise.all([...before.values()].map(async (tensor) => [...(await tensor.data())].map(Number)));
    const values = await sums();
    const [one, other] = [
      await labelFreeScores(segmenter, dataset, { size: SIZE, count: 3 }),
      await labelFreeScores(segmenter, dataset, { size: SIZE, count: 3 }),
    ];
    assert.deepEqual(one, other);
    assert.deepEqual(await sums(), values);
    for (const tensor of before.values()) tensor.dispose();
    assert.equal(one.images, 3);
    assert(one.entropy > 0 && one.entropy < 1);
    assert(one.viewAgreement > 0 && one.viewAgreement <= 1);
    assert.equal(one.teacherAgreement, null);
    assert.equal(one.classShares.length, 5);
    assert(Math.abs(one.classShares.reduce((sum, share) => sum + share, 0) - 1) < 1e-12);
    const different = await labelFreeScores(segmenter, dataset, { size: SIZE, count: 3, seed: 2 });
    assert.notDeepEqual(different, one);
  });

  it('agree with a teacher that is the segmenter itself, and less with another one', async () => {
    const options = { size: SIZE, count: 2 };
    const own = await labelFreeScores(segmenter, dataset, { ...options, teacher: segmenter });
    assert.equal(own.teacherAgreement, 1);
    using stranger = await Segmenter.create({ ...NETWORK, seed: 4 });
    const { teacherAgreement } = await labelFreeScores(segmenter, dataset, { ...options, teacher: stranger });
    assert(teacherAgreement! < 1);
  });

  it('count classes in the mirrored and the smaller view by hand', async () => {
    const options = { outputWidth: SIZE.width, outputHeight: SIZE.height };
    const small = { width: 36, height: 24 };
    const pixels = SIZE.width * SIZE.height;
    const mirrored = (data: Uint8Array, bytes: number) =>
      data.map((_, index) => {
        const pixel = Math.floor(index / bytes);
        const row = Math.floor(pixel / SIZE.width);
        return data[(row * SIZE.width + SIZE.width - 1 - (pixel % SIZE.width)) * bytes + (index % bytes)]!;
      });
    const predicted = async (data: Uint8Array, size: typeof SIZE) =>
      (await segmenter.predict(data, { count: 1, ...size, ...options })).labels;
    const own = new Array<number>(5).fill(0);
    let agreeing = 0;
    for (const index of drawImages(5, 2, 1)) {
      const { data } = await dataset.readImage(index, SIZE);
      const labels = await predicted(data, SIZE);
      const views = [
        mirrored(await predicted(mirrored(data, 3), SIZE), 1),
        await predicted((await dataset.readImage(index, small)).data, small),
      ];
      for (const view of views) {
        for (const [place, label] of labels.entries()) {
          own[label]!++;
          if (label === view[place]) agreeing++;
        }
      }
    }
    const found = await labelFreeScores(segmenter, dataset, { size: SIZE, count: 2 });
    assert(Math.abs(found.viewAgreement - agreeing / (4 * pixels)) < 1e-12);
    assert.deepEqual(
      found.classShares,
      own.map((count) => count / (4 * pixels)),
    );
  });

  it('compare the shares of classes with those of the source', async () => {
    // 0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.5)
    assert(Math.abs(divergence([0.5, 0.5, 0], [0.25, 0.5, 0.25]) - 0.5 * Math.log(2)) < 1e-12);
    assert(Math.abs(divergence([0, 1], [1, 0]) - Math.log(1e6)) < 1e-12);
    const options = { size: SIZE, count: 2 };
    const { classShares, classDivergence, ...others } = await labelFreeScores(segmenter, dataset, options);
    assert.equal(classDivergence, null);
    const known = await labelFreeScores(segmenter, dataset, { ...options, sourceShares: classShares });
    assert.deepEqual(known, { ...others, classShares, classDivergence: 0, sourceShares: classShares });
    const even = await labelFreeScores(segmenter, dataset, { ...options, sourceShares: Array(5).fill(0.2) });
    const expected = classShares.reduce((sum, p) => sum + (p > 0 ? p * Math.log(5 * p) : 0), 0);
    assert(Math.abs(even.classDivergence! - expected) < 1e-12);
    await assert.rejects(
      labelFreeScores(segmenter, dataset, { ...options, sourceShares: [1] }),
      /Expected 5 sourceShares, one per class, but received 1/,
    );
  });

  it('take all images where there are fewer, and at most 2000 pixels', async () => {
    const progress: string[] = [];
    const { images, pixels } = await labelFreeScores(segmenter, dataset, {
      size: SIZE,
      onProgress: ({ done, total }) => progress.push(`${done}/${total}`),
    });
    assert.equal(images, 5);
    assert.deepEqual(progress, ['1/5', '2/5', '3/5', '4/5', '5/5']);
    // The network has 7×5 positions for an image of 48×32.
    assert.equal(pixels, 5 * 7 * 5);
    const large = { width: 256, height: 192 };
    assert.equal((await labelFreeScores(segmenter, dataset, { size: large, count: 2 })).pixels, 2 * 33 * 25);
    assert.equal((await labelFreeScores(segmenter, dataset, { size: large })).pixels, 2000);
  });

  it('draw different images, in their order', () => {
    assert.deepEqual(drawImages(3, 10, 1), [0, 1, 2]);
    const drawn = drawImages(100, 20, 1);
    assert.equal(new Set(drawn).size, 20);
    assert.deepEqual(
      drawn,
      [...drawn].sort((one, other) => one - other),
    );
    assert.notDeepEqual(drawImages(100, 20, 2), drawn);
  });

  it('refuse bad options, and stop at a signal', async () => {
    const run = (options: object) => labelFreeScores(segmenter, dataset, { size: SIZE, ...options });
    await assert.rejects(run({ count: 0 }), /^InvalidArgumentError: Expected .* for count/);
    await assert.rejects(run({ seed: -1 }), /for seed/);
    await assert.rejects(
      labelFreeScores(segmenter, dataset.subset([]), { size: SIZE }),
      /Expected a data set of images to score on/,
    );
    await assert.rejects(run({ signal: AbortSignal.abort(new Error('enough')) }), /enough/);
  });
});

describe('ranks of segmenters', () => {
  const scores = (
    entropy: number,
    neighborhoodDensity: number,
    viewAgreement: number,
    teacherAgreement: number | null,
  ): RankedScores => ({
    ...{ entropy, neighborhoodDensity, viewAgreement, teacherAgreement },
    ...{ classDivergence: null, sourceMiou: null },
  });

  it('put the best first, share places, and average over scores that all have', () => {
    const ranks = rankByScores([
      scores(0.4, 3, 0.8, null),
      scores(0.2, 2, 0.9, 0.7),
      scores(0.3, 1, 0.9, 0.9),
    ]);
    assert.deepEqual(
      ranks.map(({ ranks: places }) => Object.values(places)),
      [
        [3, 1, 3, null, null, null],
        [1, 2, 1.5, null, 2, null],
        [2, 3, 1.5, null, 1, null],
      ],
    );
    assert.deepEqual(
      ranks.map(({ meanRank }) => meanRank),
      [7 / 3, 4.5 / 3, 6.5 / 3],
    );
    assert.deepEqual(
      ranks.map(({ rank }) => rank),
      [3, 1, 2],
    );
    assert.equal(rankByScores([scores(Number.NaN, 1, 0.5, null)])[0]!.ranks.entropy, null);
    assert.deepEqual(rankByScores([]), []);
  });

  it('correlate as the textbook formula has it', () => {
    const truth = [0.1, 0.2, 0.3, 0.4, 0.5];
    assert.equal(rankCorrelation([1, 2, 5, 70, 71], truth, 'higher'), 1);
    assert.equal(rankCorrelation([1, 2, 5, 70, 71], truth, 'lower'), -1);
    // Places 2, 1, 4, 3, 5: 1 − 6·Σd² / n(n² − 1) = 1 − 6·4 / 120.
    assert(Math.abs(rankCorrelation([2, 1, 4, 3, 5], truth, 'higher')! - 0.8) < 1e-12);
    assert.equal(
      rankCorrelation([1, null, 3, 4, Number.NaN], [...truth.slice(0, 3), null, 1], 'higher'),
      null,
    );
    assert.equal(rankCorrelation([1, 1, 1], [1, 2, 3], 'higher'), null);
  });
});
