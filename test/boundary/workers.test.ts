import { tryWorkerEnd, WORKER_ENDS } from '../engines/boundary/ends.js';

/** Number of tries. `npm run test:faults` makes more. */
const TIMES = 3;

describe('worker threads', () => {
  for (const end of WORKER_ENDS) it(end.title, () => tryWorkerEnd(end, TIMES));
});
