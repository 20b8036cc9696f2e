import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { planStages } from '../../lib/pipeline/plan.js';
import { EventFile } from '../../lib/run/event-file.js';
import { readSummary, resumeConfig } from '../../lib/run/run-files.js';
import { RunFolder } from '../../lib/run/run-folder.js';
import { writeFinishedRun } from '../helpers/finished-run.js';
import { ROOT } from '../helpers/folder.js';
import { findPython } from '../helpers/twin.js';

/** Output of test/parity/event_files.py for a stage. */
interface Read {
  scalars: Record<string, [step: number, value: number][]>;
  images: Record<string, [step: number, width: number, height: number, hex: string][]>;
}

describe('event files for TensorBoard', () => {
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-tensorboard-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  it('are byte for byte what TensorBoard’s own writer makes', async () => {
    const file = await EventFile.create(folder, 1_700_000_000_250);
    const values = [
      { tag: 'loss/total', scalar: 0.5 },
      { tag: 'zero', scalar: 0 },
    ];
    await file.write(7, { values }, 1_700_000_000_250);
    await file.close();
    const [name] = await readdir(folder);
    // tensorboard.summary.writer.record_writer.RecordWriter(file).write(event.SerializeToString()) with, of TensorBoard 2.21,
    // event = Event(wall_time=1700000000.25, file_version="brain.Event:2"), and then
    // event = Event(wall_time=1700000000.25, step=7, summary=Summary(value=[
    //     Summary.Value(tag="loss/total", simple_value=0.5), Summary.Value(tag="zero", simple_value=0.0)]))
    const expected =
      '1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe9' +
      '2d000000000000003c418afb0900001040fc54d94110072a200a110a0a6c6f73732f746f74616c15' +
      '0000003f0a0b0a047a65726f1500000000d8b1b403';
    assert.equal((await readFile(path.join(folder, name!))).toString('hex'), expected);
    assert.equal(name, 'events.out.tfevents.1700000000250.bidiseg');
  });

  describe('read by TensorBoard', () => {
    let python: string;

    before(function () {
      const found = findPython('tensorboard');
      if ('reason' in found) {
        console.log(`      skipped: ${found.reason}`);
        this.skip();
      }
      python = found.python;
    });

    async function read(): Promise<Record<string, Read>> {
      const script = path.join(ROOT, 'test/parity/event_files.py');
      const options = { maxBuffer: 2 ** 26 };
      const { stdout } = await promisify(execFile)(
        python,
        ['-B', script, path.join(folder, 'tensorboard')],
        options,
      );
      return JSON.parse(stdout) as Record<string, Read>;
    }

    const near = (value: number, expected: number) => Math.abs(value - expected) <= 1e-6 * Math.abs(expected);

    it('have the lines of the event log, the results and the pictures of every stage', async () => {
      await writeFinishedRun({ folder, classes: ['a', 'b'], images: ['x', 'y'] });
      const stages = await read();
      assert.deepEqual(Object.keys(stages), [
        ...['round-1-pseudo-labels-1', 'round-1-segmenter-0', 'round-1-segmenter-1', 'round-1-translator'],
        'source-only',
      ]);
      const { scalars, images } = stages['round-1-segmenter-0']!;
      const log = (await readFile(path.join(folder, 'events.jsonl'), 'utf8')).trim().split('\n');
      const lines = log
        .map((line) => JSON.parse(line))
        .filter(({ type, stage }) => type === 'step' && stage === 'round-1/segmenter-0');
      assert.equal(lines.length, 5);
      for (const term of ['total', 'segmentation', 'adversarial', 'pseudoLabel']) {
        const curve = scalars[`loss/${term}`]!;
        assert.deepEqual(
          curve.map(([step]) => step),
          lines.map(({ step }) => step),
        );
        for (const [index, [, value]] of curve.entries()) assert(near(value, lines[index].losses[term]));
      }
      const { stages: records } = await readSummary(folder);
      const record = records.find(({ name }) => name === 'round-1/segmenter-0')!;
      const [[step, miou]] = scalars['evaluation/miou'] as [[number, number]];
      assert.equal(step, 100);
      assert(near(miou, record.miou!));
      assert(near(scalars['iou/b']![0]![1], record.iouPerClass!.b!));
      // An absent class has no IoU.
      assert.equal(scalars['iou/a'], undefined);
      assert.equal(stages['round-1-pseudo-labels-1']!.scalars['pseudo-labels/kept-share']![0]![1], 0.5);

      const png = await readFile(path.join(folder, 'pictures', 'round-1-segmenter-0.png'));
      assert.deepEqual(images, { 'pictures/target': [[100, 56, 20, png.toString('hex')]] });
      assert.deepEqual(Object.keys(stages['round-1-translator']!.images).sort(), [
        'pictures/source',
        'pictures/target',
      ]);
    });

    it('of a resumed stage have each step once, whether it restarts or continues', async () => {
      await writeFinishedRun({ folder, classes: ['a', 'b'], images: ['x'], count: 1 });
      const config = await resumeConfig(folder, { set: ['logEvery=1'] });
      const stage = planStages(config.loop)[1]!;
      const session = async (begin: boolean, steps: number[], value: number) => {
        const run = await RunFolder.open(config, 'resume');
        try {
          if (begin) await run.begin(stage, { resume: false });
          const { name, label, kind, round } = stage;
          const start = { stage: name, label, kind, round, index: 1, count: 6, steps: 6, stepsBefore: 0 };
          await run.log({ type: 'stage-start', ...start });
          for (const step of steps) {
            const losses = { total: value } as never;
            const event = { stage: name, step, steps: 6, losses, learningRate: 1, stepMs: 1, waitMs: 1 };
            await run.log({ type: 'step', ...event });
          }
        } finally {
          await run.close();
        }
      };
      const curve = async () => (await read())['round-1-translator']!.scalars['loss/total'];
      await session(true, [1, 2, 3, 4], 1);
      // The stage restarts, so nothing is left of the first attempt.
      await session(true, [1, 2, 3], 2);
      assert.deepEqual(
        await curve(),
        [1, 2, 3].map((step) => [step, 2]),
      );
      // The stage continues from a checkpoint after step 2.
      await session(false, [3, 4], 3);
      assert.deepEqual(await curve(), [
        [1, 2],
        [2, 2],
        [3, 3],
        [4, 3],
      ]);
      await session(false, [5, 6], 4);
      assert.deepEqual((await curve())!.slice(3), [
        [4, 3],
        [5, 4],
        [6, 4],
      ]);
    });
  });
});
