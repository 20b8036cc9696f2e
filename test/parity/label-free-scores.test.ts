import assert from 'node:assert/strict';
import { meanEntropy, softNeighborhoodDensity } from '../../lib/inference/label-free-scores.js';
import { randomSource } from '../helpers/random.js';
import { useTwin } from '../helpers/twin.js';

/** Rows of random probabilities. The sharper, the closer to one class. */
function randomRows(count: number, classes: number, sharpness: number): number[][] {
  const next = randomSource(count + classes);
  return Array.from({ length: count }, () => {
    const values = Array.from({ length: classes }, () => Math.exp(sharpness * next()));
    const sum = values.reduce((total, value) => total + value, 0);
    return values.map((value) => Math.fround(value / sum));
  });
}

describe('parity with numpy: scores without labels', () => {
  const twin = useTwin();

  for (const [count, classes, sharpness] of [
    [2, 2, 1],
    [50, 5, 3],
    [300, 19, 12],
  ] as const) {
    it(`entropy and density of ${count} pixels with ${classes} classes`, async () => {
      const rows = randomRows(count, classes, sharpness);
      rows[0] = rows[0]!.map((_, index) => Number(index === 0)); // the logarithm of 0 must not count
      const planes = Float32Array.from({ length: count * classes }, (_, i) => {
        return rows[i % count]![Math.floor(i / count)]!;
      });
      const expected = await twin().ask<{ entropy: number; density: number }>({ do: 'labelFree', rows });
      const entropy = await meanEntropy(planes, classes);
      const density = await softNeighborhoodDensity(rows);
      assert(Math.abs(entropy - expected.entropy) < 1e-12, `${entropy} and ${expected.entropy}`);
      assert(Math.abs(density - expected.density) < 1e-9, `${density} and ${expected.density}`);
    });
  }
});
