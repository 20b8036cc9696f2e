/**
 * Misuse matrix: every member of test/engines/boundary/surface.ts × every way to call it wrongly. Each misuse changes
 * one thing of a valid call. misuse-matrix.test.ts runs this file in its own process. The last line on stdout is the
 * result as JSON. The file that the first argument names holds the current try, in case the process crashes. Each
 * argument is tried with every n-th hostile value, where n is the third argument. Different arguments get different
 * values. See docs/testing.md#the-misuse-matrix.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { runInNewContext } from 'node:vm';
import * as bidiseg from 'bidiseg';
import { native } from '../../../lib/native/binding.js';
import { uploadBatch } from '../../../lib/training/steps/upload.js';
import { randomBatch } from '../../helpers/batches.js';
import { ROOT } from '../../helpers/folder.js';
import { type Member, RECEIVERS, surface } from './surface.js';

const { BidisegError, DisposedError, memoryInUse, Segmenter, setMemoryLimit, Tensor, buildInfo } = bidiseg;

export interface MatrixResult {
  /** Kinds of misuse, with the number of tries and their outcomes. */
  table: Record<string, { tried: number; errors: number; accepted: number }>;
  problems: string[];
  /** Reasons why something could not be tried. */
  skipped: string[];
}

const [logFile, folder, oneIn] = process.argv.slice(2) as [string, string, string];
const result: MatrixResult = { table: {}, problems: [], skipped: [] };

let hostileValues = 0;
/** Returns true if the next hostile value is tried. */
const isTurn = () => hostileValues++ % Number(oneIn) === 0;

/** Memory limit: far more than the tiny networks need, but small enough to refuse absurd sizes. */
const MEMORY_LIMIT = 256 * 2 ** 20;

// ---- what there is ----

interface Found {
  name: string;
  kind: 'function' | 'constructor' | 'static' | 'method' | 'getter';
  /** Classes whose objects have this method or getter. */
  classes: string[];
  key: string | symbol;
}

