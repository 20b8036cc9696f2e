import type { Random } from '../../../lib/data/random.js';

/** A way for things to go wrong that is tried again and again. */
export interface Fault {
  fault: string;
  /** What every single try must lead to; one that leads to anything else throws. */
  outcome: string;
  /** How often `npm run test:faults` tries it. */
  tries: number;
  /**
   * Tries it.
   *
   * @param random decides moments and places
   * @param note takes a line about what was done, for whoever wants to repeat it
   * @returns how often it was tried; less than `tries` where this machine does not allow it, which `note` has been told
   */
  attempt(tries: number, random: Random, note: (line: string) => void): Promise<number>;
}

/** A fault whose tries do not depend on each other. */
export function each(
  once: (random: Random, note: (line: string) => void) => Promise<void>,
): Fault['attempt'] {
  return async (tries, random, note) => {
    for (let i = 0; i < tries; i++) await once(random, note);
    return tries;
  };
}
