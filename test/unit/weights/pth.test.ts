import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { DataError, Tensor } from 'bidiseg';
import { openWeights, readWeights } from '../../../lib/weights/weights-file.js';
import { temporaryFolder } from '../../helpers/folder.js';
import {
  extents,
  legacyPth,
  members,
  pickle,
  SIX,
  tensor,
  tensorArguments,
  type ZipMember,
  zip,
  zipPth,
} from '../../helpers/pth-file.js';

const { dict, text, integer, global, call, list, tuple } = pickle;
const MIB = 2 ** 20;

/** Returns the offsets at which zip() puts the headers of its members. */
function zipOffsets(all: ZipMember[]): number[] {
  let at = 0;
  return all.map(({ name, data }) => {
    const offset = at;
    at += 30 + name.length + data.length;
    return offset;
  });
}

describe('reading PyTorch files', () => {
  const folder = temporaryFolder();
  const file = folder.path('file.pth');
  const stateDict = (...tensors: Buffer[]) => dict(...tensors.flatMap((t, i) => [text(`t${i}`), t]));
  const good = stateDict(tensor());
  let memory = 0;

  before(() => {
    memory = process.memoryUsage.rss();
  });
  after(() => {
    folder.remove();
    const grown = (process.memoryUsage.rss() - memory) / MIB;
    assert.ok(grown < 400, `memory grew by ${grown.toFixed(0)} MiB over all files`);
  });

  /** Reads all tensors of a file as numbers. */
  async function read(content: Buffer): Promise<Record<string, { data: number[]; shape: number[] }>> {
    writeFileSync(file, content);
    const weights = await openWeights(file);
    const result: Record<string, { data: number[]; shape: number[] }> = {};
    for (const { name, tensor: handle } of await readWeights(weights, weights.tensors)) {
      using values = new Tensor(handle);
      using wide = await values.to({ dtype: 'float32' });
      result[name] = { data: [...(await wide.data())].map(Number), shape: values.shape };
    }
    return result;
  }

  async function refuses(what: string, content: Buffer, message: RegExp = /./): Promise<void> {
    const before = process.memoryUsage.rss();
    await assert.rejects(
      () => read(content),
      (error: Error) => {
        assert.ok(error instanceof DataError, `${what}: ${error.stack}`);
        assert.ok(error.message.includes(file), `${what}: ${error.message}`);
        assert.match(error.message, message, what);
        return true;
      },
      what,
    );
    const grown = (process.memoryUsage.rss() - before) / MIB;
    assert.ok(grown < 128, `${what}: memory grew by ${grown.toFixed(0)} MiB`);
  }

  /** Checks that both formats refuse the same object. */
  async function refusesObject(what: string, root: Buffer, message?: RegExp): Promise<void> {
    await refuses(`${what}, zip`, zipPth(root), message);
    await refuses(`${what}, legacy`, legacyPth(root), message);
  }

  it('reads the valid files from which the other tests make invalid ones', async () => {
    const expected = { t0: { data: [0, 1, 2, 3, 4, 5], shape: [2, 3] } };
    assert.deepEqual(await read(zipPth(good)), expected);
    assert.deepEqual(await read(legacyPth(good)), expected);
    const transposed = stateDict(tensor({ shape: extents(3, 2), stride: extents(1, 3) }));
    assert.deepEqual((await read(zipPth(transposed))).t0, { data: [0, 3, 1, 4, 2, 5], shape: [3, 2] });
    const column = stateDict(tensor({ offset: integer(1), shape: extents(2), stride: extents(3) }));
    assert.deepEqual((await read(legacyPth(column))).t0, { data: [1, 4], shape: [2] });
    const expanded = stateDict(tensor({ offset: integer(5), shape: extents(2, 2), stride: extents(0, 0) }));
    assert.deepEqual((await read(zipPth(expanded))).t0, { data: [5, 5, 5, 5], shape: [2, 2] });
  });

  it('leaves out what state dicts do not need by its name, and runs nothing', async () => {
    const marker = folder.path('marker');
    const command = text(`touch ${marker}`);
    for (const [module, name] of [
      ['posix', 'system'],
      ['os', 'system'],
      ['builtins', 'eval'],
      ['__builtin__', 'eval'],
      ['torch.storage', '_load_from_bytes'],
      ['torch', 'load'],
      ['collections', 'OrderedDict.fromkeys'],
      ['constructor', 'prototype'],
      ['numpy.core.multiarray', 'scalar'],
    ] as const) {
      const message = new RegExp(`the Python global ${module}\\.${name},`);
      await refusesObject(`${module}.${name}`, call(global(module, name), command), message);
      const inside = dict(text('t'), tensor(), text('x'), call(global(module, name), command));
      for (const content of [zipPth(inside), legacyPth(inside)]) {
        assert.deepEqual(await read(content), { t: { data: [0, 1, 2, 3, 4, 5], shape: [2, 3] } });
        const { skipped } = await openWeights(file);
        const reason = `${module}.${name}, a Python object that is not built`;
        assert.deepEqual(skipped, [{ name: 'x', reason }]);
      }
    }
    const storage = call(global('torch.storage', 'UntypedStorage'), command);
    await refusesObject('a storage that is called', storage, /calls torch\.storage\.UntypedStorage/);
    const viaStack = Buffer.concat([
      text('posix'),
      text('system'),
      Buffer.from([0x93]),
      tuple(command),
      Buffer.from('R'),
    ]);
    await refusesObject('STACK_GLOBAL', viaStack, /the Python global posix\.system,/);
    await refusesObject('INST', Buffer.from("(S'ls'\niposix\nsystem\n"), /opcode 0x53/);
    await refusesObject('INST', Buffer.from('(iposix\nsystem\n'), /the Python global posix\.system,/);
    for (const opcode of [...'PSVILFgpo', '\x82', '\x97', '\xff']) {
      await refusesObject(`opcode ${opcode}`, Buffer.from(`${opcode}1\n1\n`, 'latin1'), /opcode|global/);
    }
    assert.ok(!existsSync(marker));
  });

  it('reads tensors beside objects that are not built, whatever is done to these', async () => {
    const thing = global('argparse', 'Namespace');
    const empty = Buffer.from(')');
    const build = Buffer.from('b');
    const bytes = (...values: (number | Buffer)[]) =>
      Buffer.concat(values.map((value) => (typeof value === 'number' ? Buffer.of(value) : value)));
    const objects: Record<string, Buffer> = {
      'argparse.Namespace': bytes(thing, empty, 0x81, dict(text('lr'), pickle.float(0.1)), build),
      'with names': bytes(thing, empty, dict(text('a'), tensor()), 0x92),
      'called twice': call(call(thing), tensor()),
      'a list': bytes(call(thing), Buffer.from('('), tensor(), Buffer.from('e')),
      'a dict': bytes(call(thing), Buffer.from('('), text('a'), tensor(), Buffer.from('u')),
      'a set': bytes(0x8f, Buffer.from('('), integer(1), 0x90),
      'a frozen set': bytes(Buffer.from('('), integer(1), 0x91),
      INST: bytes(Buffer.from('('), integer(1), Buffer.from('iposix\nsystem\n')),
      'its own attribute': bytes(call(thing), Buffer.from('q\x07h\x07'), build),
      'a parameter': call(global('torch._utils', '_rebuild_parameter'), call(thing)),
      'another rebuild': call(global('torch._utils', '_rebuild_qtensor'), tensor()),
      'a subclass': call(global('torch._tensor', '_rebuild_from_type_v2'), thing, thing, empty, pickle.none),
    };
    const entries = Object.entries(objects).flatMap(([name, object]) => [text(name), object]);
    for (const content of [zipPth(dict(...entries, text('t'), tensor()))]) {
      assert.deepEqual(await read(content), { t: { data: [0, 1, 2, 3, 4, 5], shape: [2, 3] } });
      const { skipped } = await openWeights(file);
      assert.deepEqual(
        skipped.map(({ name }) => name),
        Object.keys(objects),
      );
      assert.ok(skipped.every(({ reason }) => reason.endsWith('a Python object that is not built')));
    }
    // A tensor with a class or attributes of its own is built from the rebuilding function that it names, if known.
    const rebuild = Buffer.concat([global('torch._tensor', '_rebuild_from_type_v2'), Buffer.from('(')]);
    const args = tuple(...tensorArguments());
    const typed = bytes(
      rebuild,
      global('torch._utils', '_rebuild_tensor_v2'),
      global('torch', 'Tensor'),
      args,
      dict(),
      Buffer.from('tR'),
    );
    assert.deepEqual((await read(zipPth(dict(text('t'), typed)))).t!.data, [0, 1, 2, 3, 4, 5]);
    const itself = bytes(
      rebuild,
      global('torch._tensor', '_rebuild_from_type_v2'),
      global('torch', 'Tensor'),
      args,
      dict(),
      Buffer.from('tR'),
    );
    await refusesObject('itself as function', dict(text('t'), itself), /Python global|no state dict/);

    const many = Buffer.concat(Array(200_000).fill(Buffer.concat([thing, Buffer.from('0')])));
    assert.ok((await read(zipPth(Buffer.concat([many, good])))).t0);
    const attributes = Buffer.concat([call(thing), ...Array(200_000).fill(Buffer.from('}b'))]);
    assert.ok((await read(zipPth(dict(text('x'), attributes, text('t'), tensor())))).t);
  });

  it('refuses tensors that do not fit their storage, before memory is reserved', async () => {
    const cases: [string, Parameters<typeof tensor>[0]][] = [
      ['negative extent', { shape: extents(-2, -3) }],
      ['negative stride', { stride: extents(-3, -1) }],
      ['negative offset', { offset: integer(-1) }],
      ['offset past the end', { offset: integer(1) }],
      ['far offset', { offset: integer(2n ** 62n) }],
      ['huge extent', { shape: extents(2n ** 62n, 2) }],
      ['extents that wrap to 0', { shape: extents(2n ** 32n, 2n ** 32n) }],
      ['huge extents and none', { shape: extents(2n ** 52n, 2n ** 52n, 0), stride: extents(1, 1, 1) }],
      ['huge stride', { stride: extents(2n ** 62n, 1) }],
      ['long stride', { stride: extents(4, 1) }],
      ['expanded to a terabyte', { shape: extents(2n ** 38n), stride: extents(0) }],
      ['fewer strides', { stride: extents(1) }],
      ['65 extents', { shape: extents(...Array(65).fill(1)), stride: extents(...Array(65).fill(1)) }],
      ['fractional extent', { shape: tuple(pickle.float(0.5)), stride: extents(1) }],
      ['shape of text', { shape: tuple(text('2')), stride: extents(1) }],
      ['no shape', { shape: pickle.none }],
      ['storage of another length', { length: 5 }],
      ['longer storage', { length: 7 }],
      ['huge storage', { length: 2n ** 61n, shape: extents(2n ** 50n), stride: extents(1) }],
      ['negative storage', { length: -6 }],
      ['another element size', { type: global('torch', 'DoubleStorage') }],
      ['a type that is not supported', { type: global('torch', 'BoolStorage'), length: 24 }],
      ['a type that is a function', { type: global('collections', 'OrderedDict') }],
      ['a type that is text', { type: text('FloatStorage') }],
      ['a view of a storage', { metadata: tuple(text('1'), integer(0), integer(3)) }],
      ['another key', { key: '1' }],
      ['a key of another folder', { key: '../data.pkl' }],
    ];
    for (const [what, spec] of cases) await refusesObject(what, stateDict(tensor(spec)));
    const byteStorage = tensor({ type: global('torch', 'ByteStorage'), length: 24, shape: extents(24) });
    await refusesObject('one storage described in two ways', stateDict(tensor(), byteStorage));
    const rebuild = global('torch._utils', '_rebuild_tensor_v2');
    for (const args of [[], [pickle.none], [text('x'), integer(0), extents(1), extents(1)]]) {
      await refusesObject('a tensor of nothing', stateDict(call(rebuild, ...args)));
    }
    const metadata = dict(text('neg'), pickle.true);
    const negated = Buffer.concat([tensor().subarray(0, -2), metadata, Buffer.from('tR')]);
    await refusesObject('a negated view', stateDict(negated), /negated/);
  });

  it('refuses objects that are no state dict, endless, or far too much', async () => {
    const nothing = /no state dict|belongs to no tensor/; // the latter in a legacy file, which has a storage nevertheless
    for (const root of [pickle.none, integer(7), text('x'), dict(), list(tensor()), tensor()]) {
      await refusesObject('no state dict', root, nothing);
    }
    const two = dict(text('a'), stateDict(tensor()), text('b'), stateDict(tensor()));
    await refusesObject('two state dicts', two, /several dicts of tensors: a, b/);
    await refusesObject('a number as name', dict(integer(1), tensor()), /not a string/);

    const put = Buffer.from('q\0');
    const get = Buffer.from('h\0');
    const ownList = Buffer.concat([Buffer.from(']'), put, get, Buffer.from('a')]);
    await refusesObject('a list in itself', dict(text('x'), ownList), /contains itself/);
    const ownDict = Buffer.concat([Buffer.from('}'), put, text('state_dict'), get, Buffer.from('s')]);
    await refusesObject('a dict in itself', ownDict, /contains itself/);
    let deep = integer(1);
    for (let i = 0; i < 200; ++i) deep = list(deep);
    await refusesObject('200 levels', dict(text('x'), deep), /nested/);
    let lattice: Buffer = Buffer.from(']');
    for (let i = 0; i < 50; ++i) lattice = Buffer.concat([lattice, Buffer.from('2\x86', 'latin1')]);
    await refusesObject('2^50 paths to one list', dict(text('x'), lattice), nothing);
    await refusesObject('2^50 paths, as a name', dict(lattice, tensor()), /not a string/);
    await refusesObject('2^50 paths, as a module', Buffer.concat([lattice, Buffer.from('2\x93', 'latin1')]));

    await refusesObject('two million operations', Buffer.from('N0'.repeat(1_000_000)), /operations/);
    const wide = Buffer.concat([Buffer.from(']('), Buffer.alloc(900_000, 'N'), Buffer.from('e'), put]);
    const copies = Buffer.concat(Array(10_000).fill(call(global('collections', 'OrderedDict'), get)));
    await refusesObject('copies of a long list', Buffer.concat([wide, copies]));
    const bigStorage = Buffer.alloc(4 * MIB);
    const whole = tensor({ length: MIB, shape: extents(MIB), stride: extents(1) });
    await refuses('a pile', zipPth(stateDict(...Array(1000).fill(whole)), bigStorage), /share their bytes/);
    const column = tensor({ length: MIB, shape: extents(2), stride: extents(MIB - 1) });
    const columns = zipPth(stateDict(...Array(1000).fill(column)), bigStorage);
    await refuses('a pile of two elements each', columns, /share their bytes/);

    for (const opcode of [0x8d, 0x8e, 0x96]) {
      for (const length of [2n ** 63n, 2n ** 64n - 1n, 2n ** 40n]) {
        const head = Buffer.alloc(9, opcode);
        head.writeBigUInt64LE(length, 1);
        await refusesObject(`a text of ${length} bytes`, head, /ends too early/);
      }
    }
    const longInteger = Buffer.from([0x8b, 0xff, 0xff, 0xff, 0x7f]);
    await refusesObject('an integer of 2^31 bytes', longInteger, /integer of/);
  });

  it('refuses zip files that are not as torch.save writes them', async () => {
    const base = members(good);
    const change = (name: string, changes: object) =>
      zip(base.map((member) => (member.name === name ? { ...member, ...changes } : member)));
    const without = (name: string) => zip(base.filter((member) => member.name !== name));
    assert.ok((await read(without('a/byteorder'))).t0);
    await refuses('big-endian', change('a/byteorder', { data: Buffer.from('big') }), /byte order is "big"/);
    await refuses('no version', without('a/version'), /version/);
    await refuses('a new version', change('a/version', { data: Buffer.from('11') }), /version is 11/);
    await refuses('no pickle', without('a/data.pkl'), /not one that torch\.save wrote/);
    await refuses('no storage', without('a/data/0'), /storage 0 is missing/);
    await refuses('two pickles', zip([...base, { name: 'b/data.pkl', data: SIX }]), /not one/);
    await refuses('TorchScript', zip([...base, { name: 'a/constants.pkl', data: SIX }]), /TorchScript/);
    await refuses('twice', zip([...base, { name: 'a/data/0', data: SIX }]), /twice/);
    await refuses('compressed', change('a/data/0', { method: 8 }), /compressed/);
    await refuses('a compressed bomb', change('a/data/0', { method: 8, size: 2 ** 32 - 2 }), /reaches into/);
    await refuses('encrypted', change('a/data/0', { flags: 1 }), /encrypted/);
    await refuses('a bomb', change('a/data/0', { size: 2 ** 32 - 2 }), /reaches into/);
    await refuses('a bomb for a pickle', change('a/data.pkl', { size: 2 ** 31 }), /reaches into/);
    await refuses('two entries in one place', change('a/data/0', { headerOffset: 0 }), /reaches into/);
    await refuses('half upon each other', change('a/data/0', { headerOffset: 40 }), /reaches into/);
    await refuses('a header past the end', change('a/version', { headerOffset: 2 ** 31 }), /reaches into/);
    const far = Buffer.alloc(12);
    far.writeUInt16LE(1);
    far.writeUInt16LE(8, 2);
    far.writeBigUInt64LE(2n ** 63n, 4);
    await refuses('2^63 in zip64', change('a/version', { headerOffset: 2 ** 32 - 1, extra: far }));
    await refuses('too many entries', zip(base, { count: 0xfffe }), /claims 65534 entries/);
    await refuses('zip64 without its record', zip(base, { count: 0xffff }), /zip64/);
    await refuses('a directory past the end', zip(base, { offset: 2 ** 31 }), /claims/);
    await refuses('another zip file', zip([{ name: 'word/document.xml', data: SIX }]), /torch\.save/);
  });

  it('reads zip64, which PyTorch uses beyond 4 GB', async () => {
    const base = members(good);
    const offsets = zipOffsets(base);
    const wide = base.map((member, i) => {
      const extra = Buffer.alloc(28);
      extra.writeUInt16LE(1);
      extra.writeUInt16LE(24, 2);
      for (const [at, value] of [member.data.length, member.data.length, offsets[i]!].entries()) {
        extra.writeBigUInt64LE(BigInt(value), 4 + 8 * at);
      }
      return { ...member, size: 2 ** 32 - 1, headerOffset: 2 ** 32 - 1, extra };
    });
    const file32 = zip(wide, { count: 0xffff });
    const end = file32.length - 22;
    const directory = end - wide.reduce((sum, { name }) => sum + 46 + name.length + 28, 0);
    const record = Buffer.alloc(56);
    record.writeUInt32LE(0x06064b50);
    record.writeBigUInt64LE(BigInt(base.length), 32);
    record.writeBigUInt64LE(BigInt(end - directory), 40);
    record.writeBigUInt64LE(BigInt(directory), 48);
    const locator = Buffer.alloc(20);
    locator.writeUInt32LE(0x07064b50);
    locator.writeBigUInt64LE(BigInt(end), 8);
    const whole = () => Buffer.concat([file32.subarray(0, end), record, locator, file32.subarray(end)]);
    assert.deepEqual((await read(whole())).t0!.data, [0, 1, 2, 3, 4, 5]);
    record.writeBigUInt64LE(2n ** 63n, 32);
    await refuses('2^63 entries', whole(), /claims/);
    locator.writeBigUInt64LE(2n ** 63n, 8);
    await refuses('a record at 2^63', whole(), /past the end/);
  });

  it('refuses legacy files that are not as torch.save wrote them', async () => {
    await refuses('big-endian', legacyPth(good, { littleEndian: pickle.false }), /little-endian/);
    await refuses('a storage twice', legacyPth(good, { keys: ['0', '0'] }), /belongs to no tensor/);
    await refuses('a storage of nobody', legacyPth(good, { keys: ['0', '1'] }), /belongs to no tensor/);
    await refuses('no storage', legacyPth(good, { keys: [] }), /storage 0 is missing/);
    for (const claimed of [5n, 7n, -1n, 2n ** 62n]) {
      await refuses(`${claimed} elements`, legacyPth(good, { claimed }), /claims/);
    }
    const magic = Buffer.from(legacyPth(good));
    magic[6]! ^= 1;
    await refuses('another magic number', magic, /magic number/);
  });

  it('refuses files truncated anywhere', async () => {
    for (const [what, content] of Object.entries({ zip: zipPth(good), legacy: legacyPth(good) })) {
      for (let length = 0; length < content.length; length += 3) {
        await refuses(`${what} cut off after ${length} bytes`, content.subarray(0, length));
      }
      await refuses(`${what} cut off at the end`, content.subarray(0, content.length - 1));
    }
    await refuses('something else', Buffer.from('%PDF-1.7 and more'), /found a PDF, expected safetensors/);
    await refuses('noise', Buffer.from([1, 2, 3, 0, 255, 7, 8, 9, 10, 11]), /begins like neither/);
  });
});
