import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { BidisegError, NativeError } from '../../../lib/support/errors.js';
import { ROOT } from '../../helpers/folder.js';

/** Something that reads bytes from outside, and the bytes that it is tried with. */
export interface FuzzTarget {
  /** What reads them; also the name of its folder in the corpus. */
  parser: string;
  /** What every single case must lead to; `attempt` throws where one leads to anything else. */
  outcome: string;
  cases: fc.Arbitrary<Buffer>;
  /** Whether a case takes a tenth of a second and more; `npm test` then tries few. */
  slow?: boolean;
  /** Resolves when the bytes were read and what they gave is right; rejects with an error of ours when they are refused. */
  attempt(bytes: Buffer): Promise<void>;
}

export interface FuzzResult {
  read: number;
  refused: number;
  /** CPU time of the case that took longest, all threads together. */
  slowestMs: number;
  /** The largest piece of memory asked of Buffer.alloc() for a case, beyond the length of the case. */
  excessBytes: number;
  /** By how much the process's peak of memory grew. */
  growthBytes: number;
}

/** What a run may need at most. The cases have a few kilobytes; Node, LibTorch and decoders have affairs of their own. */
export const BOUNDS = { slowestMs: 5000, excessBytes: 2 ** 20, growthBytes: 256 * 2 ** 20 };

const CORPUS = path.join(ROOT, 'test/engines/fuzz/corpus');

/**
 * Tries a target with what was found before (`corpus/PARSER/`), then with new cases. One that fails is made smaller by
 * fast-check and written to the working directory, for whoever wants to look at it and to add it to the corpus.
 *
 * @param amount a number of cases, or seconds of them
 */
export async function fuzz(
  target: FuzzTarget,
  { seed, ...amount }: { seed: number } & ({ cases: number } | { seconds: number }),
): Promise<FuzzResult> {
  const result: FuzzResult = { read: 0, refused: 0, slowestMs: 0, excessBytes: 0, growthBytes: 0 };
  const peakBefore = process.resourceUsage().maxRSS;
  const attempt = async (bytes: Buffer): Promise<void> => {
    const { slowestMs, excessBytes } = await costOf(bytes.length, async () => {
      try {
        await target.attempt(bytes);
        result.read++;
      } catch (error) {
        if (!(error instanceof BidisegError) || error instanceof NativeError) throw error;
        refuseBadMessage(error);
        result.refused++;
      }
    });
    result.slowestMs = Math.max(result.slowestMs, slowestMs);
    result.excessBytes = Math.max(result.excessBytes, excessBytes);
    result.growthBytes = 1024 * (process.resourceUsage().maxRSS - peakBefore);
    for (const [key, bound] of Object.entries(BOUNDS) as [keyof typeof BOUNDS, number][]) {
      if (result[key] > bound) throw new Error(`${key} ${result[key]}, expected at most ${bound}`);
    }
  };

  for (const [name, bytes] of corpusOf(target)) {
    await attempt(bytes).catch((cause: Error) => {
      throw new Error(`${target.parser}, corpus ${name}: ${cause.message}`, { cause });
    });
  }
  const details = await fc.check(fc.asyncProperty(target.cases, attempt), {
    seed,
    ...('cases' in amount
      ? { numRuns: amount.cases }
      : {
          numRuns: 2 ** 31 - 1,
          interruptAfterTimeLimit: 1000 * amount.seconds,
          markInterruptAsFailure: false,
        }),
  });
  if (details.failed) {
    const [bytes] = details.counterexample ?? [];
    const file = `fuzz-${target.parser}-${seed}`.replaceAll(/[^\w.-]+/g, '-');
    if (bytes) writeFileSync(file, bytes);
    const cause = details.errorInstance as Error | null;
    throw new Error(
      `${target.parser}, seed ${seed}, case ${details.numRuns}, made smaller as ${file}: ${cause?.message}`,
      { cause },
    );
  }
  return result;
}

/** The cases that went wrong once, by the names of their files. */
function corpusOf({ parser }: FuzzTarget): [name: string, bytes: Buffer][] {
  const folder = path.join(CORPUS, parser.replaceAll(' ', '-'));
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((name) => [name, readFileSync(path.join(folder, name))]);
}

/** What a user sees is one line, and not the case itself. */
function refuseBadMessage({ message }: Error): void {
  if (message.length > 2000)
    throw new Error(`a message of ${message.length} characters: ${message.slice(0, 200)}`);
}

async function costOf(
  length: number,
  action: () => Promise<void>,
): Promise<Pick<FuzzResult, 'slowestMs' | 'excessBytes'>> {
  const { alloc } = Buffer;
  let largest = 0;
  Buffer.alloc = (size: number, ...rest: []) => {
    largest = Math.max(largest, size);
    return alloc(size, ...rest);
  };
  const start = process.cpuUsage();
  try {
    await action();
  } finally {
    Buffer.alloc = alloc;
  }
  const { user, system } = process.cpuUsage(start);
  return { slowestMs: (user + system) / 1000, excessBytes: Math.max(0, largest - length) };
}
