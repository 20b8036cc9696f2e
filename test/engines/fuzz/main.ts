/**
 * Runs `npm run test:fuzz [-- SECONDS [SEED [PARSER]]]`. Tries every parser, or the given one, for that many seconds.
 * Prints each result, and ends with the table of docs/robustness.md#fuzzing-the-parsers.
 */
import { temporaryFolder } from '../../helpers/folder.js';
import { fuzz } from './target.js';
import { fuzzTargets } from './targets.js';

const [seconds = 600, seed = 1] = process.argv.slice(2, 4).map(Number);
const wanted = process.argv[4];
const rows: string[][] = [];
let failures = 0;
console.log(`seed ${seed}, ${seconds} s each`);
const folder = temporaryFolder();
try {
  const targets = await fuzzTargets(folder.path(''), (line) => console.log(line));
  for (const target of targets.filter(({ parser }) => wanted === undefined || parser === wanted)) {
    const { parser, outcome } = target;
    try {
      const { read, refused, slowestMs, growthBytes } = await fuzz(target, { seed, seconds });
      const memory = `${Math.ceil(growthBytes / 2 ** 20)} MiB`;
      console.log(
        `${parser}: ${read} read, ${refused} refused, ${slowestMs.toFixed(0)} ms at most, ${memory} more`,
      );
      const share = `${((100 * read) / (read + refused)).toFixed(0)} %`;
      rows.push([parser, String(read + refused), share, `${Math.ceil(slowestMs)} ms`, memory, outcome]);
    } catch (error) {
      failures++;
      console.log(`FAILED: ${(error as Error).stack}`);
      rows.push([parser, '', '', '', '', 'FAILED']);
    }
  }
} finally {
  folder.remove();
}
console.log('');
for (const row of [
  ['parser', 'tried', 'read', 'slowest, CPU', 'memory, more', 'outcome'],
  ['---', '---', '---', '---', '---', '---'],
  ...rows,
]) {
  console.log(`| ${row.join(' | ')} |`);
}
process.exitCode = failures === 0 ? 0 : 1;
