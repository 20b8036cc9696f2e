import assert from 'node:assert/strict';
import {
  l1Loss,
  liveObjects,
  Optimizer,
  OutputDiscriminator,
  SegmentationStep,
  Segmenter,
  Tensor,
  ThresholdHistogram,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { runFixture } from '../helpers/child.js';
import { temporaryFolder } from '../helpers/folder.js';

const TINY = { backbone: 'resnet18', width: 1 / 16, classCount: 5 } as const;

describe('lifetime of native objects', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  it('live objects and bytes return exactly to their earlier numbers', async () => {
    // Few allocations, because the garbage collector may otherwise release other tests' handles meanwhile. The
    // comparison runs in its own process.
    const { code, stdout, stderr } = await runFixture('leaks.mjs', ['dispose']);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.match(stdout, /^equal$/m, stdout);
  });

  it('garbage collection releases what was dropped', async () => {
    const { code, stdout, stderr } = await runFixture('leaks.mjs', ['collect'], {
      nodeFlags: ['--expose-gc'],
    });
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.match(stdout, /^equal$/m, stdout);
  });

  // `npm run test:faults` takes 2,000 steps, and scripts/soak.mjs an hour.
  it('steps whose handles are dropped leave nothing behind', async () => {
    const { code, stdout, stderr } = await runFixture('../../../scripts/soak.mjs', ['--steps', '40']);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, stdout);
    console.log(`    ${stdout.trimEnd().split('\n').at(-1)}`);
  });

  it('bytes are counted once, however many objects share them', async () => {
    // In its own process, because other tests' handles may be collected at any time.
    const { code, stdout, stderr } = await runFixture('shared-bytes.mjs', []);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    const { network, trained, parameters, optimizer, step, disposed, gone } = JSON.parse(stdout);
    assert.ok(network > 4 * trained && trained > 0);
    assert.equal(parameters, network, 'parameters() and buffers() are the same memory as the network');
    assert.equal(optimizer, network + 4 * trained, 'one float of momentum for each parameter');
    assert.equal(step, optimizer + 4 * trained, 'a step has an optimizer of its own');
    assert.equal(disposed, step, 'the step still holds it');
    assert.equal(gone, 0);
  });

  it('dispose() is idempotent everywhere, and running work finishes with its own share', async () => {
    const segmenter = await Segmenter.create(TINY);
    const discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4 });
    const translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    const objects = [
      Tensor.from(new Float32Array(2)),
      await Optimizer.sgd(segmenter),
      await SegmentationStep.create(segmenter, discriminator, SEGMENTATION),
      await TranslationStep.create(translator, segmenter, TRANSLATION),
      new ThresholdHistogram(5, 16),
      segmenter,
      discriminator,
    ];
    const running = segmenter.predict(new Uint8Array(64 * 64 * 3), { count: 1, width: 64, height: 64 });
    for (const object of objects) {
      assert.equal(object.disposed, false);
      object.dispose();
      assert.equal(object.disposed, true);
      object.dispose();
      object[Symbol.dispose]();
      await object[Symbol.asyncDispose]();
    }
    translator.dispose();
    translator.dispose();
    assert.equal((await running).labels.length, 64 * 64);
  });

  it('[Symbol.asyncDispose] waits for the work that uses the object', async () => {
    const segmenter = await Segmenter.create(TINY);
    let finished = false;
    const running = segmenter
      .predict(new Uint8Array(256 * 256 * 3), { count: 1, width: 256, height: 256 })
      .then(() => {
        finished = true;
      });
    {
      await using owned = segmenter;
      assert.equal(owned.disposed, false);
    }
    assert.ok(finished, 'it did not wait');
    await running;
  });

  it('steps and optimizers keep working after their networks were disposed', async () => {
    const segmenter = await Segmenter.create(TINY);
    using step = await SegmentationStep.create(segmenter, null, SEGMENTATION);
    segmenter.dispose();
    const { total } = await step.run({
      source: randomBatch({ count: 1, height: 32, width: 32 }, 1, 5),
      learningRate: 1e-3,
    });
    assert.ok(total > 0);
  });

  it('a view of data outlives its tensor', async () => {
    const tensor = Tensor.from(Float32Array.of(1, 2, 3));
    const data = await tensor.data();
    tensor.dispose();
    assert.deepEqual([...data], [1, 2, 3]);
    using a = Tensor.from(Float32Array.of(1, 2));
    using loss = await l1Loss(a, a);
    assert.equal(await loss.item(), 0);
    assert.ok(liveObjects().Tensor! >= 2);
  });
});
