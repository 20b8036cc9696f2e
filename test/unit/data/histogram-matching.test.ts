import assert from 'node:assert/strict';
import { matchHistograms } from '../../../lib/data/histogram-matching.js';
import { Random } from '../../../lib/data/random.js';

function randomImage(seed: number, width: number, height: number, levels: (random: Random) => number) {
  const random = new Random(seed);
  return { data: Uint8Array.from({ length: 3 * width * height }, () => levels(random)), width, height };
}

/** Computes the empirical distribution function of a channel. */
function share(data: Uint8Array, channel: number, level: number): number {
  const values = data.filter((_, index) => index % 3 === channel);
  return values.filter((value) => value <= level).length / values.length;
}

describe('histogram matching', () => {
  const image = randomImage(1, 64, 48, (random) => random.integer(200));
  const reference = randomImage(2, 40, 70, (random) => 60 + Math.floor(90 * random.next() ** 2));

  it('leaves an image that is matched to itself', () => {
    assert.deepEqual(matchHistograms(image, image), image);
    assert.deepEqual(matchHistograms(reference, reference), reference);
  });

  it('gives each channel the distribution of the reference', () => {
    const { data, width, height } = matchHistograms(image, reference);
    assert.deepEqual([width, height], [64, 48]);
    for (let channel = 0; channel < 3; channel++) {
      for (let level = 0; level < 256; level += 5) {
        // A level of the image holds half a per cent of its pixels, one of the reference up to a tenth.
        const difference = share(data, channel, level) - share(reference.data, channel, level);
        assert(Math.abs(difference) < 0.06, `channel ${channel}, level ${level}: ${difference}`);
      }
    }
  });

  it('keeps the order of levels, channel by channel', () => {
    const { data } = matchHistograms(image, reference);
    for (let channel = 0; channel < 3; channel++) {
      const pairs = Array.from({ length: 64 * 48 }, (_, i) => [
        image.data[3 * i + channel]!,
        data[3 * i + channel]!,
      ]);
      pairs.sort(([a], [b]) => a! - b!);
      for (let i = 1; i < pairs.length; i++) assert(pairs[i]![1]! >= pairs[i - 1]![1]!);
    }
  });

  it('interpolates between the levels that the reference has', () => {
    const gray = (...levels: number[]) => ({
      data: Uint8Array.from(levels.flatMap((level) => [level, level, level])),
      width: levels.length,
      height: 1,
    });
    // Ranks ⅛, ⅜, ⅝, ⅞ of the image; ¼ of the reference is at 100, ¾ at 200.
    assert.deepEqual(matchHistograms(gray(1, 2, 3, 4), gray(100, 200)), gray(100, 125, 175, 200));
    assert.deepEqual(matchHistograms(gray(1, 2, 3, 4), gray(9)), gray(9, 9, 9, 9));
    // Four of five pixels are overexposed. They get the middle of the bright levels, not the brightest.
    assert.deepEqual(
      matchHistograms(gray(10, 255, 255, 255, 255), gray(10, 90, 100, 110, 240)),
      gray(10, 105, 105, 105, 105),
    );
  });
});
