import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LabelImage } from '../../lib/data/image-size.js';
import { sampleNearest } from '../../lib/data/label-codec.js';
import { Random } from '../../lib/data/random.js';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { findPython } from '../helpers/twin.js';

/** As in pillow_nearest.py. */
function labelsOf(width: number, height: number): LabelImage {
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = (7 * (i % width) + 13 * Math.floor(i / width)) % 251;
  return { data, width, height };
}

describe('resized labels beside Pillow', () => {
  const folder = temporaryFolder();
  after(() => folder.remove());

  it('are equal at every size, enlarged and shrunk', function () {
    const found = findPython('PIL');
    if ('reason' in found) {
      console.log(`      skipped: ${found.reason}`);
      this.skip();
    }
    const random = new Random('label sizes');
    const side = () => 1 + random.integer(900);
    const cases = [
      [480, 360, 641, 477],
      [320, 240, 641, 477],
      [1914, 1052, 1280, 720],
      [2048, 1024, 1024, 512],
      ...Array.from({ length: 300 }, () => [side(), side(), side(), side()]),
    ] as [number, number, number, number][];
    const output = folder.path('nearest');
    const script = join(ROOT, 'test/parity/pillow_nearest.py');
    const input = JSON.stringify(cases);
    const { status, stderr } = spawnSync(found.python, ['-B', script, output], { input });
    assert.equal(status, 0, String(stderr));
    const theirs = readFileSync(output);
    let start = 0;
    let pixels = 0;
    for (const [fromWidth, fromHeight, width, height] of cases) {
      const { data } = sampleNearest(labelsOf(fromWidth, fromHeight), { size: { width, height } });
      const wanted = theirs.subarray(start, start + data.length);
      start += data.length;
      pixels += data.length;
      const different = data.reduce((sum, label, index) => sum + (label === wanted[index] ? 0 : 1), 0);
      assert.equal(different, 0, `${fromWidth}×${fromHeight} to ${width}×${height}: ${different} pixels`);
    }
    assert.equal(start, theirs.length);
    console.log(`      ${cases.length} pairs of sizes, ${pixels} pixels, 0 different`);
  });

  it('are cut and mirrored from the same positions', () => {
    const labels = labelsOf(37, 29);
    const size = { width: 101, height: 53 };
    const whole = sampleNearest(labels, { size }).data;
    const crop = { x: 13, y: 7, width: 60, height: 31 };
    const part = sampleNearest(labels, { size, crop, flip: true }).data;
    for (let y = 0; y < crop.height; y++) {
      for (let x = 0; x < crop.width; x++) {
        const from = (crop.y + y) * size.width + crop.x + crop.width - 1 - x;
        assert.equal(part[y * crop.width + x], whole[from]);
      }
    }
  });
});
