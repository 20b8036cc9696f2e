import type { Random } from '../../../lib/data/random.js';

/** Fault that is tried many times. */
export interface Fault {
  fault: string;
  /** Outcome that every try must have. Any other outcome throws. */
  outcome: string;
  /** Number of tries of `npm run test:faults`. */
  tries: number;
  /**
   * Tries the fault.
   *
   * @param random decides moments and places
   * @param note takes a line about each try, so that it can be repeated
   * @returns the number of tries; fewer than `tries` if this machine does not allow it, after a line to `note`
   */
  attempt(tries: number, random: Random, note: (line: string) => void): Promise<number>;
}

/** Defines a fault whose tries do not depend on each other. */
export function each(
  once: (random: Random, note: (line: string) => void) => Promise<void>,
): Fault['attempt'] {
  return async (tries, random, note) => {
    for (let i = 0; i < tries; i++) await once(random, note);
    return tries;
  };
}
