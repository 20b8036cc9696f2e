import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { collectImages } from '../../lib/cli/inputs.js';
import { table } from '../../lib/cli/table.js';
import { removeTemporaryFiles } from '../../lib/support/files.js';
import { duration, oneLine, percent, shellWord, signedPercent } from '../../lib/support/format.js';
import { temporaryFolder } from './command-line.js';

describe('command line: its parts', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);

  it('formats numbers for people', () => {
    assert.deepEqual([percent(0.4853), percent(null), percent(Number.NaN)], ['48.5', '–', '–']);
    assert.deepEqual(
      [signedPercent(0.032), signedPercent(-0.004), signedPercent(null)],
      ['+3.2', '-0.4', '–'],
    );
    assert.deepEqual([0.04, 3, 12.4, 200, 7500].map(duration), [
      '0.0 s',
      '3 s',
      '12 s',
      '3 min 20 s',
      '2 h 5 min',
    ]);
  });

  it('makes one line of any message and leaves lists of details out', () => {
    assert.equal(oneLine('Not found. Looked at:\n  /a\n  /b\nBuild it.'), 'Not found. Build it.');
    assert.equal(oneLine('one\n  two\n'), 'one two');
  });

  it('quotes paths so that a shell reads them as one word', () => {
    const words = [
      'runs/demo',
      'my runs/a',
      "it's",
      '$HOME',
      'a"b',
      'a;b',
      '-x',
      'ä',
      '~',
      'a\\b',
      '*',
      'a\nb',
      '',
    ];
    for (const word of words) {
      const read = execFileSync('/bin/sh', ['-c', `printf %s ${shellWord(word)}`], { encoding: 'utf8' });
      assert.equal(read, word === '-x' ? './-x' : word);
    }
    assert.equal(shellWord('runs/demo-2'), 'runs/demo-2');
    assert.equal(shellWord('my runs'), "'my runs'");
  });

  it('aligns columns', () => {
    const text = table(
      [{ title: 'class' }, { title: 'IoU', align: 'right' }],
      [
        ['sky', '9.5'],
        ['vegetation', '10.5'],
      ],
    );
    assert.deepEqual(text.split('\n'), [
      'class        IoU',
      '──────────  ────',
      'sky          9.5',
      'vegetation  10.5',
    ]);
  });

  it('finds images in folders, in order, with their structure, and not in the output', async () => {
    for (const file of ['in/b/2.JPG', 'in/a/1.png', 'in/notes.txt', 'in/.hidden.png', 'in/out/1.png']) {
      mkdirSync(path.dirname(at(file)), { recursive: true });
      writeFileSync(at(file), '');
    }
    assert.deepEqual(
      (await collectImages([at('in')], at('in', 'out'))).map(({ name }) => name),
      ['a/1', 'b/2'],
    );
  });

  it('finds images by patterns, in order, named from where the wildcards begin, and not in the output', async () => {
    for (const file of ['glob/b/2.jpg', 'glob/a/1.png', 'glob/a/[1].png', 'glob/a/1.txt', 'glob/out/1.png']) {
      mkdirSync(path.dirname(at(file)), { recursive: true });
      writeFileSync(at(file), '');
    }
    const names = async (inputs: string[]) =>
      (await collectImages(inputs, at('glob/out'))).map(({ name }) => name);
    assert.deepEqual(await names([at('glob/**')]), ['a/1', 'a/[1]', 'b/2']);
    assert.deepEqual(await names([at('glob/a/?.*')]), ['1']);
    // A file that is there is no pattern.
    assert.deepEqual(await names([at('glob/a/[1].png')]), ['[1]']);
  });

  it('searches patterns as it searches folders: nothing hidden, and links once', async () => {
    for (const file of ['links/a/1.png', 'links/.x/2.png', 'links/a/@eaDir/1.png', 'linked/3.png']) {
      mkdirSync(path.dirname(at(file)), { recursive: true });
      writeFileSync(at(file), '');
    }
    for (const [target, link] of [
      ['linked', 'links/b'],
      ['linked', 'links/c'],
      ['links/a', 'links/0'],
    ]) {
      symlinkSync(at(target!), at(link!));
    }
    for (const input of [at('links'), at('links/**'), at('links/**/*.png')]) {
      const found = await collectImages([input], at('links/out'));
      assert.deepEqual(
        found.map(({ name }) => name),
        ['a/1', 'b/3'],
        input,
      );
    }
    symlinkSync(at('links'), at('links/a/up'));
    for (const input of [at('links'), at('links/**')]) {
      assert.equal((await collectImages([input], at('links/out'))).length, 2, input);
    }
  });

  it('removes only the temporary files of interrupted writers', () => {
    mkdirSync(at('cut', 'deep'), { recursive: true });
    const [one, other] = [randomUUID(), randomUUID()];
    for (const file of [`.a.png.${one}.tmp`, `deep/b.${other}.tmp`, 'a.png', 'deep/c.tmp'])
      writeFileSync(at('cut', file), '');
    removeTemporaryFiles(at('cut'));
    assert.deepEqual(readdirSync(at('cut'), { recursive: true }).sort(), ['a.png', 'deep', 'deep/c.tmp']);
    removeTemporaryFiles(at('not there'));
  });
});
