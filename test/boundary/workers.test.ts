import assert from 'node:assert/strict';
import { runFixture } from '../helpers/child.js';

describe('worker threads', () => {
  for (const [mode, title] of [
    ['first-in-worker', 'loads in a worker first, and in the main thread after it has ended'],
    ['two-at-once', 'trains in two workers and in the main thread at once'],
    ['terminate', 'survives worker.terminate() while a job computes, ten times'],
    ['worker-exit', "survives a worker's process.exit() and uncaught exception while a job computes"],
  ] as const) {
    it(title, async () => {
      const { code, signal, stdout, stderr } = await runFixture('workers.mjs', [mode], { timeoutMs: 60_000 });
      assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' });
      assert.match(stdout, /^end\n$/m);
    });
  }

  it('process.exit() of the main thread stops workers that compute', async () => {
    for (let i = 0; i < 3; ++i) {
      const { code, signal, stderr } = await runFixture('workers.mjs', ['main-exit']);
      assert.deepEqual({ code, signal, stderr }, { code: 3, signal: null, stderr: '' });
    }
  });
});
