import type { z } from 'zod';
import { ConfigError } from '../support/errors.js';
import { oneLine } from '../support/format.js';
import { hasPath, isTable, joinFaults, listFaults } from '../support/options.js';
import { describe, shortened } from '../support/validate.js';

/** Values and their origin. Error messages name the origin. Later layers override earlier ones. */
export interface Layer {
  name: string;
  values: Record<string, unknown>;
}

/** Maximum nesting depth of a config. The schema itself needs four levels. */
export const MAX_DEPTH = 32;

/**
 * Merges `layers` and checks the result. Tables are merged key by key. Any other value replaces the earlier one.
 *
 * @throws ConfigError that names the layer, the key path, the value found and the value expected for each fault
 */
export function parseLayers<S extends z.ZodType>(schema: S, layers: readonly Layer[]): z.output<S> {
  const merged = layers.reduce<Record<string, unknown>>(
    (base, layer) => merge(base, layer.values, layer.name),
    {},
  );
  const result = schema.safeParse(merged);
  if (result.success) return result.data;
  const faults = listFaults(schema, result.error, merged).map(({ path, expected, value, unknownKey }) => {
    const origin = layers.findLast((layer) => hasPath(layer.values, path)) ?? layers.at(-1);
    const place = shortened(oneLine(path.join('.'))) || 'the top level';
    const found = value === undefined ? 'it is missing' : `found ${describe(value)}`;
    return `${origin?.name ?? 'config'}: ${place}: ${unknownKey ?? `expected ${expected} but ${found}`}`;
  });
  throw new ConfigError(joinFaults(faults));
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
    // An assignment to this key would change the object's prototype and hide the key from the schema.
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
