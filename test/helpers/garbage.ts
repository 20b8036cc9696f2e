import { setTimeout as pause } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { memoryInUse } from '../../lib/native/device.js';

/**
 * Collects garbage until it frees no tensor any more. Otherwise, what earlier tests of this process left would be freed
 * in the middle of a test that counts bytes.
 */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let quiet = 0, last = Number.NaN; quiet < 3; ) {
    collect();
    await pause(20);
    const now = memoryInUse();
    quiet = now === last ? quiet + 1 : 0;
    last = now;
  }
}
