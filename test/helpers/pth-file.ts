/** Writes the pickles and zip files of `torch.save` byte by byte, so that tests can write wrong ones too. */

const bytes = (...values: number[]) => Buffer.from(values);

function sized(length: number, write: (buffer: Buffer) => void): Buffer {
  const buffer = Buffer.alloc(length);
  write(buffer);
  return buffer;
}

/** Encoders of a pickle's pieces. Each piece pushes one value. */
export const pickle = {
  none: Buffer.from('N'),
  false: bytes(0x89),
  true: bytes(0x88),
  text: (text: string) =>
    Buffer.concat([
      Buffer.from('X'),
      sized(4, (b) => b.writeUInt32LE(Buffer.byteLength(text))),
      Buffer.from(text),
    ]),
  /** Encodes an integer in eight bytes, enough for any extent. */
  integer: (value: number | bigint) =>
    Buffer.concat([bytes(0x8a, 8), sized(8, (b) => b.writeBigInt64LE(BigInt(value)))]),
  float: (value: number) => Buffer.concat([Buffer.from('G'), sized(8, (b) => b.writeDoubleBE(value))]),
  tuple: (...items: Buffer[]) => Buffer.concat([Buffer.from('('), ...items, Buffer.from('t')]),
  dict: (...items: Buffer[]) => Buffer.concat([Buffer.from('}('), ...items, Buffer.from('u')]),
  list: (...items: Buffer[]) => Buffer.concat([Buffer.from('](', 'latin1'), ...items, Buffer.from('e')]),
  global: (module: string, name: string) => Buffer.from(`c${module}\n${name}\n`),
  call: (callable: Buffer, ...args: Buffer[]) =>
    Buffer.concat([callable, pickle.tuple(...args), Buffer.from('R')]),
  whole: (value: Buffer) => Buffer.concat([bytes(0x80, 2), value, Buffer.from('.')]),
};

export interface TensorSpec {
  type?: Buffer;
  key?: string;
  length?: number | bigint;
  offset?: Buffer;
  shape?: Buffer;
  stride?: Buffer;
  metadata?: Buffer;
}

export const extents = (...values: (number | bigint)[]) => pickle.tuple(...values.map(pickle.integer));

/** Arguments of _rebuild_tensor_v2; without changes it is float32 [2, 3] over the six elements of storage '0'. */
export function tensorArguments(spec: TensorSpec = {}): Buffer[] {
  const { type = pickle.global('torch', 'FloatStorage'), key = '0', length = 6 } = spec;
  const storage = Buffer.concat([
    pickle.tuple(
      pickle.text('storage'),
      type,
      pickle.text(key),
      pickle.text('cpu'),
      pickle.integer(length),
      ...(spec.metadata ? [spec.metadata] : []),
    ),
    Buffer.from('Q'),
  ]);
  return [
    storage,
    spec.offset ?? pickle.integer(0),
    spec.shape ?? extents(2, 3),
    spec.stride ?? extents(3, 1),
    pickle.false,
    pickle.call(pickle.global('collections', 'OrderedDict')),
  ];
}

/** A call of _rebuild_tensor_v2. */
export function tensor(spec: TensorSpec = {}): Buffer {
  return pickle.call(pickle.global('torch._utils', '_rebuild_tensor_v2'), ...tensorArguments(spec));
}

export interface ZipMember {
  name: string;
  data: Buffer;
  method?: number;
  flags?: number;
  /** Size that the directory states. Default: the true size. */
  size?: number;
  headerOffset?: number;
  extra?: Buffer;
}

export function zip(members: ZipMember[], end: { count?: number; offset?: number } = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data, method = 0, flags = 0, size = data.length, headerOffset, extra } of members) {
    const local = sized(30, (b) => {
      b.writeUInt32LE(0x04034b50);
      b.writeUInt16LE(Buffer.byteLength(name), 26);
    });
    const entry = sized(46, (b) => {
      b.writeUInt32LE(0x02014b50);
      b.writeUInt16LE(flags, 8);
      b.writeUInt16LE(method, 10);
      b.writeUInt32LE(size, 20);
      b.writeUInt32LE(size, 24);
      b.writeUInt16LE(Buffer.byteLength(name), 28);
      b.writeUInt16LE(extra?.length ?? 0, 30);
      b.writeUInt32LE(headerOffset ?? at, 42);
    });
    directory.push(entry, Buffer.from(name), extra ?? Buffer.alloc(0));
    parts.push(local, Buffer.from(name), data);
    at += local.length + Buffer.byteLength(name) + data.length;
  }
  const directoryBytes = Buffer.concat(directory);
  const record = sized(22, (b) => {
    b.writeUInt32LE(0x06054b50);
    b.writeUInt16LE(end.count ?? members.length, 8);
    b.writeUInt16LE(end.count ?? members.length, 10);
    b.writeUInt32LE(directoryBytes.length, 12);
    b.writeUInt32LE(end.offset ?? at, 16);
  });
  return Buffer.concat([...parts, directoryBytes, record]);
}

/** Elements 0 to 5 of storage '0'. */
export const SIX = Buffer.from(Float32Array.of(0, 1, 2, 3, 4, 5).buffer);

export function members(root: Buffer, storage = SIX): ZipMember[] {
  return [
    { name: 'a/data.pkl', data: pickle.whole(root) },
    { name: 'a/byteorder', data: Buffer.from('little') },
    { name: 'a/data/0', data: storage },
    { name: 'a/version', data: Buffer.from('3\n') },
  ];
}

/** Encodes a file in the format since PyTorch 1.6, with `root` as its object and one storage. */
export function zipPth(root: Buffer, storage = SIX): Buffer {
  return zip(members(root, storage));
}

/** Encodes a file in the format before PyTorch 1.6. */
export function legacyPth(
  root: Buffer,
  {
    littleEndian = pickle.true,
    keys = ['0'],
    claimed = 6n,
    storage = SIX,
  }: { littleEndian?: Buffer; keys?: string[]; claimed?: bigint; storage?: Buffer } = {},
): Buffer {
  const magic = Buffer.from('8a0a6cfc9c46f9206aa85019', 'hex');
  return Buffer.concat([
    pickle.whole(magic),
    pickle.whole(pickle.integer(1001)),
    pickle.whole(pickle.dict(pickle.text('little_endian'), littleEndian)),
    pickle.whole(root),
    pickle.whole(pickle.list(...keys.map(pickle.text))),
    ...keys.flatMap(() => [sized(8, (b) => b.writeBigInt64LE(claimed)), storage]),
  ]);
}
