/**
 * A restricted reader of Python pickles. It builds numbers, strings, bytes, booleans, None, tuples, lists and dicts.
 * The caller allows other objects by name. Any other object becomes a placeholder. Nothing in a pickle is ever executed.
 * See docs/design/files-and-safety.md#our-own-unpickler.
 */

/** Content of a pickle: None is null, integers beyond 2^53 are bigints, tuples and lists are arrays, dicts are Maps. */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleValue[]
  | Map<PickleValue, PickleValue>
  | object;

/** A Python class or function that a pickle may name, and the result of calling it. */
export interface PickleGlobal {
  name: string;
  construct?: (args: PickleValue[]) => PickleValue;
}

/**
 * Placeholder of a Python class, function or object that is not built. Calling it gives the placeholder again. What a
 * pickle puts into it, such as attributes or items, is dropped.
 */
export class Placeholder implements PickleGlobal {
  constructor(
    /** Name of the class or function, such as `argparse.Namespace`. */
    readonly name: string,
  ) {}

  construct(): PickleValue {
    return this;
  }
}

export interface PickleRules {
  /** Returns the object that `name` stands for, such as `collections.OrderedDict`, or a Placeholder. */
  global(name: string): PickleGlobal;
  /** Returns the object that a persistent id stands for, or throws. */
  persistent(id: PickleValue): PickleValue;
  /** Makes the error for a pickle that is malformed or asks for too much. */
  bad(what: string): Error;
}

/** Reports that the bytes end before the pickle does. */
export class PickleEnd extends Error {}

/** Largest number of operations. A state dict needs some 25 operations a tensor. A million take well under a second. */
const MAX_OPERATIONS = 1_000_000;
const MAX_DEPTH = 64;
const MAX_INTEGER_BYTES = 64;

const MARK = Symbol('mark');
type Slot = PickleValue | typeof MARK;

/** Describes a value for a message. It is short and cheap even for a list that holds the same list a billion times. */
export function pickleText(value: PickleValue | undefined): string {
  if (typeof value !== 'object' || value === null) return String(value).slice(0, 100);
  if (value instanceof Placeholder) return value.name;
  return Array.isArray(value) ? 'a list' : value instanceof Map ? 'a dict' : 'an object';
}

/** Reads one pickle of `bytes` from `start`. `end` is where the next one may begin. */
export function unpickle(
  bytes: Buffer,
  start: number,
  rules: PickleRules,
): { value: PickleValue; end: number } {
  return new Unpickler(bytes, start, rules).run();
}

class Unpickler {
  readonly #bytes: Buffer;
  readonly #rules: PickleRules;
  readonly #stack: Slot[] = [];
  readonly #memo = new Map<number, PickleValue>();
  #position: number;

  constructor(bytes: Buffer, start: number, rules: PickleRules) {
    this.#bytes = bytes;
    this.#position = start;
    this.#rules = rules;
  }

