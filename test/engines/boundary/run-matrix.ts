import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { runFixture } from '../../helpers/child.js';
import { temporaryFolder } from '../../helpers/folder.js';
import type { MatrixResult } from './matrix.js';

/**
 * Runs the misuse matrix in its own process. Fails when anything ends wrongly.
 *
 * @param oneIn n, to try every n-th hostile value at each place
 * @returns the number of tries
 */
export async function runMatrix(oneIn: number, note: (line: string) => void): Promise<number> {
  const folder = temporaryFolder();
  try {
    const log = folder.path('log');
    const { code, signal, stdout, stderr } = await runFixture(
      '../../../dist/test/engines/boundary/matrix.js',
      [log, folder.path('.'), String(oneIn)],
      { cwd: folder.path('.'), timeoutMs: 3_600_000 },
    );
    const last = `the last that was tried: ${readFileSync(log, 'utf8')}`;
    assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' }, last);
    const { table, problems, skipped } = JSON.parse(stdout.split('\n').at(-2)!) as MatrixResult;
    let all = 0;
    for (const [kind, { tried, errors, accepted }] of Object.entries(table)) {
      const numbers = `tried ${tried}, errors ${errors}, accepted ${accepted}`;
      note(`${kind.padEnd(34)} ${numbers}`);
      all += tried;
    }
    for (const reason of skipped) note(`skipped: ${reason}`);
    assert.deepEqual(problems, []);
    return all;
  } finally {
    folder.remove();
  }
}
