import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import {
  BatchedPredictor,
  InvalidArgumentError,
  type PredictOptions,
  type RgbImage,
  Segmenter,
} from 'bidiseg';
import { predictStream } from '../../../lib/inference/prediction-stream.js';
import { FakeSegmenter, settled } from '../../helpers/fake-segmenter.js';
import { randomBytes } from '../../helpers/random.js';

const SIZE = { width: 40, height: 24 };
const PIXELS = SIZE.width * SIZE.height;
const image = (seed: number, size = SIZE): RgbImage => ({
  data: randomBytes(size.width * size.height * 3, seed),
  ...size,
});

describe('BatchedPredictor', () => {
  const plain = (seed: number): [Uint8Array, PredictOptions] => [
    new Uint8Array(PIXELS * 3).fill(seed),
    { count: 1, ...SIZE },
  ];

  it('gives each of many concurrent calls the same result as alone', async () => {
    using segmenter = await Segmenter.create({
      backbone: 'resnet18',
      width: 1 / 8,
      classCount: 5,
      initialization: 'kaiming',
    });
    const batched = new BatchedPredictor(segmenter, { limit: 4 });
    const jobs = Array.from({ length: 10 }, (_, i) => {
      const size = i % 3 === 2 ? { width: 32, height: 32 } : SIZE;
      const options = { count: 1, ...size, confidence: i % 2 === 0 };
      return { images: image(i, size).data, options };
    });
    const together = await Promise.all(jobs.map(({ images, options }) => batched.predict(images, options)));
    for (const [i, { images, options }] of jobs.entries()) {
      assert.deepEqual(together[i], await segmenter.predict(images, options));
    }
  });

  it('joins images of one size whose label maps differ in size', async () => {
    using segmenter = await Segmenter.create({
      ...{ backbone: 'resnet18', width: 1 / 8, classCount: 5, initialization: 'kaiming' },
    });
    const outputs = [SIZE, { width: 57, height: 31 }, { width: 20, height: 24 }, SIZE];
    for (const more of [{ confidence: true }, { classThresholds: [1, 0.5, 1, 2, 1], confidence: true }]) {
      const batched = new BatchedPredictor(segmenter, { limit: 8 });
      const alone = (i: number) => {
        const { width, height } = outputs[i]!;
        return { count: 1, ...SIZE, outputWidth: width, outputHeight: height, ...more };
      };
      const together = await Promise.all([
        ...outputs.map((_, i) => batched.predict(image(i).data, alone(i))),
        batched.predict(Uint8Array.from([...image(1).data, ...image(2).data]), {
          ...{ count: 2, ...SIZE, outputSizes: outputs.slice(1, 3), ...more },
        }),
      ]);
      // The two lanes share them.
      assert.equal(batched.stats().batches, 2);
      const expected = [];
      for (const i of outputs.keys()) expected.push(await segmenter.predict(image(i).data, alone(i)));
      assert.deepEqual(together.slice(0, 4), expected);
      assert.deepEqual(
        [...together[4]!.labels],
        [...expected[1]!.labels, ...expected[2]!.labels],
        'one image after the other',
      );
    }
    const three = { count: 2, ...SIZE, outputSizes: outputs.slice(0, 3) };
    const both = { count: 1, ...SIZE, outputSizes: [SIZE], outputWidth: 3 };
    for (const predictor of [segmenter, new BatchedPredictor(segmenter)]) {
      await assert.rejects(predictor.predict(new Uint8Array(2 * PIXELS * 3), three), {
        message: /^Expected an array of 2 sizes, one for each image, for outputSizes/,
      });
      await assert.rejects(predictor.predict(image(0).data, both), {
        message: 'Expected either outputSizes or outputWidth and outputHeight',
      });
    }
  });

  it('begins at the limit, and gathers while a batch is computed', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 3, deadlineMs: 10_000 });
    const results = Array.from({ length: 5 }, (_, i) => batched.predict(...plain(i)));
    await settled();
    assert.deepEqual(
      fake.calls.map(({ count }) => count),
      [3],
      'the other two wait for their deadline',
    );
    const sixth = batched.predict(...plain(5));
    await settled();
    assert.equal(fake.calls.length, 1, 'one batch at a time');
    fake.calls[0]!.finish();
    await settled();
    assert.deepEqual(
      fake.calls.map(({ count }) => count),
      [3, 3],
    );
    fake.calls[1]!.finish();
    for (const [i, { labels }] of (await Promise.all([...results, sixth])).entries()) {
      assert.deepEqual(labels, new Uint8Array(PIXELS).fill(i));
      assert.equal(labels.buffer.byteLength, PIXELS, 'it shares its memory with others');
    }
  });

  it('computes two batches at a time on a CPU, and a call of several batches gets its images in order', async () => {
    const fake = Object.assign(new FakeSegmenter(), { options: { device: 'cpu' } });
    const batched = new BatchedPredictor(fake as unknown as Segmenter, { limit: 3 });
    const seeds = [7, 8, 9, 10, 11];
    const images = Uint8Array.from(seeds.flatMap((seed) => [...plain(seed)[0]]));
    const large = batched.predict(images, { count: seeds.length, ...SIZE });
    await settled();
    assert.deepEqual(
      fake.calls.map(({ count }) => count),
      [3, 2],
    );
    const small = [1, 2, 3].map((seed) => batched.predict(...plain(seed)));
    await settled();
    assert.equal(fake.calls.length, 2, 'more than two at a time');
    fake.calls[1]!.finish();
    await settled();
    assert.equal(fake.calls[2]!.count, 2, 'small calls of one lane are half of the limit, rounded up');
    for (const i of [2, 0]) fake.calls[i]!.finish();
    await settled();
    assert.equal(fake.calls[3]!.count, 1);
    fake.calls[3]!.finish();
    const { labels } = await large;
    assert.deepEqual(labels, Uint8Array.from(seeds.flatMap((seed) => new Array<number>(PIXELS).fill(seed))));
    for (const [i, { labels }] of (await Promise.all(small)).entries()) {
      assert.deepEqual(labels, new Uint8Array(PIXELS).fill(i + 1));
    }

    const abort = new AbortController();
    const aborted = batched.predict(images, { count: seeds.length, ...SIZE, signal: abort.signal });
    await settled();
    abort.abort();
    await assert.rejects(aborted, { name: 'AbortError' });
    const [first, second] = fake.calls.slice(-2);
    assert.ok(first!.signal!.aborted && second!.signal!.aborted, 'a batch of an aborted call goes on');
  });

  it('waits for the deadline, without one for the turn of the event loop', async () => {
    for (const deadlineMs of [0, 30]) {
      const fake = new FakeSegmenter();
      const batched = new BatchedPredictor(fake, { deadlineMs });
      const start = performance.now();
      const first = batched.predict(...plain(1));
      const second = batched.predict(...plain(2));
      await settled();
      if (deadlineMs > 0) {
        assert.equal(fake.calls.length, 0);
        while (fake.calls.length === 0) await setTimeout(1);
        assert.ok(performance.now() - start > deadlineMs - 2);
      }
      assert.deepEqual(
        fake.calls.map(({ count }) => count),
        [2],
      );
      fake.calls[0]!.finish();
      await Promise.all([first, second]);
    }
  });

  it('keeps apart what differs, splits large calls, and lets averaged calls go alone', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 2 });
    const [images, options] = plain(1);
    const calls = [
      batched.predict(images, options),
      batched.predict(images, { ...options, confidence: true }),
      batched.predict(images, { ...options, order: 'probabilities' }),
      batched.predict(images, { ...options, flip: true }),
      batched.predict(new Uint8Array(3 * PIXELS * 3), { ...options, count: 3 }),
    ];
    for (let done = 0; done < calls.length + 1; done++) {
      await settled();
      fake.calls[done]!.finish();
    }
    await Promise.all(calls);
    assert.deepEqual(fake.calls.map(({ count }) => count).sort(), [1, 1, 1, 1, 1, 2]);
  });

  it('an abort concerns its own call only', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 3 });
    const controllers = Array.from({ length: 3 }, () => new AbortController());
    const begin = () =>
      controllers.map(({ signal }, i) => {
        const [images, options] = plain(i);
        return batched.predict(images, { ...options, signal });
      });
    const calls = begin();
    await settled();
    const reason = new Error('gone');
    controllers[1]!.abort(reason);
    await assert.rejects(calls[1]!, (error) => error === reason);
    assert.equal(fake.calls[0]!.signal!.aborted, false);
    fake.calls[0]!.finish();
    assert.deepEqual((await calls[2])!.labels, new Uint8Array(PIXELS).fill(2));
    await calls[0];
    for (const { signal } of controllers) assert.equal(getEventListeners(signal, 'abort').length, 0);

    // A call aborted before the batch begins leaves the batch. A batch without any remaining call is canceled.
    controllers[1] = new AbortController();
    const again = begin();
    controllers[0]!.abort(reason);
    await assert.rejects(again[0]!, (error) => error === reason);
    await settled();
    assert.equal(fake.calls[1]!.count, 2);
    controllers[1]!.abort(reason);
    controllers[2]!.abort(reason);
    await Promise.all(
      [again[1]!, again[2]!].map((call) => assert.rejects(call, (error) => error === reason)),
    );
    assert.equal(fake.calls[1]!.signal!.aborted, true);
    const last = batched.predict(...plain(9));
    await settled();
    fake.calls[2]!.finish();
    assert.deepEqual((await last).labels, new Uint8Array(PIXELS).fill(9));
  });

  it('a bad argument rejects its own call, a failure all of its batch', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake);
    const good = batched.predict(...plain(1));
    const other = batched.predict(...plain(2));
    const wrong = (received: string) => ({
      name: 'InvalidArgumentError',
      message: `Expected a Uint8Array of 2880 elements for images but received ${received}`,
    });
    const options = { count: 1, ...SIZE };
    await assert.rejects(batched.predict(new Uint8Array(5), options), wrong('a Uint8Array of 5 elements'));
    await assert.rejects(batched.predict('images' as never, options), wrong('"images" of type string'));
    await assert.rejects(batched.predict(new Uint8Array(0), { count: 0, ...SIZE }), {
      message: /≥ 1 for count/,
    });
    await settled();
    assert.equal(fake.calls[0]!.count, 2);
    const failure = new Error('out of memory');
    fake.calls[0]!.finish(failure);
    for (const call of [good, other]) await assert.rejects(call, (error) => error === failure);
    const next = batched.predict(...plain(3));
    await settled();
    fake.calls[1]!.finish();
    await next;
    assert.throws(() => new BatchedPredictor(fake, { limit: 0 }), InvalidArgumentError);
    assert.throws(() => new BatchedPredictor(fake, { deadlineMs: -1 }), InvalidArgumentError);
  });

  it('takes a copy of what it is given', async () => {
    const fake = new FakeSegmenter();
    const [images, options] = plain(4);
    const calls = [images, Buffer.from(images)].map((given) => {
      const call = new BatchedPredictor(fake).predict(given, options);
      given.fill(9);
      return call;
    });
    await settled();
    for (const [i, call] of calls.entries()) {
      fake.calls[i]!.finish();
      assert.deepEqual((await call).labels, new Uint8Array(PIXELS).fill(4));
    }
  });
});

