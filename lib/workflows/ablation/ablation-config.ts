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
    /** Whose runs. */
    variant: z.string('the name of a variant'),
    /** The segmenter's stage by name or label, such as M0(1). null: the last one. */
    stage: z.string('the label of a stage, such as M0(1)').nullable().default(null),
  },
  'a section with keys of its own',
);

const ablationSchema = z.strictObject({
  /** The config that all variants start from, relative to this file. */
  base: z.string('a config file').min(1, 'a config file'),
  /** Folder of all runs, the table and the results, relative to the working directory. */
  output: z.string('a folder').min(1, 'a folder'),
  /** Each variant is run with each; `seed` of the base config is not looked at. */
  seeds: z
    .array(seed, SEEDS)
    .min(1, SEEDS)
    .refine((seeds) => new Set(seeds).size === seeds.length, SEEDS)
    .default([1, 2, 3]),
  /** By name, which is that of a folder: the keys that a variant has in place of the base's, `preset` too; null: none. */
  variants: z
    .record(z.string(), z.record(z.string(), z.unknown(), 'a table of config keys').nullable())
    .refine((variants) => Object.keys(variants).length > 0, 'a table with a variant at least'),
  /** The table's rows, by title and in order. null: one for each variant, by its name. */
  rows: z.record(z.string(), rowSchema).nullable().default(null),
  /** The row that the others gain on. null: the first. */
  baseline: z.string('the title of a row').nullable().default(null),
  /** The row that stands for all that could be gained. null: none. */
  ceiling: z.string('the title of a row').nullable().default(null),
});

/** A list of variants of one config, and the table that is to be made of their runs. */
export interface Ablation {
  /** Absolute. */
  output: string;
  seeds: readonly number[];
  variants: readonly AblationVariant[];
  rows: readonly AblationRow[];
  /** Titles of rows. */
  baseline: string;
  ceiling: string | null;
}

export interface AblationVariant {
  name: string;
  /** One for each seed, in their order. */
  configs: readonly Config[];
}

export interface AblationRow {
  title: string;
  variant: string;
  /** The name of the stage, and what the table calls it. */
  stage: string;
  label: string;
}

/**
 * Reads the config of an ablation (YAML or JSON) and those of its variants.
 *
 * @param options.set assignments that override keys of every variant, see `loadConfig`
 * @param options.output in place of the file's
 * @param options.seeds in place of the file's
 * @throws ConfigError that names the file, the variant, the key path, what was found and what was expected
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

/** @throws ConfigError that says at `place` which there are, where none is called so */
export function findVariant(
  variants: readonly AblationVariant[],
  wanted: string,
  place: string,
): AblationVariant {
  return one(variants, ({ name }) => name, wanted, place);
}

/** The item of that name, or an error that says which there are. */
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
