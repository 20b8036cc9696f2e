/**
 * A restricted reader of Python pickles. It builds numbers, strings, bytes, booleans, None, tuples, lists and dicts;
 * whatever else a pickle wants to build is for the caller to allow by name. Nothing of the pickle is ever executed.
 */

/** What is in a pickle: None is null, integers beyond 2^53 are bigints, tuples and lists are arrays, dicts are Maps. */
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

/** A Python class or function that a pickle may name, and what calling it gives. */
export interface PickleGlobal {
  name: string;
  construct?: (args: PickleValue[]) => PickleValue;
}

export interface PickleRules {
  /** Gives what `name` (such as `collections.OrderedDict`) stands for, or throws. */
  global(name: string): PickleGlobal;
  /** What a persistent id stands for; throws where it is none. */
  persistent(id: PickleValue): PickleValue;
  /** The error for a pickle that is malformed or asks for too much. */
  bad(what: string): Error;
}

/** The bytes end before the pickle does. */
export class PickleEnd extends Error {}

/** A state dict needs some 25 operations a tensor; a million is far more than any network's and takes well under a second. */
const MAX_OPERATIONS = 1_000_000;
const MAX_DEPTH = 64;
const MAX_INTEGER_BYTES = 64;

const MARK = Symbol('mark');
type Slot = PickleValue | typeof MARK;

/** A value in a message: short, and no work even for a list that holds the same list a billion times. */
export function pickleText(value: PickleValue | undefined): string {
  if (typeof value !== 'object' || value === null) return String(value).slice(0, 100);
  return Array.isArray(value) ? 'a list' : value instanceof Map ? 'a dict' : 'an object';
}

