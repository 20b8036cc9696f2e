import { runMatrix } from '../engines/boundary/run-matrix.js';

describe('the misuse matrix', () => {
  // `npm run test:faults` tries all hostile values.
  it('every wrong call of every member gives a typed error or a result, and never a crash', async () => {
    await runMatrix(8, (line) => console.log(`    ${line}`));
  });
});
