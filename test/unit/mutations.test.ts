import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { DataError, InvalidArgumentError, Tensor } from 'bidiseg';
import { native } from '../../lib/binding.js';
import type { Dtype } from '../../lib/binding-types.js';
import { writeSafetensors } from '../../lib/io/safetensors.js';
import { openWeights, readWeights } from '../../lib/io/weights-file.js';
import { encodeDescription } from '../../lib/io/weights-metadata.js';
import { call } from '../../lib/native-object.js';
import { temporaryFolder } from '../helpers/folder.js';
import { extents, legacyPth, pickle, SIX, tensor, zip } from '../helpers/pth-file.js';
import { randomSource } from '../helpers/random.js';
import { printAndCheck } from '../helpers/table.js';
import { findPython, Twin } from '../helpers/twin.js';

/** A few seconds of them in `npm test`; `npm run test:fuzz` asks for more, and for another seed if it likes. */
const MUTATIONS = Number(process.env.BIDISEG_MUTATIONS ?? 3000);
const SEED = Number(process.env.BIDISEG_MUTATIONS_SEED ?? 11);

const MIB = 2 ** 20;
/** For Node's and LibTorch's own affairs: the files have a few kilobytes. */
const MAX_GROWTH_MIB = 192;
/** What a reader may set aside for one part of a file, beside as much as the file has. */
const SLACK_BYTES = 64;

/** What readers of binary formats trip over. */
const INTEGERS = [0n, 1n, -1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 62n, 2n ** 63n - 1n, -(2n ** 63n)];

