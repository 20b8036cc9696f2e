import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { collectImages } from '../../lib/cli/inputs.js';
import { claimFiles, type Output, prepareOutputFile, ResultFolder } from '../../lib/cli/output-folder.js';
import { contentOf } from '../helpers/folder.js';
import { temporaryFolder } from './command-line.js';

const MANIFEST = '.bidiseg.json';
const FILES = ['labels/a.png', 'labels/sub/b.png'];

describe('command line: outputs, in one process', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  let outputs: Output[];
  let cwd: string;

  function write(file: string, content = 'mine'): void {
    mkdirSync(path.dirname(at(file)), { recursive: true });
    writeFileSync(at(file), content);
  }

  beforeEach(() => {
    outputs = [];
    for (const file of ['photos/images/a.png', 'photos/images/sub/b.png', 'photos/labels/a.png']) write(file);
    symlinkSync('photos', at('link'));
    symlinkSync('photos/images/a.png', at('to-a.png'));
    cwd = process.cwd();
    process.chdir(at('photos'));
  });

  afterEach(() => {
    process.chdir(cwd);
    for (const name of readdirSync(folder.path)) rmSync(at(name), { recursive: true });
  });

  /** As a command on images: finds them, and checks and prepares its output. */
  async function fill(inputs: string[], output: string, overwrite = false): Promise<ResultFolder> {
    const images = await collectImages(inputs, output);
    const files = images.map(({ name }) => `labels/${name}.png`);
    const sources = images.map(({ file }) => file);
    const results = await ResultFolder.plan(output, { command: 'test', files, inputs: sources, overwrite });
    await results.prepare({ outputs });
    for (const file of files) {
      mkdirSync(path.dirname(path.join(output, file)), { recursive: true });
      writeFileSync(path.join(output, file), 'result');
    }
    await results.complete();
    return results;
  }

  async function refuses(work: () => Promise<unknown> | undefined, message: RegExp): Promise<void> {
    const before = contentOf(folder.path);
    await assert.rejects(async () => work(), { message });
    assert.deepEqual(contentOf(folder.path), before);
  }

  const cases: [what: string, inputs: string[], output: string][] = [
    ['its input', ['images'], 'images'],
    ['its input, absolute', ['images'], '$/photos/images'],
    ['its input, of an absolute one', ['$/photos/images'], 'images'],
    ['its input through a link', ['images'], '$/link/images'],
    ['its input, itself through a link', ['$/link/images'], 'images'],
    ['around its input', ['images'], '.'],
    ['around its input, by another way', ['images'], 'images/..'],
    ['around its input through a link', ['images'], '$/link'],
    ['around a file', ['images/a.png'], 'images'],
    ['around a file that a link leads to', ['$/to-a.png'], 'images'],
    ['around all that a pattern matches', ['images/*.png'], 'images'],
    ['around all that a deep pattern matches', ['**/*.png'], '.'],
    ['around one of its inputs', ['labels', 'images/sub'], 'images/sub'],
  ];
  for (const [what, inputs, output] of cases) {
    for (const overwrite of [false, true]) {
      it(`an output folder is refused that is ${what}${overwrite ? ', also to overwrite' : ''}`, async () => {
        const place = (name: string) => name.replace('$', folder.path);
        // A manifest does not help.
        if (overwrite) {
          writeFileSync(
            path.join(place(output), MANIFEST),
            JSON.stringify({ command: 'test', files: ['a.png', 'images/a.png'] }),
          );
        }
        const message = /^[^\n]*(is|lies in) the output folder [^\n]*; choose another with --output$/;
        await refuses(() => fill(inputs.map(place), place(output), overwrite), message);
      });
    }
  }

  it('of two commands that begin at once in a new folder, one fails and harms nothing', async () => {
    const plan = () =>
      ResultFolder.plan('both', { command: 'test', files: ['a.png'], inputs: [], overwrite: false });
    const [first, second] = [await plan(), await plan()];
    await first.prepare({ outputs });
    const before = readFileSync('both/.bidiseg.json', 'utf8');
    await assert.rejects(second.prepare({ outputs: [] }), /both: another command has begun to write there/);
    assert.equal(readFileSync('both/.bidiseg.json', 'utf8'), before);
  });

  it('an output folder below the input is left out of the search, also behind a link', async () => {
    await fill(['images'], 'images/out');
    symlinkSync('out', at('photos/images/other-way'));
    for (const output of ['images/out', '$/link/images/out'.replace('$', folder.path)]) {
      assert.deepEqual(
        (await collectImages(['images'], output)).map(({ name }) => name),
        ['a', 'sub/b'],
      );
      assert.deepEqual(
        (await collectImages(['images/**'], output)).map(({ name }) => name),
        ['a', 'sub/b'],
      );
    }
  });

  it('a folder of somebody else is refused; hidden files in it do not count', async () => {
    const holds =
      /^labels: holds other files \(a\.png\), expected a new or empty folder; choose another with --output$/;
    await refuses(() => fill(['images'], 'labels'), holds);
    await refuses(() => fill(['images'], 'labels', true), holds);
    write('photos/hidden/.keep');
    await fill(['images'], 'hidden');
    assert.deepEqual(readdirSync('hidden').sort(), [MANIFEST, '.keep', 'labels']);
    await refuses(() => fill(['images'], 'images/a.png'), /a file has that name; choose another/);
  });

  it('the list of results comes first; to overwrite is to remove what it names, and no more', async () => {
    const results = await ResultFolder.plan('out', {
      command: 'test',
      files: FILES,
      inputs: [],
      overwrite: false,
    });
    assert.ok(!existsSync('out'));
    await results.prepare({ outputs });
    assert.deepEqual(JSON.parse(readFileSync(`out/${MANIFEST}`, 'utf8')).files, FILES);
    // Killed after its first result, and while it wrote the second.
    write('photos/out/labels/a.png', 'result');
    write('photos/out/labels/sub/.0f0e0d0c-0000-4000-8000-000000000000.tmp', 'half');
    write('photos/out/labels/mine.png');
    write('photos/out/notes/mine.txt');
    await refuses(
      () => fill(['images/a.png'], 'out'),
      /^out: holds the results of 'bidiseg test'; choose another .*, or replace them with --overwrite$/,
    );
    const next = await ResultFolder.plan('out', {
      command: 'test',
      files: ['x.png'],
      inputs: [],
      overwrite: true,
    });
    await next.prepare({ outputs });
    const left = Object.keys(contentOf('out')).sort();
    assert.deepEqual(left, [MANIFEST, 'labels/mine.png', 'notes/mine.txt']);
    assert.ok(!existsSync('out/labels/sub'));
  });

  it('no file is replaced that is not in the list, and no link followed', async () => {
    await fill(['images/a.png'], 'out');
    const both = () => fill(['images'], 'out', true);
    write('photos/out/labels/sub/b.png');
    await refuses(
      both,
      /^out\/labels\/sub\/b\.png: exists and was not written by bidiseg; move it away, or choose another/,
    );
    rmSync('out/labels/sub', { recursive: true });
    symlinkSync('nowhere', 'out/labels/sub');
    await refuses(both, /^out\/labels\/sub: was not made by bidiseg, expected a folder/);
    rmSync('out/labels', { recursive: true });
    symlinkSync('../labels', 'out/labels');
    await refuses(both, /^out\/labels: was not made by bidiseg, expected a folder/);
    rmSync('out/labels');
    mkdirSync('out/labels');
    symlinkSync('../../labels/a.png', 'out/labels/a.png');
    await refuses(both, /^out\/labels\/a\.png: exists and was not written by bidiseg/);
  });

  it('a list that names files elsewhere, or is none, is refused', async () => {
    for (const files of [
      ['../labels/a.png'],
      [at('photos/labels/a.png')],
      ['a/../../x'],
      [''],
      ['a//b'],
      [1],
      'a',
      null,
    ]) {
      write(`photos/out/${MANIFEST}`, JSON.stringify({ command: 'test', files }));
      await refuses(
        () => fill(['images'], 'out', true),
        /^out\/\.bidiseg\.json: expected a list of files that bidiseg wrote/,
      );
    }
    write(`photos/out/${MANIFEST}`, '{');
    await refuses(() => fill(['images'], 'out', true), /^out\/\.bidiseg\.json: cannot be read/);
  });

  it('what was made for results that never came is removed, and nothing else', async () => {
    mkdirSync('empty');
    for (const place of ['empty', 'new/deep/out']) {
      const results = await ResultFolder.plan(place, {
        command: 'test',
        files: FILES,
        inputs: [],
        overwrite: false,
      });
      await results.prepare({ outputs });
      mkdirSync(path.join(place, 'labels/sub'), { recursive: true });
    }
    for (const output of outputs) output.removeIfUnused();
    assert.deepEqual([existsSync('new'), readdirSync('empty')], [false, []]);
  });

  it('a single file: new, or replaced on request, and never an input', async () => {
    const prepare = (file: string, inputs: string[], overwrite = false) => {
      prepareOutputFile(file, { inputs, overwrite }, { outputs });
      return undefined;
    };
    symlinkSync('nowhere', 'dangling.png');
    const exists = /exists already; choose another file, or replace it with --overwrite$/;
    for (const file of ['images/a.png', at('photos/images/a.png'), at('to-a.png'), 'dangling.png']) {
      await refuses(async () => prepare(file, []), exists);
      prepare(file, [], true);
    }
    for (const overwrite of [false, true]) {
      for (const file of [
        'images/a.png',
        at('photos/images/a.png'),
        at('link/images/a.png'),
        at('to-a.png'),
      ]) {
        for (const input of ['images/a.png', at('link/images/a.png'), at('to-a.png')]) {
          await refuses(
            async () => prepare(file, [input], overwrite),
            /: is the input; choose another file to write$/,
          );
        }
        await refuses(
          async () => prepare(file, [at('link/images')], overwrite),
          /: lies in .*, which is read; choose another/,
        );
      }
      await refuses(
        async () => prepare('images', [], overwrite),
        /^images: is a folder; name a file to write$/,
      );
    }
    prepare('new/deep/file.png', ['images/a.png']);
    assert.ok(existsSync('new/deep'));
    for (const output of outputs) output.removeIfUnused();
    assert.ok(!existsSync('new'));
  });

  it('a command that continues claims its own files, and no others', async () => {
    const claim = (command: string) => claimFiles('out', { command, files: ['table.md'] }, { outputs });
    write('photos/out/table.md');
    await refuses(() => claim('ablation'), /^out\/table\.md: exists and was not written by bidiseg/);
    rmSync('out/table.md');
    write('photos/out/notes.txt');
    await claim('ablation');
    write('photos/out/table.md', 'result');
    await claim('ablation');
    await refuses(() => claim('other'), /^out: holds the results of 'bidiseg ablation'; choose another/);
  });
});
