import path from 'node:path';
import YAML from 'yaml';
import { ConfigError, type DataError } from '../support/errors.js';
import { readRegularFile } from '../support/files.js';
import { oneLine } from '../support/format.js';
import { isTable, nearest } from '../support/options.js';
import { describe, shortened } from '../support/validate.js';
import { type Layer, MAX_DEPTH, parseLayers } from './parse.js';
import { PRESETS, type PresetName } from './presets.js';
import { type Config, configSchema, type PartialConfig } from './schema.js';
import { refuseOldNames, withoutVersion } from './version.js';

/**
 * Maximum size of a config file, about 5000 lines. The time to parse hostile YAML grows with the square of its length.
 * This size takes seconds.
 */
export const MAX_CONFIG_BYTES = 2 ** 16;

/**
 * Reads a config file: YAML, or JSON when its name ends in `.json`. Values come from four sources. Each one overrides
 * those before it: the schema's defaults, the preset that `preset:` names, the file, and the assignments in `set`.
 *
 * Paths in the section `data` are relative to `data.root`. `data.root` and `segmenter.initialWeights` are relative to
 * the file's folder. `output` is relative to the working directory.
 *
 * @param options.layers tables of keys that override the file's
 * @param options.set assignments such as `segmentation.steps=200`, which override both; the value is read as YAML
 * @throws ConfigError that names the file or assignment, the key path, the value found and the value expected
 */
export async function loadConfig(
  file: string,
  options: { layers?: readonly Layer[]; set?: readonly string[] } = {},
): Promise<Config> {
  const { layers = [], set = [] } = options;
  const own = { name: file, values: withoutVersion(file, await readTable(file)) };
  return resolve([own, ...layers, ...set.map(parseAssignment)], path.dirname(path.resolve(file)));
}

/**
 * Completes a partial config, as `loadConfig` does for a file. Relative paths start at the working directory.
 *
 * @throws ConfigError that names the key path, the value found and the value expected
 */
export function createConfig(
  values: PartialConfig & { preset?: PresetName },
  options: { set?: readonly string[] } = {},
): Config {
  const layer = { name: 'config', values: { ...values } };
  return resolve([layer, ...(options.set ?? []).map(parseAssignment)], process.cwd());
}

function resolve(layers: Layer[], folder: string): Config {
  for (const layer of layers) refuseOldNames(layer);
  const named = layers.findLast((layer) => Object.hasOwn(layer.values, 'preset'));
  const own = layers.map(({ name, values: { preset: _, ...values } }) => ({ name, values }));
  const preset = named ? [presetLayer(named)] : [];
  return resolvePaths(parseLayers(configSchema, [...preset, ...own]), folder);
}

function presetLayer({ name, values: { preset } }: Layer): Layer {
  if (typeof preset === 'string' && Object.hasOwn(PRESETS, preset)) {
    return { name: `preset ${preset}`, values: PRESETS[preset as PresetName] };
  }
  const names = Object.keys(PRESETS);
  const meant = typeof preset === 'string' ? nearest(preset, names) : undefined;
  throw new ConfigError(
    `${name}: preset: expected one of ${names.join(', ')} but found ${describe(preset)}` +
      (meant ? `; did you mean ${meant}?` : ''),
  );
}

/**
 * Makes the paths absolute that depend on the working directory or on the config file's folder. Paths in `data` stay
 * relative to its root. The root of generated data stays null, because these data live in the run folder.
 */
function resolvePaths(config: Config, folder: string): Config {
  const { data, segmenter } = config;
  const from = (file: string | null) => (file === null ? null : path.resolve(folder, file));
  return {
    ...config,
    output: path.resolve(config.output),
    data: { ...data, root: from(data.root ?? (data.embedded ? null : '.')) },
    segmenter: { ...segmenter, initialWeights: from(segmenter.initialWeights) },
  };
}

/**
 * Reads the keys of a YAML or JSON file.
 *
 * @throws ConfigError when the file cannot be read or does not hold a table
 */
export async function readTable(file: string): Promise<Record<string, unknown>> {
  return parseText(file, await readText(file));
}

