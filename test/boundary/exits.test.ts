import { PROCESS_ENDS, tryProcessEnd } from '../engines/boundary/ends.js';

/** `npm run test:faults` does it more often. */
const TIMES = 3;

describe('the end of a process while a native job computes', () => {
  for (const end of PROCESS_ENDS) it(end.title, () => tryProcessEnd(end, TIMES));
});
