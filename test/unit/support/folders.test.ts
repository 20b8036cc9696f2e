import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { distinguished, listFiles, subfolders, UnicodeNames } from '../../../lib/support/folders.js';
import { temporaryFolder } from '../../helpers/folder.js';

const NFC = 'caf\u00e9';
const NFD = 'cafe\u0301';

describe('folders', () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
  });
  afterEach(() => folder.remove());

  function write(...files: string[]): void {
    for (const file of files) {
      mkdirSync(dirname(folder.path(file)), { recursive: true });
      writeFileSync(folder.path(file), '');
    }
  }

  it('are listed without what is hidden, at any depth', async () => {
    write('root/a', 'root/b/c', 'root/.hidden', 'root/._a', 'root/b/.DS_Store');
    write('root/.ipynb_checkpoints/a', 'root/b/.AppleDouble/c', 'root/b/@eaDir/c', 'root/__MACOSX/._a');
    assert.deepEqual(await listFiles(folder.path('root')), ['a', 'b/c']);
    assert.deepEqual(await subfolders(folder.path('root')), ['__MACOSX', 'b']);
    // What the user names is looked at, whatever it is called.
    assert.deepEqual(await listFiles(folder.path('root/.ipynb_checkpoints')), ['a']);
  });

  it('are listed once each, by their real path where they have one, whatever links there are', async () => {
    write('root/a/1', 'root/z/2', 'elsewhere/3', 'elsewhere/deep/4');
    for (const [target, link] of [
      ['root/z', 'root/b'],
      ['root', 'root/a/up'],
      ['root', 'root/z/up'],
      ['elsewhere', 'root/y'],
      ['elsewhere', 'root/x'],
      ['root', 'elsewhere/deep/back'],
      ['nowhere', 'root/broken'],
      ['elsewhere/3', 'root/file'],
    ]) {
      symlinkSync(folder.path(target!), folder.path(link!));
    }
    const found = await listFiles(folder.path('root'));
    assert.deepEqual(found, ['a/1', 'broken', 'file', 'x/3', 'x/deep/4', 'z/2']);
    assert.deepEqual(await listFiles(folder.path('root'), { leaveOut: folder.path('elsewhere/deep') }), [
      ...['a/1', 'broken', 'file', 'x/3', 'z/2'],
    ]);
    await assert.rejects(listFiles(folder.path('none')), {
      code: 'ERR_DATA',
      message: /none: cannot be listed: ENOENT/,
    });
  });

  it('have files that are found in either Unicode form', async () => {
    write(`${NFD}/${NFC}.png`, 'plain.png');
    const names = new UnicodeNames();
    assert.equal(await names.stored(folder.path(`${NFC}/${NFD}.png`)), folder.path(`${NFD}/${NFC}.png`));
    assert.equal(await names.stored(folder.path('plain.png')), folder.path('plain.png'));
    assert.equal(await names.stored(folder.path(`${NFC}/none.png`)), undefined);
  });

  it('have names that messages tell apart', () => {
    assert.deepEqual(distinguished(NFC, NFD), ['caf\\u{e9}', 'cafe\\u{301}']);
    assert.deepEqual(distinguished('a', 'b'), ['a', 'b']);
  });
});
