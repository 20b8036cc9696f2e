import assert from 'node:assert/strict';

/** Line of a table of errors. */
export interface Measurement {
  item: string;
  error: number;
  bound: number;
}

/** Prints the measurements. Fails if one exceeds its bound or is not a number. */
export function printAndCheck(title: string, rows: Measurement[]): void {
  const width = Math.max(4, ...rows.map(({ item }) => item.length));
  const lines = rows.map(
    ({ item, error, bound }) =>
      `    ${item.padEnd(width)}  ${error.toExponential(1).padStart(9)}  ${bound.toExponential(0).padStart(6)}`,
  );
  console.log(`    ${title}\n    ${'item'.padEnd(width)}      error   bound\n${lines.join('\n')}`);
  assert.ok(rows.length > 0, 'nothing was compared');
  const failed = rows.filter(({ error, bound }) => !(error <= bound));
  assert.deepEqual(failed, [], 'some errors exceed their bounds');
}
