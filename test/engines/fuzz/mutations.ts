import fc from 'fast-check';

/** Integers that break readers of binary formats. */
const INTEGERS = [0n, 1n, -1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 62n, 2n ** 63n - 1n, -(2n ** 63n)];
/** Numbers that break readers of text formats. */
const NUMBERS = [...INTEGERS.map(String), '0.5', '1e308', '1e999', '-0', 'null', '[]', '"7"'];

// fast-check prefers small numbers, but all places in a file are equally good.
const anywhere = fc.noBias(fc.nat(2 ** 30));
const few = fc.integer({ min: 1, max: 8 });

type Change = (bytes: Buffer) => Buffer;

/**
 * Generates valid files with one to three changes: bits, bytes, integers, numbers in text, copied, dropped or repeated
 * pieces, inserted words, or a truncated end.
 *
 * @param words words that have a meaning in the format
 */
export function mutationsOf(
  originals: readonly Buffer[],
  words: readonly (string | Buffer)[] = [],
): fc.Arbitrary<Buffer> {
  const dictionary = words.map((word) => Buffer.from(word as string));
  const kinds = [
    ...changes,
    ...(words.length > 0
      ? [fc.tuple(anywhere, fc.constantFrom(...dictionary)).map(([at, word]) => putIn(at, word))]
      : []),
    fc.tuple(anywhere, anywhere, fc.nat(64), fc.nat(originals.length - 1)).map(
      ([at, from, length, which]): Change =>
        (bytes) => {
          const start = from % Math.max(1, originals[which]!.length);
          return insert(bytes, at, originals[which]!.subarray(start, start + length));
        },
    ),
  ];
  return fc
    .tuple(fc.nat(originals.length - 1), fc.array(fc.oneof(...kinds), { minLength: 1, maxLength: 3 }))
    .map(([which, list]) => list.reduce<Buffer>((bytes, change) => change(bytes), originals[which]!));
}

const changes: fc.Arbitrary<Change>[] = [
  fc.tuple(anywhere, fc.nat(7)).map(([at, bit]) =>
    edit((bytes) => {
      bytes[at % bytes.length]! ^= 1 << bit;
    }),
  ),
  fc.tuple(anywhere, fc.nat(255)).map(([at, value]) =>
    edit((bytes) => {
      bytes[at % bytes.length] = value;
    }),
  ),
  fc.tuple(anywhere, few, fc.constantFrom(0, 255)).map(([at, length, value]) =>
    edit((bytes) => {
      const start = at % bytes.length;
      bytes.subarray(start, start + length).fill(value);
    }),
  ),
  fc
    .tuple(anywhere, fc.constantFrom(...INTEGERS), fc.constantFrom(2, 4, 8), fc.boolean())
    .map(([at, value, size, big]) =>
      edit((bytes) => {
        const integer = Buffer.alloc(8);
        integer.writeBigInt64LE(BigInt.asIntN(64, value));
        const part = integer.subarray(0, size);
        if (big) part.reverse();
        part.copy(bytes, at % bytes.length);
      }),
    ),
  fc.tuple(anywhere, fc.constantFrom(...NUMBERS)).map(
    ([at, number]): Change =>
      (bytes) =>
        replaceNumber(bytes, at, number),
  ),
  fc.tuple(anywhere, few).map(
    ([at, length]): Change =>
      (bytes) => {
        const start = at % Math.max(1, bytes.length);
        return Buffer.concat([bytes.subarray(0, start), bytes.subarray(start + length)]);
      },
  ),
  fc.tuple(anywhere, anywhere, fc.nat(64)).map(
    ([at, from, length]): Change =>
      (bytes) => {
        const start = from % Math.max(1, bytes.length);
        return insert(bytes, at, bytes.subarray(start, start + length));
      },
  ),
  anywhere.map(
    (at): Change =>
      (bytes) =>
        bytes.subarray(0, at % (bytes.length + 1)),
  ),
];

/** Defines a change of existing bytes. */
function edit(change: (bytes: Buffer) => void): Change {
  return (bytes) => {
    const copy = Buffer.from(bytes);
    if (copy.length > 0) change(copy);
    return copy;
  };
}

function putIn(at: number, word: Buffer): Change {
  return (bytes) => insert(bytes, at, word);
}

function insert(bytes: Buffer, at: number, part: Buffer): Buffer {
  const start = at % (bytes.length + 1);
  return Buffer.concat([bytes.subarray(0, start), part, bytes.subarray(start)]);
}

function replaceNumber(bytes: Buffer, from: number, number: string): Buffer {
  const isDigit = (i: number) => bytes[i]! >= 0x30 && bytes[i]! <= 0x39;
  let start = from % Math.max(1, bytes.length);
  while (start < bytes.length && !isDigit(start)) ++start;
  let end = start;
  while (end < bytes.length && isDigit(end)) ++end;
  return Buffer.concat([bytes.subarray(0, start), Buffer.from(number), bytes.subarray(end)]);
}
