import assert from 'node:assert/strict';
import { BOUNDS, type FuzzTarget, fuzz } from '../engines/fuzz/target.js';
import { fuzzTargets } from '../engines/fuzz/targets.js';
import { temporaryFolder } from '../helpers/folder.js';

/** Number of cases, a few seconds. `npm run test:fuzz` tries more. */
const CASES = 250;
const SEED = 11;

describe('parsers, given what they do not expect', function () {
  this.timeout(0);
  const folder = temporaryFolder();
  let targets: FuzzTarget[] = [];
  before(async () => {
    targets = await fuzzTargets(folder.path(''), (line) => console.log(`    ${line}`));
  });
  after(folder.remove);

  it('read it or refuse it with a message, quickly and in little memory', async () => {
    for (const target of targets) {
      const cases = target.slow ? CASES / 25 : CASES;
      const { read, refused, slowestMs, excessBytes, growthBytes } = await fuzz(target, {
        seed: SEED,
        cases,
      });
      console.log(
        `    ${target.parser.padEnd(24)} ${String(read).padStart(4)} read ${String(refused).padStart(4)} refused; ` +
          `at most ${slowestMs.toFixed(0)} ms, ${(growthBytes / 2 ** 20).toFixed(0)} MiB more, ${excessBytes} bytes at once`,
      );
      assert.ok(slowestMs <= BOUNDS.slowestMs);
      // If all cases were refused, or all read, nothing after the first check would be tested.
      assert.ok(read > 0.005 * cases && refused > 0.05 * cases, target.parser);
    }
  });
});
