import { BidisegError } from '../support/errors.js';
import { handleOf } from './native-object.js';
import { ProcessGroup } from './process-group.js';
import { Tensor } from './tensor.js';

/* What processes exchange besides tensors. All processes of the group must make the same calls in the same order. */

/** A group, or null for a process on its own. */
export type Group = ProcessGroup | null | undefined;

/** Returns an option that may be a group. @throws InvalidArgumentError when it is something else */
export function checkGroup(group: Group): ProcessGroup | null {
  if (group === null || group === undefined) return null;
  handleOf('group', group, ProcessGroup);
  return group;
}

/** Tells whether this process writes what exists once: it is on its own or has rank 0. */
export function isFirst(group: Group): boolean {
  return !group || group.rank === 0;
}

/** Indices below `count` that belong to this process: those i with i mod size = rank. */
export function ownIndices(count: number, group: Group): number[] {
  const { rank, size } = group ?? { rank: 0, size: 1 };
  return Array.from({ length: Math.max(0, Math.ceil((count - rank) / size)) }, (_, i) => rank + i * size);
}

/** Number of finished items of all processes after this one has finished `own`, at most `total`. */
export function doneTogether(own: number, total: number, group: Group): number {
  return Math.min(total, own * (group?.size ?? 1));
}

/** Returns the values of all processes, by rank. Values travel as JSON. */
export async function gatherJson<T>(group: ProcessGroup, value: T, signal?: AbortSignal): Promise<T[]> {
  const bytes = Buffer.from(JSON.stringify(value));
  const options = signal ? { signal } : {};
  const gather = async (data: BigInt64Array | Uint8Array) => {
    using own = Tensor.from(data);
    const found = await group.allGather(own, options);
    try {
      return await Promise.all(found.map((tensor) => tensor.data()));
    } finally {
      for (const tensor of found) tensor.dispose();
    }
  };
  const lengths = (await gather(BigInt64Array.of(BigInt(bytes.length)))).map(([length]) => Number(length));
  const padded = new Uint8Array(Math.max(...lengths));
  padded.set(bytes);
  const texts = await gather(padded);
  return texts.map((text, rank) => {
    return JSON.parse(Buffer.from(text as Uint8Array).toString('utf8', 0, lengths[rank])) as T;
  });
}

/** Adds whole numbers below 2⁵³ over all processes, in place. */
export async function addCounts(group: ProcessGroup, counts: Float64Array | number[]): Promise<void> {
  using tensor = Tensor.from(Float64Array.from(counts));
  await group.add([tensor]);
  const sums = await tensor.data();
  for (const index of counts.keys()) counts[index] = sums[index] as number;
}

/**
 * Does work in rank 0 alone and returns its result in all processes. If it fails, all of them throw the error.
 */
export async function shareJson<T>(
  group: ProcessGroup,
  work: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  let error: unknown;
  const told = isFirst(group)
    ? await work().then(
        (value) => ({ value, failure: null }),
        (cause: unknown) => {
          error = cause;
          return { value: null, failure: describeError(cause) };
        },
      )
    : null;
  const [found] = await gatherJson(group, told, signal);
  const { value, failure } = found!;
  if (failure) throw error ?? errorOf(failure);
  return value as T;
}

/**
 * Does work in every process. If it fails in one, all of them throw an error that names its rank.
 */
export async function agree<T>(
  group: ProcessGroup,
  work: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  let error: unknown;
  const result = await work().catch((cause: unknown) => {
    error = cause;
    return undefined;
  });
  const failures = await gatherJson(group, error === undefined ? null : describeError(error), signal);
  const rank = failures.findIndex((failure) => failure !== null);
  if (rank < 0) return result as T;
  const { code, message } = failures[rank]!;
  throw errorOf({ code, message: `Rank ${rank}: ${message}` });
}

interface Failure {
  code: string;
  message: string;
}

function describeError(error: unknown): Failure {
  const { code = 'ERR_NATIVE', message = String(error) } = (error ?? {}) as Partial<Failure>;
  return { code, message };
}

/** An error that all processes of a group know, so that one of them can say it for all. */
export class ToldError extends BidisegError {}

function errorOf({ code, message }: Failure): ToldError {
  return new ToldError(code, message);
}
