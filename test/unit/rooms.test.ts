import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from '../helpers/folder.js';

/**
 * Table of imports: every room of lib/ with the rooms that it imports from. The compiler keeps the library storey from
 * importing the product storey (lib/tsconfig.library.json). This table keeps order within each. A room may import only
 * from rooms above it in the table, so there are no circles. See docs/design/README.md#who-may-know-what.
 */
const ROOMS: Record<string, readonly string[]> = {
  // The library: knows no config file, run folder or command line.
  support: [],
  native: ['support'],
  data: ['support'],
  weights: ['support', 'native'],
  models: ['support', 'native', 'weights'],
  export: ['support', 'native', 'data', 'weights', 'models'],
  inference: ['support', 'native', 'data', 'models'],
  training: ['support', 'native', 'data', 'models', 'inference'],
  // The product.
  config: ['support', 'data', 'models', 'training'],
  pipeline: ['support', 'native', 'data', 'models', 'inference', 'training', 'config'],
  run: ['support', 'weights', 'training', 'config', 'pipeline'],
  report: ['support', 'data', 'training', 'config', 'pipeline', 'run'],
  server: [
    ...['support', 'native', 'data', 'models', 'inference'],
    ...['config', 'pipeline', 'run', 'report'],
  ],
  workflows: [
    ...['support', 'native', 'data', 'inference', 'training'],
    ...['config', 'pipeline', 'run', 'report'],
  ],
  cli: [
    ...['support', 'native', 'data', 'weights', 'models', 'export', 'inference', 'training'],
    ...['config', 'pipeline', 'run', 'report', 'server', 'workflows'],
  ],
};

interface Import {
  from: string;
  to: string;
}

/** Finds imports between files of lib/, static and dynamic, as paths without endings relative to lib/. */
function importsOfLib(): Import[] {
  const lib = path.join(ROOT, 'lib');
  const files = readdirSync(lib, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  );
  return files.flatMap((file) => {
    const text = readFileSync(path.join(lib, file), 'utf8');
    const specifiers = [...text.matchAll(/(?:from|import\() ?'(\.[^']+)\.js'/g)].map(([, name]) => name!);
    const from = file.split(path.sep).join('/').replace(/\.ts$/, '');
    return specifiers.map((name) => ({ from, to: path.posix.join(path.posix.dirname(from), name) }));
  });
}

const roomOf = (file: string) => (file.includes('/') ? file.split('/')[0]! : 'index');

describe('the rooms of lib/', () => {
  const imports = importsOfLib();

  it('are those of the table, with index.ts as the only loose file', () => {
    const entries = readdirSync(path.join(ROOT, 'lib'), { withFileTypes: true });
    const rooms = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
    const files = entries.filter((entry) => entry.isFile() && entry.name.endsWith('.ts'));
    assert.deepEqual(rooms.sort(), Object.keys(ROOMS).sort());
    assert.deepEqual(
      files.map(({ name }) => name),
      ['index.ts'],
    );
  });

  it('import from no room but those that the table allows', () => {
    const strangers = imports.filter(({ from, to }) => {
      const [one, other] = [roomOf(from), roomOf(to)];
      return one !== other && one !== 'index' && !ROOMS[one]!.includes(other);
    });
    assert.deepEqual(
      strangers.map(({ from, to }) => `lib/${from}.ts imports lib/${to}.ts`),
      [],
    );
  });

  it('use every permission of the table, which has no circles', () => {
    const order = Object.keys(ROOMS);
    for (const [room, others] of Object.entries(ROOMS)) {
      for (const other of others) {
        assert.ok(order.indexOf(other) < order.indexOf(room), `${room} comes before ${other} in the table`);
        const isUsed = imports.some(({ from, to }) => roomOf(from) === room && roomOf(to) === other);
        assert.ok(isUsed, `${room} no longer imports ${other}: take it out of the table`);
      }
    }
  });

  it('have no circles of files', () => {
    const next = new Map<string, string[]>();
    for (const { from, to } of imports) next.set(from, [...(next.get(from) ?? []), to]);
    const done = new Set<string>();
    const visit = (file: string, above: readonly string[]): void => {
      assert.ok(!above.includes(file), `a circle: ${[...above, file].join(' → ')}`);
      if (done.has(file)) return;
      for (const other of next.get(file) ?? []) visit(other, [...above, file]);
      done.add(file);
    };
    for (const file of next.keys()) visit(file, []);
  });
});
