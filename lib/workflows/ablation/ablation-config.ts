import path from 'node:path';
import { z } from 'zod';
import { loadConfig, readTable } from '../../config/load.js';
import { parseLayers } from '../../config/parse.js';
import type { Config } from '../../config/schema.js';
import { planStages } from '../../pipeline/plan.js';
import { ConfigError } from '../../support/errors.js';
import { nearest } from '../../support/options.js';

const seed = z.number('a whole number ≥ 0').int('a whole number ≥ 0').min(0, 'a whole number ≥ 0');

const SEEDS = 'a list of different seeds';

const rowSchema = z.strictObject(
  {
    /** Name of the variant. */
    variant: z.string('the name of a variant'),
    /** Stage of the segmenter by name or label, such as M0(1). null: the last one. */
    stage: z.string('the label of a stage, such as M0(1)').nullable().default(null),
  },
  'a section with keys of its own',
);

const ablationSchema = z.strictObject({
  /** Config that all variants start from, relative to this file. */
  base: z.string('a config file').min(1, 'a config file'),
  /** Folder of all runs, the table and the results, relative to the working directory. */
  output: z.string('a folder').min(1, 'a folder'),
  /** Seeds. Each variant runs with each seed. The `seed` of the base config is ignored. */
  seeds: z
    .array(seed, SEEDS)
    .min(1, SEEDS)
    .refine((seeds) => new Set(seeds).size === seeds.length, SEEDS)
    .default([1, 2, 3]),
  /**
   * Variants by name, which is also the name of a folder. Each has the keys, `preset` included, that override the base
   * config. null: none.
   */
  variants: z
    .record(z.string(), z.record(z.string(), z.unknown(), 'a table of config keys').nullable())
    .refine((variants) => Object.keys(variants).length > 0, 'a table with at least one variant'),
  /** Rows of the table by title, in order. null: one row per variant, with its name as the title. */
  rows: z.record(z.string(), rowSchema).nullable().default(null),
  /** Row that the others are compared with. null: the first. */
  baseline: z.string('the title of a row').nullable().default(null),
  /** Row that marks the largest possible gain. null: none. */
  ceiling: z.string('the title of a row').nullable().default(null),
});

/** Variants of one config, and the table of their results. */
export interface Ablation {
  /** Absolute path of the folder for all runs. */
  output: string;
  seeds: readonly number[];
  variants: readonly AblationVariant[];
  rows: readonly AblationRow[];
  /** Title of the row that the others are compared with. */
  baseline: string;
  ceiling: string | null;
}

export interface AblationVariant {
  name: string;
  /** Configs, one per seed in their order. */
  configs: readonly Config[];
}

export interface AblationRow {
  title: string;
  variant: string;
  /** Name of the stage, and its label in the table. */
  stage: string;
  label: string;
}

/**
 * Reads the config of an ablation (YAML or JSON) and the configs of its variants.
 *
 * @param options.set assignments that override keys of every variant, see `loadConfig`
 * @param options.output folder that replaces the file's
 * @param options.seeds seeds that replace the file's
 * @throws ConfigError that names the file, the variant, the key path, the value found and the value expected
 */
export async function loadAblation(
  file: string,
  options: {
    set?: readonly string[];
    output?: string | undefined;
    seeds?: readonly number[] | undefined;
  } = {},
): Promise<Ablation> {
  const { output, seeds } = options;
  const own = { ...(output !== undefined && { output }), ...(seeds && { seeds: [...seeds] }) };
  const parsed = parseLayers(ablationSchema, [
    { name: file, values: await readTable(file) },
    { name: 'command line', values: own },
  ]);
  const unusable = Object.keys(parsed.variants).find((name) => !/^\w[\w .+-]*$/.test(name));
  if (unusable !== undefined) {
    const expected = 'names of letters, digits, spaces and _ . + -, which become names of folders,';
    throw new ConfigError(`${file}: variants: expected ${expected} but found ${JSON.stringify(unusable)}`);
  }
  const base = path.resolve(path.dirname(file), parsed.base);
  const folder = path.resolve(parsed.output);
  const variants = await Promise.all(
    Object.entries(parsed.variants).map(async ([name, values]): Promise<AblationVariant> => {
      const layer = { name: `${file}: variants.${name}`, values: values ?? {} };
      const config = await loadConfig(base, { layers: [layer], ...(options.set && { set: options.set }) });
      const configs = parsed.seeds.map((seed) => {
        return { ...config, seed, output: path.join(folder, 'runs', name, `seed-${seed}`) };
      });
      return { name, configs };
    }),
  );
  const rows = Object.entries(
    parsed.rows ?? Object.fromEntries(variants.map(({ name }) => [name, { variant: name, stage: null }])),
  ).map(([title, { variant, stage }]): AblationRow => {
    const place = `${file}: rows.${title}`;
    const { configs } = findVariant(variants, variant, `${place}.variant`);
    const segmenters = planStages(configs[0]!.loop).filter(({ kind }) =>
      ['source-only', 'segmenter'].includes(kind),
    );
    const found =
      stage === null
        ? segmenters.at(-1)!
        : (segmenters.find(({ name }) => name === stage) ??
          one(segmenters, ({ label }) => label, stage, `${place}.stage`));
    return { title, variant, stage: found.name, label: found.label };
  });
  const titled = (title: string, key: string) =>
    one(rows, (row) => row.title, title, `${file}: ${key}`).title;
  return {
    output: folder,
    seeds: parsed.seeds,
    variants,
    rows,
    baseline: parsed.baseline === null ? rows[0]!.title : titled(parsed.baseline, 'baseline'),
    ceiling: parsed.ceiling === null ? null : titled(parsed.ceiling, 'ceiling'),
  };
}

/**
 * Finds a variant by name.
 *
 * @throws ConfigError that begins with `place` and lists the variants when none has this name
 */
export function findVariant(
  variants: readonly AblationVariant[],
  wanted: string,
  place: string,
): AblationVariant {
  return one(variants, ({ name }) => name, wanted, place);
}

/**
 * Finds an item by name.
 *
 * @throws ConfigError that lists the names when no item has this one
 */
function one<Item>(
  items: readonly Item[],
  nameOf: (item: Item) => string,
  wanted: string,
  place: string,
): Item {
  const found = items.find((item) => nameOf(item) === wanted);
  if (found) return found;
  const names = items.map(nameOf);
  const meant = nearest(wanted, names);
  throw new ConfigError(
    `${place}: expected one of ${names.join(', ')} but found ${JSON.stringify(wanted)}` +
      (meant ? `; did you mean ${meant}?` : ''),
  );
}