describe('predictStream', () => {
  it('gives the predictions of images of any size, in their order', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
    const images = [image(1), image(2, { width: 17, height: 33 }), image(3)];
    const found = [];
    for await (const prediction of predictStream(segmenter, images, { confidence: true }))
      found.push(prediction);
    assert.deepEqual(
      found.map((one) => one.image),
      images,
    );
    for (const [i, { data, ...size }] of images.entries()) {
      const { labels, confidence } = await segmenter.predict(data, { count: 1, ...size, confidence: true });
      assert.deepEqual(found[i], { labels, confidence, image: images[i], ...size });
    }
    const batched = new BatchedPredictor(segmenter);
    let i = 0;
    for await (const { labels } of predictStream(batched, images, { ahead: 8 })) {
      assert.deepEqual(labels, found[i++]!.labels);
    }
    assert.equal(i, 3);
  });

  async function* endless(read: { count: number; closed: boolean }): AsyncGenerator<RgbImage> {
    try {
      for (;;) yield { data: new Uint8Array(3).fill(read.count++), width: 1, height: 1 };
    } finally {
      read.closed = true;
    }
  }

  it('reads no more than `ahead` images before the caller, and ends all when he leaves', async () => {
    const fake = new FakeSegmenter();
    const read = { count: 0, closed: false };
    const stream = predictStream(fake, endless(read), { ahead: 3 });
    const first = stream.next();
    await settled();
    assert.deepEqual([read.count, fake.calls.length], [3, 3]);
    fake.calls[1]!.finish();
    fake.calls[0]!.finish();
    assert.deepEqual((await first).value!.labels, Uint8Array.of(0));
    await settled();
    assert.equal(read.count, 3, 'the caller has one, two are ahead of him');
    await stream.return();
    assert.equal(read.closed, true);
    assert.equal(fake.running, 0, 'a prediction still runs that nobody will see');
  });

  it('a source that waits for long does not hold back what is done', async () => {
    const fake = new FakeSegmenter();
    const silent = {
      calls: 0,
      async next(): Promise<IteratorResult<RgbImage>> {
        if (this.calls++ > 0) return new Promise(() => {});
        return { done: false, value: { data: new Uint8Array(3), width: 1, height: 1 } };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
    const controller = new AbortController();
    const stream = predictStream(fake, silent, { signal: controller.signal });
    const first = stream.next();
    await settled();
    fake.calls[0]!.finish();
    assert.equal((await first).done, false);
    const second = stream.next();
    const reason = new Error('enough');
    controller.abort(reason);
    await assert.rejects(second, (error) => error === reason);
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
  });

  it('passes on an error after the results before it', async () => {
    const fake = new FakeSegmenter();
    const broken = async function* () {
      yield { data: new Uint8Array(3), width: 1, height: 1 };
      throw new Error('no camera');
    };
    const stream = predictStream(fake, broken());
    const first = stream.next();
    await settled();
    fake.calls[0]!.finish();
    assert.equal((await first).done, false);
    await assert.rejects(stream.next(), /no camera/);

    const read = { count: 0, closed: false };
    const failing = new FakeSegmenter();
    const next = predictStream(failing, endless(read)).next();
    await settled();
    failing.calls[0]!.finish(new Error('out of memory'));
    await assert.rejects(next, /out of memory/);
    assert.deepEqual([read.closed, failing.running], [true, 0]);
    await assert.rejects(predictStream(fake, [], { ahead: 0 }).next(), InvalidArgumentError);
    await assert.rejects(predictStream(fake, [null as never]).next(), { message: /an image for images/ });
  });
});
