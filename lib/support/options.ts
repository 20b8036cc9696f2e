import { z } from 'zod';
import { InvalidArgumentError } from './errors.js';
import { describe } from './validate.js';

/*
 * Declares and checks options. A class declares its options as a zod schema, with names, ranges, defaults and doc
 * comments. The config composes these schemas. A message given to zod is the *expected* half of an error ("a number
 * from 0 to 1"). The code that parses adds the name and the value that was found.
 *
 * See docs/design/README.md#options-live-with-their-owner.
 */

export const number = (min: number, max: number) => {
  const expected = max === Infinity ? `a number ≥ ${min}` : `a number from ${min} to ${max}`;
  const schema = z.number(expected).min(min, expected);
  return max === Infinity ? schema : schema.max(max, expected);
};

export const integer = (min: number, max = Number.MAX_SAFE_INTEGER) => {
  const expected =
    max === Number.MAX_SAFE_INTEGER ? `a whole number ≥ ${min}` : `a whole number from ${min} to ${max}`;
  return z.number(expected).int(expected).min(min, expected).max(max, expected);
};

export const boolean = () => z.boolean('true or false');

export const text = (expected: string) => z.string(expected).min(1, expected);

export const choice = <const T extends readonly [string, ...string[]]>(...choices: T) =>
  z.enum(choices, `one of ${choices.join(', ')}`);

/** Declares a choice among a few numbers. */
export const numberChoice = <const T extends readonly [number, ...number[]]>(...choices: T) =>
  z.literal(choices, choices.join(' or '));

/** Declares a range [min, max] of numbers, each from `least` to `most`. */
export const range = (least: number, most: number) => {
  const expected = `two numbers [min, max] from ${least} to ${most}`;
  return z
    .tuple([number(least, most), number(least, most)], expected)
    .refine(([min, max]) => min <= max, expected);
};

/** Declares a strict object. A key that it does not name is an error. */
export const section = <S extends z.ZodRawShape>(shape: S) =>
  z.strictObject(shape, 'a section with keys of its own');

/**
 * Checks an options object of the library and fills in defaults. An option that is undefined counts as absent.
 *
 * @param name how error messages call the object, such as `training`; '' for the options of the call itself
 * @throws InvalidArgumentError that names the option, what was found and what was expected
 */
export function parseOptions<S extends z.ZodType>(schema: S, options: unknown, name = ''): z.output<S> {
  const result = schema.safeParse(withoutUndefined(options));
  if (result.success) return result.data;
  const faults = listFaults(schema, result.error, options).map(({ path, expected, unknownKey, value }) => {
    const place = [...(name === '' ? [] : [name]), ...path].join('.') || 'options';
    return unknownKey === undefined
      ? `Expected ${expected} for ${place} but received ${describe(value)}`
      : `${place}: ${unknownKey}`;
  });
  throw new InvalidArgumentError(joinFaults(faults));
}

function withoutUndefined(options: unknown): unknown {
  if (!isTable(options)) return options;
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

/** Returns the entries of `values` whose keys `schema` has. */
export function pickOptions<S extends z.ZodRawShape, Values extends object>(
  schema: z.ZodObject<S>,
  values: Values,
): Pick<Values, Extract<keyof Values, keyof S>> {
  const picked = Object.entries(values).filter(([key]) => Object.hasOwn(schema.shape, key));
  return Object.fromEntries(picked) as Pick<Values, Extract<keyof Values, keyof S>>;
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Describes one fault of a value: a bad value instead of the `expected` one, or a key that does not exist. */
export interface Fault {
  path: string[];
  expected: string;
  value: unknown;
  /** Message for a key that the schema does not have. */
  unknownKey?: string;
}

export function listFaults(schema: z.ZodType, error: z.ZodError, input: unknown): Fault[] {
  return error.issues.flatMap((issue): Fault[] => {
    const path = issue.path.map(String);
    if (issue.code === 'unrecognized_keys') {
      const known = keysAt(schema, path);
      return issue.keys.map((key) => ({
        path: [...path, key],
        expected: '',
        value: undefined,
        unknownKey: unknownKey(key, known),
      }));
    }
    return [{ path, expected: issue.message, value: valueAt(input, path) }];
  });
}

const MAX_REPORTED = 3;

export function joinFaults(faults: readonly string[]): string {
  const more = faults.length - MAX_REPORTED;
  return faults.slice(0, MAX_REPORTED).join('; ') + (more > 0 ? `; and ${more} more` : '');
}

function unknownKey(key: string, known: readonly string[]): string {
  const meant = nearest(key, known);
  return meant ? `unknown key; did you mean ${meant}?` : `unknown key; expected one of ${known.join(', ')}`;
}

/** Returns the keys that `schema` has for the table at `path`, through any defaults and unions on the way. */
function keysAt(schema: z.ZodType, path: readonly string[]): string[] {
  if (
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodNullable ||
    schema instanceof z.ZodOptional
  ) {
    return keysAt(schema.unwrap() as z.ZodType, path);
  }
  if (schema instanceof z.ZodUnion) {
    return [...new Set(schema.options.flatMap((option) => keysAt(option as z.ZodType, path)))];
  }
  if (!(schema instanceof z.ZodObject)) return [];
  const [key, ...rest] = path;
  if (key === undefined) return Object.keys(schema.shape);
  const next = schema.shape[key] as z.ZodType | undefined;
  return next ? keysAt(next, rest) : [];
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (hasPath(inner, [key]) ? (inner as never)[key] : undefined),
    value,
  );
}

/** Tests whether `value` has own properties all along `path`. */
export function hasPath(value: unknown, path: readonly string[]): boolean {
  const [key, ...rest] = path;
  if (key === undefined) return true;
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return false;
  return hasPath((value as Record<string, unknown>)[key], rest);
}

/** Returns the candidate closest to `word` if it is close enough to be a misspelling. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const limit = Math.max(2, Math.floor(word.length / 3));
  let best: { candidate: string; distance: number } | undefined;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance <= limit && distance < (best?.distance ?? Infinity)) best = { candidate, distance };
  }
  return best?.candidate;
}

/** Computes the Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
