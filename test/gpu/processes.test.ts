import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { ProcessGroup, Tensor } from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { runGroup, type States, worstDifference } from '../helpers/step-group.js';
import { printAndCheck } from '../helpers/table.js';
import { DEVICE, describeOnDevice, IS_CUDA } from './device.js';

const BACKEND = IS_CUDA ? 'nccl' : 'gloo';

describeOnDevice('process groups', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  it(`of one process over ${BACKEND} change nothing`, async () => {
    using group = await ProcessGroup.join({ file: folder.path('one'), rank: 0, size: 1, backend: BACKEND });
    const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));
    using host = Tensor.from(values, [10, 100]);
    using tensor = await host.to({ device: DEVICE });
    await group.add([tensor]);
    await group.average([tensor]);
    await group.broadcast([tensor]);
    const gathered = await group.allGather(tensor);
    await group.barrier();
    assert.equal(gathered.length, 1);
    for (const each of [tensor, ...gathered]) {
      assert.deepEqual(await each.data(), values);
      assert.ok(each.device.startsWith(DEVICE));
    }
    for (const each of gathered) each.dispose();
  });

  it('of two processes that share the device over gloo train as one process does', async () => {
    const states = async (size: number) => {
      const file = folder.path(`equality-${size}`);
      await runGroup('EQUALITY', size, file, `${file}.json`);
      return JSON.parse(readFileSync(`${file}.json`, 'utf8')) as States;
    };
    const [alone, found] = [await states(1), await states(2)];
    // Segmenters are float32 on a GPU, where Adam turns rounding into more.
    const isSegmenter = (kind: string) => !/translation/.test(kind);
    printAndCheck(
      'two processes, ten steps of each kind: relative differences of the states',
      Object.keys(alone).map((kind) => ({
        item: kind,
        error: worstDifference(alone[kind]!, found[kind]!),
        bound: !IS_CUDA ? 1e-12 : isSegmenter(kind) ? 1e-2 : 1e-8,
      })),
    );
  });
});
