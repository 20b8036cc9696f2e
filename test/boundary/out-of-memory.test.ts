import assert from 'node:assert/strict';
import { InvalidArgumentError, memoryInUse, OutOfMemoryError, setMemoryLimit, Tensor } from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { HUNGRY, starve } from './out-of-memory.js';

describe('out of memory', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  afterEach(() => setMemoryLimit(null));

  // `npm run test:faults` tries more limits.
  for (const hungry of HUNGRY) {
    it(`${hungry.title} under a memory limit fails whole, and later succeeds`, async () => {
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
    // A limit below what is in use takes nothing away.
    setMemoryLimit(0);
    assert.deepEqual((await tensor.data().catch((error) => error.code)) as unknown, 'ERR_OUT_OF_MEMORY');
    assert.throws(() => Tensor.from(new Uint8Array(1)), OutOfMemoryError);
    setMemoryLimit(null);
    assert.equal((await tensor.data()).length, 2 ** 20);
    tensor.dispose();
  });
});
