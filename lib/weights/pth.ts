import type { FileHandle } from 'node:fs/promises';
import type { Dtype } from '../native/binding-types.js';
import {
  PickleEnd,
  type PickleGlobal,
  type PickleRules,
  type PickleValue,
  Placeholder,
  pickleText,
  unpickle,
} from './pickle.js';
import { lacking, type Skipped, type TensorHeader } from './safetensors.js';
import { locateZipEntry, readExactly, readZipDirectory } from './zip.js';

/**
 * Files that `torch.save` writes. They are a zip file with a pickle and one entry for each storage. Before PyTorch 1.6,
 * they were five pickles followed by the storages. Only state dicts are read. This module finds their tensors and
 * checks every size. Native code then reads the bytes, as it does for safetensors. See
 * docs/design/files-and-safety.md#headers-are-parsed-in-typescript.
 */

export type PthFormat = 'pytorch-zip' | 'pytorch-legacy';

/** A tensor that need not be in row-major order. */
export interface StridedTensorHeader extends TensorHeader {
  /** Strides in elements, one for each dimension. Absent if the tensor is in row-major order. */
  stride?: number[];
}

export interface PthContents {
  /** Keys on the way to the state dict, such as `state_dict`. Empty if the file is the state dict. */
  path: string[];
  tensors: StridedTensorHeader[];
  /** Entries that are left out, in the state dict and beside it, with the reason. */
  skipped: Skipped[];
}

/** Tells whether a dict has the tensors that the caller needs. It decides between several dicts of tensors. */
export type Fits = (tensors: { name: string; shape: number[] }[]) => boolean;

type Complaint = (what: string, cause?: unknown) => Error;

/** Largest pickle, more than any state dict needs: 32 MiB describe some 200,000 tensors. */
const MAX_PICKLE_BYTES = 32 * 2 ** 20;
const FIRST_READ_BYTES = 2 ** 20;
const MAX_DIMENSIONS = 64;
/**
 * Average number of tensors that a byte of the file may belong to. Tied weights make it 2, an attack makes it millions.
 */
const MAX_SHARING = 4;

const ZIP_VERSIONS = { min: 1, max: 10 };
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_PROTOCOL = 1001;

/** Keys under which training scripts usually store the state dict. */
const STATE_DICT_KEYS = [
  ...['state_dict', 'model_state_dict', 'model_state', 'model', 'network', 'net', 'weights', 'params'],
  ...['generator', 'student'],
];

interface StorageType extends PickleGlobal {
  bytes: number;
  /** Type of its tensors. */
  dtype: Dtype | { lacking: string };
}

const STORAGE_TYPES: StorageType[] = [
  { name: 'torch.FloatStorage', bytes: 4, dtype: 'float32' },
  { name: 'torch.DoubleStorage', bytes: 8, dtype: 'float64' },
  { name: 'torch.HalfStorage', bytes: 2, dtype: 'float16' },
  { name: 'torch.BFloat16Storage', bytes: 2, dtype: 'bfloat16' },
  { name: 'torch.ByteStorage', bytes: 1, dtype: 'uint8' },
  { name: 'torch.IntStorage', bytes: 4, dtype: 'int32' },
  { name: 'torch.LongStorage', bytes: 8, dtype: 'int64' },
  { name: 'torch.CharStorage', bytes: 1, dtype: { lacking: 'int8' } },
  { name: 'torch.ShortStorage', bytes: 2, dtype: { lacking: 'int16' } },
  { name: 'torch.BoolStorage', bytes: 1, dtype: { lacking: 'bool' } },
  { name: 'torch.ComplexFloatStorage', bytes: 8, dtype: { lacking: 'complex64' } },
  { name: 'torch.ComplexDoubleStorage', bytes: 16, dtype: { lacking: 'complex128' } },
  { name: 'torch.QInt8Storage', bytes: 1, dtype: { lacking: 'qint8' } },
  { name: 'torch.QUInt8Storage', bytes: 1, dtype: { lacking: 'quint8' } },
  { name: 'torch.QInt32Storage', bytes: 4, dtype: { lacking: 'qint32' } },
  { name: 'torch.storage.UntypedStorage', bytes: 1, dtype: { lacking: 'untyped' } },
];

