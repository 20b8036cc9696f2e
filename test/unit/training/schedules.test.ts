import assert from 'node:assert/strict';
import {
  linearDecayFactor,
  polyFactor,
  scheduleFactor,
  stepFactor,
} from '../../../lib/training/schedules.js';

function close(actual: number, expected: number): void {
  assert(Math.abs(actual - expected) <= 1e-12, `${actual} is not ${expected}`);
}

// Expected values are PyTorch's definitions worked out by hand.
describe('learning rate schedules', () => {
  it('poly: (1 − t/T)^power as PolynomialLR', () => {
    const factor = polyFactor(10, 2);
    for (const [step, expected] of [1, 0.81, 0.64, 0.49, 0.36, 0.25, 0.16, 0.09, 0.04, 0.01].entries()) {
      close(factor(step), expected);
    }
    assert.equal(factor(10), 0);
    assert.equal(factor(11), 0);
  });

  it('poly: the reference’s rate after 80,000 of 250,000 steps', () => {
    close(polyFactor(250_000, 0.9)(80_000), Math.exp(0.9 * Math.log(0.68)));
    close(polyFactor(16, 0.5)(12), 0.5);
  });

  it('step: factor^⌊t/every⌋ as StepLR', () => {
    const factor = stepFactor(3, 0.1);
    for (const [step, expected] of [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001].entries()) {
      close(factor(step), expected);
    }
  });

  it('linear decay: flat, then as LinearLR from 1 to 0', () => {
    const factor = linearDecayFactor(3, 7);
    for (const [step, expected] of [1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0].entries())
      close(factor(step), expected);
  });

  it('linear decay: all flat, and flat for no step at all', () => {
    assert.deepEqual([0, 4, 5].map(linearDecayFactor(5, 5)), [1, 1, 0]);
    assert.deepEqual([0, 1, 2].map(linearDecayFactor(0, 2)), [1, 0.5, 0]);
  });

  it('linear decay by epochs: one epoch early and down to 0, as CycleGAN’s code does', () => {
    // BDL's 20 epochs, by hand from 1 − max(0, e + 1 − 10) / 11 for e from 1.
    const steps = 20 * 6242;
    const factor = linearDecayFactor(steps / 2, steps, 20);
    const expected = Array.from({ length: 20 }, (_, i) => (i < 9 ? 1 : (19 - i) / 11));
    for (const [epoch, each] of expected.entries()) {
      for (const step of [0, 1, 3000, 6241]) close(factor(epoch * 6242 + step), each);
    }
    close(expected.reduce((sum, each) => sum + each) / 20, 0.7);
    close(factor(steps), 0);
    // No epoch of decay, only epochs of decay, and epochs of no whole number of steps.
    assert.deepEqual([0, 4, 5, 9].map(linearDecayFactor(20, 10, 2)), [1, 1, 0, 0]);
    for (const [step, each] of [1 / 3, 1 / 3, 1 / 3, 0, 0].entries()) {
      close(linearDecayFactor(0, 5, 2)(step), each);
    }
  });

  it('warm-up: a share that rises by 1/n a step, of whatever the schedule gives', () => {
    const constant = scheduleFactor({ kind: 'constant' }, 9, 4);
    for (const [step, share] of [0.25, 0.5, 0.75, 1, 1, 1].entries()) close(constant(step), share);
    const linear = scheduleFactor({ kind: 'poly', power: 1, totalSteps: 10 }, 9, 4);
    // (1 − t/10)·min(1, (t + 1)/4), by hand.
    for (const [step, rate] of [0.25, 0.45, 0.6, 0.7, 0.6, 0.5].entries()) close(linear(step), rate);
    close(linear(10), 0);
    // None, one step that has all, and more steps than the training has.
    for (const [warmUpSteps, first] of [
      [0, 1],
      [1, 1],
      [1000, 0.001],
    ] as const) {
      close(scheduleFactor({ kind: 'constant' }, 9, warmUpSteps)(0), first);
    }
  });

  it('are chosen by the config, poly over the stage’s own steps unless it says otherwise', () => {
    assert.equal(scheduleFactor({ kind: 'constant' }, 5)(1e6), 1);
    close(scheduleFactor({ kind: 'step', every: 2, factor: 0.5 }, 5)(4), 0.25);
    close(scheduleFactor({ kind: 'poly', power: 1, totalSteps: null }, 5)(1), 0.8);
    close(scheduleFactor({ kind: 'poly', power: 1, totalSteps: 10 }, 5)(1), 0.9);
  });
});