/** Reads one pickle of `bytes` from `start`; `end` is where the next one may begin. */
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

  /** One opcode; the names are those of Python's pickletools. */
  #execute(opcode: number): void {
    const stack = this.#stack;
    switch (opcode) {
      case 0x80: // PROTO
        if (this.#uint(1) > 5) throw this.#rules.bad('its pickle protocol is newer than 5');
        return;
      case 0x95: // FRAME: only a hint about how much to read at a time
        this.#take(8);
        return;

      case 0x4e: // NONE
        stack.push(null);
        return;
      case 0x88: // NEWTRUE
        stack.push(true);
        return;
      case 0x89: // NEWFALSE
        stack.push(false);
        return;
      case 0x4b: // BININT1
        stack.push(this.#uint(1));
        return;
      case 0x4d: // BININT2
        stack.push(this.#uint(2));
        return;
      case 0x4a: // BININT
        stack.push(this.#take(4).readInt32LE());
        return;
      case 0x8a: // LONG1
        stack.push(this.#integer(this.#uint(1)));
        return;
      case 0x8b: // LONG4
        stack.push(this.#integer(this.#uint(4)));
        return;
      case 0x47: // BINFLOAT
        stack.push(this.#take(8).readDoubleBE());
        return;

      case 0x55: // SHORT_BINSTRING and BINSTRING: Python 2's str
      case 0x8c: // SHORT_BINUNICODE
        stack.push(this.#take(this.#uint(1)).toString('utf8'));
        return;
      case 0x54:
      case 0x58: // BINUNICODE
        stack.push(this.#take(this.#uint(4)).toString('utf8'));
        return;
      case 0x8d: // BINUNICODE8
        stack.push(this.#take(this.#uint64()).toString('utf8'));
        return;
      case 0x43: // SHORT_BINBYTES
        stack.push(this.#take(this.#uint(1)));
        return;
      case 0x42: // BINBYTES
        stack.push(this.#take(this.#uint(4)));
        return;
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        stack.push(this.#take(this.#uint64()));
        return;

      case 0x28: // MARK
        stack.push(MARK);
        return;
      case 0x30: // POP
        if (stack.pop() === undefined) throw this.#underflow();
        return;
      case 0x31: // POP_MARK
        this.#popToMark();
        return;
      case 0x32: // DUP
        stack.push(this.#top());
        return;

      case 0x29: // EMPTY_TUPLE
      case 0x5d: // EMPTY_LIST
        stack.push([]);
        return;
      case 0x74: // TUPLE
      case 0x6c: // LIST
        stack.push(this.#popToMark());
        return;
      case 0x85: // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87: {
        const items = Array.from({ length: opcode - 0x84 }, () => this.#pop());
        stack.push(items.reverse());
        return;
      }
      case 0x61: {
        const item = this.#pop(); // APPEND
        this.#list().push(item);
        return;
      }
      case 0x65: {
        const items = this.#popToMark(); // APPENDS
        const list = this.#list();
        for (const item of items) list.push(item);
        return;
      }

      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        return;
      case 0x64: {
        const items = this.#popToMark(); // DICT
        stack.push(new Map());
        this.#setItems(items);
        return;
      }
      case 0x73: {
        const [value, key] = [this.#pop(), this.#pop()]; // SETITEM
        this.#setItems([key, value]);
        return;
      }
      case 0x75: // SETITEMS
        this.#setItems(this.#popToMark());
        return;

      case 0x71: // BINPUT
        this.#memo.set(this.#uint(1), this.#top());
        return;
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#uint(4), this.#top());
        return;
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        return;
      case 0x68: // BINGET
        stack.push(this.#recall(this.#uint(1)));
        return;
      case 0x6a: // LONG_BINGET
        stack.push(this.#recall(this.#uint(4)));
        return;

      case 0x63: // GLOBAL
        stack.push(this.#rules.global(`${this.#line()}.${this.#line()}`));
        return;
      case 0x93: {
        const [name, module] = [this.#pop(), this.#pop()]; // STACK_GLOBAL
        stack.push(this.#rules.global(`${pickleText(module)}.${pickleText(name)}`));
        return;
      }
      case 0x69: // INST, of protocol 0: in case it names something to refuse, that name is the message
        this.#rules.global(`${this.#line()}.${this.#line()}`);
        break;
      case 0x51: // BINPERSID
        stack.push(this.#rules.persistent(this.#pop()));
        return;
      case 0x52: // REDUCE
      case 0x81: {
        const [args, callable] = [this.#pop(), this.#pop()]; // NEWOBJ
        const { construct, name } = (callable ?? {}) as Partial<PickleGlobal>;
        if (typeof construct !== 'function' || !Array.isArray(args)) {
          throw this.#rules.bad(`its pickle calls ${name ?? 'what is no function'}`);
        }
        stack.push(construct(args));
        return;
      }
      case 0x62: // BUILD: attributes. State dicts have `_metadata` (module versions), which nothing here needs.
        this.#pop();
        if (!(this.#top() instanceof Map))
          throw this.#rules.bad('its pickle sets attributes of what is no dict');
        return;
    }
    throw this.#rules.bad(
      `its pickle has the unsupported opcode 0x${opcode.toString(16)} at byte ${this.#position - 1}`,
    );
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

  /** A length; as a number it may be inexact beyond 2^53, where it is too long anyway. */
  #uint64(): number {
    return Number(this.#take(8).readBigUInt64LE());
  }

  /** A little-endian two's complement integer. */
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

  #underflow(): Error {
    return this.#rules.bad('its pickle takes a value that is not there');
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

  #list(): PickleValue[] {
    const list = this.#top();
    if (!Array.isArray(list)) throw this.#rules.bad('its pickle appends to what is no list');
    return list;
  }

  #setItems(items: PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof Map) || items.length % 2 !== 0) {
      throw this.#rules.bad('its pickle sets an item of what is no dict');
    }
    for (let i = 0; i < items.length; i += 2) dict.set(items[i]!, items[i + 1]!);
  }

  /**
   * Makes sure that the value is a tree or a lattice of a moderate depth. A container that contains itself would need
   * endless depth. What several containers share is looked at once, or a small pickle could ask for any amount of work.
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
