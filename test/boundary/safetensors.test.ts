import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import {
  CAMVID,
  CITYSCAPES,
  classesOf,
  DataError,
  InvalidArgumentError,
  memoryInUse,
  Network,
  OutputDiscriminator,
  Segmenter,
  setMemoryLimit,
  Tensor,
  Translator,
} from 'bidiseg';
import { weightsInfo } from '../../lib/cli/weights-info.js';
import { readSafetensorsHeader, writeSafetensors } from '../../lib/weights/safetensors.js';
import { temporaryFolder } from '../helpers/folder.js';
import { encodeHeader, lengthOf, readTensors, snapshot, writeTensors } from '../helpers/tensor-file.js';

describe('safetensors', () => {
  const folder = temporaryFolder();
  let network: OutputDiscriminator;
  let good: Buffer;
  let header: Record<string, { dtype: string; shape: unknown[]; data_offsets: unknown[] }>;
  let data: Buffer;

  before(async () => {
    network = await OutputDiscriminator.create({ classCount: 3, baseWidth: 4 });
    await network.save(folder.path('good'));
    good = readFileSync(folder.path('good'));
    const start = 8 + Number(good.readBigUInt64LE());
    header = JSON.parse(good.toString('utf8', 8, start));
    data = good.subarray(start);
  });
  after(() => {
    network.dispose();
    folder.remove();
  });

  /**
   * Expects a DataError that names the file from load() and from fromFile(), no large allocation, and unchanged
   * weights.
   */
  async function refuses(what: string, content: Buffer, maxMiB = 64): Promise<void> {
    const file = folder.path('bad.safetensors');
    writeFileSync(file, content);
    const before = await snapshot(network);
    const memory = process.memoryUsage.rss();
    for (const read of [() => network.load(file), () => Segmenter.fromFile(file)]) {
      await assert.rejects(
        read,
        (error: unknown) => {
          assert.ok(error instanceof DataError, `${what}: ${(error as Error).stack}`);
          assert.ok(error.message.includes(file), `${what}: ${error.message}`);
          assert.equal(error.code, 'ERR_DATA');
          return true;
        },
        what,
      );
    }
    const grown = (process.memoryUsage.rss() - memory) / 2 ** 20;
    assert.ok(grown < maxMiB, `${what}: memory grew by ${grown.toFixed(0)} MiB`);
    assert.deepEqual(await snapshot(network), before, what);
  }

  /** Changes header entries of the valid file. */
  const changed = (changes: Record<string, unknown>): Buffer =>
    Buffer.concat([encodeHeader(JSON.stringify({ ...header, ...changes })), data]);
  const entry = (changes: Record<string, unknown>) =>
    changed({ 'conv1.weight': { ...header['conv1.weight'], ...changes } });

  it('refuses truncated files and invalid headers', async () => {
    for (const length of [0, 1, 7, 8, 9, 100, good.length - data.length, good.length - 1]) {
      await refuses(`cut off after ${length} bytes`, good.subarray(0, length));
    }
    for (const claimed of [2n ** 63n, 2n ** 64n - 1n, 2n ** 32n, 10n ** 8n + 1n, BigInt(good.length)]) {
      const file = Buffer.from(good);
      file.writeBigUInt64LE(claimed);
      await refuses(`header length ${claimed}`, file);
    }
    for (const text of ['', '{', 'null', '[]', '7', '"x"', '{"a":null}', '{"a":[]}', '{"a":7}']) {
      await refuses(`header ${text}`, Buffer.concat([encodeHeader(text), data]));
    }
    for (const bytes of [Buffer.from('{"\xff":0}', 'latin1'), Buffer.from('\ufeff{}')]) {
      await refuses(`header ${bytes.toString('hex')}`, Buffer.concat([lengthOf(bytes), bytes]));
    }
    await refuses('bytes behind the last tensor', Buffer.concat([good, Buffer.alloc(8)]));
    for (const metadata of [null, 7, [], { bidiseg: '{' }, { bidiseg: 'null' }, { bidiseg: '7' }]) {
      const file = folder.path('metadata');
      writeFileSync(file, changed({ __metadata__: metadata }));
      await assert.rejects(
        () => Segmenter.fromFile(file),
        (error: Error) => error instanceof DataError && error.message.includes(file),
        JSON.stringify(metadata),
      );
    }
  });

  it('refuses offsets, shapes and dtypes that do not fit', async () => {
    const [begin, end] = header['conv1.weight']!.data_offsets as [number, number];
    const bytes = end - begin;
    await refuses('offsets past the end', entry({ data_offsets: [data.length, data.length + bytes] }));
    await refuses('far offsets', entry({ data_offsets: [2 ** 53 - 1 - bytes, 2 ** 53 - 1] }));
    await refuses('offsets beyond 2^53', entry({ data_offsets: [2 ** 60, 2 ** 60 + bytes] }));
    await refuses('negative offsets', entry({ data_offsets: [-bytes, 0] }));
    await refuses('swapped offsets', entry({ data_offsets: [end, begin] }));
    await refuses('offsets missing', entry({ data_offsets: [begin] }));
    await refuses('no offsets', entry({ data_offsets: undefined }));
    await refuses('a short range', entry({ data_offsets: [begin, end - 4] }));
    await refuses('an overlap', entry({ data_offsets: [begin + 4, end + 4] }));
    await refuses('a negative shape', entry({ shape: [-1, -bytes / 4] }));
    await refuses('a fractional shape', entry({ shape: [0.5, bytes / 2] }));
    await refuses('a shape of strings', entry({ shape: ['4', '3', '4', '4'] }));
    await refuses('65 extents', entry({ shape: [...Array(61).fill(1), ...header['conv1.weight']!.shape] }));
    await refuses('a huge shape', entry({ shape: [2 ** 52, 2 ** 52] }));
    const wrapped = entry({ shape: [2 ** 32, 2 ** 32], data_offsets: [begin, begin] }); // 0 modulo 2^64
    await refuses('a shape that wraps to 0', wrapped);
    await refuses(
      'a huge shape without bytes',
      entry({ shape: [2 ** 52, 2 ** 52, 0], data_offsets: [0, 0] }),
    );
    const huge = { empty: { dtype: 'F32', shape: [0, 2 ** 40, 2 ** 40], data_offsets: [0, 0] } };
    await refuses('a huge shape, and nothing else', encodeHeader(JSON.stringify(huge)));
    await assert.rejects(
      () => network.load(folder.path('bad.safetensors')),
      /'empty' has the too large shape/,
    );
    await refuses('a shape that does not fit', entry({ shape: [3, 4, 4, 4] }));
    await refuses('no shape', entry({ shape: undefined }));
    await refuses('an unknown dtype', entry({ dtype: 'F8_E4M3' }));
    await refuses('a dtype of Object.prototype', entry({ dtype: 'constructor' }));
    await refuses('a number as dtype', entry({ dtype: 4 }));
    await refuses('a dtype of another size', entry({ dtype: 'F64' }));
    const { 'conv1.bias': _bias, ...rest } = readTensors(folder.path('good'));
    writeTensors(folder.path('missing'), rest);
    await refuses('a missing tensor', readFileSync(folder.path('missing')));
    await assert.rejects(() => network.load(folder.path('missing')), /missing conv1\.bias/);
  });

  it('refuses overlapping tensors before it reserves memory for them', async () => {
    const size = 4 * 2 ** 20;
    const pile: Record<string, unknown> = {};
    for (let i = 0; i < 1000; ++i) {
      pile[`t${i}`] = { dtype: 'U8', shape: [size], data_offsets: [0, size] };
    }
    await refuses('a pile', Buffer.concat([encodeHeader(JSON.stringify(pile)), Buffer.alloc(size)]));
  });

  it('refuses headers that would take too much memory', async () => {
    const limit = 4 * 2 ** 20;
    const inside = (text: string) => encodeHeader(`{"a":${text}}`);
    await refuses('5 MB of spaces', inside(`0${' '.repeat(limit + 2 ** 20)}`));
    await assert.rejects(
      () => network.load(folder.path('bad.safetensors')),
      /more than the 4194304 that are read/,
    );
    await refuses(
      'lists in lists',
      inside(`${'['.repeat(limit / 2 - 10)}${']'.repeat(limit / 2 - 10)}`),
      400,
    );
    await refuses('many lists', inside(`[${'[],'.repeat(limit / 3 - 10)}0]`), 400);
  });

  it('refuses what a newer bidiseg wrote, and a description that is damaged', async () => {
    const described = (description: object) =>
      changed({ __metadata__: { bidiseg: JSON.stringify(description) } });
    const { __metadata__: own } = header as unknown as { __metadata__: { bidiseg: string } };
    const good = JSON.parse(own.bidiseg);
    const expectMessage = async (description: object, message: RegExp) => {
      await refuses(JSON.stringify(description), described(description));
      await assert.rejects(() => network.load(folder.path('bad.safetensors')), message);
    };
    await expectMessage(
      { ...good, version: 2, news: [] },
      /has format version 2, .* versions up to 1: update/,
    );
    await expectMessage({ ...good, version: 0 }, /no format version/);
    await expectMessage({ ...good, version: '1' }, /no format version/);
    await expectMessage({ ...good, architecture: 7 }, /no architecture or options/);
    await expectMessage({ ...good, options: null }, /no architecture or options/);
    await expectMessage({ ...good, classes: 'road' }, /classes are not a list of names/);
    for (const palette of ['red', [[1, 2]], [[1, 2, 256]], [[1, 2, 0.5]], [[1, 2, '3']], [null]]) {
      await expectMessage({ ...good, palette }, /palette is not a list of colors \[R, G, B\] from 0 to 255/);
    }
    await expectMessage({ ...good, step: -1 }, /step is not a whole number/);
    const segmenter = { version: 1, architecture: 'deeplab-v2', options: { classCount: 3 } };
    const file = folder.path('classes');
    writeFileSync(file, described({ ...segmenter, classes: ['road', 'sky'] }));
    await assert.rejects(() => Segmenter.fromFile(file), /3 names, one for each class/);
    writeFileSync(file, described({ ...segmenter, palette: [[1, 2, 3]] }));
    await assert.rejects(
      () => Segmenter.fromFile(file),
      /describes no valid segmenter: Expected 9 bytes, 3 for each class/,
    );
  });

  it('keeps every name, and refuses the one that the format reserves', async () => {
    const file = folder.path('names');
    const entries = ['__proto__', 'constructor', '7', 'ü\n"', ''].map((name, i) => ({
      name,
      tensor: Tensor.from(Float32Array.of(i)).handle,
    }));
    await writeSafetensors(file, entries, JSON.parse('{"__proto__":"x"}'));
    const { tensors, metadata } = await readSafetensorsHeader(file);
    const offsets = new Map(tensors.map(({ name, offset }) => [name, offset]));
    assert.deepEqual(
      entries.map(({ name }) => readFileSync(file).readFloatLE(offsets.get(name)!)),
      [0, 1, 2, 3, 4],
    );
    assert.deepEqual(Object.entries(metadata), [['__proto__', 'x']]);
    entries[0]!.name = '__metadata__';
    await assert.rejects(
      () => writeSafetensors(file, entries, {}),
      (error: Error) => error instanceof DataError && error.message.includes(file),
    );
    for (const { tensor } of entries) tensor.dispose();
  });

  it('names files that are missing or not regular files', async () => {
    mkdirSync(folder.path('directory'));
    for (const file of [folder.path('nowhere'), folder.path('directory')]) {
      await assert.rejects(
        () => network.load(file),
        (error: Error) => error instanceof DataError && error.message.includes(file),
        file,
      );
    }
  });

  it('saves files whole or not at all', async () => {
    for (const [file, kind] of [
      [folder.path('no/such/folder/m'), DataError],
      [folder.path('directory'), DataError],
    ] as const) {
      const list = () => readdirSync(folder.path('.')).sort();
      const before = list();
      await assert.rejects(
        () => network.save(file),
        (error: Error) => error instanceof kind && error.message.includes(file),
      );
      assert.deepEqual(list(), before, 'a failed save left something behind');
    }
    assert.ok(!existsSync(folder.path('no')));
    // When an old file is replaced, either the old or the new one must be there.
    const file = folder.path('old');
    await network.save(file);
    const old = readFileSync(file);
    const signal = AbortSignal.abort();
    await assert.rejects(() => network.save(file, { signal }), { name: 'AbortError' });
    assert.deepEqual(readFileSync(file), old);
    await Promise.all(Array.from({ length: 8 }, () => network.save(file)));
    assert.deepEqual(readFileSync(file), old);
    assert.deepEqual(
      readdirSync(dirname(file)).filter((name) => name.includes('tmp')),
      [],
    );
    assert.equal(statSync(file).size, old.length);
  });

  it('loads all networks of a translator or none', async () => {
    using translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    using other = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, seed: 9 });
    const file = folder.path('translator');
    await other.save(file);
    const tensors = readTensors(file);
    delete tensors['source_discriminator.model.11.bias'];
    writeTensors(file, tensors);
    const before = await snapshot(translator.toTarget);
    await assert.rejects(
      () => translator.load(file),
      (error: Error) => error instanceof DataError && error.message.includes('model.11.bias'),
    );
    assert.deepEqual(await snapshot(translator.toTarget), before, 'half of the file was taken over');
  });

  it('keeps float64 as it is, and rounds to the dtype of the network that loads', async () => {
    const options = { classCount: 3, baseWidth: 4 };
    using narrow = await OutputDiscriminator.create(options);
    using wide = await OutputDiscriminator.create({ ...options, dtype: 'float64' });
    const file = folder.path('wide');
    await wide.save(file);
    const before = readTensors(file);
    for (const [name, data] of await snapshot(narrow)) {
      const found = before[name]!.data;
      assert.ok(found instanceof Float64Array, name);
      assert.deepEqual(Float32Array.from(found), data, 'not the same initial weights');
    }
    for (const tensor of Object.values(before)) {
      tensor.data = (tensor.data as Float64Array).map((_, i) => Math.PI * (i + 1));
    }
    writeTensors(file, before);
    await wide.load(file);
    await narrow.load(file);
    for (const [name, { data }] of Object.entries(before)) {
      assert.deepEqual((await snapshot(wide)).get(name), data);
      assert.deepEqual((await snapshot(narrow)).get(name), Float32Array.from(data as Float64Array));
    }
    await wide.copyFrom(narrow);
    assert.equal(wide.dtype, 'float64');
    assert.equal((await snapshot(wide)).get('conv1.bias')![0], Math.fround(Math.PI));

    using segmenter = await Segmenter.create({
      backbone: 'resnet18',
      width: 1 / 16,
      classCount: 5,
      dtype: 'float64',
    });
    await segmenter.save(file);
    const counters = Object.entries(readTensors(file)).filter(([name]) =>
      name.endsWith('num_batches_tracked'),
    );
    assert.ok(counters.length > 0 && counters.every(([, { data }]) => data instanceof BigInt64Array));
    using loaded = await Segmenter.fromFile(file);
    using loadedWide = await Segmenter.fromFile(file, { dtype: 'float64' });
    assert.deepEqual([loaded.dtype, loadedWide.dtype], ['float32', 'float64']);
    assert.deepEqual(await snapshot(loadedWide), await snapshot(segmenter));
  });

  it('refuses a small file that describes a huge network before it takes that much memory', async () => {
    using small = await Segmenter.create({ backbone: 'resnet18', width: 1 / 64, classCount: 5 });
    using translator = await Translator.create({ blocks: 6, baseWidth: 1, discriminatorWidth: 1 });
    for (const [kind, network, key, described] of [
      [Segmenter, small, '"width":0.015625', '"width":2'],
      [Translator, translator, '"baseWidth":1', '"baseWidth":512'],
    ] as const) {
      const file = folder.path('small');
      await network.save(file);
      const bytes = readFileSync(file);
      const length = Number(bytes.readBigUInt64LE());
      const header = bytes
        .subarray(8, 8 + length)
        .toString()
        .trimEnd();
      const escaped = (text: string) => JSON.stringify(text).slice(1, -1);
      assert.ok(header.includes(escaped(key)));
      const changed = encodeHeader(header.replace(escaped(key), escaped(described)));
      writeFileSync(file, Buffer.concat([changed, bytes.subarray(8 + length)]));
      // The error must be about the file, not about memory.
      setMemoryLimit(memoryInUse() + 64 * 2 ** 20);
      try {
        await assert.rejects(
          () => kind.fromFile(file),
          (error: Error) => {
            assert.ok(error instanceof DataError, error.stack);
            assert.match(
              error.message,
              /small describes no valid (segmenter|translator): the network has far more param/,
            );
            return true;
          },
        );
      } finally {
        setMemoryLimit(null);
      }
    }
  });

  it('reports wrong options as such, not as a fault of the file', async () => {
    const file = folder.path('options');
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 64, classCount: 5 });
    await segmenter.save(file);
    for (const { fromFile } of [Segmenter, Translator]) {
      await assert.rejects(
        () => fromFile(file, { device: 'abacus' }),
        (error: Error) => {
          assert.ok(error instanceof InvalidArgumentError, error.stack);
          assert.match(error.message, /a device such as .* but received 'abacus'/);
          return true;
        },
      );
      await assert.rejects(() => fromFile(file, { device: 'cuda:99' }), /There is no device 'cuda:99' here/);
      await assert.rejects(() => fromFile(file, { device: 'meta' }), InvalidArgumentError);
    }
  });

  it('keeps names and colors of the classes; without any, there are default ones', async () => {
    const file = folder.path('classes');
    const options = { backbone: 'resnet18', width: 1 / 64, classCount: 2 } as const;
    const classes = { classNames: ['road', 'sky'], palette: Uint8Array.of(128, 64, 128, 0, 0, 255) };
    using a = await Segmenter.create({ ...options, ...classes });
    classes.palette.fill(1);
    await a.save(file);
    using b = await Segmenter.fromFile(file);
    const palette = Uint8Array.of(128, 64, 128, 0, 0, 255);
    assert.deepEqual(b.options.palette, palette);
    assert.deepEqual(classesOf(b.options), { names: ['road', 'sky'], palette });
    const { data, rows } = await weightsInfo(file);
    assert.deepEqual((data as { palette: unknown }).palette, [
      [128, 64, 128],
      [0, 0, 255],
    ]);
    assert.deepEqual(new Map(rows).get('palette'), '#804080, #0000ff');

    using plain = await Segmenter.create(options);
    await plain.save(file);
    using old = await Segmenter.fromFile(file);
    assert.equal(old.options.palette.length, 0);
    const { names, palette: colors } = classesOf(old.options);
    assert.deepEqual(names, ['class 0', 'class 1']);
    assert.deepEqual(colors, Uint8Array.of(128, 0, 0, 0, 128, 0), 'the colors of PASCAL VOC');
    assert.deepEqual(classesOf({ classCount: 19 }), CITYSCAPES);
    assert.deepEqual(classesOf({ classCount: 11, classNames: [] }), CAMVID);
  });

  it('loads exactly what was saved, for any network', async () => {
    using a = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5, seed: 5 });
    const file = folder.path('whole');
    await a.save(file);
    using b = await Segmenter.fromFile(file);
    assert.deepEqual(await snapshot(b), await snapshot(a));
    assert.deepEqual(b.options, { ...a.options, seed: b.options.seed });
    await assert.rejects(() => Translator.fromFile(file), DataError);
    await assert.rejects(() => Segmenter.create({ classCount: 0 }), InvalidArgumentError);
    for (const classNames of [['a'], [1, 2], 'ab'] as string[][]) {
      await assert.rejects(
        () => Segmenter.create({ classCount: 2, classNames }),
        /names, one for each class/,
      );
    }
    for (const palette of [new Uint8Array(3), [1, 2, 3, 4, 5, 6], 'red'] as Uint8Array[]) {
      await assert.rejects(() => Segmenter.create({ classCount: 2, palette }), {
        name: 'InvalidArgumentError',
        message: /3 (bytes )?for each class.* for palette/,
      });
    }
    await assert.rejects(() => a.save(file, { dtype: 'int8' as 'float16' }), /one of float32, /);
    await assert.rejects(() => a.save(file, { step: 0.5 }), /an integer ≥ 0 for step/);
    assert.ok(b instanceof Network);
  });
});
