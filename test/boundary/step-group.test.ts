import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { writeTinyData } from '../cli/command-line.js';
import { contentOf, temporaryFolder } from '../helpers/folder.js';
import { runGroup, type States, worstDifference } from '../helpers/step-group.js';

interface Faults {
  rank: number;
  same: boolean;
  errors: Record<string, { code: string; message: string; rank: number | null }>;
}

describe('steps of several processes', () => {
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
