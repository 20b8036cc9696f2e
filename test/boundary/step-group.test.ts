import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeTinyData } from '../cli/command-line.js';
import { contentOf, ROOT, temporaryFolder } from '../helpers/folder.js';

const FIXTURE = join(ROOT, 'test/boundary/fixtures/step-group.mjs');

type States = Record<string, Record<string, string>>;
interface Faults {
  rank: number;
  same: boolean;
  errors: Record<string, { code: string; message: string; rank: number | null }>;
}

/** Runs all processes of a group to their end. Returns what each printed, by rank. */
function runGroup(what: string, size: number, file: string, ...more: string[]): Promise<unknown[]> {
  const start = (rank: number) =>
    new Promise<unknown>((resolve, reject) => {
      const args = [FIXTURE, what, file, String(rank), String(size), ...more];
      const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
      let output = '';
      child.stdout.on('data', (text: Buffer) => {
        output += String(text);
      });
      child.on('close', (code) =>
        code === 0
          ? resolve(JSON.parse(output))
          : reject(new Error(`rank ${rank} of ${size} ended with ${code}`)),
      );
    });
  return Promise.all(Array.from({ length: size }, (_, rank) => start(rank)));
}

describe('steps of several processes', function () {
  this.timeout(300_000);
  const folder = temporaryFolder();
  after(folder.remove);

  it('equal those of one process, in float64', async () => {
    const states = async (size: number) => {
      const file = folder.path(`equality-${size}`);
      await runGroup('EQUALITY', size, file, `${file}.json`);
      return JSON.parse(readFileSync(`${file}.json`, 'utf8')) as States;
    };
    const alone = await states(1);
    for (const size of [2, 4]) {
      const found = await states(size);
      const worst = Object.keys(alone).map((kind) => worstDifference(alone[kind]!, found[kind]!));
      const most = Math.max(...worst);
      console.log(`    ${size} processes, ten steps of each kind: ${most.toExponential(1)} relative`);
      for (const [index, kind] of Object.keys(alone).entries()) {
        assert.ok(worst[index]! < 1e-12, `${kind}: ${worst[index]}`);
      }
    }
  });

  it('divide images and count together what one process counts, bit for bit', async () => {
    await writeTinyData(folder.path('data'), { source: 1, target: 7 });
    const results = async (size: number) => {
      const output = folder.path(`stages-${size}`);
      const [first, ...others] = await runGroup(
        ...(['STAGES', size, `${output}-store`, output, folder.path('data')] as const),
      );
      for (const other of others) assert.deepEqual(other, first);
      const found = first as { count: number };
      assert.equal(found.count, 7);
      return { found, files: contentOf(output) };
    };
    const alone = await results(1);
    assert.ok(Object.keys(alone.files).length > 14);
    for (const size of [2, 3]) assert.deepEqual(await results(size), alone, `${size} processes`);
  });

  it('fail alike, name the process at fault, and change nothing', async () => {
    const found = (await runGroup('FAULTS', 2, folder.path('faults'))) as Faults[];
    for (const { same, errors } of found) {
      assert.ok(same, 'a failed step changed the state');
      const { label, loss, weights, share } = errors;
      assert.equal(
        label!.message,
        'Rank 1: expected labels from 0 to 4 or the ignore index 255 but found 77',
      );
      assert.equal(loss!.code, 'ERR_NON_FINITE_LOSS');
      assert.equal(loss!.rank, 1);
      assert.match(loss!.message, /^The segmentation loss of rank 1 is -?nan; the step was not applied$/);
      assert.equal(weights!.code, 'ERR_PROCESS_GROUP');
      assert.match(weights!.message, /^The state of rank 1 differs from that of rank 0/);
      assert.match(share!.message, /^Expected an accumulation that the 2 processes divide but received 3$/);
    }
  });
});

/** Largest relative difference of the tensors of two states. */
function worstDifference(one: Record<string, string>, other: Record<string, string>): number {
  assert.deepEqual(Object.keys(other), Object.keys(one));
  const idle = new Set(Object.keys(one).filter((name) => isIdle(name, one) && isIdle(name, other)));
  const differences = Object.keys(one).map((name) => {
    const [a, b] = [numbers(one[name]!), numbers(other[name]!)];
    const isOfIdle = [...idle].some((bias) => name.endsWith(bias.replace(/^[^.]+/, '')));
    return isOfIdle ? 0 : Math.hypot(...a.map((value, i) => value - b[i]!)) / (Math.hypot(...a) || 1);
  });
  return Math.max(...differences);
}

/**
 * Tests for the bias of a convolution before an InstanceNorm, which removes it. Its gradient is rounding alone, which Adam
 * scales up, so that such a bias drifts by less than 1e-6 in ten steps. It starts at 0.
 */
function isIdle(name: string, state: Record<string, string>): boolean {
  if (!/^(to_target|to_source|target_discriminator|source_discriminator)\..*bias$/.test(name)) return false;
  return Math.hypot(...numbers(state[name]!)) < 1e-6;
}

function numbers(text: string): Float64Array {
  const bytes = Buffer.from(text, 'base64');
  return new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}