describe('mutations of valid weights files', () => {
  const folder = temporaryFolder();
  const file = folder.path('mutated');
  const next = randomSource(SEED);
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(items: readonly T[]): T => items[below(items.length)]!;
  after(folder.remove);

  /** Small files of every format that is read: our own, ones made byte by byte, and PyTorch's where there is a Python. */
  async function originals(): Promise<Buffer[]> {
    const files: Buffer[] = [];
    const entries = [
      {
        name: 'conv1.weight',
        tensor: Tensor.from(Float32Array.from({ length: 24 }, next), [2, 3, 2, 2]).handle,
      },
      { name: 'bn1.num_batches_tracked', tensor: Tensor.from(BigInt64Array.of(7n), []).handle },
      { name: 'empty', tensor: Tensor.from(new Uint8Array(0), [0, 3]).handle },
    ];
    const metadata = encodeDescription({ architecture: 'deeplab-v2', options: { classCount: 5 }, step: 3 });
    await writeSafetensors(file, entries, metadata);
    for (const entry of entries) entry.tensor.dispose();
    files.push(readFileSync(file));

    const { dict, text, float } = pickle;
    const transposed = tensor({ shape: extents(3, 2), stride: extents(1, 3) });
    const state = [text('a'), tensor(), text('module.b'), transposed];
    files.push(legacyPth(dict(text('epoch'), float(3), text('state_dict'), dict(...state))));
    state.push(text('c'), tensor({ key: '1', shape: extents(6), stride: extents(1) }));
    files.push(
      zip([
        { name: 'm/data.pkl', data: pickle.whole(dict(...state)) },
        { name: 'm/byteorder', data: Buffer.from('little') },
        { name: 'm/data/0', data: SIX },
        { name: 'm/data/1', data: SIX },
        { name: 'm/version', data: Buffer.from('3\n') },
      ]),
    );

    const found = findPython();
    if ('reason' in found) {
      console.log(`    without files from PyTorch: ${found.reason}`);
      return files;
    }
    const twin = new Twin(found.python);
    for (const kase of ['plain', 'odd', 'Scale.']) {
      for (const isZip of [true, false]) {
        await twin.ask({ do: 'saveCase', case: kase, file, zip: isZip, protocol: 2 });
        files.push(readFileSync(file));
      }
    }
    twin.close();
    return files;
  }

  function mutate(original: Buffer): Buffer {
    let bytes: Buffer = Buffer.from(original);
    for (let changes = 1 + below(3); changes > 0; --changes) bytes = mutateOnce(bytes);
    return bytes;
  }

  function mutateOnce(bytes: Buffer): Buffer {
    if (bytes.length === 0) return bytes;
    const at = below(bytes.length);
    const end = Math.min(at + 1 + below(8), bytes.length);
    switch (below(9)) {
      case 0:
        bytes[at]! ^= 1 << below(8);
        return bytes;
      case 1:
        bytes[at] = below(256);
        return bytes;
      case 2:
        return bytes.fill(pick([0, 255]), at, end);
      case 3: // an integer
        if (at + 8 <= bytes.length) bytes.writeBigInt64LE(BigInt.asIntN(64, pick(INTEGERS)), at);
        return bytes;
      case 4: // a number in text
        return replaceNumber(bytes, at);
      case 5: // a piece of it elsewhere
        bytes.copy(bytes, at, below(bytes.length));
        return bytes;
      case 6:
        return Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
      case 7:
        return Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
      default:
        return bytes.subarray(0, at);
    }
  }

  function replaceNumber(bytes: Buffer, from: number): Buffer {
    const isDigit = (i: number) => bytes[i]! >= 0x30 && bytes[i]! <= 0x39;
    let start = from;
    while (start < bytes.length && !isDigit(start)) ++start;
    let end = start;
    while (end < bytes.length && isDigit(end)) ++end;
    const number = Buffer.from(pick([...INTEGERS.map(String), '0.5', '1e308', 'null', '[]', '"7"']));
    return Buffer.concat([bytes.subarray(0, start), number, bytes.subarray(end)]);
  }

  /** Runs `action` and tells the largest piece of memory that was asked of Buffer.alloc() on the way. */
  async function largestBuffer(action: () => Promise<void>): Promise<number> {
    const { alloc } = Buffer;
    let largest = 0;
    Buffer.alloc = (size: number, ...rest: []) => {
      largest = Math.max(largest, size);
      return alloc(size, ...rest);
    };
    try {
      await action();
    } finally {
      Buffer.alloc = alloc;
    }
    return largest;
  }

  it('are read or refused by name, without much memory', async function () {
    this.timeout(0);
    const seeds = await originals();
    const outcomes = { read: 0, refused: 0 };
    const memory = process.resourceUsage().maxRSS * 1024;
    const start = performance.now();
    let excess = 0;
    for (let i = 0; i < MUTATIONS; ++i) {
      const content = mutate(seeds[i % seeds.length]!);
      writeFileSync(file, content);
      try {
        const largest = await largestBuffer(async () => {
          try {
            const weights = await openWeights(file);
            const bytes = weights.tensors.reduce((sum, entry) => sum + entry.bytes, 0);
            assert.ok(bytes <= 4 * content.length, `tensors of ${bytes} bytes`);
            for (const { tensor: handle } of await readWeights(weights, weights.tensors)) handle.dispose();
            ++outcomes.read;
          } catch (error) {
            const isRefusal = error instanceof DataError && error.message.includes(file);
            if (!isRefusal) throw error;
            ++outcomes.refused;
          }
        });
        excess = Math.max(excess, largest - content.length);
        assert.ok(excess <= SLACK_BYTES, `a buffer of ${largest} bytes for ${content.length}`);
      } catch (error) {
        // For whoever wants to look at it.
        const kept = `bidiseg-mutation-${SEED}-${i}`;
        writeFileSync(kept, content);
        throw new Error(`mutation ${i} of seed ${SEED}, kept as ${kept}: ${(error as Error).message}`, {
          cause: error,
        });
      }
    }
    const grown = process.resourceUsage().maxRSS * 1024 - memory;
    const seconds = (performance.now() - start) / 1000;
    const { read, refused } = outcomes;
    console.log(`    ${MUTATIONS} mutations of ${seeds.length} files, in ${seconds.toFixed(1)} s`);
    printAndCheck(`${read} read, ${refused} refused with the file's name`, [
      { item: 'anything else', error: MUTATIONS - read - refused, bound: 0 },
      { item: 'largest buffer for a file, beyond its size, in bytes', error: excess, bound: SLACK_BYTES },
      { item: 'memory beyond that before, at its peak, in MiB', error: grown / MIB, bound: MAX_GROWTH_MIB },
    ]);
    assert.ok(refused > 0.3 * MUTATIONS && read > 0.01 * MUTATIONS);
  });

  it('of places in a file: the native reader gives what is there, or refuses', async function () {
    this.timeout(0);
    const bytes = Buffer.from(Uint8Array.from({ length: 777 }, () => below(256)));
    writeFileSync(file, bytes);
    const outcomes = { read: 0, refused: 0 };
    const dtypes: [Dtype, number][] = [
      ['uint8', 1],
      ['int32', 4],
      ['int64', 8],
    ];
    const huge = [2 ** 31, 2 ** 40, 1e15, Number.MAX_SAFE_INTEGER, -1, 0.5, Number.NaN];
    for (let i = 0; i < MUTATIONS; ++i) {
      const [dtype, size] = pick(dtypes);
      // Only huge extents or huge strides: a broadcast terabyte is for the parsers to refuse.
      const kind = below(4);
      const shape = Array.from({ length: below(4) }, () =>
        kind === 1 && below(3) === 0 ? pick(huge) : below(6),
      );
      const step = () => (kind === 2 && below(3) === 0 ? pick(huge) : below(20));
      const strided = kind !== 1 && below(2) === 0;
      const stride = strided ? shape.slice(0, below(10) === 0 ? below(4) : 4).map(step) : undefined;
      const offset = kind === 3 && below(3) === 0 ? pick(huge) : below(800);
      const entry = { dtype, shape, offset, ...(stride && { stride }) };
      try {
        const [handle] = await call(() => native.readTensorFile(file, [entry]));
        using values = new Tensor(handle!);
        assert.deepEqual(values.shape, shape);
        const strides = stride ?? shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
        const expected = gather(bytes, dtype, size, shape, strides, offset);
        assert.deepEqual([...(await values.data())], expected, JSON.stringify(entry));
        ++outcomes.read;
      } catch (error) {
        const isKnown = error instanceof DataError || error instanceof InvalidArgumentError;
        assert.ok(isKnown, `${JSON.stringify(entry)}: ${(error as Error).stack}`);
        ++outcomes.refused;
      }
    }
    console.log(`    ${MUTATIONS} places: ${outcomes.read} read, ${outcomes.refused} refused`);
    assert.ok(outcomes.read > 0.1 * MUTATIONS && outcomes.refused > 0.1 * MUTATIONS);
  });

  /** The elements of a strided tensor in row-major order, one by one. */
  function gather(
    bytes: Buffer,
    dtype: Dtype,
    size: number,
    shape: number[],
    stride: number[],
    offset: number,
  ): (number | bigint)[] {
    const read = (at: number) =>
      dtype === 'uint8' ? bytes[at]! : dtype === 'int32' ? bytes.readInt32LE(at) : bytes.readBigInt64LE(at);
    if (shape.includes(0)) return [];
    let places = [offset];
    for (const [d, extent] of shape.entries()) {
      places = places.flatMap((at) => Array.from({ length: extent }, (_, i) => at + i * stride[d]! * size));
    }
    return places.map(read);
  }
});
