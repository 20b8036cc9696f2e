// Generates docs/config.md and docs/config.schema.json from the schema of configs and the doc comments in its sources.
//   node scripts/config-docs.mjs          after `npm run setup`: writes both
// A test fails if the committed files are outdated.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import YAML from 'yaml';
import { z } from 'zod';
import { PRESETS } from '../dist/lib/config/presets.js';
import { configSchema } from '../dist/lib/config/schema.js';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

// ---- doc comments ----

/**
 * Doc comments of the fields of zod schemas, by constant and by the path of a field within it. The sources are
 * formatted, so indentation shows the nesting.
 */
class DocComments {
  #docs = new Map();
  /** Other constants that the value of a field consists of. */
  #references = new Map();

  constructor(files) {
    for (const file of files) this.#read(readFileSync(file, 'utf8').split('\n'));
  }

  #read(lines) {
    let constant = '';
    let comment = [];
    let scopes = [];
    for (const line of lines) {
      const text = line.trim();
      const indent = line.length - line.trimStart().length;
      const declared = /^(?:export )?(?:const|function) (\w+)/.exec(line)?.[1];
      if (declared) {
        constant = declared;
        scopes = [];
        this.#docs.set(constant, new Map());
        this.#references.set(constant, []);
      }
      if (text.startsWith('/**')) comment = [];
      if (/^(\/\*\*|\*)/.test(text)) {
        comment.push(text.replace(/^\/\*\*\s?|^\*\/$|^\*\s?|\s*\*\/$/g, ''));
        continue;
      }
      const key = /^(\w+):/.exec(text)?.[1];
      if (key && constant && !declared) {
        scopes = [...scopes.filter((scope) => scope.indent < indent), { indent, key }];
        const place = scopes.map((scope) => scope.key).join('.');
        const doc = comment.join(' ').replaceAll(/\s+/g, ' ').trim();
        if (doc && !this.#docs.get(constant).has(place)) this.#docs.get(constant).set(place, doc);
      }
      if (constant) {
        const open = scopes.filter((scope) => (key ? scope.indent <= indent : scope.indent < indent));
        const place = open.map((scope) => scope.key).join('.');
        for (const [name] of text.replace(/^\w+:/, '').matchAll(/\b[a-z]\w+\b/g)) {
          if (name !== constant) this.#references.get(constant).push({ place, name });
        }
      }
      if (text) comment = [];
    }
  }

