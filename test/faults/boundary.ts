import { PROCESS_ENDS, tryProcessEnd, tryWorkerEnd, WORKER_ENDS } from '../boundary/ends.js';
import type { Fault } from './faults.js';

/** Everything that can happen to the boundary between JavaScript and C++. */
export function boundaryFaults(): Fault[] {
  return [
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
  ];
}
