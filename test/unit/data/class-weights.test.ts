import assert from 'node:assert/strict';
import { classShares, medianFrequencyWeights } from '../../../lib/data/class-weights.js';

describe('weights of classes', () => {
  it('are the median frequency by the own one, over the images that have the class', () => {
    // Frequencies: 90/200, 20/100 and 10/100. The fourth class never occurs.
    const counts = [
      [60, 20, 0, 0],
      [30, 0, 10, 0],
    ];
    const weights = medianFrequencyWeights({ counts, pixels: [100, 100] });
    for (const [c, expected] of [0.2 / 0.45, 1, 2, 1].entries()) {
      assert(Math.abs(weights[c]! - expected) < 1e-12, `class ${c}: ${weights[c]}`);
    }
  });

  it('are brought nearer to 1 by a power', () => {
    assert.deepEqual(medianFrequencyWeights({ counts: [[10, 30, 160]], pixels: [200] }, 0.5), [
      Math.sqrt(3),
      1,
      Math.sqrt(0.15 / 0.8),
    ]);
  });

  it('take the mean of the two middle frequencies, and are 1 without any', () => {
    assert.deepEqual(medianFrequencyWeights({ counts: [[75, 25]], pixels: [100] }), [0.5 / 0.75, 2]);
    assert.deepEqual(medianFrequencyWeights({ counts: [[0, 0]], pixels: [100] }), [1, 1]);
    assert.deepEqual(medianFrequencyWeights({ counts: [], pixels: [] }), []);
  });
});

describe('shares of classes', () => {
  it('are those of all labeled pixels', () => {
    const counts = [
      [60, 20, 0],
      [15, 0, 5],
    ];
    assert.deepEqual(classShares({ counts }), [0.75, 0.2, 0.05]);
    assert.deepEqual(classShares({ counts: [[0, 0]] }), [0, 0]);
    assert.deepEqual(classShares({ counts: [] }), []);
  });
});
