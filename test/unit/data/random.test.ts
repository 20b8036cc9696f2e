import assert from 'node:assert/strict';
import { Random } from '../../../lib/data/random.js';

// Drawn once from this implementation.
const PINNED = [0.7927431465378664, 457, 0.27644159655767675, -0.511135410463883];

describe('Random', () => {
  it('gives the same stream for the same keys and another for other keys', () => {
    const draw = (...keys: (number | string)[]): number[] => {
      const random = new Random(...keys);
      return Array.from({ length: 20 }, () => random.next());
    };
    assert.deepEqual(draw(1, 'stage', 2), draw(1, 'stage', 2));
    const streams = [[1], [2], ['1'], [1, 0], [0, 1], [1, 1], ['a'], ['b'], ['a', 'b'], ['ab'], []];
    const firsts = new Set(streams.map((keys) => draw(...keys).join()));
    assert.equal(firsts.size, streams.length);
  });

  it('never changes: old runs must be repeatable', () => {
    const random = new Random(7, 'pinned');
    const drawn = [random.next(), random.integer(1000), random.range(-1, 1), random.normal()];
    assert.deepEqual(drawn, PINNED);
  });

  it('is uniform in [0, 1): mean ½, variance ¹⁄₁₂, neighbors uncorrelated', () => {
    const random = new Random(1);
    const values = Array.from({ length: 100_000 }, () => random.next());
    assert.ok(values.every((value) => value >= 0 && value < 1));
    const mean = average(values);
    // Five standard errors each.
    assert.ok(Math.abs(mean - 0.5) < 0.0046, `mean ${mean}`);
    const variance = average(values.map((value) => (value - mean) ** 2));
    assert.ok(Math.abs(variance - 1 / 12) < 0.0012, `variance ${variance}`);
    const covariance = average(
      values.slice(1).map((value, index) => (value - mean) * (values[index]! - mean)),
    );
    assert.ok(Math.abs(covariance) < 0.0014, `covariance ${covariance}`);
  });

  it('starts unrelated streams for neighboring keys', () => {
    const firsts = Array.from({ length: 20_000 }, (_, step) => new Random(1, 'augment', step, 0).next());
    const mean = average(firsts);
    assert.ok(Math.abs(mean - 0.5) < 0.0103, `mean ${mean}`);
    const covariance = average(
      firsts.slice(1).map((value, index) => (value - mean) * (firsts[index]! - mean)),
    );
    assert.ok(Math.abs(covariance) < 0.003, `covariance ${covariance}`);
  });

  it('draws integers and normal numbers with the right moments', () => {
    const random = new Random(2);
    const counts = new Array<number>(6).fill(0);
    for (let draw = 0; draw < 60_000; draw++) counts[random.integer(6)]!++;
    for (const count of counts) assert.ok(Math.abs(count - 10_000) < 460, `counts ${counts}`);
    const normals = Array.from({ length: 50_000 }, () => random.normal());
    assert.ok(Math.abs(average(normals)) < 0.023);
    assert.ok(Math.abs(average(normals.map((value) => value ** 2)) - 1) < 0.032);
    assert.ok(Math.abs(average(normals.map((value) => value ** 4)) - 3) < 0.22);
  });

  it('permutes: every number once, every place equally likely', () => {
    const seen = Array.from({ length: 5 }, () => new Array<number>(5).fill(0));
    for (let trial = 0; trial < 10_000; trial++) {
      const order = new Random(3, trial).permutation(5);
      assert.deepEqual([...order].sort(), [0, 1, 2, 3, 4]);
      for (const [place, value] of order.entries()) seen[place]![value]!++;
    }
    for (const count of seen.flat()) assert.ok(Math.abs(count - 2000) < 200, `counts ${seen}`);
    assert.deepEqual([...new Random(3).permutation(0)], []);
  });
});

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