class Storage {
  constructor(
    readonly key: string,
    readonly type: StorageType,
    /** Length in elements. */
    readonly length: number,
  ) {}

  get bytes(): number {
    return this.length * this.type.bytes;
  }
}

class StoredTensor {
  constructor(
    readonly storage: Storage,
    /** Offset in elements from the start of the storage. */
    readonly offset: number,
    readonly shape: number[],
    /** Strides in elements. Null if the tensor is in row-major order. */
    readonly stride: number[] | null,
    /** Elements from the first to the last, both included. */
    readonly span: number,
  ) {}

  get bytes(): number {
    return this.shape.reduce((product, extent) => product * extent, this.storage.type.bytes);
  }
}

/** Tensor of a type that bidiseg does not have. */
class ForeignTensor {
  constructor(readonly dtype: string) {}
}

/** Reads the content of a zip file from `torch.save`. */
export async function readZipPth(
  file: FileHandle,
  size: number,
  bad: Complaint,
  fits?: Fits,
): Promise<PthContents> {
  const entries = await readZipDirectory(file, size, bad);
  const names = [...entries.keys()];
  if (names.some((name) => /^[^/]+\/(constants\.pkl$|code\/)/.test(name))) {
    throw bad(
      'it is a TorchScript archive; use the weights that it was exported from, or save the state dict of its module in ' +
        'Python: torch.save(module.state_dict(), …)',
    );
  }
  const pickles = names.filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    const isNpz = names.length > 0 && names.every((name) => name.endsWith('.npy'));
    throw bad(isNpz ? "it is NumPy's .npz" : 'it is a zip file, but not one that torch.save wrote');
  }
  const folder = pickles[0]!.slice(0, -'data.pkl'.length);
  const small = async (name: string, limit: number): Promise<Buffer | undefined> => {
    const entry = entries.get(folder + name);
    if (!entry) return undefined;
    if (entry.size > limit) throw bad(`its entry ${entry.name} claims ${entry.size} bytes`);
    return readExactly(file, await locateZipEntry(file, entry, bad), entry.size, bad);
  };
  const version = Number(String(await small('version', 16)));
  if (!(version >= ZIP_VERSIONS.min && version <= ZIP_VERSIONS.max)) {
    throw bad(`its version is ${version}, not ${ZIP_VERSIONS.min} to ${ZIP_VERSIONS.max}`);
  }
  const byteOrder = ((await small('byteorder', 16)) ?? 'little').toString();
  if (byteOrder !== 'little') throw bad(`its byte order is ${JSON.stringify(byteOrder)}, not "little"`);

  const rules = new StateDictRules(bad);
  const { root } = readPickles((await small('data.pkl', MAX_PICKLE_BYTES))!, 0, ['root'], rules);
  return contents(findStateDict(root!, rules, fits), size, bad, async ({ key, bytes }) => {
    const entry = entries.get(`${folder}data/${key}`);
    if (!entry) throw bad(`its storage ${key} is missing`);
    if (entry.size !== bytes)
      throw bad(`its storage ${key} takes ${entry.size} bytes, but its pickle says ${bytes}`);
    return locateZipEntry(file, entry, bad);
  });
}

/** Reads the content of a file from `torch.save` before PyTorch 1.6. */
export async function readLegacyPth(
  file: FileHandle,
  size: number,
  bad: Complaint,
  fits?: Fits,
): Promise<PthContents> {
  // The length of the pickles is known only after reading them. The first read nearly always contains all of them.
  for (let length = FIRST_READ_BYTES; ; length *= 4) {
    const head = await readExactly(file, 0, Math.min(length, size, MAX_PICKLE_BYTES), bad);
    try {
      return await readLegacyHead(head, file, size, bad, fits);
    } catch (error) {
      if (!(error instanceof PickleEnd) || head.length < length) throw error;
    }
  }
}

