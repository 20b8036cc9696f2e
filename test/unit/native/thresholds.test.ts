import assert from 'node:assert/strict';
import { InvalidArgumentError, ThresholdHistogram, type ThresholdOptions } from 'bidiseg';
import { randomSource } from '../../helpers/random.js';

interface Pixels {
  labels: Uint8Array;
  confidence: Float32Array;
}

const CLASS_COUNT = 5;

/** Rounds half to even, as NumPy does. */
function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The definition, with all pixels in memory. */
function expectedThresholds(sets: Pixels[], { portion = 0.5, cap = 0.9 }: ThresholdOptions): number[] {
  return Array.from({ length: CLASS_COUNT }, (_, index) => {
    const own = sets.flatMap(({ labels, confidence }) =>
      [...confidence].filter((_, pixel) => labels[pixel] === index),
    );
    const ascending = Float32Array.from(own).sort();
    const rank = Math.min(roundHalfToEven(portion * own.length), own.length - 1);
    // Adding 0 makes 0 of -0.
    return own.length === 0 ? 0 : Math.min(cap, ascending[rank]!) + 0;
  });
}

/** Class 4 never occurs. */
function pixelsOf(seed: number, length: number, confidence: (draw: number, label: number) => number): Pixels {
  const random = randomSource(seed);
  const labels = Uint8Array.from({ length }, () => Math.floor(random() * (CLASS_COUNT - 1)));
  return { labels, confidence: Float32Array.from(labels, (label) => confidence(random(), label)) };
}

async function add(histogram: ThresholdHistogram, sets: Pixels[]): Promise<void> {
  for (const { labels, confidence } of sets) await histogram.add(labels, confidence);
}

/** Exact thresholds, and the number of passes that they took. */
async function exactThresholds(sets: Pixels[], options: ThresholdOptions, bins?: number) {
  using histogram = new ThresholdHistogram(CLASS_COUNT, bins);
  let passes = 0;
  do {
    await add(histogram, sets);
    passes++;
  } while (await histogram.refine(options));
  return { ...(await histogram.thresholds(options)), passes };
}

describe('thresholds of a whole set', () => {
  const SETS: Record<string, Pixels[]> = {
    'of any confidence': [1, 2, 3].map((seed) => pixelsOf(seed, 5000, (draw) => draw)),
    // All in one bin of the first pass, and many of them equal.
    'close together': [1, 2].map((seed) =>
      pixelsOf(seed, 3000, (draw, label) => (1 + label) / 8 + Math.floor(draw * 500) * 2 ** -26),
    ),
    'near 1': [pixelsOf(4, 4001, (draw) => 1 - draw ** 8 / 1000)],
    'tiny, and 0': [pixelsOf(5, 4001, (draw, label) => (draw < 0.2 ? -0 : draw * 10 ** (-10 * label)))],
    'one pixel a class': [
      { labels: Uint8Array.of(0, 1, 2), confidence: Float32Array.of(0.3, 0.9, 0.1 + 0.2) },
    ],
  };
  const OPTIONS = [
    {},
    { portion: 0.3, cap: 1 },
    { portion: 0, cap: 1 },
    { portion: 1, cap: 1 },
    { cap: 0.2 },
  ];

  for (const [name, sets] of Object.entries(SETS)) {
    it(`are those of sorting all pixels, bit for bit: ${name}`, async () => {
      for (const options of OPTIONS) {
        const expected = expectedThresholds(sets, options);
        for (const bins of [undefined, 2, 1000, 2 ** 20]) {
          const { thresholds, counts, passes } = await exactThresholds(sets, options, bins);
          assert.deepEqual(thresholds, expected, `${JSON.stringify(options)}, ${bins} bins`);
          assert.equal(
            counts.reduce((sum, count) => sum + count, 0),
            sets.reduce((sum, { labels }) => sum + labels.length, 0),
          );
          // Probabilities of the most probable of 256 classes are above 1/512.
          const isLarge = expected.every((threshold) => threshold === 0 || threshold >= 1 / 512);
          if (bins === undefined && isLarge && name !== 'tiny, and 0')
            assert.ok(passes <= 2, `${passes} passes`);
        }
      }
    });
  }

  it('are known to one bin after the first pass, and known at once where the cap is reached', async () => {
    const sets = SETS['of any confidence']!;
    using histogram = new ThresholdHistogram(CLASS_COUNT, 100);
    await add(histogram, sets);
    const exact = expectedThresholds(sets, { cap: 1 });
    const { thresholds } = await histogram.thresholds({ cap: 1 });
    for (const [index, threshold] of thresholds.entries()) {
      assert.equal(threshold, Math.floor(exact[index]! * 100) / 100);
    }
    assert.equal(await histogram.refine({ cap: 0.25 }), false);
    assert.deepEqual((await histogram.thresholds({ cap: 0.25 })).thresholds, [0.25, 0.25, 0.25, 0.25, 0]);
    assert.equal(await histogram.refine({ cap: 1 }), true);
  });

  it('are an error where a further pass had other pixels or asks for other thresholds', async () => {
    const sets = SETS['of any confidence']!;
    using histogram = new ThresholdHistogram(CLASS_COUNT);
    await add(histogram, sets);
    assert.equal(await histogram.refine(), true);
    const incomplete = (received: number) => ({
      name: InvalidArgumentError.name,
      message: `Expected the 15000 pixels of the first pass again but received ${received}`,
    });
    await assert.rejects(histogram.thresholds(), incomplete(0));
    await add(histogram, sets.slice(1));
    await assert.rejects(histogram.refine(), incomplete(10_000));
    await add(histogram, sets.slice(0, 1));
    await assert.rejects(histogram.thresholds({ portion: 0.4 }), /as in refine\(\), 0\.50+ and 0\.90+, but/);
    await assert.rejects(histogram.refine({ cap: 2 }), /cap/);
    assert.deepEqual((await histogram.thresholds()).thresholds, expectedThresholds(sets, {}));
    assert.equal(await histogram.refine(), false);
  });
});
