import { PROCESS_ENDS, tryProcessEnd } from '../engines/boundary/ends.js';

/** Number of tries. `npm run test:faults` makes more. */
const TIMES = 3;

describe('the end of a process while a native job computes', () => {
  for (const end of PROCESS_ENDS) it(end.title, () => tryProcessEnd(end, TIMES));
});
