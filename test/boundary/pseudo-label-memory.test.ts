import assert from 'node:assert/strict';
import { runFixture } from '../helpers/child.js';
import { printAndCheck } from '../helpers/table.js';

interface Peak {
  count: number;
  /** Bytes of V8's heap and of the external memory that V8 counts, including the addon's. */
  liveBytes: number;
  /** Bytes of native objects. */
  nativeBytes: number;
  residentBytes: number;
  keptImages: number;
}

describe('memory of pseudo-labeling', () => {
  it('does not grow with the number of images', async () => {
    const [width, height, few, many] = [256, 128, 20, 200];
    const { code, stdout, stderr } = await runFixture(
      'pseudo-label-memory.mjs',
      [width, height, few, many].map(String),
      // glibc must return every freed image at once, so that the process shows only memory in use.
      {
        nodeFlags: ['--expose-gc'],
        env: { MALLOC_MMAP_THRESHOLD_: '65536' },
      },
    );
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    const [small, large] = JSON.parse(stdout) as [Peak, Peak];
    assert.deepEqual([small.keptImages, large.keptImages], [few, many]);
    // Keeping the predictions would need at least a byte for the class and four for its probability.
    const kept = (many - few) * width * height * 5;
    const grown = (what: 'liveBytes' | 'nativeBytes' | 'residentBytes') => (large[what] - small[what]) / kept;
    printAndCheck(
      `from ${few} to ${many} images, in parts of the ${kept / 1e6} MB that keeping them would take`,
      [
        // Names and paths of the images, and objects that V8 has not collected yet.
        { item: 'live bytes', error: grown('liveBytes'), bound: 0.03 },
        { item: 'bytes of native objects', error: grown('nativeBytes'), bound: 0 },
        // The size of the whole process varies by some MB.
        { item: 'resident bytes', error: grown('residentBytes'), bound: 0.25 },
      ],
    );
  });
});