async function readText(file: string): Promise<string> {
  const bytes = await readRegularFile(file, MAX_CONFIG_BYTES).catch((error: DataError) => {
    const isMissing = (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT';
    const message = isMissing ? `${file}: no such file; expected a config in YAML or JSON` : error.message;
    throw new ConfigError(message, { cause: error });
  });
  return bytes.toString('utf8');
}

function parseText(file: string, content: string): Record<string, unknown> {
  const extension = path.extname(file).toLowerCase();
  if (!['.yaml', '.yml', '.json'].includes(extension)) {
    throw new ConfigError(`${file}: expected a name that ends in .yaml, .yml or .json`);
  }
  const values = parseAs(extension === '.json' ? 'JSON' : 'YAML', content, file);
  if (!isTable(values)) {
    throw new ConfigError(`${file}: expected a table of keys but found ${describe(values)}`);
  }
  return values;
}

function parseAssignment(assignment: string): Layer {
  const name = `--set ${shortened(oneLine(assignment))}`;
  const equals = assignment.indexOf('=');
  const keys = assignment.slice(0, Math.max(equals, 0)).split('.');
  if (keys.some((key) => key.trim() === '')) {
    throw new ConfigError(`${name}: expected an assignment such as segmentation.steps=200`);
  }
  const value = parseValue(assignment.slice(equals + 1), name);
  // A computed key always makes an own property, so the merge sees every key and can refuse it.
  const values = keys.reduceRight<unknown>((inner, key) => ({ [key.trim()]: inner }), value);
  return { name, values: values as Record<string, unknown> };
}

/**
 * Parses a value from the command line as YAML. Plain text stays as it is, even with a `#`. Elsewhere anything that YAML
 * would drop or replace is an error: comments, anchors, aliases, tags and document markers.
 *
 * @param name name of the value in messages
 * @throws ConfigError when it is not valid, or a part of it would be dropped
 */
export function parseValue(text: string, name: string): unknown {
  const tokens = tokensOf(text);
  const scalars = tokens.filter(({ type }) => type !== 'space' && type !== 'newline' && type !== 'comment');
  const isPlain = scalars.length === 0 || (scalars.length === 1 && scalars[0]!.type === 'plain');
  const dropped = tokens.find(({ type }) => Object.hasOwn(DROPPED, type));
  if (isPlain && (dropped || /[\r\n]/.test(text.trim()))) return text.trim();
  if (dropped) {
    const { type, source } = dropped;
    throw new ConfigError(
      `${name}: found ${shortened(oneLine(source))}, which YAML takes for ${DROPPED[type]!}; expected text with it in quotes`,
    );
  }
  return parseAs('YAML', text, name);
}

/** Names of the YAML tokens that are not content, by type. */
const DROPPED: Record<string, string> = {
  comment: 'a comment',
  anchor: 'an anchor',
  alias: 'an alias',
  tag: 'a tag',
  'doc-start': 'the start of a document',
  'doc-end': 'the end of a document',
  'directive-line': 'a directive',
  'block-scalar-header': 'the start of a block of text',
};

function tokensOf(text: string): { type: string; source: string }[] {
  const tokens: { type: string; source: string }[] = [];
  let isScalar = false;
  for (const source of new YAML.Lexer().lex(text)) {
    const type: string = isScalar ? 'plain' : (YAML.CST.tokenType(source) ?? 'unknown');
    isScalar = type === 'scalar';
    if (type !== 'scalar' && type !== 'byte-order-mark' && type !== 'doc-mode') tokens.push({ type, source });
  }
  return tokens;
}

function parseAs(format: 'JSON' | 'YAML', content: string, name: string): unknown {
  try {
    return format === 'JSON' ? JSON.parse(content) : parseYaml(content);
  } catch (error) {
    // The other lines of YAML's message are an excerpt of the file.
    const [reason] = (error as Error).message.split('\n');
    throw new ConfigError(`${name}: is not valid ${format}: ${reason}`, { cause: error });
  }
}

/** Parses YAML. Tags other than YAML's own types are errors, so a config cannot name code. */
function parseYaml(content: string): unknown {
  requireShallow(content);
  const document = YAML.parseDocument(content, { logLevel: 'error' });
  const [fault] = [...document.errors, ...document.warnings];
  if (fault) throw fault;
  return document.toJS();
}

/**
 * Checks the depth of the syntax tree before the YAML package composes a document from it. Composing is recursive. A
 * few thousand levels would overflow the stack, and a few hundred nested keys would take minutes. Building the syntax
 * tree is not recursive.
 */
function requireShallow(content: string): void {
  for (const document of new YAML.Parser().parse(content)) {
    const waiting: { token: SyntaxNode; depth: number }[] = [{ token: document as SyntaxNode, depth: 0 }];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const { token, depth } = next;
      if (depth > MAX_DEPTH) throw new Error(`Nested more than ${MAX_DEPTH} levels deep`);
      if (typeof token.value === 'object') waiting.push({ token: token.value, depth: depth + 1 });
      for (const { key, value } of token.items ?? []) {
        if (key?.items) throw new Error('A key that is a list or a table');
        if (value) waiting.push({ token: value, depth: depth + 1 });
      }
    }
  }
}

/** The parts of a token of YAML's syntax tree that can hold other tokens. */
interface SyntaxNode {
  value?: SyntaxNode | string;
  items?: { key?: SyntaxNode | null; value?: SyntaxNode }[];
}
