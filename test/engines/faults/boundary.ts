import assert from 'node:assert/strict';
import { runFixture } from '../../helpers/child.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { PROCESS_ENDS, tryProcessEnd, tryWorkerEnd, WORKER_ENDS } from '../boundary/ends.js';
import { HUNGRY, starve } from '../boundary/out-of-memory.js';
import { runMatrix } from '../boundary/run-matrix.js';
import type { Fault } from './faults.js';

/** Lists the faults of the boundary between JavaScript and C++. */
export function boundaryFaults(): Fault[] {
  return [
    {
      fault: 'a wrong call (the misuse matrix)',
      tries: 1,
      outcome: 'a typed error or a result; what comes later is as it should be',
      attempt: (_tries, _random, note) => runMatrix(1, note),
    },
    ...WORKER_ENDS.map((end) => ({
      fault: `worker threads: ${end.title}`,
      tries: end.tries,
      outcome: 'no crash, no output, the main thread computes on',
      attempt: async (tries: number) => {
        await tryWorkerEnd(end, tries);
        return tries;
      },
    })),
    ...PROCESS_ENDS.map((end) => ({
      fault: `process, while a job runs: ${end.title}`,
      tries: 50,
      outcome: 'the right code or signal, no other output',
      attempt: async (tries: number) => {
        const AT_ONCE = 2;
        for (let i = 0; i < tries; i += AT_ONCE) await tryProcessEnd(end, AT_ONCE);
        return tries;
      },
    })),
    {
      fault: 'a step whose handles are dropped, not disposed',
      tries: 2000,
      outcome: 'all objects and bytes gone; growth of the resident set below 2 %',
      attempt: dropHandles,
    },
    {
      fault: 'work that exceeds the memory limit',
      tries: 100 * HUNGRY.length,
      outcome: 'an error with the sizes, nothing changed, the same bits later',
      attempt: runOutOfMemory,
    },
  ];
}

async function dropHandles(tries: number, _: unknown, note: (line: string) => void): Promise<number> {
  const { code, stdout, stderr } = await runFixture('../../../scripts/soak.mjs', ['--steps', String(tries)], {
    timeoutMs: 3_600_000,
  });
  for (const line of stdout.trimEnd().split('\n')) note(line);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, stdout);
  return tries;
}

async function runOutOfMemory(tries: number, _: unknown, note: (line: string) => void): Promise<number> {
  const folder = temporaryFolder();
  try {
    let all = 0;
    for (const hungry of HUNGRY) {
      const failures = await starve(hungry, folder.path('.'), tries / HUNGRY.length);
      note(`${hungry.title}: failed ${failures} times`);
      all += failures;
    }
    return all;
  } finally {
    folder.remove();
  }
}