  run(): { value: PickleValue; end: number } {
    for (let operations = 0; operations < MAX_OPERATIONS; ++operations) {
      const opcode = this.#uint(1);
      if (opcode === 0x2e) {
        const value = this.#pop(); // STOP
        this.#checkNesting(value);
        return { value, end: this.#position };
      }
      this.#execute(opcode);
    }
    throw this.#rules.bad(`its pickle has more than ${MAX_OPERATIONS} operations`);
  }

  /** Action of each opcode. The names are those of Python's pickletools. */
  static readonly #opcodes: Readonly<Record<number, (reader: Unpickler) => void>> = {
    128: (reader) => reader.#checkProtocol(), // PROTO
    149: (reader) => reader.#take(8), // FRAME: a hint about how much to read at a time

    78: (reader) => reader.#push(null), // NONE
    136: (reader) => reader.#push(true), // NEWTRUE
    137: (reader) => reader.#push(false), // NEWFALSE
    75: (reader) => reader.#push(reader.#uint(1)), // BININT1
    77: (reader) => reader.#push(reader.#uint(2)), // BININT2
    74: (reader) => reader.#push(reader.#take(4).readInt32LE()), // BININT
    138: (reader) => reader.#push(reader.#integer(reader.#uint(1))), // LONG1
    139: (reader) => reader.#push(reader.#integer(reader.#uint(4))), // LONG4
    71: (reader) => reader.#push(reader.#take(8).readDoubleBE()), // BINFLOAT

    85: (reader) => reader.#pushText(reader.#uint(1)), // SHORT_BINSTRING, Python 2's str
    140: (reader) => reader.#pushText(reader.#uint(1)), // SHORT_BINUNICODE
    84: (reader) => reader.#pushText(reader.#uint(4)), // BINSTRING, Python 2's str
    88: (reader) => reader.#pushText(reader.#uint(4)), // BINUNICODE
    141: (reader) => reader.#pushText(reader.#uint64()), // BINUNICODE8
    67: (reader) => reader.#push(reader.#take(reader.#uint(1))), // SHORT_BINBYTES
    66: (reader) => reader.#push(reader.#take(reader.#uint(4))), // BINBYTES
    142: (reader) => reader.#push(reader.#take(reader.#uint64())), // BINBYTES8
    150: (reader) => reader.#push(reader.#take(reader.#uint64())), // BYTEARRAY8

    40: (reader) => reader.#stack.push(MARK), // MARK
    48: (reader) => reader.#drop(), // POP
    49: (reader) => reader.#popToMark(), // POP_MARK
    50: (reader) => reader.#push(reader.#top()), // DUP

    41: (reader) => reader.#push([]), // EMPTY_TUPLE
    93: (reader) => reader.#push([]), // EMPTY_LIST
    116: (reader) => reader.#push(reader.#popToMark()), // TUPLE
    108: (reader) => reader.#push(reader.#popToMark()), // LIST
    133: (reader) => reader.#push(reader.#popMany(1)), // TUPLE1
    134: (reader) => reader.#push(reader.#popMany(2)), // TUPLE2
    135: (reader) => reader.#push(reader.#popMany(3)), // TUPLE3
    97: (reader) => reader.#append(reader.#popMany(1)), // APPEND
    101: (reader) => reader.#append(reader.#popToMark()), // APPENDS

    125: (reader) => reader.#push(new Map()), // EMPTY_DICT
    100: (reader) => reader.#pushDict(reader.#popToMark()), // DICT
    143: (reader) => reader.#push(new Placeholder('builtins.set')), // EMPTY_SET
    144: (reader) => reader.#addItems(), // ADDITEMS
    145: (reader) => reader.#pushFrozenSet(), // FROZENSET
    115: (reader) => reader.#setItems(reader.#popMany(2)), // SETITEM
    117: (reader) => reader.#setItems(reader.#popToMark()), // SETITEMS

    113: (reader) => reader.#memo.set(reader.#uint(1), reader.#top()), // BINPUT
    114: (reader) => reader.#memo.set(reader.#uint(4), reader.#top()), // LONG_BINPUT
    148: (reader) => reader.#memo.set(reader.#memo.size, reader.#top()), // MEMOIZE
    104: (reader) => reader.#push(reader.#recall(reader.#uint(1))), // BINGET
    106: (reader) => reader.#push(reader.#recall(reader.#uint(4))), // LONG_BINGET

    99: (reader) => reader.#push(reader.#rules.global(reader.#twoLines())), // GLOBAL
    147: (reader) => reader.#pushGlobal(reader.#popMany(2)), // STACK_GLOBAL
    105: (reader) => reader.#pushInstance(), // INST
    81: (reader) => reader.#push(reader.#rules.persistent(reader.#pop())), // BINPERSID
    82: (reader) => reader.#call(reader.#popMany(2)), // REDUCE
    129: (reader) => reader.#call(reader.#popMany(2)), // NEWOBJ
    146: (reader) => reader.#callWithNames(reader.#popMany(3)), // NEWOBJ_EX
    98: (reader) => reader.#dropAttributes(), // BUILD
  };

