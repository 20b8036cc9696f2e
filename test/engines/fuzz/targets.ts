import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Tensor } from 'bidiseg';
import fc from 'fast-check';
import sharp from 'sharp';
import YAML from 'yaml';
import { loadConfig } from '../../../lib/config/load.js';
import { PRESETS } from '../../../lib/config/presets.js';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { readImage, writeImage } from '../../../lib/data/image-codec.js';
import { openLabels } from '../../../lib/data/label-codec.js';
import { labelMap } from '../../../lib/data/label-maps.js';
import { native } from '../../../lib/native/binding.js';
import type { Dtype } from '../../../lib/native/binding-types.js';
import { call } from '../../../lib/native/native-object.js';
import { writeReport } from '../../../lib/report/write-report.js';
import { BidisegError, DataError } from '../../../lib/support/errors.js';
import { writeSafetensors } from '../../../lib/weights/safetensors.js';
import { openWeights, readWeights } from '../../../lib/weights/weights-file.js';
import { encodeDescription } from '../../../lib/weights/weights-metadata.js';
import { writeFinishedRun } from '../../helpers/finished-run.js';
import { encodePng } from '../../helpers/png.js';
import { extents, legacyPth, pickle, SIX, tensor, zip } from '../../helpers/pth-file.js';
import { randomBytes } from '../../helpers/random.js';
import { encodeHeader } from '../../helpers/tensor-file.js';
import { findPython, Twin } from '../../helpers/twin.js';
import { mutationsOf } from './mutations.js';
import type { FuzzTarget } from './target.js';

/** Creates all readers of bytes from outside. They write into `folder`. */
export async function fuzzTargets(folder: string, note: (line: string) => void): Promise<FuzzTarget[]> {
  const { safetensors, pth } = await weightsFiles(folder, note);
  return [
    weightsTarget('safetensors', path.join(folder, 'safetensors'), safetensors, [
      '"F32"',
      '"dtype":',
      '"shape":',
      '"data_offsets":',
      '"__metadata__":',
      '"__proto__":',
      '[[[[',
      '\\ud800',
    ]),
    weightsTarget('pth', path.join(folder, 'weights.pth'), pth, pickleWords),
    placesTarget(path.join(folder, 'places')),
    configTarget(path.join(folder, 'config.yaml')),
    jsonTarget(path.join(folder, 'config.json')),
    assignmentTarget(path.join(folder, 'set.yaml')),
    await listTarget(path.join(folder, 'list')),
    labelTarget(path.join(folder, 'labels.png')),
    await imageTarget(path.join(folder, 'image.png')),
    await runTarget(path.join(folder, 'run')),
  ];
}

const REFUSED = "read, or refused with the file's name";

