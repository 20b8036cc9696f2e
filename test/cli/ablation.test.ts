import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Lock } from '../../lib/run/lock.js';
import { ConfigError } from '../../lib/support/errors.js';
import { loadAblation } from '../../lib/workflows/ablation/ablation-config.js';
import type { AblationResults } from '../../lib/workflows/ablation/results.js';
import { bidiseg, jsonLines, temporaryFolder, writeTinyConfig, writeTinyData } from './command-line.js';

const SPEC = {
  base: 'config.json',
  output: 'ablation',
  seeds: [1, 2],
  variants: {
    full: null,
    unaligned: { segmentation: { adversarialWeight: 0 } },
    ceiling: {
      loop: { rounds: 0 },
      data: {
        source: { images: 'target/images', labels: 'target/labels', part: [0, 0.5] },
        target: { val: { part: [0.5, 1] } },
      },
    },
  },
  rows: {
    'source only': { variant: 'full', stage: 'M(0)' },
    'M0(1)': { variant: 'full' },
    'translation alone': { variant: 'unaligned' },
    'target labels': { variant: 'ceiling' },
  },
  ceiling: 'target labels',
};

describe('command line: an ablation', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const run = (args: string[], signal?: Parameters<typeof bidiseg>[1]) =>
    bidiseg(['ablation', ...args], { cwd: folder.path, ...signal });
  const results = () => JSON.parse(readFileSync(at('ablation/results.json'), 'utf8')) as AblationResults;
  const weights = (variant: string, seed: number, stage: string) =>
    at('ablation/runs', variant, `seed-${seed}`, 'stages', stage, 'weights.safetensors');

  before(async () => {
    await writeTinyData(folder.path);
    writeTinyConfig(folder.path, { loop: { selfTrainingRounds: 0 } });
    writeFileSync(at('ablation.json'), JSON.stringify(SPEC));
  });

  it('resumes after it was stopped', async () => {
    const stopped = await run(['ablation.json', '--json'], {
      signal: { name: 'SIGINT', onceStdoutHas: '"event":"stage-end"' },
    });
    assert.equal(stopped.code, 130, stopped.stderr);
    assert.match(stopped.stderr, /finished stages are kept in ablation; run the same command to resume\n$/);
    const { code, stdout, stderr } = await run(['ablation.json', '--jobs', '2', '--json']);
    assert.equal(code, 0, stderr);
    const lines = jsonLines(stdout);
    const start = lines.find(({ event }) => event === 'ablation-start')!;
    // full has M(0), F, S′ and M0. unaligned has its own M0. The upper bound has its own M(0).
    assert.deepEqual([start.runs, start.stages, start.different], [6, 2 * (4 + 4 + 1), 2 * (4 + 1 + 1)]);
    assert((start.done as number) >= 1);
    const ended = lines.filter(({ event }) => event === 'stage-end');
    const trained = ended.filter(({ from }) => from === null);
    assert.equal(trained.length, (start.different as number) - (start.done as number));
    assert.equal(lines.filter(({ event }) => event === 'run-end').length, 6);
    assert.equal(lines.at(-1)!.complete, true);
  });

  it('makes a table of means and deviations over the seeds', () => {
    const { rows, complete, seeds } = results();
    assert.deepEqual([complete, seeds], [true, [1, 2]]);
    assert.deepEqual(
      rows.map(({ title, stage }) => [title, stage]),
      [
        ['source only', 'M(0)'],
        ['M0(1)', 'M0(1)'],
        ['translation alone', 'M0(1)'],
        ['target labels', 'M(0)'],
      ],
    );
    const base = rows[0]!;
    for (const row of rows) {
      const [one, two] = row.seeds.map(({ miou, run: place, seed }) => {
        const { stages } = JSON.parse(readFileSync(at('ablation', place, 'summary.json'), 'utf8'));
        assert.match(place, new RegExp(`runs/${row.variant}/seed-${seed}$`));
        assert.equal(stages.find(({ label }: { label: string }) => label === row.stage).miou, miou);
        return miou;
      });
      assert.equal(row.miou.mean, (one! + two!) / 2);
      assert(Math.abs(row.miou.deviation! - Math.abs(one! - two!) / Math.SQRT2) < 1e-12);
      assert(Math.abs(row.gain.mean! - (row.miou.mean! - base.miou.mean!)) < 1e-12);
      assert.equal(row.otherImages !== null, row.title === 'target labels');
    }
    // Networks this small may gain nothing, even from target labels.
    for (const { gain, closed } of rows) {
      const most = rows.at(-1)!.gain.mean!;
      assert.equal(closed, most > 0 ? gain.mean! / most : null);
    }
    const markdown = readFileSync(at('ablation/table.md'), 'utf8');
    assert.match(markdown, /^\| M0\(1\) \| M0\(1\) \| 2 \| \d+\.\d ± \d+\.\d \| [+-]\d+\.\d ± \d+\.\d \| /m);
    assert.match(markdown, /\[full 1\]\(<runs\/full\/seed-1\/report\.html>\)/);
    assert.match(markdown, /measured on other images: target\/images, part \[0\.5, 1\]/);
    const report = readFileSync(at('ablation/runs/full/seed-1/report.html'), 'utf8');
    assert.match(report, /<title>full, seed 1: bidiseg report<\/title>/);
  });

  it('leaves ordinary runs, whose shared stages are the same files', async () => {
    for (const seed of [1, 2]) {
      const inode = (variant: string, stage: string) => statSync(weights(variant, seed, stage)).ino;
      for (const stage of ['source-only', 'round-1-translator']) {
        assert.equal(inode('full', stage), inode('unaligned', stage), stage);
      }
      assert.notEqual(inode('full', 'round-1-segmenter-0'), inode('unaligned', 'round-1-segmenter-0'));
      assert.notEqual(inode('full', 'source-only'), inode('ceiling', 'source-only'));
    }
    const alone = ['train', 'config.json', '--output', 'alone', '--seed', '2'];
    const { code, stderr } = await bidiseg([...alone, '--set', 'segmentation.adversarialWeight=0'], {
      cwd: folder.path,
    });
    assert.equal(code, 0, stderr);
    for (const stage of ['source-only', 'round-1-translator', 'round-1-segmenter-0']) {
      const file = at('alone/stages', stage, 'weights.safetensors');
      assert(readFileSync(file).equals(readFileSync(weights('unaligned', 2, stage))), stage);
    }
  });

  it('a second time shows the table, plain when piped', async () => {
    const { code, stdout, stderr } = await run(['ablation.json']);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^6 runs of 18 stages: 12 different, 12 of these done$/m);
    assert.match(stdout, /^source only +M\(0\) +2 +\d+\.\d ± \d+\.\d +– +–$/m);
    assert.match(stdout, /^table {4}ablation\/table\.md$/m);
  });

  it('a failing run does not affect the others, and is tried again', async () => {
    for (const run of ['ceiling/seed-1', 'unaligned/seed-1'])
      rmSync(at('ablation/runs', run), { recursive: true });
    const image = at('target/images/target-1.png');
    const content = readFileSync(image);
    writeFileSync(image, 'no image');
    const refused = await run(['ablation.json', '--json']);
    assert.equal(refused.code, 1);
    assert.match(
      refused.stderr,
      /^bidiseg: .*full\/seed-1: the run began with other data \(target: image 'target-1' altered[^\n]*--accept-changed-data[^\n]*\n$/,
    );
    const blocked = at('ablation/runs/full/seed-1/report.html');
    rmSync(blocked);
    mkdirSync(blocked);
    const failed = await run(['ablation.json', '--json', '--accept-changed-data']);
    rmSync(blocked, { recursive: true });
    const warned = jsonLines(failed.stdout).filter(({ event }) => event === 'warning');
    const unwritten = warned.filter(({ message }) => /^the report was not written: /.test(message as string));
    assert.deepEqual([warned.length, unwritten.length], [5, 1]);
    const report = readFileSync(at('ablation/runs/full/seed-2/report.html'), 'utf8');
    assert.match(report, /the run continues with other data than it began with \(target: image/);
    assert.equal(failed.code, 1);
    const failures = jsonLines(failed.stdout).filter(({ event }) => event === 'failure');
    const failedRuns = failures.map(({ variant, seed }) => `${variant} ${seed}`);
    assert.deepEqual(failedRuns, ['unaligned 1', 'ceiling 1']);
    for (const { message } of failures) assert.match(message as string, /target-1\.png: is not a PNG/);
    assert.match(failed.stderr, /^bidiseg: 2 runs failed; run the same command to try again\n$/m);
    assert.equal(results().complete, false);
    writeFileSync(image, content);
  });

  it('runs only some of the variants where it is told to, and shows what there is of all', async () => {
    const some = await run([
      ...['ablation.json', '--variants', 'ceiling,full', '--accept-changed-data', '--json'],
    ]);
    assert.equal(some.code, 0, some.stderr);
    const start = jsonLines(some.stdout).find(({ event }) => event === 'ablation-start')!;
    assert.deepEqual([start.runs, start.stages], [4, 2 * (4 + 1)]);
    const counts = results().rows.map(({ title, miou }) => [title, miou.count]);
    assert.deepEqual(counts, [
      ['source only', 2],
      ['M0(1)', 2],
      ['translation alone', 1],
      ['target labels', 2],
    ]);
    const { code, stderr } = await run(['ablation.json', '--accept-changed-data']);
    assert.equal(code, 0, stderr);
    assert.equal(results().complete, true);
    const other = await run(['ablation.json', '-o', 'other', '--seeds', '1', '--variants', 'ceiling']);
    assert.equal(other.code, 0, other.stderr);
    assert.match(other.stdout, /^target labels \* +M\(0\) +1 +\d/m);
    assert.match(other.stdout, /^translation alone +M0\(1\) +0 +– +– +–$/m);
    // Complete stages of a variant that is not named now are not trained again.
    const alone = ['ablation.json', '-o', 'other', '--seeds', '1', '--json', '--variants'];
    const first = await run([...alone, 'full']);
    assert.equal(first.code, 0, first.stderr);
    const second = await run([...alone, 'unaligned']);
    assert.equal(second.code, 0, second.stderr);
    const from = jsonLines(second.stdout).flatMap((line) => (line.event === 'stage-end' ? [line.from] : []));
    assert.deepEqual(from, [...Array(3).fill(at('other/runs/full/seed-1')), null]);
    const wrong = await run(['ablation.json', '--variants', 'full,cieling']);
    assert.equal(wrong.code, 1);
    assert.match(
      wrong.stderr,
      /^bidiseg: --variants: expected one of full, .* but found "cieling"; did you mean/,
    );
  });

  it('reports what is impossible in one clear line', async () => {
    const cases: [Record<string, unknown>, RegExp][] = [
      [{ base: 'none.json' }, /none\.json: no such file/],
      [{ variants: {} }, /wrong\.json: variants: expected a table with at least one variant/],
      [{ variants: { 'a/b': null } }, /variants: expected names of letters, .* but found "a\/b"/],
      [
        { variants: { full: { loop: { round: 1 } } }, rows: null, ceiling: null },
        /variants\.full: loop\.round: unknown key; did you mean rounds\?/,
      ],
      [
        { rows: { x: { variant: 'ful' } }, ceiling: null },
        /rows\.x\.variant: expected one of full, .* but found "ful"; did you mean full\?/,
      ],
      [
        { rows: { x: { variant: 'full', stage: 'F(1)' } }, ceiling: null },
        /rows\.x\.stage: expected one of M\(0\), M0\(1\) but found "F\(1\)"/,
      ],
      [{ ceiling: 'none' }, /ceiling: expected one of source only, .* but found "none"/],
      [{ seeds: [1, 1] }, /seeds: expected a list of different seeds/],
      [{ segmentation: { steps: 7 } }, /segmentation: unknown key/],
    ];
    for (const [changes, message] of cases) {
      writeFileSync(at('wrong.json'), JSON.stringify({ ...SPEC, ...changes }));
      await assert.rejects(loadAblation(at('wrong.json')), (error: Error) => {
        assert(error instanceof ConfigError, error.stack);
        assert.match(error.message, message);
        return true;
      });
    }
    const lock = await Lock.take(at('ablation/lock'));
    const second = await run(['ablation.json']);
    await lock.release();
    assert.match(second.stderr, /^bidiseg: The run folder is in use by process \d+ [^\n]*\n$/);
    const other = await run(['ablation.json', '--set', 'segmentation.steps=4']);
    assert.match(other.stderr, /segmentation\.steps is 3 in the run to resume but 4 now/);
  });
});
