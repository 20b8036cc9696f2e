import { tryWorkerEnd, WORKER_ENDS } from '../engines/boundary/ends.js';

/** `npm run test:faults` does it more often. */
const TIMES = 3;

describe('worker threads', () => {
  for (const end of WORKER_ENDS) it(end.title, () => tryWorkerEnd(end, TIMES));
});