async function readLegacyHead(
  head: Buffer,
  file: FileHandle,
  size: number,
  bad: Complaint,
  fits?: Fits,
): Promise<PthContents> {
  const { magic } = readPickles(head, 0, ['magic'], new StateDictRules(bad));
  if (magic !== LEGACY_MAGIC) {
    throw bad(
      'it is a pickle, but its first object is not the magic number of torch.save; load it in Python and save its ' +
        'tensors with torch.save',
    );
  }
  const intro = readPickles(head, 0, ['magic', 'protocol', 'system'], new StateDictRules(bad));
  if (intro.protocol !== LEGACY_PROTOCOL)
    throw bad(`its protocol is ${pickleText(intro.protocol)}, not ${LEGACY_PROTOCOL}`);
  if (!(intro.system instanceof Map) || intro.system.get('little_endian') !== true) {
    throw bad('its byte order is not little-endian');
  }
  const rules = new StateDictRules(bad);
  const { root, keys, end } = readPickles(head, intro.end, ['root', 'keys'], rules);
  const found = findStateDict(root!, rules, fits);
  if (!Array.isArray(keys)) throw bad('it has no list of storages');

  const offsets = new Map<string, number>();
  let at = end;
  for (const key of keys) {
    const storage = typeof key === 'string' ? rules.storages.get(key) : undefined;
    if (!storage || offsets.has(storage.key))
      throw bad(`its storage ${pickleText(key)} belongs to no tensor`);
    if (at + 8 > size) throw bad(`it ends before its storage ${storage.key}`);
    const length = (await readExactly(file, at, 8, bad)).readBigInt64LE();
    if (length !== BigInt(storage.length) || at + 8 + storage.bytes > size) {
      throw bad(`its storage ${storage.key} claims ${length} elements, its pickle ${storage.length}`);
    }
    offsets.set(storage.key, at + 8);
    at += 8 + storage.bytes;
  }
  return contents(found, size, bad, async ({ key }) => {
    const offset = offsets.get(key);
    if (offset === undefined) throw bad(`its storage ${key} is missing`);
    return offset;
  });
}

/** Reads consecutive pickles, one for each name. */
function readPickles<Name extends string>(
  bytes: Buffer,
  start: number,
  names: Name[],
  rules: PickleRules,
): Record<Name, PickleValue> & { end: number } {
  const result: Record<string, PickleValue> = {};
  let end = start;
  for (const name of names) {
    const read = unpickle(bytes, end, rules);
    result[name] = read.value;
    end = read.end;
  }
  return { ...(result as Record<Name, PickleValue>), end };
}

