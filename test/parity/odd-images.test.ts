import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readImage } from 'bidiseg';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { printAndCheck } from '../helpers/table.js';
import { findPython } from '../helpers/twin.js';

/** Decoders of JPEG and lossy WebP may round differently. */
const LOSSY = /^(rgb|turned|gray|cmyk)\.jpg$|^lossy\.webp$/;
const ROUNDING = 2;

describe("images of every kind: as Pillow's convert('RGB') reads them", () => {
  const folder = temporaryFolder();
  after(folder.remove);

  it('alpha, palettes, CMYK, orientation, frames', async function () {
    const found = findPython('PIL');
    if ('reason' in found) {
      console.log(`    skipped: ${found.reason}`);
      this.skip();
    }
    const script = join(ROOT, 'test/parity/odd_images.py');
    const input = JSON.stringify(folder.path(''));
    const { status, stdout, stderr } = spawnSync(found.python, ['-B', script], { input });
    assert.equal(status, 0, String(stderr));
    const files = JSON.parse(String(stdout)) as [file: string, width: number, height: number][];
    const rows = [];
    for (const [file, width, height] of files) {
      const image = await readImage(file);
      const expected = readFileSync(`${file}.rgb`);
      assert.deepEqual([image.width, image.height, image.data.length], [width, height, expected.length]);
      const error = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - image.data[i]!)), 0);
      const item = basename(file);
      rows.push({ item, error, bound: LOSSY.test(item) ? ROUNDING : 0 });
    }
    printAndCheck('largest difference, in gray levels', rows);
  });
});
