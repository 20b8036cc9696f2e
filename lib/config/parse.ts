import { z } from 'zod';
import { ConfigError, InvalidArgumentError } from '../support/errors.js';
import { oneLine } from '../support/format.js';
import { describe, shortened } from '../support/validate.js';

/** Where values came from, for error messages, and the values. Later layers override earlier ones. */
export interface Layer {
  name: string;
  values: Record<string, unknown>;
}

const MAX_REPORTED = 3;
/** The schema's own tables are four deep. */
export const MAX_DEPTH = 32;

/**
 * Merges `layers` (tables key by key, everything else whole) and checks the result.
 *
 * @throws ConfigError that names, for each fault, the layer, the key path, what was found and what was expected.
 */
export function parseLayers<S extends z.ZodType>(schema: S, layers: readonly Layer[]): z.output<S> {
  const merged = layers.reduce<Record<string, unknown>>(
    (base, layer) => merge(base, layer.values, layer.name),
    {},
  );
  const result = schema.safeParse(merged);
  if (result.success) return result.data;
  const faults = listFaults(schema, result.error, merged).map(({ path, text }) => {
    const origin = layers.findLast((layer) => has(layer.values, path)) ?? layers.at(-1);
    return `${origin?.name ?? 'config'}: ${shortened(oneLine(path.join('.'))) || 'the top level'}: ${text}`;
  });
  throw new ConfigError(joinFaults(faults));
}

/**
 * Checks one options object of the library against the schema that also checks config files, and fills in defaults.
 *
 * @throws InvalidArgumentError that names the option, what was found and what was expected.
 */
export function parseOptions<S extends z.ZodType>(schema: S, options: unknown, name: string): z.output<S> {
  const result = schema.safeParse(options);
  if (result.success) return result.data;
  const faults = listFaults(schema, result.error, options);
  throw new InvalidArgumentError(
    joinFaults(faults.map(({ path, text }) => `${[name, ...path].join('.')}: ${text}`)),
  );
}

/** The candidate closest to `word`, if it is close enough to be what was meant. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const limit = Math.max(2, Math.floor(word.length / 3));
  let best: { candidate: string; distance: number } | undefined;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance <= limit && distance < (best?.distance ?? Infinity)) best = { candidate, distance };
  }
  return best?.candidate;
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function merge(
  base: Record<string, unknown>,
  over: Record<string, unknown>,
  layerName: string,
  depth = 0,
): Record<string, unknown> {
  if (depth > MAX_DEPTH) {
    throw new ConfigError(`${layerName}: found tables nested more than ${MAX_DEPTH} deep, or in a circle`);
  }
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    // Assigning to it would change the object's prototype and hide the key from the schema.
    if (key === '__proto__') throw new ConfigError(`${layerName}: __proto__: unknown key`);
    if (value === undefined) continue;
    const below = merged[key];
    // Tables of another kind have other keys: a constant schedule must not inherit the poly schedule's power.
    const isSameKind =
      isTable(below) && isTable(value) && (value.kind === undefined || value.kind === below.kind);
    if (isSameKind) merged[key] = merge(below, value, layerName, depth + 1);
    else merged[key] = isTable(value) ? merge({}, value, layerName, depth + 1) : value;
  }
  return merged;
}

interface Fault {
  path: string[];
  text: string;
}

function listFaults(schema: z.ZodType, error: z.ZodError, input: unknown): Fault[] {
  return error.issues.flatMap((issue): Fault[] => {
    const path = issue.path.map(String);
    if (issue.code === 'unrecognized_keys') {
      const known = keysAt(schema, path);
      return issue.keys.map((key) => ({ path: [...path, key], text: unknownKey(key, known) }));
    }
    const value = valueAt(input, path);
    const found = value === undefined ? 'it is missing' : `found ${describe(value)}`;
    return [{ path, text: `expected ${issue.message} but ${found}` }];
  });
}

function unknownKey(key: string, known: readonly string[]): string {
  const meant = nearest(key, known);
  return meant ? `unknown key; did you mean ${meant}?` : `unknown key; expected one of ${known.join(', ')}`;
}

function joinFaults(faults: readonly string[]): string {
  const more = faults.length - MAX_REPORTED;
  return faults.slice(0, MAX_REPORTED).join('; ') + (more > 0 ? `; and ${more} more` : '');
}

/** The keys that `schema` knows for the table at `path`, whatever defaults and choices lie between. */
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
  return path.reduce<unknown>((inner, key) => (has(inner, [key]) ? (inner as never)[key] : undefined), value);
}

function has(value: unknown, path: readonly string[]): boolean {
  const [key, ...rest] = path;
  if (key === undefined) return true;
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return false;
  return has((value as Record<string, unknown>)[key], rest);
}

/** Levenshtein's distance. */
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
