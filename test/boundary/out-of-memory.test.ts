import assert from 'node:assert/strict';
import { setTimeout } from 'node:timers/promises';
import { InvalidArgumentError, memoryInUse, OutOfMemoryError, setMemoryLimit, Tensor } from 'bidiseg';
import { HUNGRY, starve } from '../engines/boundary/out-of-memory.js';
import { temporaryFolder } from '../helpers/folder.js';

describe('out of memory', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  afterEach(() => setMemoryLimit(null));

  // `npm run test:faults` tries more limits.
  for (const hungry of HUNGRY) {
    it(`${hungry.title} under a memory limit changes nothing when it fails, and later succeeds`, async () => {
      assert.ok((await starve(hungry, folder.path('.'), 4)) > 0, 'no limit was too low');
    });
  }

  it('of the system is the same error', async () => {
    using tensor = Tensor.from(new Float32Array(4), [1, 1, 2, 2]);
    // 16 TB, more than any machine grants.
    await assert.rejects(tensor.resize(2 ** 21, 2 ** 21), (error: Error) => {
      assert.ok(error instanceof OutOfMemoryError, error.stack);
      assert.match(
        error.message,
        /a tensor of 17592186044416 bytes was asked for .*; the system has no more$/,
      );
      return true;
    });
  });

  it('counts what tensors hold', async () => {
    const before = memoryInUse();
    const tensor = Tensor.from(new Uint8Array(2 ** 20));
    assert.ok(memoryInUse() - before >= 2 ** 20);
    assert.throws(() => setMemoryLimit(-1), InvalidArgumentError);
    // A limit below the memory in use releases nothing.
    setMemoryLimit(0);
    assert.deepEqual((await tensor.data().catch((error) => error.code)) as unknown, 'ERR_OUT_OF_MEMORY');
    assert.throws(() => Tensor.from(new Uint8Array(1)), OutOfMemoryError);
    setMemoryLimit(null);
    assert.equal((await tensor.data()).length, 2 ** 20);
    tensor.dispose();
  });

  it('keeps free memory for later, and returns it to the system when nothing computes', async () => {
    const MIB = 2 ** 20;
    const resident = () => process.memoryUsage.rss() / MIB;
    using small = Tensor.from(new Float32Array(64 * 64), [1, 1, 64, 64]);
    const before = resident();
    const large = await small.resize(8192, 8192);
    large.dispose();
    assert.ok(resident() - before > 200, 'the memory of 256 MiB was given back at once');
    for (let waited = 0; resident() - before > 50; waited += 100) {
      assert.ok(
        waited < 10_000,
        `${Math.round(resident() - before)} MiB are still resident after ten seconds`,
      );
      await setTimeout(100);
    }
  });
});