/** Rules for the pickle of a state dict: the globals it may name, and how they build tensors. */
class StateDictRules implements PickleRules {
  readonly storages = new Map<string, Storage>();
  readonly bad: Complaint;
  /** First name in the pickle that became a placeholder. */
  unknown: string | null = null;
  #copied = 0;
  readonly #globals: Map<string, PickleGlobal>;
  readonly #rebuilders: PickleGlobal[] = [
    { name: 'torch._utils._rebuild_tensor', construct: (args) => this.#tensor(args) },
    { name: 'torch._utils._rebuild_tensor_v2', construct: (args) => this.#tensor(args) },
    { name: 'torch._utils._rebuild_tensor_v3', construct: (args) => this.#foreignTensor(args) },
    { name: 'torch._utils._rebuild_parameter', construct: (args) => this.#parameter(args) },
    { name: 'torch._utils._rebuild_parameter_with_state', construct: (args) => this.#parameter(args) },
  ];

  constructor(bad: Complaint) {
    this.bad = bad;
    const globals: PickleGlobal[] = [
      ...STORAGE_TYPES,
      { name: 'collections.OrderedDict', construct: (args) => this.#orderedDict(args) },
      { name: 'collections.defaultdict', construct: () => new Map() },
      ...this.#rebuilders,
      { name: 'torch._tensor._rebuild_from_type_v2', construct: (args) => this.#fromType(args) },
      { name: 'torch.Size', construct: ([extents = []]) => extents },
      { name: 'torch.device', construct: (args) => args },
      { name: '_codecs.encode', construct: (args) => this.#encode(args) },
    ];
    this.#globals = new Map(globals.map((value) => [value.name, value]));
  }

  global(name: string): PickleGlobal {
    const found = this.#globals.get(name);
    if (found) return found;
    this.unknown ??= name;
    return new Placeholder(name);
  }

  /**
   * Resolves ('storage', type, key, location, length). Before PyTorch 1.6 a view follows, which has been None since
   * 0.4.
   */
  persistent(id: PickleValue): PickleValue {
    // ('module', class, file, source): PyTorch before 1.6 kept the source of a class.
    if (Array.isArray(id) && id[0] === 'module' && id[1] instanceof Placeholder) return id[1];
    if (!Array.isArray(id) || id[0] !== 'storage')
      throw this.bad('it refers to something that is not a storage');
    const [, type, key, , length, view = null] = id;
    const known = STORAGE_TYPES.find((candidate) => candidate === type);
    if (!known || typeof key !== 'string' || !isExtent(length) || view !== null) {
      throw this.bad('it describes a storage in an unknown way');
    }
    let storage = this.storages.get(key);
    if (!storage) {
      storage = new Storage(key, known, length);
      if (!Number.isSafeInteger(storage.bytes))
        throw this.bad(`its storage ${key} claims ${length} elements`);
      this.storages.set(key, storage);
    }
    if (storage.type !== known || storage.length !== length) {
      throw this.bad(`it describes its storage ${key} in two ways`);
    }
    return storage;
  }

  /**
   * Builds a tensor from (storage, offset, shape, stride, requires_grad, hooks, metadata). The last three are newer and
   * may be missing.
   */
  #tensor([storage, offset, shape, stride, , , metadata]: PickleValue[]): StoredTensor {
    if (!(storage instanceof Storage) || !isExtent(offset) || !isShape(shape) || !isShape(stride)) {
      throw this.bad('it has a tensor without a valid storage, offset, shape and stride');
    }
    if (shape.length !== stride.length) {
      throw this.bad(`it has a tensor with ${shape.length} extents and ${stride.length} strides`);
    }
    if (metadata instanceof Map && metadata.size > 0) {
      throw this.bad('it has a tensor that is a conjugate or negated view of its storage');
    }
    const size = shape.reduce((product, extent) => product * extent, 1);
    const largest = shape.reduce((product, extent) => product * Math.max(1, extent), storage.type.bytes);
    const span = size === 0 ? 0 : shape.reduce((sum, extent, i) => sum + (extent - 1) * stride[i]!, 1);
    if (!Number.isSafeInteger(largest) || offset + span > storage.length) {
      throw this.bad(
        `it has a tensor of shape [${shape}], stride [${stride}] and offset ${offset} in a storage of ${storage.length} elements`,
      );
    }
    // Copies, because a pickle may change its lists later.
    return new StoredTensor(
      storage,
      offset,
      [...shape],
      isRowMajor(shape, stride) ? null : [...stride],
      span,
    );
  }

  /** Takes (storage, offset, shape, stride, requires_grad, hooks, dtype). The dtype is one without its own storage. */
  #foreignTensor([, , , , , , dtype]: PickleValue[]): ForeignTensor {
    return new ForeignTensor(pickleText(dtype).replace(/^torch\./, ''));
  }

  #parameter([tensor]: PickleValue[]): PickleValue {
    const kinds = [StoredTensor, ForeignTensor, Placeholder];
    if (!kinds.some((kind) => tensor instanceof kind))
      throw this.bad('it has a parameter that is not a tensor');
    return tensor!;
  }

  /** Takes (function, class, arguments, attributes) of a tensor that has attributes or its own class. */
  #fromType([rebuild, type, args]: PickleValue[]): PickleValue {
    const known = this.#rebuilders.find((candidate) => candidate === rebuild);
    const isTensor = ['torch.Tensor', 'torch.nn.parameter.Parameter'].includes(pickleText(type));
    if (!known || !isTensor || !Array.isArray(args)) return new Placeholder(pickleText(type));
    return known.construct!(args);
  }

  /** Builds OrderedDict(), or OrderedDict([[key, value], …]) as Python 2 wrote it. */
  #orderedDict([pairs = []]: PickleValue[]): Map<PickleValue, PickleValue> {
    const isPair = (pair: PickleValue): pair is [PickleValue, PickleValue] =>
      Array.isArray(pair) && pair.length === 2;
    if (!Array.isArray(pairs)) throw this.bad('it has an OrderedDict that does not consist of pairs');
    this.#countCopy(pairs.length);
    if (!pairs.every(isPair)) throw this.bad('it has an OrderedDict that does not consist of pairs');
    return new Map(pairs as [PickleValue, PickleValue][]);
  }

  /** Decodes bytes of protocol 2, which are text with one character a byte. */
  #encode([text, encoding]: PickleValue[]): Uint8Array {
    if (typeof text !== 'string' || encoding !== 'latin1')
      throw this.bad('it has bytes in an unknown encoding');
    this.#countCopy(text.length);
    return Buffer.from(text, 'latin1');
  }

  /** Limits copies, because the same list or text may be copied again and again. Honest files copy each once. */
  #countCopy(length: number): void {
    this.#copied += length;
    if (this.#copied > MAX_PICKLE_BYTES) throw this.bad('its pickle copies the same values again and again');
  }
}

function isExtent(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isShape(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= MAX_DIMENSIONS && value.every(isExtent);
}

function isRowMajor(shape: number[], stride: number[]): boolean {
  if (shape.includes(0)) return true;
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; --i) {
    if (shape[i] !== 1 && stride[i] !== expected) return false;
    expected *= shape[i]!;
  }
  return true;
}

/** Places the tensors of a state dict in the file. */
async function contents(
  { path, dict, skipped }: StateDict,
  fileSize: number,
  bad: Complaint,
  locate: (storage: Storage) => Promise<number>,
): Promise<PthContents> {
  const tensors: StridedTensorHeader[] = [];
  const starts = new Map<Storage, number>();
  let wanted = 0;
  for (const [key, value] of dict) {
    const dtype = value instanceof StoredTensor ? value.storage.type.dtype : null;
    if (!(value instanceof StoredTensor) || typeof dtype !== 'string') {
      skipped.push({ name: pickleText(key), reason: reasonFor(value) });
      continue;
    }
    const { storage, offset, shape, stride, span, bytes } = value;
    if (typeof key !== 'string') throw bad('it has a tensor whose name is not a string');
    const elementBytes = storage.type.bytes;
    wanted += Math.max(bytes, span * elementBytes);
    if (wanted > MAX_SHARING * fileSize) {
      throw bad(
        `its tensors share their bytes: together they would take more than ${MAX_SHARING} times the ${fileSize} bytes of the file`,
      );
    }
    if (!starts.has(storage)) starts.set(storage, await locate(storage));
    const place = { dtype, shape, offset: starts.get(storage)! + offset * elementBytes, bytes };
    tensors.push({ name: key, ...place, ...(stride && { stride }) });
  }
  if (tensors.length === 0) {
    const { name, reason } = skipped.at(-1)!;
    throw bad(`none of its tensors can be read: '${name}' is ${reason}`);
  }
  return { path, tensors, skipped };
}

/** Describes a value that is left out. */
function reasonFor(value: PickleValue): string {
  if (value instanceof ForeignTensor) return lacking(value.dtype);
  if (value instanceof StoredTensor) {
    const { dtype } = value.storage.type;
    return typeof dtype === 'string' ? 'a tensor beside the state dict' : lacking(dtype.lacking);
  }
  if (value instanceof Placeholder) return `${value.name}, a Python object that is not built`;
  if (value instanceof Uint8Array) return 'bytes';
  if (value === null) return 'None';
  if (typeof value === 'object') return pickleText(value);
  return typeof value === 'string' ? 'text' : typeof value === 'boolean' ? 'a truth value' : 'a number';
}

interface StateDict {
  path: string[];
  dict: Map<PickleValue, PickleValue>;
  /** Entries beside the dicts on the path. */
  skipped: Skipped[];
}

/** The dict that holds the tensors: `root` itself, or one within it under a usual key or the only one there is. */
function findStateDict(root: PickleValue, rules: StateDictRules, fits?: Fits): StateDict {
  const { bad } = rules;
  const known = new Map<PickleValue, boolean>(); // the same dict may be in many places
  const leadsToTensors = (value: PickleValue): boolean => {
    if (value instanceof StoredTensor || value instanceof ForeignTensor) return true;
    // The state of an optimizer is not a state dict of weights.
    if (!(value instanceof Map) || value.has('param_groups')) return false;
    if (!known.has(value)) known.set(value, [...value.values()].some(leadsToTensors));
    return known.get(value)!;
  };
  const path: string[] = [];
  const skipped: Skipped[] = [];
  let dict = root;
  for (;;) {
    if (!(dict instanceof Map) || !leadsToTensors(dict)) throw noStateDict(root, rules);
    const inner = [...dict].filter(([, value]) => value instanceof Map && leadsToTensors(value));
    const usual = inner.filter(([key]) => STATE_DICT_KEYS.includes(key as string));
    const isStateDict = [...dict.values()].some(
      (v) => v instanceof StoredTensor || v instanceof ForeignTensor,
    );
    if (usual.length === 0 && isStateDict) return { path, dict, skipped };
    const [key, value] = chooseDict(usual.length > 0 ? usual : inner, bad, fits);
    for (const [name, other] of dict) {
      if (other !== value)
        skipped.push({ name: [...path, pickleText(name)].join('.'), reason: reasonFor(other) });
    }
    path.push(pickleText(key));
    dict = value;
  }
}

type Entry = [PickleValue, PickleValue];

/** Returns the only dict of tensors, or the only one that fits. */
function chooseDict(dicts: Entry[], bad: Complaint, fits?: Fits): Entry {
  if (dicts.length === 1) return dicts[0]!;
  const fitting = fits ? dicts.filter(([, dict]) => fits(tensorsOf(dict))) : [];
  if (fitting.length === 1) return fitting[0]!;
  const names = dicts.slice(0, 5).map(([name]) => pickleText(name));
  throw bad(
    `it holds several dicts of tensors: ${names.join(', ')}${dicts.length > 5 ? ', …' : ''}; save the one that is meant alone`,
  );
}

function tensorsOf(dict: PickleValue): { name: string; shape: number[] }[] {
  if (!(dict instanceof Map)) return [];
  return [...dict].flatMap(([name, value]) =>
    value instanceof StoredTensor && typeof name === 'string' ? [{ name, shape: value.shape }] : [],
  );
}

/** Makes the error for a file without a dict of tensors. It names a placeholder that may hold them. */
function noStateDict(root: PickleValue, { bad, unknown }: StateDictRules): Error {
  const name = root instanceof Placeholder ? root.name : unknown;
  if (name === null) return bad('it holds no state dict: no dict of tensors');
  return bad(
    `it holds no state dict, but names the Python global ${name.slice(0, 200)}, which no state dict needs, so it was not read; ` +
      'save the state dict alone: torch.save(model.state_dict(), …)',
  );
}
