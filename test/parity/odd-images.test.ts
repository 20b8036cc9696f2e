import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  decodeImage,
  encodeColorLabels,
  encodeImage,
  encodeLabels,
  overlay,
  STREET_SCENE_PALETTE as PALETTE,
  readImage,
} from 'bidiseg';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { randomBytes } from '../helpers/random.js';
import { printAndCheck } from '../helpers/table.js';
import { findPython } from '../helpers/twin.js';

/** Decoders of JPEG and lossy WebP may round differently. */
const LOSSY = /^(rgb|turned|gray|cmyk)\.jpg$|^lossy\.webp$/;
const ROUNDING = 2;

/** Writes the samples of the encoded images, and Pillow's own blends of image and color. */
const READ_ENCODED = `
import sys
from PIL import Image

def write(name, image, mode):
    assert image.mode == mode, (name, image.mode)
    with open(sys.argv[1] + "/" + name, "wb") as file:
        file.write(image.tobytes())

image, labels, color = (Image.open(f"{sys.argv[1]}/{name}.png") for name in ("image", "labels", "color"))
write("image", image, "RGB")
write("labels", labels, "L")
write("color", color, "P")
write("overlay", Image.blend(image, color.convert("RGB"), 0.5), "RGB")
write("overlay.25", Image.blend(image, color.convert("RGB"), 0.25), "RGB")
`;

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
      assert.deepEqual(await decodeImage(readFileSync(file)), image, `${file} as bytes`);
      const expected = readFileSync(`${file}.rgb`);
      assert.deepEqual([image.width, image.height, image.data.length], [width, height, expected.length]);
      const error = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - image.data[i]!)), 0);
      const item = basename(file);
      rows.push({ item, error, bound: LOSSY.test(item) ? ROUNDING : 0 });
    }
    printAndCheck('largest difference, in gray levels', rows);
  });

  it('what is encoded, and overlays', async function () {
    const found = findPython('PIL');
    if ('reason' in found) {
      console.log(`    skipped: ${found.reason}`);
      this.skip();
    }
    const size = { width: 41, height: 29 };
    const image = { data: randomBytes(41 * 29 * 3, 1), ...size };
    const labels = { data: randomBytes(41 * 29, 2).map((value) => value % (PALETTE.length / 3)), ...size };
    const encoded = {
      image: await encodeImage(image),
      labels: await encodeLabels(labels),
      color: await encodeColorLabels(labels, PALETTE),
    };
    for (const [name, bytes] of Object.entries(encoded)) writeFileSync(folder.path(`${name}.png`), bytes);
    const { status, stderr } = spawnSync(found.python, ['-B', '-c', READ_ENCODED, folder.path('')]);
    assert.equal(status, 0, String(stderr));
    const read = (name: string) => new Uint8Array(readFileSync(folder.path(name)));
    assert.deepEqual(read('image'), image.data);
    assert.deepEqual(read('labels'), labels.data);
    assert.deepEqual(read('color'), labels.data, 'the indices of the palette image');
    assert.deepEqual(read('overlay'), overlay(image, labels, PALETTE).data);
    assert.deepEqual(read('overlay.25'), overlay(image, labels, PALETTE, 0.25).data);
  });
});
