import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { BidisegError, NativeError } from '../../../lib/support/errors.js';
import { ROOT } from '../../helpers/folder.js';

/** Reader of bytes from outside, and the bytes to try it with. */
export interface FuzzTarget {
  /** Name of the parser, and of its folder in the corpus. */
  parser: string;
  /** Outcome that every case must have. `attempt` throws for any other outcome. */
  outcome: string;
  cases: fc.Arbitrary<Buffer>;
  /** true: a case takes a tenth of a second or more, so `npm test` tries few. */
  slow?: boolean;
  /**
   * Reads the bytes. Resolves when they were read and the result is right. Rejects with an error of this package when
   * they are refused.
   */
  attempt(bytes: Buffer): Promise<void>;
}

export interface FuzzResult {
  read: number;
  refused: number;
  /** CPU time of the slowest case, of all threads together. */
  slowestMs: number;
  /** Largest size passed to Buffer.alloc() for a case, minus the length of the case. */
  excessBytes: number;
  /** Growth of the process's peak memory. */
  growthBytes: number;
}

/** Bounds of a run. The cases have a few kilobytes. Node, LibTorch and decoders need memory of their own. */
export const BOUNDS = { slowestMs: 5000, excessBytes: 2 ** 20, growthBytes: 256 * 2 ** 20 };

const CORPUS = path.join(ROOT, 'test/engines/fuzz/corpus');

/**
 * Tries a target with earlier findings (`corpus/PARSER/`), then with new cases. fast-check shrinks a failing case and
 * writes it to the working directory, so that it can be studied and added to the corpus.
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

/** Lists the cases that failed once, by the names of their files. */
function corpusOf({ parser }: FuzzTarget): [name: string, bytes: Buffer][] {
  const folder = path.join(CORPUS, parser.replaceAll(' ', '-'));
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((name) => [name, readFileSync(path.join(folder, name))]);
}

/** A message must be one line and must not contain the case itself. */
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