/** Checks that an error names the file at fault. */
async function naming<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof BidisegError && !error.message.includes(path.basename(file))) {
      throw new Error(`does not name the file: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

// --- weights ---

/** Creates small files of every format that is read: our own, handmade ones, and PyTorch's if there is a Python. */
async function weightsFiles(
  folder: string,
  note: (line: string) => void,
): Promise<{ safetensors: Buffer[]; pth: Buffer[] }> {
  const file = path.join(folder, 'original');
  const entries = [
    { name: 'conv1.weight', tensor: Tensor.from(new Float32Array(24).fill(0.5), [2, 3, 2, 2]).handle },
    { name: 'bn1.num_batches_tracked', tensor: Tensor.from(BigInt64Array.of(7n), []).handle },
    { name: 'empty', tensor: Tensor.from(new Uint8Array(0), [0, 3]).handle },
  ];
  const metadata = encodeDescription({ architecture: 'deeplab-v2', options: { classCount: 5 }, step: 3 });
  await writeSafetensors(file, entries, metadata);
  for (const entry of entries) entry.tensor.dispose();
  const safetensors = [readFileSync(file), encodeHeader('{}')];

  const { dict, text, float } = pickle;
  const transposed = tensor({ shape: extents(3, 2), stride: extents(1, 3) });
  const state = [text('a'), tensor(), text('module.b'), transposed];
  const pth = [legacyPth(dict(text('epoch'), float(3), text('state_dict'), dict(...state)))];
  state.push(text('c'), tensor({ key: '1', shape: extents(6), stride: extents(1) }));
  pth.push(
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
    note(`without files from PyTorch: ${found.reason}`);
    return { safetensors, pth };
  }
  const twin = new Twin(found.python);
  for (const testCase of ['plain', 'odd', 'Scale.', 'beside', 'lacking', 'attributes']) {
    for (const isZip of [true, false]) {
      await twin.ask({ do: 'saveCase', case: testCase, file, zip: isZip, protocol: 2 });
      pth.push(readFileSync(file));
    }
  }
  twin.close();
  return { safetensors, pth };
}

/** Opcodes that build, repeat and call. */
const pickleWords = [
  ...'.(0123]})Ntlduasbciq\x8f\x90\x91\x92\x85\x86\x87\x88\x89\x8a\x94\x93R2h'
    .split('')
    .map((code) => Buffer.from(code, 'latin1')),
  'cos\nsystem\n',
  'cbuiltins\neval\n',
  'ctorch._utils\n_rebuild_tensor_v2\n',
  'ctorch._tensor\n_rebuild_from_type_v2\n',
  'cargparse\nNamespace\n',
  'ccollections\nOrderedDict\n',
];

function weightsTarget(
  parser: string,
  file: string,
  originals: readonly Buffer[],
  words: readonly (string | Buffer)[],
): FuzzTarget {
  return {
    parser,
    outcome: `${REFUSED}; tensors of at most 4 times the file`,
    cases: mutationsOf(originals, words),
    async attempt(content) {
      writeFileSync(file, content);
      await naming(file, async () => {
        const weights = await openWeights(file);
        const bytes = weights.tensors.reduce((sum, entry) => sum + entry.bytes, 0);
        assert.ok(bytes <= 4 * content.length, `tensors of ${bytes} bytes`);
        for (const { tensor: handle } of await readWeights(weights, weights.tensors)) handle.dispose();
      });
    },
  };
}

const DTYPES = { uint8: 1, int32: 4, int64: 8 } as const;

/** Passes places of tensors in a file to the native reader, as a parser without checks would. */
function placesTarget(file: string): FuzzTarget {
  const bytes = Buffer.from(randomBytes(777, 5));
  writeFileSync(file, bytes);
  const wild = fc.constantFrom(2 ** 31, 2 ** 40, 1e15, Number.MAX_SAFE_INTEGER, -1, 0.5);
  const mostly = (max: number) =>
    fc.oneof({ weight: 9, arbitrary: fc.nat(max) }, { weight: 1, arbitrary: wild });
  // Huge extents or huge strides, not both. The parsers refuse a broadcast terabyte.
  const plain = fc.record({ shape: fc.array(mostly(5), { maxLength: 3 }), offset: mostly(800) });
  const strided = fc.array(fc.tuple(fc.nat(5), mostly(19)), { maxLength: 3 }).chain((dimensions) =>
    fc.record({
      shape: fc.constant(dimensions.map(([extent]) => extent)),
      stride: fc.constant(dimensions.map(([, step]) => step)),
      offset: mostly(800),
    }),
  );
  const dtype = fc.constantFrom(...(Object.keys(DTYPES) as (keyof typeof DTYPES)[]));
  const entries = fc
    .tuple(dtype, fc.oneof(plain, strided))
    .map(([type, place]) => ({ dtype: type, ...place }));
  return {
    parser: 'places in weights files',
    outcome: 'what is there, or refused',
    cases: entries.map((entry) => Buffer.from(JSON.stringify(entry))),
    async attempt(json) {
      const entry = JSON.parse(String(json)) as {
        dtype: keyof typeof DTYPES & Dtype;
        shape: number[];
        stride?: number[];
        offset: number;
      };
      const { dtype: type, shape, offset } = entry;
      const [handle] = await call(() => native.readTensorFile(file, [entry]));
      using values = new Tensor(handle!);
      assert.deepEqual(values.shape, shape);
      const stride = entry.stride ?? shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
      assert.deepEqual([...(await values.data())], gather(bytes, type, shape, stride, offset));
    },
  };
}

/** Collects the elements of a strided tensor in row-major order. */
function gather(
  bytes: Buffer,
  dtype: keyof typeof DTYPES,
  shape: number[],
  stride: number[],
  offset: number,
): (number | bigint)[] {
  const read = (at: number) =>
    dtype === 'uint8' ? bytes[at]! : dtype === 'int32' ? bytes.readInt32LE(at) : bytes.readBigInt64LE(at);
  if (shape.includes(0)) return [];
  let places = [offset];
  for (const [d, extent] of shape.entries()) {
    const step = stride[d]! * DTYPES[dtype];
    places = places.flatMap((at) => Array.from({ length: extent }, (_, i) => at + i * step));
  }
  return places.map(read);
}

// --- configs ---

const CONFIG = {
  preset: 'cpu-small',
  output: 'runs/street',
  seed: 1,
  data: {
    classes: ['road', 'building', 'sky', 'vehicle'],
    palette: [
      [1, 2, 3],
      [4, 5, 6],
      [7, 8, 9],
      [10, 11, 12],
    ],
    source: { images: 'day/images', labels: 'day/labels', labelMap: { 7: 0, 11: 1 } },
    target: { train: { list: 'dusk.txt' }, val: { images: 'dusk/val', labels: 'dusk/labels' } },
  },
  segmentation: { steps: 2000, schedule: { kind: 'step', every: 10 }, adamBetas: [0.9, 0.99] },
  loop: { rounds: 1, selfTrainingRounds: 2 },
};

const yamlWords = [
  ...[
    '&a ',
    '*a',
    '<<: ',
    '? ',
    ': ',
    '- ',
    '- - - ',
    '|\n',
    '>\n',
    '{',
    '}',
    '[',
    ']',
    '[[[[',
    '{a: {b: ',
    '"',
    "'",
    '#',
  ],
  ...[
    '!!js/function ',
    '!!python/object/apply:os.system ',
    '!!binary ',
    '!!set ',
    '!!omap ',
    '!!merge ',
    '!a ',
  ],
  ...['%YAML 1.1\n---\n', '%TAG ! tag:x,2000:\n', '---\n', '...\n', '\t', '\r', '\0', '\u2028', '\ufeff'],
  ...['__proto__: ', 'constructor: ', 'toString: ', 'prototype: ', 'preset: ', 'version: ', 'kind: '],
  ...['.inf', '.nan', '-0', '0x10', '0o7', '1e400', '~', 'null', 'true', '2001-01-01', '1_000'],
];

/** Checks that a config that was read is valid, and that reading it did not change the prototypes of objects. */
async function checkConfig(file: string, set: readonly string[] = []): Promise<void> {
  const config = await loadConfig(file, { set });
  assert.ok(path.isAbsolute(config.output));
  assert.equal(Object.getPrototypeOf(config), Object.prototype);
  assert.deepEqual(
    Reflect.ownKeys(Object.prototype).filter((key) => !NATURE.has(key)),
    [],
  );
}

const NATURE = new Set(Reflect.ownKeys(Object.prototype));

/** Replaces one value or table of the config by anything. */
const replaced = fc
  .tuple(
    fc.nat(),
    fc.oneof(fc.jsonValue({ maxDepth: 3 }), fc.constantFrom(Number.NaN, Infinity, '', '../..')),
  )
  .map(([which, value]) => {
    const places: [table: Record<string, unknown>, key: string][] = [];
    const copy = structuredClone(CONFIG);
    const visit = (table: Record<string, unknown>) => {
      for (const [key, inner] of Object.entries(table)) {
        places.push([table, key]);
        if (typeof inner === 'object' && inner !== null) visit(inner as Record<string, unknown>);
      }
    };
    visit(copy);
    const [table, key] = places[which % places.length]!;
    table[key] = value;
    return copy;
  });

function configTarget(file: string): FuzzTarget {
  const presets = Object.keys(PRESETS).map((preset) => ({ ...CONFIG, preset }));
  const originals = [
    ...presets.map((config) => YAML.stringify(config)),
    YAML.stringify(CONFIG, { flowLevel: 2 } as never),
  ];
  return {
    parser: 'config in YAML',
    outcome: REFUSED,
    cases: fc.oneof(
      mutationsOf(
        originals.map((text) => Buffer.from(text)),
        yamlWords,
      ),
      replaced.map((config) => Buffer.from(YAML.stringify(config))),
    ),
    async attempt(bytes) {
      writeFileSync(file, bytes);
      await naming(file, () => checkConfig(file));
    },
  };
}

function jsonTarget(file: string): FuzzTarget {
  return {
    parser: 'config in JSON',
    outcome: REFUSED,
    cases: fc.oneof(
      mutationsOf(
        [Buffer.from(JSON.stringify(CONFIG))],
        ['"__proto__":', '{"a":', '[[[[', '1e999', '"constructor":{"prototype":'],
      ),
      replaced.map((config) => Buffer.from(JSON.stringify(config))),
    ),
    async attempt(bytes) {
      writeFileSync(file, bytes);
      await naming(file, () => checkConfig(file));
    },
  };
}

function assignmentTarget(file: string): FuzzTarget {
  writeFileSync(file, YAML.stringify(CONFIG));
  const key = fc.oneof(
    fc.constantFrom(
      'data',
      'source',
      'labelMap',
      'segmentation',
      'schedule',
      'kind',
      'loop',
      'rounds',
      'preset',
      'output',
    ),
    fc.constantFrom('__proto__', 'constructor', 'prototype', 'toString', '', ' ', '0'),
    fc.string({ maxLength: 8 }),
  );
  const value = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }).map((json) => JSON.stringify(json)),
    fc.string(),
    fc.constantFrom(...yamlWords),
  );
  const assignment = fc
    .tuple(fc.array(key, { maxLength: 4 }), fc.constantFrom('=', '=', '=', '', ':'), value)
    .map(([keys, sign, text]) => `${keys.join('.')}${sign}${text}`);
  const valid = [
    'loop.rounds=2',
    'segmentation.schedule={kind: poly, power: 0.5}',
    'data.source.labelMap={1 2 3: 0}',
    'data.classes=[a, b, c, d]',
    'output=out/a b',
    'preset=reference',
  ];
  return {
    parser: 'assignments of --set',
    outcome: 'read, or refused with the assignment',
    cases: fc.oneof(
      assignment.map((text) => Buffer.from(text)),
      mutationsOf(
        valid.map((text) => Buffer.from(text)),
        ['=', '.', ...yamlWords],
      ),
    ),
    async attempt(bytes) {
      const text = String(bytes);
      try {
        await checkConfig(file, [text]);
      } catch (error) {
        const isRefusal = error instanceof BidisegError && /--set|set\.yaml/.test(error.message);
        throw isRefusal ? error : new Error(`no refusal: ${(error as Error).stack}`, { cause: error });
      }
    },
  };
}

// --- lists ---

async function listTarget(folder: string): Promise<FuzzTarget> {
  const root = path.join(folder, 'root');
  const pixel = { data: new Uint8Array(3), width: 1, height: 1 };
  // No list may reach `outside.png`.
  for (const name of ['root/a.png', 'root/sub/b.png', 'root/c d.png', 'root/labels/a.png', 'outside.png']) {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    await writeImage(path.join(folder, name), pixel);
  }
  const list = path.join(root, 'list.txt');
  const originals = [
    'a.png\nsub/b.png\n"c d.png"\n',
    '\ufeff# with labels\r\n\r\na.png labels/a.png\r\nsub/b.png "labels/a.png"\r\n',
    `./sub/../a.png\n${root}/sub/b.png`,
  ];
  const words = [
    '../',
    '..',
    './',
    '/',
    '"',
    ' ',
    '\t',
    '\r',
    '\n',
    '#',
    '\0',
    '\ufeff',
    'outside.png',
    `${folder}/outside.png`,
  ];
  return {
    parser: 'lists of images',
    outcome: `${REFUSED}; nothing out of the root`,
    cases: mutationsOf(
      originals.map((text) => Buffer.from(text)),
      words,
    ),
    async attempt(bytes) {
      writeFileSync(list, bytes);
      const dataset = await naming(list, () => ImageDataset.fromList({ list, root, classCount: 3 }));
      const entries = Array.from({ length: dataset.length }, (_, index) => dataset.entry(index));
      assert.equal(new Set(entries.map(({ name }) => name)).size, entries.length);
      for (const { name, image, label = image } of entries) {
        assert.ok(image.startsWith(`${root}/`) && label.startsWith(`${root}/`), image);
        // The result is written under this name.
        assert.equal(path.join('/out', `${name}.png`), `/out/${name}.png`);
        assert.ok(
          name.split('/').every((part) => part !== '' && !part.startsWith('.')),
          name,
        );
      }
    },
  };
}

// --- images ---

/** Limit below the default, because images within the limit are decoded, and there are many. */
const MAX_PIXELS = 2 ** 16;

const pngWords = ['IHDR', 'PLTE', 'IDAT', 'IEND', 'tRNS', 'gAMA', 'iCCP', '\0\0\0\0'];

/** Creates PNGs of every kind that can hold labels. */
function labelFiles(): Buffer[] {
  const area = { width: 7, height: 5 };
  const palette = randomBytes(3 * 16, 1);
  const samples = Uint8Array.from({ length: 35 }, (_, index) => index % 4);
  return [
    encodePng({ ...area, kind: 'grayscale', bitDepth: 8, samples }),
    encodePng({ ...area, kind: 'palette', bitDepth: 4, samples, palette }),
    encodePng({ ...area, kind: 'grayscale', bitDepth: 16, samples }),
    encodePng({
      ...area,
      kind: 'rgb',
      bitDepth: 16,
      samples: Uint16Array.from({ length: 105 }, (_, i) => i % 4),
    }),
    encodePng({ ...area, kind: 'rgb', bitDepth: 8, samples: new Uint8Array(105) }),
  ];
}

function labelTarget(file: string): FuzzTarget {
  const maps = [
    labelMap('identity'),
    labelMap('synthia'),
    labelMap({ '0 0 0': 0, [[...randomBytes(3, 1)].join(' ')]: 1 }),
  ];
  return {
    parser: 'label maps',
    outcome: `${REFUSED}; no class that there is not`,
    cases: mutationsOf(labelFiles(), pngWords),
    async attempt(bytes) {
      writeFileSync(file, bytes);
      const outcomes = await Promise.allSettled(
        maps.map((map) =>
          naming(file, async () => {
            const encoding = { labelMap: map, classCount: 19, ignoreIndex: 255 };
            const labels = await openLabels(file, { ...encoding, maxPixels: MAX_PIXELS });
            const { data, width, height } = await labels.decode();
            assert.equal(data.length, width * height);
            assert.ok(data.every((value) => value < 19 || value === 255));
          }),
        ),
      );
      const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
      const wrong = failures.find((reason) => !(reason instanceof DataError));
      if (wrong) throw wrong;
      if (failures.length === maps.length) throw failures[0];
    },
  };
}

async function imageTarget(file: string): Promise<FuzzTarget> {
  const noise = sharp(randomBytes(3 * 9 * 6, 2), { raw: { width: 9, height: 6, channels: 3 } });
  const originals = [
    ...labelFiles(),
    await noise.clone().jpeg().toBuffer(),
    await noise.clone().toColorspace('cmyk').jpeg().toBuffer(),
    await noise.clone().webp().toBuffer(),
    await noise.clone().ensureAlpha(0.5).webp({ lossless: true }).toBuffer(),
    await noise.clone().tiff({ compression: 'lzw' }).toBuffer(),
    await noise.clone().withMetadata({ orientation: 6 }).png().toBuffer(),
  ];
  return {
    parser: 'image files',
    outcome: REFUSED,
    cases: mutationsOf(originals, [
      ...pngWords,
      'RIFF',
      'WEBP',
      'VP8L',
      'ANIM',
      'II*\0',
      'MM\0*',
      Buffer.from([0xff, 0xd8]),
    ]),
    async attempt(bytes) {
      writeFileSync(file, bytes);
      for (const size of [undefined, { width: 12, height: 4 }]) {
        const { data, width, height } = await naming(file, () =>
          readImage(file, size, { maxPixels: MAX_PIXELS }),
        );
        assert.equal(data.length, 3 * width * height);
      }
    },
  };
}

// --- run folders ---

/**
 * Creates the target of run folders. The report reads nearly all files of a run folder. Its event log and summary are
 * wrong here.
 */
async function runTarget(folder: string): Promise<FuzzTarget> {
  await writeFinishedRun({ folder, classes: ['a', 'b'], images: ['x'], steps: 10 });
  const files = ['events.jsonl', 'summary.json'].map((name) => path.join(folder, name));
  const originals = files.map((file) => readFileSync(file));
  const words = [
    'null',
    '{}',
    '[]',
    '-1',
    '1e9',
    '"__proto__"',
    '"../../x"',
    '\n',
    ',"losses":',
    '"rows":',
    '"confusion":',
  ];
  const either = fc
    .nat(files.length - 1)
    .chain((which) =>
      mutationsOf([originals[which]!], words).map((bytes) => Buffer.concat([Buffer.of(which), bytes])),
    );
  return {
    parser: 'run folders',
    outcome: "reported, or refused with the folder's name",
    cases: either,
    slow: true,
    /** The first byte selects the file that the other bytes replace. */
    async attempt(bytes) {
      const which = (bytes[0] ?? 0) % files.length;
      for (const [index, file] of files.entries()) {
        writeFileSync(file, index === which ? bytes.subarray(1) : originals[index]!);
      }
      await naming(folder, () => writeReport(folder));
    },
  };
}
