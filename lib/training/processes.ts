import type { Group } from '../native/group-values.js';
import { InvalidArgumentError } from '../support/errors.js';

/**
 * Returns the places [first, end) of a step that this process computes: a block of `whole` / W, in the order of ranks.
 *
 * @param key option that holds `whole`, for the message
 * @throws InvalidArgumentError when the number of processes does not divide `whole`
 */
export function ownPlaces(key: string, whole: number, group: Group): [first: number, end: number] {
  const { rank, size } = group ?? { rank: 0, size: 1 };
  requireDivided(key, whole, size);
  const share = whole / size;
  return [rank * share, (rank + 1) * share];
}

/** @throws InvalidArgumentError when `whole` is no multiple of `processes`. The message has the numbers that would do */
export function requireDivided(key: string, whole: number, processes: number): void {
  if (whole % processes === 0) return;
  const fitting = Array.from({ length: whole }, (_, i) => i + 1).filter((size) => whole % size === 0);
  const next = processes * Math.ceil(whole / processes);
  throw new InvalidArgumentError(
    `${key}: ${whole} cannot be divided among ${processes} processes; ` +
      `start ${fitting.join(' or ')}, or set it to a multiple of ${processes} such as ${next}`,
  );
}
