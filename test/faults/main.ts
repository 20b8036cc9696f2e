/**
 * `npm run test:faults [-- SEED]`: tries every fault often, prints what was done, and in the end the table that CONTRIBUTING.md
 * has.
 */
import { Random } from '../../lib/data/random.js';
import { runFaults } from './runs.js';
import { Setting, VARIANTS } from './setting.js';

const seed = Number(process.argv[2] ?? 1);
const rows: string[][] = [];
let failures = 0;
console.log(`seed ${seed}`);
for (const variant of VARIANTS) {
  console.log(`\n== runs: ${variant}`);
  const setting = await Setting.create(variant);
  try {
    for (const { fault, tries, outcome, attempt } of runFaults(setting)) {
      console.log(`\n${fault}`);
      const random = new Random(seed, variant, fault);
      const tried = await attempt(tries, random, (line) => console.log(`  ${line}`)).catch((error: Error) => {
        failures++;
        console.log(`  FAILED: ${error.stack}`);
        return undefined;
      });
      add(fault, tried, tried === undefined ? 'FAILED' : tried === 0 ? 'not tried on this machine' : outcome);
    }
  } finally {
    setting.remove();
  }
}
console.log('');
for (const row of [['fault', 'tried', 'outcome'], ['---', '---', '---'], ...rows]) {
  console.log(`| ${row.join(' | ')} |`);
}
process.exitCode = failures === 0 ? 0 : 1;

/** One row a fault, whatever the number of settings it was tried in. */
function add(fault: string, tried: number | undefined, outcome: string): void {
  const row = rows.find(([name]) => name === fault);
  if (!row) rows.push([fault, String(tried ?? 0), outcome]);
  else {
    row[1] = String(Number(row[1]) + (tried ?? 0));
    if (outcome === 'FAILED') row[2] = outcome;
  }
}
