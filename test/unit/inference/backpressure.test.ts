import assert from 'node:assert/strict';
import {
  BatchedPredictor,
  memoryInUse,
  type PredictOptions,
  QueueFullError,
  Segmenter,
  setMemoryLimit,
} from 'bidiseg';
import { runFixture } from '../../helpers/child.js';
import { FakeSegmenter, settled } from '../../helpers/fake-segmenter.js';
import { collectGarbage } from '../../helpers/garbage.js';

const SIZE = { width: 4, height: 2 };

/** Makes the arguments of a call. Every pixel of image i has the value `seed` + i. */
function plain(seed: number, count = 1, size = SIZE): [Uint8Array, PredictOptions] {
  const bytes = size.width * size.height * 3;
  const images = Uint8Array.from({ length: count * bytes }, (_, i) => seed + Math.floor(i / bytes));
  return [images, { count, ...size }];
}

describe('BatchedPredictor under load', () => {
  it('rejects what exceeds maxQueue, with a hint by the speed so far', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 2, maxQueue: 3 });
    const running = batched.predict(...plain(1, 2));
    await settled();
    const waiting = [batched.predict(...plain(2)), batched.predict(...plain(3, 2))];
    assert.deepEqual([batched.pending, batched.stats().waiting], [3, 3]);
    const full = { name: 'QueueFullError', code: 'ERR_QUEUE_FULL', message: /^3 images wait already, .* 3:/ };
    await assert.rejects(batched.predict(...plain(4)), { ...full, retryAfterMs: 1000 });
    assert.throws(() => batched.requireRoom(), full);
    await assert.rejects(batched.predict(...plain(4, 4)), {
      name: 'InvalidArgumentError',
      message: /at most maxQueue \(3\) images for count/,
    });
    await new Promise((resolve) => setTimeout(resolve, 40));
    fake.calls[0]!.finish();
    await running;
    await settled();
    // One image is being computed. The other two were asked for together and wait.
    const accepted = batched.predict(...plain(5));
    const error = await batched.predict(...plain(6)).catch((reason: unknown) => reason);
    assert.ok(error instanceof QueueFullError);
    assert.ok(error.retryAfterMs >= 60 && error.retryAfterMs < 1000, `${error.retryAfterMs}`);
    for (let done = 1; batched.pending > 0; done++) {
      fake.calls[done]!.finish();
      await settled();
    }
    await Promise.all([...waiting, accepted]);
    assert.equal(batched.stats().rejected, 3);
    for (const maxQueue of [0, -1, 1.5, Number.NaN]) {
      assert.throws(() => new BatchedPredictor(fake, { maxQueue }), { message: /for maxQueue/ });
    }
  });

  it('computes a large call in parts, and lets small ones between them', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 2 });
    const answered: string[] = [];
    const watch = <T>(name: string, call: Promise<T>) => call.finally(() => answered.push(name));
    const other = { width: 3, height: 3 };
    const large = watch('large', batched.predict(...plain(10, 7)));
    const calls = [
      large,
      watch('same size', batched.predict(...plain(50))),
      watch('other size', batched.predict(...plain(60, 1, other))),
    ];
    const order: [number, number][] = [];
    while (batched.pending > 0) {
      await settled();
      const { width, count, finish } = fake.calls[order.length]!;
      order.push([width, count]);
      finish();
      await settled();
    }
    assert.deepEqual(order.slice(0, 3), [
      [4, 2],
      [4, 1],
      [3, 1],
    ]);
    assert.deepEqual(answered, ['same size', 'other size', 'large']);
    assert.equal(fake.most, 1, 'one batch at a time');
    const { labels } = await large;
    const expected = Array.from({ length: 7 * 8 }, (_, i) => 10 + Math.floor(i / 8));
    assert.deepEqual([...labels], expected);
    await Promise.all(calls);
  });

  it('the call that has waited longest comes first, with others of its size', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 2 });
    const sizes = [5, 6, 5, 7, 5, 6, 6].map((width) => ({ width, height: 2 }));
    const calls = sizes.map((size, i) => batched.predict(...plain(i, 1, size)));
    for (let i = 0; i < 5; i++) {
      await settled();
      fake.calls[i]!.finish();
    }
    await Promise.all(calls);
    assert.deepEqual(
      fake.calls.map(({ width, count }) => [width, count]),
      [
        [5, 2],
        [6, 2],
        [7, 1],
        [5, 1],
        [6, 1],
      ],
    );
  });

  it('counts what it does', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 4 });
    const controllers = [new AbortController(), new AbortController()];
    const aborted = controllers.map(({ signal }) => {
      const [images, options] = plain(1);
      return batched.predict(images, { ...options, signal });
    });
    const calls = [batched.predict(...plain(2, 2)), batched.predict(...plain(4))];
    controllers[0]!.abort(new Error('gone'));
    await assert.rejects(aborted[0]!, /gone/);
    await settled();
    controllers[1]!.abort(new Error('gone too'));
    await assert.rejects(aborted[1]!, /gone too/);
    await new Promise((resolve) => setTimeout(resolve, 30));
    fake.calls[0]!.finish();
    await Promise.all(calls);
    const failing = batched.predict(...plain(1));
    await settled();
    fake.calls[1]!.finish(new Error('broken'));
    await assert.rejects(failing, /broken/);
    const { queueSeconds, computeSeconds, batchImages, ...counts } = batched.stats();
    assert.deepEqual(counts, {
      requests: 5,
      images: 4,
      batches: 1,
      meanBatch: 4,
      rejected: 0,
      aborted: 2,
      failed: 1,
      pending: 0,
      waiting: 0,
    });
    assert.equal(queueSeconds.count, 4, 'the call that was aborted in the queue never began');
    assert.equal(computeSeconds.count, 1);
    assert.ok(computeSeconds.sum >= 0.028 && computeSeconds.sum < 5);
    for (const { bounds, counts } of [queueSeconds, computeSeconds, batchImages]) {
      assert.equal(counts.length, bounds.length);
      assert.deepEqual(
        counts,
        [...counts].sort((a, b) => a - b),
        'they are cumulative',
      );
    }
    assert.equal(computeSeconds.counts[computeSeconds.bounds.indexOf(0.025)], 0);
    assert.equal(computeSeconds.counts.at(-1), 1);
    assert.deepEqual(
      [1, 2, 4, 8].map((bound) => batchImages.counts[batchImages.bounds.indexOf(bound)]),
      [0, 0, 1, 1],
    );
  });

  it('warms up every size, alone and in a full batch', async () => {
    const seen: [number, number, number, unknown][] = [];
    const segmenter = {
      async predict(images: Uint8Array, { count, width, height, precision }: PredictOptions) {
        assert.equal(images.length, 3 * count * width * height);
        seen.push([count, width, height, precision]);
        return { labels: new Uint8Array(count * width * height) };
      },
    };
    const batched = new BatchedPredictor(segmenter, { limit: 3 });
    await batched.warmUp([SIZE, { width: 9, height: 5 }], { precision: 'fp32' });
    assert.deepEqual(seen, [
      [1, 4, 2, 'fp32'],
      [3, 4, 2, 'fp32'],
      [1, 9, 5, 'fp32'],
      [3, 9, 5, 'fp32'],
    ]);
    assert.equal(batched.stats().batches, 0);
    await assert.rejects(batched.warmUp([{ width: 0, height: 1 }]), { message: /for sizes\[0\].width/ });
    await assert.rejects(batched.warmUp(SIZE as never), { message: /an array of sizes for sizes/ });
  });

  it('drains: answers all, at once, and accepts no more', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 4, deadlineMs: 60_000 });
    const calls = [batched.predict(...plain(1)), batched.predict(...plain(2, 1, { width: 3, height: 3 }))];
    await settled();
    assert.equal(fake.calls.length, 0);
    let drained = false;
    const drain = batched.drain().then(() => {
      drained = true;
    });
    await assert.rejects(batched.predict(...plain(3)), { code: 'ERR_DISPOSED', message: /has been drained/ });
    fake.calls[0]!.finish();
    await calls[0];
    await settled();
    assert.equal(drained, false);
    fake.calls[1]!.finish();
    await drain;
    await calls[1];
    await batched.drain();
    await batched[Symbol.asyncDispose]();
    await using idle = new BatchedPredictor(fake);
    assert.equal(idle.pending, 0);
  });

  it('drains only when no batch computes any more, also an abandoned one', async () => {
    let finish = () => {};
    const deaf = {
      async predict(images: Uint8Array) {
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
        return { labels: images.subarray(0, 8) };
      },
    };
    const batched = new BatchedPredictor(deaf);
    const controller = new AbortController();
    const [images, options] = plain(1);
    const call = batched.predict(images, { ...options, signal: controller.signal });
    await settled();
    controller.abort();
    await assert.rejects(call, { name: 'AbortError' });
    let drained = false;
    const drain = batched.drain().then(() => {
      drained = true;
    });
    await settled();
    assert.equal(drained, false);
    finish();
    await drain;
  });

  it('averaged calls wait in the queue too, and get the same result as alone', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
    const batched = new BatchedPredictor(segmenter, { limit: 2 });
    const [images, options] = plain(1, 3, { width: 24, height: 16 });
    const otherSizes = [{ images: plain(1, 3, { width: 12, height: 8 })[0], width: 12, height: 8 }];
    const jobs: PredictOptions[] = [
      { ...options, confidence: true },
      { ...options, flip: true },
      { ...options, otherSizes, confidence: true },
    ];
    const together = await Promise.all(jobs.map((job) => batched.predict(images, job)));
    for (const [i, job] of jobs.entries()) {
      assert.deepEqual(together[i]!.labels, (await segmenter.predict(images, job)).labels);
    }
    assert.equal(batched.stats().batches, 4);
    const wrong = [{ images: new Uint8Array(3), width: 12, height: 8 }];
    await assert.rejects(batched.predict(images, { ...options, otherSizes: wrong }), {
      message: /864 elements for otherSizes\[0\].images/,
    });
  });

  it('counts its copies as memory in use, and fails beyond the limit', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 2 });
    const size = { width: 1000, height: 100 };
    const controller = new AbortController();
    const { signal } = controller;
    await collectGarbage();
    const before = memoryInUse();
    const calls = [1, 2, 3].map((seed) => {
      const [images, options] = plain(seed, 1, size);
      return batched.predict(images, { ...options, signal });
    });
    assert.equal(memoryInUse() - before, 3 * 300_000, 'three images wait');
    await settled();
    assert.equal(memoryInUse() - before, 5 * 300_000, 'and two of them were joined to a batch');
    setMemoryLimit(before + 5 * 300_000 + 1000);
    try {
      await assert.rejects(batched.predict(...plain(4, 1, size)), {
        code: 'ERR_OUT_OF_MEMORY',
        message: /^out of memory: a copy of 300000 bytes was asked for .*; the limit is \d+ bytes$/,
      });
      const small = batched.predict(...plain(5));
      fake.calls[0]!.finish();
      await Promise.all(calls.slice(0, 2));
      assert.equal(memoryInUse() - before, 300_000 + 24);
      controller.abort(new Error('gone'));
      await assert.rejects(calls[2]!, /gone/);
      await settled();
      fake.calls.at(-1)!.finish();
      await small;
      await batched.drain();
      assert.equal(memoryInUse(), before);
    } finally {
      setMemoryLimit(null);
    }
  });

  it('one signal shared by a thousand calls prints no warning', async () => {
    const nodeFlags = ['--trace-warnings'];
    const { code, stdout, stderr } = await runFixture('shared-signal.mjs', [], { nodeFlags });
    assert.equal(stderr, '');
    assert.equal(stdout, 'aborted, 0 listeners left\n');
    assert.equal(code, 0);
  });
});