  #execute(opcode: number): void {
    const action = Unpickler.#opcodes[opcode];
    if (!action) {
      throw this.#rules.bad(
        `its pickle has the unsupported opcode 0x${opcode.toString(16)} at byte ${this.#position - 1}`,
      );
    }
    action(this);
  }

  #checkProtocol(): void {
    if (this.#uint(1) > 5) throw this.#rules.bad('its pickle protocol is newer than 5');
  }

  #push(value: PickleValue): void {
    this.#stack.push(value);
  }

  #pushText(length: number): void {
    this.#push(this.#take(length).toString('utf8'));
  }

  #pushDict(items: PickleValue[]): void {
    this.#push(new Map());
    this.#setItems(items);
  }

  #pushGlobal([module, name]: PickleValue[]): void {
    this.#push(this.#rules.global(`${pickleText(module)}.${pickleText(name)}`));
  }

  #pushInstance(): void {
    this.#call([this.#rules.global(this.#twoLines()), this.#popToMark()]);
  }

  #call([callable, args]: PickleValue[]): void {
    const called = (callable ?? {}) as Partial<PickleGlobal>;
    if (typeof called.construct !== 'function' || !Array.isArray(args)) {
      throw this.#rules.bad(`its pickle calls ${called.name ?? 'something that is not a function'}`);
    }
    this.#push(called.construct(args));
  }

  /** Calls with keyword arguments, which only placeholders may have. */
  #callWithNames([callable, args, names]: PickleValue[]): void {
    if (!(callable instanceof Placeholder) && !(names instanceof Map && names.size === 0)) {
      throw this.#rules.bad(`its pickle calls ${pickleText(callable)} with named arguments`);
    }
    this.#call([callable!, args!]);
  }

  /** Skips attributes. State dicts have `_metadata` (module versions), which nothing here needs. */
  #dropAttributes(): void {
    this.#pop();
    const top = this.#top();
    if (Array.isArray(top) || typeof top !== 'object' || top === null) {
      throw this.#rules.bad('its pickle sets attributes of something that is not an object');
    }
  }

  #append(items: PickleValue[]): void {
    const list = this.#top();
    if (list instanceof Placeholder) return;
    if (!Array.isArray(list)) throw this.#rules.bad('its pickle appends to something that is not a list');
    for (const item of items) list.push(item);
  }

  #addItems(): void {
    this.#popToMark();
    if (!(this.#top() instanceof Placeholder))
      throw this.#rules.bad('its pickle adds to something that is not a set');
  }

  #pushFrozenSet(): void {
    this.#popToMark();
    this.#push(new Placeholder('builtins.frozenset'));
  }

  #take(length: number): Buffer {
    const end = this.#position + length;
    if (end > this.#bytes.length) throw new PickleEnd();
    const part = this.#bytes.subarray(this.#position, end);
    this.#position = end;
    return part;
  }

  #uint(bytes: 1 | 2 | 4): number {
    return this.#take(bytes).readUIntLE(0, bytes);
  }

  /** Reads a length. Beyond 2^53 the number may be inexact, but such a length is too large anyway. */
  #uint64(): number {
    return Number(this.#take(8).readBigUInt64LE());
  }

  /** Reads a little-endian two's complement integer. */
  #integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) throw this.#rules.bad(`its pickle has an integer of ${length} bytes`);
    let value = 0n;
    for (const byte of this.#take(length).toReversed()) value = (value << 8n) | BigInt(byte);
    value = BigInt.asIntN(8 * length, value);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#position);
    if (end < 0) throw new PickleEnd();
    const text = this.#bytes.toString('utf8', this.#position, end);
    this.#position = end + 1;
    return text;
  }

  /** Reads MODULE and NAME, a line each, as MODULE.NAME. */
  #twoLines(): string {
    return `${this.#line()}.${this.#line()}`;
  }

  #underflow(): Error {
    return this.#rules.bad('its pickle takes a value from an empty stack');
  }

  #top(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined || value === MARK) throw this.#underflow();
    return value as PickleValue;
  }

  #pop(): PickleValue {
    const value = this.#top();
    this.#stack.pop();
    return value;
  }

  #drop(): void {
    if (this.#stack.pop() === undefined) throw this.#underflow();
  }

  /** Pops the topmost values and returns them in the order in which they were pushed. */
  #popMany(count: number): PickleValue[] {
    return Array.from({ length: count }, () => this.#pop()).reverse();
  }

  #popToMark(): PickleValue[] {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) throw this.#underflow();
    const items = this.#stack.splice(mark);
    return items.slice(1) as PickleValue[];
  }

  #recall(index: number): PickleValue {
    const value = this.#memo.get(index);
    if (value === undefined)
      throw this.#rules.bad(`its pickle recalls value ${index}, which it never stored`);
    return value;
  }

  #setItems(items: PickleValue[]): void {
    const dict = this.#top();
    if (dict instanceof Placeholder) return;
    if (!(dict instanceof Map) || items.length % 2 !== 0) {
      throw this.#rules.bad('its pickle sets an item of something that is not a dict');
    }
    for (let i = 0; i < items.length; i += 2) dict.set(items[i]!, items[i + 1]!);
  }

  /**
   * Checks that the value is nested to a moderate depth. A container that contains itself would have endless depth. A
   * shared container is visited once, because otherwise a small pickle could cause any amount of work.
   */
  #checkNesting(root: PickleValue): void {
    const depths = new Map<object, number>();
    const depthOf = (value: PickleValue, above: number): number => {
      if (!(value instanceof Map) && !Array.isArray(value)) return 0;
      if (above >= MAX_DEPTH) {
        throw this.#rules.bad(`its pickle is nested more than ${MAX_DEPTH} levels deep, or contains itself`);
      }
      let depth = depths.get(value);
      if (depth === undefined) {
        depth = 0;
        const items = value instanceof Map ? [...value.keys(), ...value.values()] : value;
        for (const item of items) depth = Math.max(depth, 1 + depthOf(item, above + 1));
        depths.set(value, depth);
      }
      if (above + depth > MAX_DEPTH) {
        throw this.#rules.bad(`its pickle is nested more than ${MAX_DEPTH} levels deep, or contains itself`);
      }
      return depth;
    };
    depthOf(root, 0);
  }
}
