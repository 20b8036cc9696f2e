import assert from 'node:assert/strict';
import { Random } from '../../../lib/data/random.js';
import { RareClassSampling } from '../../../lib/data/rare-class-sampling.js';
import { InvalidArgumentError } from '../../../lib/support/errors.js';

// Of 1000 labeled pixels, class 0 has 700, class 1 has 280, class 2 has 20, class 3 none.
const counts = [
  [380, 100, 0, 0],
  [320, 160, 15, 0],
  [0, 20, 5, 0],
];
const pixels = [500, 500, 500];

const near = (one: readonly number[], other: readonly number[], bound: number) =>
  one.forEach((value, index) => {
    assert(Math.abs(value - other[index]!) < bound, `${one} and ${other}`);
  });

describe('rare class sampling', () => {
  it('draws classes by exp((1 − f) / T)', () => {
    const { probabilities } = new RareClassSampling(
      { counts, pixels },
      { temperature: 0.5, minimumShare: 0 },
    );
    const weights = [Math.exp(0.3 / 0.5), Math.exp(0.72 / 0.5), Math.exp(0.98 / 0.5)];
    const sum = weights[0]! + weights[1]! + weights[2]!;
    near(probabilities, [...weights.map((weight) => weight / sum), 0], 1e-12);
  });

  it('then one of the images with enough of the class', () => {
    const options = { temperature: 0.5, minimumShare: 0.02 };
    const sampling = new RareClassSampling({ counts, pixels }, options);
    const [p0, p1, p2] = sampling.probabilities as [number, number, number];
    const random = new Random('sampling');
    const drawn = [0, 0, 0];
    for (let draw = 0; draw < 20_000; draw++) drawn[sampling.draw(random)]!++;
    // Class 0 is in the first two images, class 1 in all, class 2 has 2 % only of the second.
    const expected = [p0 / 2 + p1 / 3, p0 / 2 + p1 / 3 + p2, p1 / 3];
    near(
      drawn.map((count) => count / 20_000),
      expected,
      0.012,
    );
  });

  it('draws only the rarest class at a low temperature, and all alike at a high one', () => {
    const { probabilities } = new RareClassSampling(
      { counts, pixels },
      { temperature: 1e-4, minimumShare: 0 },
    );
    assert.deepEqual(probabilities, [0, 0, 1, 0]);
    const hot = new RareClassSampling({ counts, pixels }, { temperature: 1e4, minimumShare: 0 });
    near(hot.probabilities, [1 / 3, 1 / 3, 1 / 3, 0], 1e-4);
    assert.equal(
      new RareClassSampling({ counts, pixels }, { temperature: 1e-4, minimumShare: 0.02 }).draw(
        new Random(1),
      ),
      1,
    );
  });

  it('needs a class on some image', () => {
    assert.throws(
      () => new RareClassSampling({ counts, pixels }, { temperature: 1, minimumShare: 0.9 }),
      (error: Error) =>
        error instanceof InvalidArgumentError && /a class on at least 90 % of an image/.test(error.message),
    );
  });
});
