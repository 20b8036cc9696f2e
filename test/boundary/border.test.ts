import assert from 'node:assert/strict';
import * as bidiseg from 'bidiseg';
import { native } from '../../lib/native/binding.js';
import { RECEIVERS, surface } from '../engines/boundary/surface.js';
import { temporaryFolder } from '../helpers/folder.js';

/** Keys given and keys read by C++, by native function and position of the bag in its arguments. */
type Seen = Map<string, { given: Set<string>; read: Set<string> }>;
type Native = Record<string, (...args: unknown[]) => unknown>;

/** Keys that are optional in the types (`labels?`). */
const OPTIONAL = ['labels', 'weights', 'weakImages', 'stride'];

/** Names the call. Each kind of network has its own keys. */
function labelOf(name: string, args: unknown[]): string {
  return name === 'createNetwork' ? `createNetwork ${args[0]}` : name;
}

/** Wraps the bags in the arguments of every native function in proxies that record reads, until `restore()`. */
function watchBags(seen: Seen): { restore: () => void } {
  const functions = native as unknown as Native;
  const original = { ...functions };
  for (const [name, call] of Object.entries(original)) {
    functions[name] = (...args) => {
      const label = labelOf(name, args);
      return call(...args.map((arg, index) => watched(arg, `${label}[${index}]`, seen)));
    };
  }
  return { restore: () => void Object.assign(functions, original) };
}

function watched(value: unknown, place: string, seen: Seen): unknown {
  if (Array.isArray(value)) return value.map((item) => watched(item, `${place}[]`, seen));
  if (!isBag(value)) return value;
  const keys = seen.get(place) ?? { given: new Set(), read: new Set() };
  seen.set(place, keys);
  for (const key of Object.keys(value)) keys.given.add(key);
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === 'string') keys.read.add(key);
      return watched(Reflect.get(target, key), `${place}.${String(key)}`, seen);
    },
  });
}

/** Returns true for a plain object: neither a native handle nor an array of numbers. */
function isBag(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

async function callEverything(folder: string): Promise<void> {
  for (const [described, member] of Object.entries(surface(folder))) {
    const name = described.replace(/ \(.*\)$/, '');
    const [owner, method] = name.split('#') as [string, string | undefined];
    const owners = method === undefined ? [''] : owner in RECEIVERS ? [owner] : subclassesOf(owner);
    for (const receiverName of owners) {
      const args = await member.args(receiverName);
      if (method !== undefined) {
        const receiver = await (member.receiver ?? RECEIVERS[receiverName]!)();
        await (receiver as unknown as Native)[method]!(...args);
      } else {
        await callStatic(name, args);
      }
    }
  }
}

function subclassesOf(owner: string): string[] {
  const kinds = bidiseg as unknown as Record<string, { prototype: object }>;
  return Object.keys(RECEIVERS).filter((name) => kinds[name]?.prototype instanceof (kinds[owner] as never));
}

async function callStatic(name: string, args: unknown[]): Promise<void> {
  const exported = bidiseg as unknown as Record<string, Native & (new (...args: unknown[]) => unknown)>;
  if (name.startsWith('new ')) new exported[name.slice(4)]!(...args);
  else if (name.includes('.')) await exported[name.split('.')[0]!]![name.split('.')[1]!]!(...args);
  else await (exported as unknown as Native)[name]!(...args);
}

describe('the border between TypeScript and C++', () => {
  it('carries exactly the keys that C++ reads, in every bag of options', async () => {
    const folder = temporaryFolder();
    const seen: Seen = new Map();
    const { restore } = watchBags(seen);
    try {
      await callEverything(folder.path('.'));
    } finally {
      restore();
      bidiseg.setMemoryLimit(null);
      folder.remove();
    }
    assert.ok(seen.size > 25, `only ${seen.size} bags were seen`);
    const sorted = (keys: Set<string>) => [...keys].sort();
    const differences = [...seen].flatMap(([place, { given, read }]) =>
      String(sorted(given)) ===
      String(sorted(read).filter((key) => given.has(key) || !OPTIONAL.includes(key)))
        ? []
        : [`${place}: given ${sorted(given)}, read ${sorted(read)}`],
    );
    assert.deepEqual(differences, []);
  });
});
