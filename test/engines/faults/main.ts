/**
 * Runs `npm run test:faults [-- SEED [boundary | runs | service | processes [TEXT]]]`. Tries every fault many times,
 * or those with TEXT in their names. Prints each try, and ends with the table of docs/robustness.md#faults-of-runs.
 */
import { Random } from '../../../lib/data/random.js';
import { boundaryFaults } from './boundary.js';
import type { Fault } from './faults.js';
import { processFaults } from './processes.js';
import { runFaults } from './runs.js';
import { ServiceSetting, serviceFaults } from './service.js';
import { Setting, VARIANTS } from './setting.js';

const seed = Number(process.argv[2] ?? 1);
const [, , , part, text = ''] = process.argv;
const rows: string[][] = [];
let failures = 0;
console.log(`seed ${seed}`);
if (part === undefined || part === 'boundary') {
  console.log('\n== the boundary');
  await tryAll(boundaryFaults(), 'boundary');
}
if (part === undefined || part === 'service') {
  console.log('\n== the service');
  const setting = await ServiceSetting.create();
  await tryAll(serviceFaults(setting), 'service').finally(() => setting.remove());
}
for (const variant of part === undefined || part === 'runs' ? VARIANTS : []) {
  console.log(`\n== runs: ${variant}`);
  const setting = await Setting.create(variant);
  try {
    await tryAll(runFaults(setting), variant);
  } finally {
    setting.remove();
  }
}
if (part === undefined || part === 'processes') {
  console.log('\n== runs in two processes');
  const setting = await Setting.createDivided();
  try {
    await tryAll(processFaults(setting), 'processes');
  } finally {
    setting.remove();
  }
}
console.log('');
for (const row of [['fault', 'tried', 'outcome'], ['---', '---', '---'], ...rows]) {
  console.log(`| ${row.join(' | ')} |`);
}
process.exitCode = failures === 0 ? 0 : 1;

async function tryAll(faults: Fault[], variant: string): Promise<void> {
  for (const { fault, tries, outcome, attempt } of faults) {
    if (!fault.includes(text)) continue;
    console.log(`\n${fault}`);
    const random = new Random(seed, variant, fault);
    const tried = await attempt(tries, random, (line) => console.log(`  ${line}`)).catch((error: Error) => {
      failures++;
      console.log(`  FAILED: ${error.stack}`);
      return undefined;
    });
    add(fault, tried, tried === undefined ? 'FAILED' : tried === 0 ? 'not tried on this machine' : outcome);
  }
}

/** Adds a try to the table. A fault has one row, for all settings it was tried in. */
function add(fault: string, tried: number | undefined, outcome: string): void {
  const row = rows.find(([name]) => name === fault);
  if (!row) rows.push([fault, String(tried ?? 0), outcome]);
  else {
    row[1] = String(Number(row[1]) + (tried ?? 0));
    if (outcome === 'FAILED') row[2] = outcome;
  }
}
