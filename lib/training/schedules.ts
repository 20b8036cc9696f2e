import { z } from 'zod';
import { integer, number, section } from '../support/options.js';

const steps = () => integer(1, 1_000_000_000);

/** Schedule of the learning rate over a segmenter's training. */
export const scheduleSchema = z.discriminatedUnion(
  'kind',
  [
    section({
      /** The factor is (1 − step / totalSteps)^power. */
      kind: z.literal('poly'),
      /** Exponent. */
      power: number(0, 10).default(0.9),
      /** Step at which the factor reaches 0. A training may stop earlier. null: its own number of steps. */
      totalSteps: steps().nullable().default(null),
    }),
    section({
      /** The factor is factor^⌊step / every⌋. */
      kind: z.literal('step'),
      /** Steps between two multiplications with `factor`. */
      every: steps().default(50_000),
      /** Factor that multiplies the rate. */
      factor: number(0, 1).default(0.1),
    }),
    section({
      /** The rate stays as it is. */
      kind: z.literal('constant'),
    }),
  ],
  'one of poly, step, constant',
);

export type Schedule = z.output<typeof scheduleSchema>;

/** Returns the factor on the learning rate at `step`, counted from 0. */
export type LearningRateFactor = (step: number) => number;

/** Makes the factor (1 − step / totalSteps)^power, which is 0 from `totalSteps` on. */
export function polyFactor(totalSteps: number, power: number): LearningRateFactor {
  return (step) => (1 - Math.min(step, totalSteps) / totalSteps) ** power;
}

/** Makes the factor factor^⌊step / every⌋. */
export function stepFactor(every: number, factor: number): LearningRateFactor {
  return (step) => factor ** Math.floor(step / every);
}

/**
 * Makes the factor that is 1 for `constantSteps` steps, then falls linearly to 0 at `steps`. With `epochs`, equal parts of
 * `steps`, the factor changes once an epoch, by the rule of CycleGAN's code: 1 − max(0, e + 1 − n) / (d + 1) in epoch e,
 * counted from 1, for n constant epochs and d epochs of decay.
 */
export function linearDecayFactor(
  constantSteps: number,
  steps: number,
  epochs: number | null = null,
): LearningRateFactor {
  if (epochs !== null) {
    const constant = (Math.min(constantSteps, steps) * epochs) / steps;
    return (step) => {
      const epoch = Math.min(Math.floor((step * epochs) / steps) + 1, epochs);
      return 1 - Math.max(0, epoch + 1 - constant) / (epochs - constant + 1);
    };
  }
  return (step) => {
    if (step < constantSteps) return 1;
    return step < steps ? (steps - step) / (steps - constantSteps) : 0;
  };
}

/**
 * Makes the factor that a schedule of the config describes.
 *
 * @param steps number of steps of the stage. A poly schedule without `totalSteps` runs over them
 * @param warmUpSteps number of steps over which the factor rises linearly, ≥ 0. Step t, counted from 0, has the share (t + 1)
 * / warmUpSteps of the schedule's factor until the share is 1. Default 0
 */
export function scheduleFactor(schedule: Schedule, steps: number, warmUpSteps = 0): LearningRateFactor {
  const factor = coolingFactor(schedule, steps);
  return warmUpSteps > 0 ? (step) => Math.min(1, (step + 1) / warmUpSteps) * factor(step) : factor;
}

function coolingFactor(schedule: Schedule, steps: number): LearningRateFactor {
  switch (schedule.kind) {
    case 'poly':
      return polyFactor(schedule.totalSteps ?? steps, schedule.power);
    case 'step':
      return stepFactor(schedule.every, schedule.factor);
    case 'constant':
      return () => 1;
  }
}
