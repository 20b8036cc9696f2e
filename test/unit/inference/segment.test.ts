import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import {
  BatchedPredictor,
  classesOf,
  colorLabels,
  decodeImage,
  decodeLabels,
  encodeColorLabels,
  encodeImage,
  encodeLabels,
  labelMap,
  overlay,
  type PredictOptions,
  QueueFullError,
  renderScene,
  Segmenter,
  type SegmentOptions,
  segment,
} from 'bidiseg';
import sharp from 'sharp';
import { FakeSegmenter, settled } from '../../helpers/fake-segmenter.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { writeTrainedSegmenter } from '../../helpers/trained-segmenter.js';

const SIZE = { width: 96, height: 64 };
const scene = { data: renderScene({ seed: 9, index: 3, look: 'day', ...SIZE }).image, ...SIZE };

describe('segment', () => {
  const folder = temporaryFolder();
  let segmenter: Segmenter;
  before(async () => {
    segmenter = await Segmenter.fromFile(await writeTrainedSegmenter(folder.path('weights')));
  });
  after(() => {
    segmenter.dispose();
    folder.remove();
  });

  it('decodes, resizes, predicts, and draws in the size of the image', async () => {
    const jpeg = await sharp(scene.data, { raw: { ...SIZE, channels: 3 } })
      .jpeg()
      .toBuffer();
    const file = folder.path('a scene «é».png');
    writeFileSync(file, jpeg);
    const size = { width: 64, height: 48 };
    const { data, ...input } = await decodeImage(jpeg, size);
    const outputs = { outputWidth: SIZE.width, outputHeight: SIZE.height };
    const job = { count: 1, ...input, ...outputs, order: 'probabilities', confidence: true } as const;
    const expected = await segmenter.predict(data, job);
    assert.ok(new Set(expected.labels).size > 2, 'it predicts several classes');

    const { palette } = classesOf(segmenter.options);
    const labels = { data: expected.labels, ...SIZE };
    const image = await decodeImage(jpeg);
    const wanted: [SegmentOptions, Uint8Array][] = [
      [{}, expected.labels],
      [{ output: 'color' }, colorLabels(labels, palette).data],
      [{ output: 'overlay' }, overlay(image, labels, palette).data],
      [{ output: 'overlay', opacity: 0.2 }, overlay(image, labels, palette, 0.2).data],
      [{ format: 'png' }, await encodeLabels(labels)],
      [{ output: 'color', format: 'png' }, await encodeColorLabels(labels, palette)],
      [{ output: 'overlay', format: 'png' }, await encodeImage(overlay(image, labels, palette))],
    ];
    await using batched = new BatchedPredictor(segmenter);
    for (const [options, output] of wanted) {
      for (const predictor of [segmenter, batched]) {
        for (const given of [jpeg, file]) {
          const found = await segment(predictor, given, { size, confidence: true, ...options });
          assert.deepEqual(found.data, output, JSON.stringify(options));
          assert.deepEqual([found.labels, found.width, found.height], [expected.labels, 96, 64]);
          assert.deepEqual(found.confidence, expected.confidence);
        }
      }
    }
    assert.equal(batched.stats().images, 2 * wanted.length);
    const color = await segment(segmenter, jpeg, { size, output: 'color', format: 'png' });
    const encoding = { labelMap: labelMap('identity'), classCount: 19, ignoreIndex: 255 };
    assert.deepEqual((await decodeLabels(color.data, encoding)).data, expected.labels);
  });

  it("works at the image's own size by default, and draws large images in strips", async () => {
    const size = { width: 700, height: 500 };
    const png = await encodeImage(await decodeImage(await encodeImage(scene), size));
    const { data } = await decodeImage(png);
    const predicted = await segmenter.predict(data, { count: 1, ...size, order: 'probabilities' });
    const palette = Uint8Array.from({ length: 57 }, (_, i) => (i * 37) % 256);
    const drawn = await segment(segmenter, png, { output: 'overlay', palette });
    const labels = { data: predicted.labels, ...size };
    assert.deepEqual(drawn.labels, predicted.labels);
    assert.deepEqual(drawn.data, overlay({ data, ...size }, labels, palette).data);
  });

  it('uses the colors of the weights', async () => {
    const palette = Uint8Array.from({ length: 57 }, (_, i) => 255 - i);
    using colorful = await Segmenter.create({ backbone: 'resnet18', width: 1 / 64, classCount: 19, palette });
    const png = await encodeImage(scene);
    const { data, labels } = await segment(new BatchedPredictor(colorful), png, { output: 'color' });
    assert.deepEqual(data, colorLabels({ data: labels, ...SIZE }, palette).data);
  });

  it('answers an abort at once, in every stage', async () => {
    const png = await encodeImage(scene);
    const reason = new Error('the client is gone');
    assert.equal(await abortedAfter(0), 'decoding');
    assert.equal(await abortedAfter(100), 'predicting');
    await assert.rejects(segment(segmenter, png, { signal: AbortSignal.abort(reason) }), reason);

    async function abortedAfter(ms: number): Promise<string> {
      let stage = 'decoding';
      const deaf = {
        predict: () => {
          stage = 'predicting';
          return new Promise<never>(() => {});
        },
      };
      const controller = new AbortController();
      const call = segment(deaf, png, { signal: controller.signal });
      if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
      controller.abort(reason);
      await assert.rejects(call, (error) => error === reason);
      return stage;
    }
  });

  it('asks a full queue before it decodes', async () => {
    const fake = new FakeSegmenter();
    const batched = new BatchedPredictor(fake, { limit: 1, maxQueue: 1 });
    const png = await encodeImage({ data: scene.data.slice(0, 12), width: 2, height: 2 });
    const first = batched.predict(new Uint8Array(3), { count: 1, width: 1, height: 1 });
    await settled();
    const second = batched.predict(new Uint8Array(3), { count: 1, width: 1, height: 1 });
    await assert.rejects(segment(batched, Buffer.from('not an image')), QueueFullError);
    for (const call of [first, second]) {
      fake.calls.at(-1)!.finish();
      await call;
      await settled();
    }
    const third = segment(batched, png, { output: 'color' });
    while (fake.calls.length < 3) await settled();
    fake.calls[2]!.finish();
    assert.equal((await third).data.length, 12, 'a predictor without classes has colors for all');
  });

  it('names what is wrong', async () => {
    const png = await encodeImage(scene);
    const given = (options: object) => segment(segmenter, png, options as SegmentOptions);
    const cases: [call: () => Promise<unknown>, message: RegExp][] = [
      [() => given({ output: 'colour' }), /one of labels, color, overlay for output but received "colour"/],
      [() => given({ format: 'jpeg' }), /one of pixels, png for format/],
      [() => given({ opacity: 2 }), /from 0 to 1 for opacity/],
      [() => given({ palette: [1, 2, 3] }), /3 bytes a class/],
      [() => given({ size: { width: 0, height: 1 } }), /for size\.width/],
      [() => given({ size: 5 }), /an object for size/],
      [() => given({ signal: 5 }), /an AbortSignal for signal/],
      [() => given({ confidence: 'yes' }), /a boolean for confidence/],
      [() => segment(segmenter, 5 as never), /a Uint8Array for bytes/],
      [() => segment(segmenter, 'no\0where.png'), /a path without null bytes for input/],
    ];
    for (const [call, message] of cases) {
      await assert.rejects(call(), { name: 'InvalidArgumentError', message });
    }
    const data = { name: 'DataError', code: 'ERR_DATA' };
    await assert.rejects(segment(segmenter, Buffer.from('hello'), { name: 'upload.jpg' }), {
      ...data,
      message: /^upload\.jpg: is not a PNG/,
    });
    await assert.rejects(segment(segmenter, 'nowhere.png'), { ...data, message: /^nowhere\.png: cannot be/ });
    await assert.rejects(given({ maxPixels: 9 }), { ...data, message: /^image: found 96×64 pixels/ });
  });

  it('passes the options of a prediction on', async () => {
    let seen: PredictOptions | undefined;
    const spy = {
      async predict(_: Uint8Array, options: PredictOptions) {
        seen = options;
        return { labels: new Uint8Array(96 * 64) };
      },
    };
    const job = { flip: true, precision: 'bf16', order: 'logits', confidence: false } as const;
    await segment(spy, await encodeImage(scene), { size: { width: 32, height: 40 }, ...job });
    const output = { outputWidth: 96, outputHeight: 64 };
    assert.deepEqual(seen, { ...job, ...output, count: 1, width: 32, height: 40 });
  });
});
