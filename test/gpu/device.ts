import { buildInfo, maskedCrossEntropy, Tensor } from 'bidiseg';

// Each file of this folder needs a mocha process of its own, because a failed kernel makes CUDA unusable for the rest of
// a process. robustness.test.ts measures the memory of the device, and fills it, so nothing else may run beside it.

/** Device under test: `cuda`, or with DEVICE=cpu the CPU, as a rehearsal of the same tests. */
export const DEVICE = process.env.DEVICE ?? 'cuda';
export const IS_CUDA = DEVICE !== 'cpu';

const TIMEOUT_MS = 60_000;
/** Time for the first answer of a device, whose libraries may have to be read, and for every other. */
const START_MS = 50_000;
const ANSWER_MS = 15_000;

/** Reason why nothing can run on the device, if there is one. */
async function lackOfDevice(): Promise<string | null> {
  if (!IS_CUDA) return null;
  const { cuda, cudaDevices } = await buildInfo();
  if (cudaDevices.length === 0) return 'no CUDA device';
  return cuda ? null : 'no CUDA compiled in';
}

/** A suite of tests on the device. It is skipped with the reason if there is none. */
export function describeOnDevice(title: string, suite: () => void): void {
  describe(`on ${DEVICE}: ${title}`, function () {
    this.timeout(TIMEOUT_MS);
    before(async function () {
      const lack = await within(START_MS, lackOfDevice());
      if (lack === null) return;
      console.log(`    skipped: ${lack}`);
      this.skip();
    });
    // A failed kernel makes CUDA unusable for the rest of the process. Later tests then say nothing of their own.
    beforeEach(async function () {
      const failure = await within(ANSWER_MS, failureOfDevice());
      if (failure === null) return;
      console.log(`    skipped: an earlier test left the device unusable: ${failure}`);
      this.skip();
    });
    suite();
  });
}

/** Returns the answer, or that there is none in this time. */
async function within(ms: number, answer: Promise<string | null>): Promise<string | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`no answer within ${ms / 1000} s`), ms);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function failureOfDevice(): Promise<string | null> {
  try {
    using host = Tensor.from(Float32Array.of(1, 2));
    using moved = await host.to({ device: DEVICE });
    using scaled = await moved.scale(2);
    const data = await scaled.data();
    return data[1] === 4 ? null : `2 times 2 is ${data[1]}`;
  } catch (error) {
    return String(error);
  }
}

/** A test of something that only CUDA has. */
export function itOnCuda(title: string, test: () => Promise<void>): void {
  it(title, async function () {
    if (IS_CUDA || process.env.REHEARSE_CUDA === '1') return await test();
    console.log('    skipped: rehearsal on the CPU');
    this.skip();
  });
}

let dtypes: Promise<('float64' | 'float32')[]> | undefined;

/**
 * Returns the dtypes of a segmenter's losses on the device, the most exact first. The kernels of CUDA may know float32
 * only.
 */
export function lossDtypes(): Promise<('float64' | 'float32')[]> {
  dtypes ??= findLossDtypes();
  return dtypes;
}

async function findLossDtypes(): Promise<('float64' | 'float32')[]> {
  using logits = await onDevice(Tensor.from(new Float64Array(8), [1, 2, 2, 2]));
  using labels = await onDevice(Tensor.from(new Uint8Array(4), [1, 2, 2]));
  try {
    (await maskedCrossEntropy(logits, labels)).dispose();
    return ['float64', 'float32'];
  } catch (error) {
    console.log(`    no losses in float64: ${error}`);
    return ['float32'];
  }
}

/** Copies a tensor to the device. */
export async function onDevice(tensor: Tensor): Promise<Tensor> {
  using host = tensor;
  return await host.to({ device: DEVICE });
}

/** Norm of the difference of two lists of numbers, divided by the norm of the second. */
export function relativeError(
  found: ArrayLike<number | bigint>,
  expected: ArrayLike<number | bigint>,
): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (Number(found[i]) - Number(expected[i])) ** 2;
    norm += Number(expected[i]) ** 2;
  }
  if (found.length !== expected.length) return Number.NaN;
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** Largest difference of two lists of numbers. */
export function largestError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (found.length !== expected.length) return Number.NaN;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(found[i]! - expected[i]!);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

/** Share of two lists' places that differ. */
export function differingShare(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (found.length !== expected.length) return Number.NaN;
  let differing = 0;
  for (let i = 0; i < expected.length; i++) if (found[i] !== expected[i]) differing++;
  return differing / expected.length;
}