  /** Returns all fields of a constant, including those of the constants that it consists of. */
  fieldsOf(constant, seen = []) {
    const fields = new Map(this.#docs.get(constant));
    for (const { place, name } of this.#references.get(constant) ?? []) {
      if (!this.#docs.has(name) || seen.includes(name)) continue;
      for (const [inner, doc] of this.fieldsOf(name, [...seen, constant])) {
        const key = [place, inner].filter(Boolean).join('.');
        if (!fields.has(key)) fields.set(key, doc);
      }
    }
    return fields;
  }
}

function docsOfConfig() {
  const rooms = ['data', 'models', 'training', 'config'];
  const files = rooms.flatMap((room) =>
    readdirSync(path.join(root, 'lib', room))
      .filter((name) => name.endsWith('.ts'))
      .map((name) => path.join(root, 'lib', room, name)),
  );
  return new DocComments(files).fieldsOf('configSchema');
}

// ---- the JSON schema ----

/**
 * Makes the schema with which editors complete and check a config. No key is required, because a preset may have it.
 */
export function configJsonSchema() {
  const docs = docsOfConfig();
  const schema = z.toJSONSchema(configSchema, { io: 'input', unrepresentable: 'any', reused: 'inline' });
  const undocumented = [];
  const describe = (node, place) => {
    delete node.required;
    for (const option of node.anyOf ?? node.oneOf ?? []) describe(option, place);
    for (const [key, inner] of Object.entries(node.properties ?? {})) {
      const at = place ? `${place}.${key}` : key;
      const doc = docs.get(at);
      if (doc) inner.description = doc;
      else undocumented.push(at);
      describe(inner, at);
    }
  };
  describe(schema, '');
  if (undocumented.length > 0) {
    throw new Error(`These fields of the config have no doc comment: ${undocumented.join(', ')}`);
  }
  const preset = {
    enum: Object.keys(PRESETS),
    description: 'Named starting point. The keys of the file override it.',
  };
  const version = { type: 'integer', description: 'Version of what the file says. Runs write it.' };
  schema.properties = { preset, version, ...schema.properties };
  return { $id: 'bidiseg-config', title: 'bidiseg config', ...schema };
}

// ---- the reference ----

const code = (value) => `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``;

function typeText(node) {
  const options = node.anyOf ?? node.oneOf;
  if (options) return [...new Set(options.map(typeText))].join(' or ');
  if (node.enum) return node.enum.map(code).join(', ');
  if (node.const !== undefined) return code(node.const);
  switch (node.type) {
    case 'null':
      return '`null`';
    case 'boolean':
      return '`true`, `false`';
    case 'integer':
    case 'number':
      return `${node.type === 'integer' ? 'whole number' : 'number'}${rangeText(node)}`;
    case 'array':
      return node.prefixItems ? tupleText(node.prefixItems) : `list of ${typeText(node.items)}`;
    case 'object':
      return node.properties ? 'section' : 'table';
    case 'string':
      return node.pattern ? '`cpu`, `cuda`, `cuda:N`' : 'text';
  }
  return 'any';
}

/** Describes `[x, x]` as one type. */
function tupleText(items) {
  const types = new Set(items.map(typeText));
  return `[${items.map(() => '·').join(', ')}] of ${[...types].join(', ')}`;
}

function rangeText({ minimum, maximum }) {
  const isBound = (value) => value !== undefined && Math.abs(value) < Number.MAX_SAFE_INTEGER;
  if (isBound(minimum) && isBound(maximum)) return ` from ${minimum} to ${maximum}`;
  if (isBound(minimum)) return ` ≥ ${minimum}`;
  return isBound(maximum) ? ` ≤ ${maximum}` : '';
}

/** Returns the fields of a node: its own, or those of the sections among its options. */
function fieldsOf(node) {
  const sections = [node, ...(node.anyOf ?? node.oneOf ?? [])].filter(({ properties }) => properties);
  return sections.flatMap(({ properties }) => Object.entries(properties));
}

function rowsOf(node, place) {
  const rows = new Map();
  for (const [key, inner] of fieldsOf(node)) {
    const at = place ? `${place}.${key}` : key;
    const isSection = inner.type === 'object' && inner.properties;
    const known = rows.get(at);
    if (known) known.types.push(typeText(inner));
    else if (!isSection) {
      const value = inner.default === undefined ? '' : code(inner.default);
      rows.set(at, { types: [typeText(inner)], value, doc: inner.description });
    } else rows.set(at, { types: ['section'], value: '', doc: inner.description });
    for (const [innerPlace, row] of rowsOf(inner, at)) rows.set(innerPlace, row);
  }
  return rows;
}

function table(rows) {
  const cell = (text) => text.replaceAll('|', '\\|');
  const lines = [...rows].map(
    ([place, { types, value, doc }]) =>
      `| \`${place}\` | ${cell([...new Set(types)].join(', '))} | ${cell(value)} | ${cell(doc ?? '')} |`,
  );
  return ['| key | value | default | meaning |', '| --- | --- | --- | --- |', ...lines].join('\n');
}

/** Makes the content of docs/config.md. */
export function configReference() {
  const schema = configJsonSchema();
  const isSection = ([, node]) => node.type === 'object';
  const entries = Object.entries(schema.properties);
  const top = new Map(
    entries
      .filter((entry) => !isSection(entry))
      .map(([key, node]) => {
        const value = node.default === undefined ? '' : code(node.default);
        return [key, { types: [typeText(node)], value, doc: node.description }];
      }),
  );
  const sections = entries
    .filter(isSection)
    .map(([key, node]) => `## ${key}\n\n${node.description}\n\n${table(rowsOf(node, key))}\n`);
  const presets = Object.entries(PRESETS).map(([name, values]) => {
    const text = Object.keys(values).length > 0 ? YAML.stringify(values).trimEnd() : '# the defaults';
    return `### ${name}\n\n\`\`\`yaml\n${text}\n\`\`\`\n`;
  });
  return `<!-- Generated by scripts/config-docs.mjs. Do not edit. -->

# Config reference

Every key of a config, with its values, its default and its meaning. [The guide](guide/config.md) explains how configs
work. Editors complete and check configs with the [JSON schema](config.schema.json) if the file begins with
\`# yaml-language-server: $schema=PATH/config.schema.json\`. A key without a default is required unless a preset has it.

## Top level

${table(top)}

${sections.join('\n')}
## Presets

A config names a preset with \`preset: NAME\`. Its own keys override the preset's.

${presets.join('\n')}`;
}

/** Makes the generated files, by their path in the repository. */
export function configDocs() {
  return {
    'docs/config.md': configReference(),
    'docs/config.schema.json': `${JSON.stringify(configJsonSchema(), null, 2)}\n`,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [file, text] of Object.entries(configDocs())) {
    writeFileSync(path.join(root, file), text);
    console.log(`wrote ${file}`);
  }
}
