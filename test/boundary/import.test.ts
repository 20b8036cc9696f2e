import assert from 'node:assert/strict';
import { runFixture } from '../helpers/child.js';

describe('importing bidiseg', () => {
  it('leaves the environment, the settings of sharp and the listeners of the process as they are', async () => {
    const { code, stdout, stderr } = await runFixture('import.mjs', []);
    assert.equal(code, 0, stderr);
    // One listener stops the compute thread when the process exits.
    assert.deepEqual(JSON.parse(stdout), { added: { exit: 1 } });
  });

  it('gives LibTorch a thread for each core that the process may use, and its workers a short spin', async () => {
    // OpenMP prints the settings it was loaded with.
    const env = { OMP_DISPLAY_ENV: 'verbose' };
    const preload = `data:text/javascript,import os from 'node:os';
      import { syncBuiltinESMExports } from 'node:module';
      delete process.env.OMP_NUM_THREADS;
      os.availableParallelism = () => 3;
      syncBuiltinESMExports();`;
    const { code, stderr } = await runFixture('import.mjs', [], { nodeFlags: ['--import', preload], env });
    assert.equal(code, 0, stderr);
    assert.match(stderr, /OMP_NUM_THREADS = '3'/);
    assert.match(stderr, /GOMP_SPINCOUNT = '1000'/);
  });

  it('keeps what the user has set', async () => {
    const env = { OMP_DISPLAY_ENV: 'verbose', OMP_NUM_THREADS: '1', GOMP_SPINCOUNT: '77' };
    const { stderr } = await runFixture('import.mjs', [], { env });
    assert.match(stderr, /GOMP_SPINCOUNT = '77'/);
  });
});
