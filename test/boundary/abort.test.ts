import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import {
  OutputDiscriminator,
  SegmentationStep,
  Segmenter,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { temporaryFolder } from '../helpers/folder.js';
import { snapshot } from '../helpers/tensor-file.js';

const SHAPE = { count: 2, height: 256, width: 256 };

describe('AbortSignal', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  /** Aborts jobs after varying times until several were interrupted midway. Checks that none leaves a trace. */
  async function abortInTheMiddle(
    run: (signal: AbortSignal) => Promise<unknown>,
    state: () => Promise<unknown>,
  ): Promise<void> {
    const { signal } = new AbortController();
    await run(signal); // the first is slower than all others
    const start = performance.now();
    await run(signal);
    const duration = performance.now() - start;
    let caught = 0;
    for (const share of [0.05, 0.3, 0.6, 0.85, 0.95]) {
      const before = await state();
      const controller = new AbortController();
      const reason = new Error(`aborted after ${share}`);
      setTimeout(() => controller.abort(reason), share * duration);
      try {
        await run(controller.signal);
      } catch (error) {
        assert.equal(error, reason);
        ++caught;
        assert.deepEqual(await state(), before, `an abort after ${share} of the step left a trace`);
      }
      assert.equal(getEventListeners(controller.signal, 'abort').length, 0, 'a listener was left behind');
    }
    assert.ok(caught >= 1, 'no abort came in time');
  }

  it('stops a segmentation step without a trace', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 4, classCount: 5 });
    using discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 16 });
    using step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
    const batch = { source: randomBatch(SHAPE, 1, 5), target: randomBatch(SHAPE, 2, 5) };
    const rates = { learningRate: 1e-3, discriminatorLearningRate: 1e-4 };
    await abortInTheMiddle(
      (signal) => step.run({ ...batch, ...rates, signal }),
      async () => [await snapshot(segmenter), await snapshot(discriminator)],
    );
  });

  it('stops a forward pass in training mode without a trace', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 4, classCount: 5 });
    using input = Tensor.from(new Float32Array(2 * 3 * 256 * 256).fill(9), [2, 3, 256, 256]);
    await abortInTheMiddle(
      async (signal) => (await segmenter.forward(input, { signal })).dispose(),
      () => snapshot(segmenter),
    );
  });

  it('stops a translation step without a trace, in the image pools neither', async () => {
    const create = async () => {
      const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 24 });
      const step = await TranslationStep.create(translator, null, { ...TRANSLATION, poolSize: 2 });
      return { translator, step };
    };
    const shape = { count: 1, height: 128, width: 128 };
    const batch = { source: randomBatch(shape, 1), target: randomBatch(shape, 2) };
    const aborted = await create();
    const whole = await create();
    const state = async ({ translator }: typeof aborted) => [
      await snapshot(translator.toTarget),
      await snapshot(translator.toSource),
      await snapshot(translator.targetDiscriminator),
      await snapshot(translator.sourceDiscriminator),
    ];
    let steps = 0;
    const counted = async (signal: AbortSignal) => {
      await aborted.step.run({ ...batch, learningRate: 2e-4, signal });
      ++steps;
    };
    await abortInTheMiddle(counted, () => state(aborted));
    for (let i = 0; i < 2; ++i) await counted(new AbortController().signal);
    for (let i = 0; i < steps; ++i) await whole.step.run({ ...batch, learningRate: 2e-4 });
    assert.deepEqual(
      await state(aborted),
      await state(whole),
      'later steps differ from those without aborts',
    );
    for (const { translator, step } of [aborted, whole]) {
      translator.dispose();
      step.dispose();
    }
  });

  it('an already aborted signal rejects at once with its reason', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
    using step = await SegmentationStep.create(segmenter, null, SEGMENTATION);
    const before = await snapshot(segmenter);
    const reason = { any: 'value' };
    const signal = AbortSignal.abort(reason);
    const file = folder.path('never');
    using input = Tensor.from(new Float32Array(3 * 32 * 32), [1, 3, 32, 32]);
    for (const work of [
      () => step.run({ source: randomBatch(SHAPE, 1, 5), learningRate: 1e-3, signal }),
      () => segmenter.predict(new Uint8Array(48), { count: 1, width: 4, height: 4, signal }),
      () => segmenter.forward(input, { signal }),
      () => segmenter.save(file, { signal }),
    ]) {
      await assert.rejects(work, (error) => error === reason);
    }
    assert.deepEqual(await snapshot(segmenter), before);
    assert.ok(!existsSync(file));
    assert.deepEqual(readdirSync(dirname(file)), []);
    await assert.rejects(
      () =>
        segmenter.predict(new Uint8Array(48), { count: 1, width: 4, height: 4, signal: AbortSignal.abort() }),
      { name: 'AbortError' },
    );
  });

  it('reaches work that waits in the queue, and AbortSignal.timeout() works', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 4, classCount: 5 });
    const images = new Uint8Array(512 * 512 * 3);
    const job = { count: 1, width: 512, height: 512 };
    const first = segmenter.predict(images, job);
    const controller = new AbortController();
    const second = segmenter.predict(images, { ...job, signal: controller.signal });
    controller.abort();
    await assert.rejects(second, { name: 'AbortError' });
    await first;
    const signal = AbortSignal.timeout(1);
    await assert.rejects(segmenter.predict(images, { ...job, signal }), { name: 'TimeoutError' });
  });
});

describe('the event loop', () => {
  it('stays free while steps compute', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 4, classCount: 5 });
    using step = await SegmentationStep.create(segmenter, null, SEGMENTATION);
    const source = randomBatch({ count: 2, height: 384, width: 384 }, 1, 5);
    const delay = monitorEventLoopDelay({ resolution: 5 });
    let ticks = 0;
    const timer = setInterval(() => ++ticks, 5);
    const start = performance.now();
    delay.enable();
    for (let i = 0; i < 3; ++i) await step.run({ source, learningRate: 1e-3 });
    delay.disable();
    const took = performance.now() - start;
    clearInterval(timer);
    const [p99, max] = [delay.percentile(99) / 1e6, delay.max / 1e6];
    console.log(
      `    ${took.toFixed(0)} ms of steps: event loop delay p99 ${p99.toFixed(1)} ms, max ${max.toFixed(1)} ms, ${ticks} ticks`,
    );
    assert.ok(max < 250, `the event loop stood still for ${max.toFixed(0)} ms`);
    assert.ok(ticks > took / 50, `a 5 ms timer fired ${ticks} times in ${took.toFixed(0)} ms`);
  });
});