/** Finds the public exports of the modules that import the addon. */
async function exportsOnTheAddon(): Promise<Map<string, unknown>> {
  const lib = join(ROOT, 'dist/lib');
  const exported = new Map<string, unknown>();
  for (const file of readdirSync(lib, { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.js')) continue;
    if (!/from '(?:\.{1,2}\/)+(?:native\/)?binding\.js'/.test(readFileSync(join(lib, file), 'utf8')))
      continue;
    const module = (await import(join(lib, file))) as Record<string, unknown>;
    for (const [name, value] of Object.entries(module)) {
      if ((bidiseg as Record<string, unknown>)[name] === value) exported.set(name, value);
    }
  }
  return exported;
}

function members(exported: Map<string, unknown>): Found[] {
  const found = new Map<string, Found>();
  const add = (name: string, kind: Found['kind'], key: string | symbol, owner?: string) => {
    const entry = found.get(name) ?? { name, kind, key, classes: [] };
    if (owner !== undefined) entry.classes.push(owner);
    found.set(name, entry);
  };
  for (const [name, value] of exported) {
    if (typeof value !== 'function') continue;
    if (!/^class\b/.test(Function.prototype.toString.call(value))) {
      add(name, 'function', name);
      continue;
    }
    add(`new ${name}`, 'constructor', name);
    for (const key of Object.getOwnPropertyNames(value)) {
      if (typeof (value as unknown as Record<string, unknown>)[key] === 'function')
        add(`${name}.${key}`, 'static', key);
    }
    let prototype = value.prototype;
    for (; prototype !== Object.prototype; prototype = Object.getPrototypeOf(prototype)) {
      for (const key of Reflect.ownKeys(prototype)) {
        if (key === 'constructor') continue;
        const { get } = Object.getOwnPropertyDescriptor(prototype, key)!;
        const label = typeof key === 'symbol' ? `[${key.description}]` : key;
        add(`${prototype.constructor.name}#${label}`, get ? 'getter' : 'method', key, name);
      }
    }
  }
  return [...found.values()];
}

// ---- what can be wrong ----

const detached = <T extends { buffer: ArrayBufferLike }>(array: T): T => {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
};
const throwing = () =>
  new Proxy(
    {},
    {
      get() {
        throw new TypeError('a trap of the caller');
      },
    },
  );

/** Values that fit nowhere, or only in a few places. */
const HOSTILE: [label: string, make: () => unknown][] = [
  ['undefined', () => undefined],
  ['null', () => null],
  ['NaN', () => Number.NaN],
  ['Infinity', () => Number.POSITIVE_INFINITY],
  ['-Infinity', () => Number.NEGATIVE_INFINITY],
  ['-1', () => -1],
  ['-0', () => -0],
  ['0.5', () => 0.5],
  ['2^31', () => 2 ** 31],
  ['2^53 - 1', () => Number.MAX_SAFE_INTEGER],
  ['1e300', () => 1e300],
  ['1n', () => 1n],
  ['true', () => true],
  ['""', () => ''],
  ['"abacus"', () => 'abacus'],
  ['"\\0"', () => 'a\0b'],
  ['a lone surrogate', () => '\ud800'],
  ['a symbol', () => Symbol('abacus')],
  ['a function', () => () => 1],
  ['{}', () => ({})],
  ['an object without a prototype', () => Object.create(null)],
  ['[]', () => []],
  ['[NaN]', () => [Number.NaN]],
  ['[2^53 - 1, 2^53 - 1]', () => [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER]],
  ['a sparse array', () => new Array(3)],
  ['a DataView', () => new DataView(new ArrayBuffer(8))],
  ['a Float32Array', () => new Float32Array([Number.NaN, -1])],
  ['a BigUint64Array', () => new BigUint64Array(2)],
  ['a date', () => new Date(Number.NaN)],
  ['a rejected promise', () => Promise.reject(new Error('of the caller')).catch(() => undefined)],
  ['an array of another realm', () => runInNewContext('[1, 2]')],
];

/** Objects that imitate objects of this package. */
const IMPOSTORS: [label: string, make: () => unknown][] = [
  ['a prototype', () => Tensor.prototype],
  ['an heir of an object', () => Object.create(Tensor.from(new Float32Array(1)))],
  ['an heir of a prototype', () => Object.create(Tensor.prototype)],
  ['an heir of another prototype', () => Object.create(Segmenter.prototype)],
  ['a copy from another thread', () => structuredClone(Tensor.from(new Float32Array(1)))],
  ['a native handle', () => Tensor.from(new Float32Array(1)).handle],
  ['a tensor', () => Tensor.from(new Float32Array(1))],
  ['a proxy that throws', throwing],
];

const SHAPES = [
  [],
  [0],
  [1],
  [1, 1, 1, 1],
  [0, 3, 4, 4],
  [1, 0, 8, 8],
  [1, 3, 0, 0],
  [1, 5, 1, 1],
  [1, 300, 2, 2],
];
const MORE_SHAPES = [
  [1, 8, 8],
  [3, 5, 4, 4],
  [1, 2, 3, 4, 5],
  [1, 5, 64, 1],
  Array(16).fill(1),
  Array(64).fill(1),
];

type Change = [kind: string, label: string, make: (value: unknown) => unknown];

const isTensor = (value: unknown): value is InstanceType<typeof Tensor> => value instanceof Tensor;
const isDisposable = (value: unknown): value is Disposable =>
  typeof (value as Partial<Disposable>)?.[Symbol.dispose] === 'function';

/** Lists replacements for `value`. */
function changesOf(value: unknown, cuda: boolean): Change[] {
  const changes: Change[] = HOSTILE.filter(isTurn).map(([label, make]) => ['hostile value', label, make]);
  if (isDisposable(value)) {
    changes.push(...IMPOSTORS.map(([label, make]): Change => ['object of another class', label, make]));
    changes.push([
      'disposed argument',
      'disposed',
      (own) => {
        (own as Disposable)[Symbol.dispose]();
        return own;
      },
    ]);
  }
  if (isTensor(value)) {
    for (const dtype of ['float64', 'float16', 'bfloat16', 'uint8', 'int32', 'int64'] as const) {
      changes.push(['wrong dtype', dtype, (own) => (own as typeof value).to({ dtype })]);
    }
    for (const shape of [...SHAPES, ...MORE_SHAPES]) {
      const data = () => new Float32Array(shape.reduce((a: number, b: number) => a * b, 1));
      changes.push(['absurd shape', `[${shape}]`, () => Tensor.from(data(), shape)]);
      changes.push(['absurd shape', `uint8 [${shape}]`, () => Tensor.from(Uint8Array.from(data()), shape)]);
    }
    changes.push(['unusual memory', 'channels last', (own) => inChannelsLast(own as typeof value)]);
    if (cuda) changes.push(['wrong device', 'cuda', (own) => (own as typeof value).to({ device: 'cuda' })]);
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    type Bytes = Uint8Array<ArrayBuffer>;
    changes.push(
      ['detached buffer', 'detached', (own) => detached((own as Bytes).slice())],
      ['unusual memory', 'too short', (own) => (own as Bytes).subarray(1)],
      ['unusual memory', 'empty', (own) => (own as Bytes).subarray(0, 0)],
      ['unusual memory', 'in shared memory', (own) => inSharedMemory(own as Bytes)],
      ['unusual memory', 'in a buffer that shrank', (own) => shrunk(own as Bytes)],
    );
  }
  return changes;
}

async function inChannelsLast(tensor: InstanceType<typeof Tensor>): Promise<unknown> {
  return tensor.shape.length === 4 ? tensor.to({ memoryFormat: 'channels-last' }) : tensor;
}

function inSharedMemory(array: Uint8Array): unknown {
  const Kind = array.constructor as Uint8ArrayConstructor;
  const shared = new Kind(new SharedArrayBuffer(array.byteLength) as unknown as ArrayBuffer);
  shared.set(array);
  return shared;
}

function shrunk(array: Uint8Array): unknown {
  const Kind = array.constructor as Uint8ArrayConstructor;
  const Resizable = ArrayBuffer as unknown as new (length: number, options: object) => ArrayBuffer;
  const buffer = new Resizable(array.byteLength, { maxByteLength: array.byteLength });
  const view = new Kind(buffer, 0, array.length);
  (buffer as unknown as { resize(length: number): void }).resize(0);
  return view;
}

/**
 * Lists every place in `args` that can hold another value: an argument, a key of a plain object or an item of an array.
 */
function placesIn(value: unknown, path: (string | number)[] = []): (string | number)[][] {
  const places = path.length > 0 ? [path] : [];
  const isPlain =
    typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
  if (!isPlain && !Array.isArray(value)) return places;
  // Two items of a long list are enough.
  const keys = Array.isArray(value) ? value.slice(0, 2).keys() : Object.keys(value as object);
  for (const key of path.length > 4 ? [] : keys) {
    places.push(...placesIn((value as Record<string | number, unknown>)[key], [...path, key]));
  }
  return places;
}

function valueAt(root: unknown, path: (string | number)[]): unknown {
  return path.reduce<unknown>((value, key) => (value as Record<string | number, unknown>)[key], root);
}

/** Copies plain objects and arrays with one place changed. */
function withValue(root: unknown, [key, ...rest]: (string | number)[], value: unknown): unknown {
  if (key === undefined) return value;
  const copy = (Array.isArray(root) ? [...root] : { ...(root as object) }) as Record<
    string | number,
    unknown
  >;
  copy[key] = withValue(copy[key], rest, value);
  return copy;
}

// ---- trying it ----

type Outcome = { value: unknown } | { error: unknown };

async function outcomeOf(work: () => unknown): Promise<Outcome> {
  try {
    return { value: await work() };
  } catch (error) {
    return { error };
  }
}

function release(value: unknown): void {
  if (isDisposable(value)) value[Symbol.dispose]();
  else if (value instanceof Map || Array.isArray(value)) for (const item of value.values()) release(item);
}

/** Records what is tried, and its outcome if it is wrong. */
async function attempt(
  kind: string,
  what: string,
  work: () => unknown,
  isRight: (outcome: Outcome) => boolean,
): Promise<Outcome> {
  result.table[kind] ??= { tried: 0, errors: 0, accepted: 0 };
  const row = result.table[kind];
  row.tried++;
  writeFileSync(logFile, `${kind}: ${what}`);
  const outcome = await outcomeOf(work);
  if ('error' in outcome) row.errors++;
  else row.accepted++;
  if (!isRight(outcome)) {
    const { error, value } = { error: undefined, value: undefined, ...outcome };
    const found = error instanceof Error ? error.stack?.split('\n').slice(0, 3).join(' | ') : error;
    result.problems.push(
      `${kind}: ${what}: ${'error' in outcome ? `threw ${String(found)}` : `gave ${String(value)}`}`,
    );
  }
  if ('value' in outcome) release(outcome.value);
  setMemoryLimit(MEMORY_LIMIT);
  return outcome;
}

const isTyped = (outcome: Outcome) => 'error' in outcome && outcome.error instanceof BidisegError;
const isDisposed = (outcome: Outcome) => 'error' in outcome && outcome.error instanceof DisposedError;
// JavaScript itself reports the method of another class.
const isTypedOrTypeError = (outcome: Outcome) =>
  'error' in outcome && (outcome.error instanceof BidisegError || outcome.error instanceof TypeError);
const isOfTheCaller = (outcome: Outcome) =>
  'error' in outcome && /of the caller/.test(String((outcome.error as Error)?.message));

type Call = (receiver: unknown, args: unknown[]) => unknown;

function callOf({ kind, key, name }: Found): Call {
  const exported = bidiseg as unknown as Record<string, Record<string | symbol, unknown>>;
  const owner = exported[name.replace(/^new |[.].*$/g, '')]!;
  if (kind === 'constructor') return (_, args) => Reflect.construct(owner as unknown as () => void, args);
  if (kind === 'function') return (_, args) => Reflect.apply(owner as unknown as () => void, undefined, args);
  if (kind === 'static') return (_, args) => Reflect.apply(owner[key] as () => void, owner, args);
  const declaring = prototypeOf(name);
  const { get, value } = Object.getOwnPropertyDescriptor(declaring, key)!;
  if (get) return (receiver) => Reflect.apply(get, receiver, []);
  return (receiver, args) => {
    const result = Reflect.apply(value, receiver, args) as Partial<AsyncGenerator> | undefined;
    // A generator does nothing before its first `next()`.
    return typeof result?.next === 'function' ? result.next() : result;
  };
}

/** Finds the prototype that declares `Class#member`. The class need not be exported. */
function prototypeOf(name: string): object {
  const wanted = name.slice(0, name.indexOf('#'));
  for (const value of Object.values(bidiseg)) {
    if (typeof value !== 'function') continue;
    for (let p = value.prototype; p && p !== Object.prototype; p = Object.getPrototypeOf(p)) {
      if (p.constructor.name === wanted) return p;
    }
  }
  throw new Error(`no class ${wanted}`);
}

/** Members of every object of this package. They need no description. */
const LIFETIME = /#(dispose|disposed|handle|\[Symbol\.\w*[dD]ispose\]|\[nodejs\.\w+\])$/;

async function tryMember(found: Found, member: Member, cuda: boolean): Promise<void> {
  const call = callOf(found);
  const owners = found.classes.length > 0 ? found.classes : [''];
  for (const owner of owners) {
    const what = owner === '' ? found.name : `${found.name} of a ${owner}`;
    const receiver = async () => (owner === '' ? undefined : (member.receiver ?? RECEIVERS[owner]!)());
    const args = async () => member.args(owner);
    const valid = await attempt(
      'nothing',
      what,
      async () => call(await receiver(), await args()),
      (outcome) => 'value' in outcome,
    );
    if (!('value' in valid)) continue;
    const fits = (outcome: Outcome) =>
      isTyped(outcome) || ('value' in outcome && typeof outcome.value === typeof valid.value);

    const pattern = await args();
    for (const place of placesIn(pattern)) {
      for (const [kind, label, make] of changesOf(valueAt(pattern, place), cuda)) {
        const text = `${what}, ${label} as ${place.join('.')}`;
        const work = async () => {
          const own = await args();
          const changed = withValue(own, place, await make(valueAt(own, place)));
          return call(await receiver(), changed as unknown[]);
        };
        const isRight =
          label === 'disposed'
            ? isDisposed
            : label === 'a proxy that throws'
              ? (outcome: Outcome) => fits(outcome) || isOfTheCaller(outcome)
              : fits;
        await attempt(kind, text, work, isRight);
      }
    }
    // No arguments, and too many.
    await attempt('hostile value', `${what} without arguments`, async () => call(await receiver(), []), fits);
    await attempt(
      'hostile value',
      `${what}, one argument more`,
      async () => call(await receiver(), [...(await args()), 7]),
      fits,
    );

    if (owner === '') continue;
    await attempt(
      'busy',
      what,
      async () => {
        const object = await receiver();
        const running = [await args(), await args(), await args()].map((each) =>
          outcomeOf(() => call(object, each)),
        );
        const outcomes = await Promise.all(running);
        const wrong = outcomes.find((outcome) => !fits(outcome));
        if (wrong !== undefined || !('value' in outcomes[0]!)) throw wrong;
        for (const outcome of outcomes) if ('value' in outcome) release(outcome.value);
      },
      (outcome) => 'value' in outcome,
    );
    if (found.kind === 'getter' || LIFETIME.test(found.name)) continue;
    await attempt(
      'disposed while it runs',
      what,
      async () => {
        const object = (await receiver()) as Disposable;
        const running = outcomeOf(async () => call(object, await args()));
        await Promise.resolve();
        if (isDisposable(object)) object[Symbol.dispose]();
        const outcome = await running;
        if (!fits(outcome)) throw (outcome as { error: unknown }).error;
        if ('value' in outcome) release(outcome.value);
      },
      (outcome) => 'value' in outcome,
    );
  }
}

const holdsNative = ({ classes }: Found) =>
  classes.some(
    (name) =>
      Symbol.dispose in (bidiseg as unknown as Record<string, { prototype: object }>)[name]!.prototype,
  );

async function tryReceivers(found: Found, member: Member | undefined): Promise<void> {
  const call = callOf(found);
  const [owner] = found.classes as [string];
  const args = async () => (member ? member.args(owner) : []);
  const strangers: [string, () => unknown][] = [
    ...IMPOSTORS.filter(([label]) => !(label === 'a tensor' && found.classes.includes('Tensor'))),
    ['undefined', () => undefined],
    ['null', () => null],
    ['{}', () => ({})],
    ['a number', () => 7],
    ['a threshold histogram', () => new bidiseg.ThresholdHistogram(2, 2)],
  ];
  for (const [label, make] of strangers) {
    const stranger = make();
    const isOwn = (name: string) =>
      label !== 'a proxy that throws' &&
      (bidiseg as Record<string, unknown>)[name] === Object(stranger).constructor;
    if (found.classes.some(isOwn)) continue;
    if (LIFETIME.test(found.name) && /^a (tensor|threshold|native)/.test(label)) continue;
    const isRight = (outcome: Outcome) =>
      isTypedOrTypeError(outcome) ||
      (label === 'a proxy that throws' && isOfTheCaller(outcome)) ||
      !holdsNative(found); // then JavaScript alone guards it
    await attempt(
      'receiver of another class',
      `${found.name} on ${label}`,
      async () => call(stranger, await args()),
      isRight,
    );
  }
  if (LIFETIME.test(found.name)) return;
  for (const name of found.classes) {
    const object = (await RECEIVERS[name]!()) as Partial<Disposable>;
    if (!isDisposable(object)) continue;
    const own = await (member ? member.args(name) : []);
    object[Symbol.dispose]();
    // A getter of an object that only holds others may return one of them, or a value of its own.
    const givesAnother = found.kind === 'getter' && !('handle' in object);
    await attempt(
      'disposed receiver',
      `${found.name} of a ${name}`,
      async () => call(object, own),
      (outcome) => givesAnother || isDisposed(outcome),
    );
  }
}

// ---- the addon itself ----

type Raw = Record<string, (...args: unknown[]) => unknown>;

/** Records the arguments of the last call of each native function and keeps them alive. */
function recordNative(): Map<string, unknown[]> {
  const recorded = new Map<string, unknown[]>();
  const keep = (value: unknown): void => {
    if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return;
    if ('disposed' in value)
      Object.defineProperty(value, 'dispose', { value: () => undefined, configurable: true });
    else for (const item of Object.values(value)) keep(item);
  };
  const raw = native as unknown as Raw;
  for (const [name, original] of Object.entries(raw)) {
    if (typeof original !== 'function' || /^[A-Z]/.test(name)) continue; // a class
    raw[name] = (...args) => {
      keep(args);
      recorded.set(name, args);
      return original(...args);
    };
  }
  return recorded;
}

const isCoded = (outcome: Outcome) =>
  'error' in outcome && /^ERR_[A-Z_]+$/.test(String((outcome.error as { code?: unknown })?.code));

async function tryNative(recorded: Map<string, unknown[]>, original: Raw): Promise<void> {
  // The first ends all work, and exits.test.ts covers it. The second is only for tests that wait, and the others are for
  // the benchmarks.
  const apart = new Set([
    ...[
      'shutDown',
      'idle',
      'startProfile',
      'stopProfile',
      'synchronize',
      'deviceMemory',
      'giveBackLargeBlocks',
    ],
  ]);
  for (const [name, work] of Object.entries(original)) {
    if (typeof work !== 'function') continue;
    if (/^[A-Z]/.test(name)) {
      await attempt(
        'hostile value',
        `native.${name} called`,
        () => work(),
        () => true,
      );
      const Class = work as unknown as new (...args: unknown[]) => { dispose(): void; disposed: boolean };
      await attempt(
        'hostile value',
        `new native.${name}`,
        () => new Class(1, {}).dispose(),
        (o) => 'value' in o,
      );
      continue;
    }
    if (apart.has(name)) continue;
    const args = recorded.get(name);
    if (!args) {
      result.problems.push(`native.${name}: no call of the public surface reaches it; is it needed?`);
      continue;
    }
    const fits = (outcome: Outcome) => 'value' in outcome || isCoded(outcome);
    await attempt(
      'nothing',
      `native.${name}`,
      () => work(...args),
      (outcome) => fits(outcome),
    );
    for (const place of placesIn(args)) {
      const own = valueAt(args, place);
      const isHandle = typeof own === 'object' && own !== null && 'disposed' in own;
      const changes: Change[] = HOSTILE.filter(isTurn).map(([label, make]) => [
        'native: hostile value',
        label,
        make,
      ]);
      if (isHandle) {
        changes.push(
          [
            'native: object of another class',
            'another class',
            () => new bidiseg.ThresholdHistogram(2, 2).handle,
          ],
          ['native: object of another class', 'a tensor', () => Tensor.from(new Float32Array(2)).handle],
          ['native: object of another class', 'an heir', () => Object.create(own)],
          ['native: object of another class', 'a copy from another thread', () => structuredClone(own)],
          [
            'native: disposed argument',
            'disposed',
            () => {
              const tensor = Tensor.from(new Float32Array(2));
              const { handle } = tensor;
              tensor.dispose();
              return handle;
            },
          ],
        );
      }
      if (ArrayBuffer.isView(own))
        changes.push([
          'native: detached buffer',
          'detached',
          (value) => detached((value as Uint8Array<ArrayBuffer>).slice()),
        ]);
      for (const [kind, label, make] of changes) {
        const text = `native.${name}, ${label} as ${place.join('.')}`;
        await attempt(kind, text, () => work(...(withValue(args, place, make(own)) as unknown[])), fits);
      }
    }
    for (let count = 0; count < args.length; count++) {
      await attempt(
        'native: hostile value',
        `native.${name} with ${count} arguments`,
        () => work(...args.slice(0, count)),
        fits,
      );
    }
  }
}

// ---- all of it ----

const all = surface(folder);
const found = members(await exportsOnTheAddon());
const withoutRemark = (name: string) => name.replace(/ \(.*\)$/, '');
const described = new Set(Object.keys(all).map(withoutRemark));
const { cudaDevices } = await buildInfo();
if (cudaDevices.length === 0) result.skipped.push('wrong device: there is no CUDA device here');
setMemoryLimit(MEMORY_LIMIT);

const names = new Set(found.map(({ name }) => name));
for (const name of described) {
  if (!names.has(name)) result.problems.push(`${name} is in surface.ts but not exported`);
}
/** Returns true for classes that only this package constructs. */
const isInternal = ({ kind, name }: Found) =>
  kind === 'constructor' && !described.has(name) && name.slice(4) in RECEIVERS;

const NO_ARGUMENTS: Member = { args: () => [] };
/** Finds the calls of a member in surface.ts: one, or several with a remark in brackets. */
const entriesOf = ({ name: wanted }: Found) =>
  Object.entries(all).flatMap(([name, member]) => (withoutRemark(name) === wanted ? [member] : []));

const original = { ...(native as unknown as Raw) };
for (const each of found) {
  const entries = entriesOf(each);
  const [entry] = entries;
  if (!entry && each.kind !== 'getter' && !LIFETIME.test(each.name) && !isInternal(each)) {
    result.problems.push(`${each.name} has no entry in test/engines/boundary/surface.ts`);
  }
  for (const member of entries) await tryMember(each, member, cudaDevices.length > 0);
  if (each.classes.length > 0) await tryReceivers(each, entry);
  if (isInternal(each)) {
    for (const [label, make] of [...HOSTILE, ...IMPOSTORS]) {
      await attempt(
        'hostile value',
        `${each.name} of ${label}`,
        () => void callOf(each)(undefined, [make(), make()]),
        () => true,
      );
    }
  }
}
// Repeats the valid calls, to see which native functions they reach.
const recorded = recordNative();
for (const each of found) {
  if (LIFETIME.test(each.name) || isInternal(each)) continue;
  const calls = each.kind === 'getter' ? [NO_ARGUMENTS] : entriesOf(each);
  for (const member of calls) {
    for (const owner of each.classes.length > 0 ? each.classes : ['']) {
      const receiver = owner === '' ? undefined : await (member.receiver ?? RECEIVERS[owner]!)();
      const own = await member.args(owner);
      // Failures were reported above.
      await outcomeOf(() => callOf(each)(receiver, own));
    }
  }
}
{
  const controller = new AbortController();
  const segmenter = (await RECEIVERS.Segmenter!()) as bidiseg.Segmenter;
  const job = { count: 1, width: 2, height: 2, signal: controller.signal };
  const running = segmenter.predict(new Uint8Array(12), job);
  controller.abort();
  await running.catch(() => undefined);
  // Only calls that wait for a batch reserve memory.
  const batched = new bidiseg.BatchedPredictor(segmenter);
  await outcomeOf(() => batched.predict(new Uint8Array(12), { count: 1, width: 2, height: 2 }));
  // Trainers do this by themselves on CUDA. On the CPU it is refused.
  await outcomeOf(() => uploadBatch(segmenter, randomBatch({ count: 1, height: 2, width: 2 }, 1, 5)));
}
await tryNative(recorded, original);

// None of that has harmed later work.
const step = (await RECEIVERS.SegmentationStep!()) as InstanceType<typeof bidiseg.SegmentationStep>;
const twin = (await RECEIVERS.SegmentationStep!()) as typeof step;
const [batch] = (await all['SegmentationStep#run']!.args('')) as [Parameters<typeof step.run>[0]];
const losses = [await step.run(batch), await twin.run(batch)];
if (!isDeepStrictEqual(losses[0], losses[1])) result.problems.push('a step afterward is not as it should be');
if (!(memoryInUse() < MEMORY_LIMIT)) result.problems.push(`${memoryInUse()} bytes in use`);
console.log(JSON.stringify(result));
