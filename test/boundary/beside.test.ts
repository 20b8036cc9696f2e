import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import {
  buildInfo,
  memoryInUse,
  OutputDiscriminator,
  SegmentationStep,
  type SegmentationStepOptions,
  Segmenter,
  type SegmenterOptions,
  setMemoryLimit,
  setThreadCount,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { runFixture } from '../helpers/child.js';
import { randomBytes } from '../helpers/random.js';
import { type Snapshot, snapshot } from '../helpers/tensor-file.js';

const STEPS = 3;

/** Training whose step takes long enough for several predictions. */
interface Training extends Disposable {
  run(index: number, signal?: AbortSignal): Promise<unknown>;
  state(): Promise<Snapshot>;
}

async function segmentation(
  network: Partial<SegmenterOptions> = {},
  options: Partial<SegmentationStepOptions> = {},
): Promise<Training> {
  const shape = { count: 2, height: 128, width: 160 };
  const segmenter = await Segmenter.create({ width: 1 / 8, classCount: 5, seed: 3, ...network });
  const discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 8, seed: 4 });
  const step = await SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, ...options });
  return {
    run: (index, signal) =>
      step.run({
        source: randomBatch(shape, index, 5),
        target: randomBatch(shape, 50 + index, 5),
        learningRate: 1e-3,
        discriminatorLearningRate: 1e-3,
        signal,
      }),
    state: () => snapshot(step),
    [Symbol.dispose]() {
      for (const object of [step, segmenter, discriminator]) object.dispose();
    },
  };
}

async function translation(): Promise<Training> {
  const shape = { count: 1, height: 64, width: 80 };
  const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8, seed: 5 });
  const segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 8, classCount: 5, seed: 6 });
  const step = await TranslationStep.create(translator, segmenter, { ...TRANSLATION, poolSize: 2 });
  return {
    run: (index, signal) =>
      step.run({
        source: randomBatch(shape, index),
        target: randomBatch(shape, 50 + index),
        learningRate: 1e-3,
        signal,
      }),
    state: () => snapshot(step),
    [Symbol.dispose]() {
      for (const object of [step, translator, segmenter]) object.dispose();
    },
  };
}

const TRAININGS: Record<string, () => Promise<Training>> = {
  'ResNet-18 with activation checkpointing': () =>
    segmentation({ backbone: 'resnet18' }, { activationCheckpointing: true }),
  'FCN-8s, which has dropout': () => segmentation({ network: 'fcn-8s', width: 1 / 16 }),
  'translators with perceptual losses and pools': translation,
};

const SIZES = [
  [1, 96, 64],
  [2, 64, 64],
  [1, 160, 120],
] as const;

/** Service on two networks, one of each kind. It predicts for as long as it is asked to. */
class Service implements Disposable {
  readonly #translator: Translator;
  #ends = false;
  calls = 0;

  private constructor(
    readonly segmenter: Segmenter,
    translator: Translator,
  ) {
    this.#translator = translator;
  }

  static async create(translatorWidth = 4): Promise<Service> {
    const options = { classCount: 5, initialization: 'kaiming', seed: 9 } as const;
    return new Service(
      await Segmenter.create({ ...options, backbone: 'resnet18', width: 1 / 4 }),
      await Translator.create({ blocks: 6, baseWidth: translatorWidth, discriminatorWidth: 4, seed: 9 }),
    );
  }

  async answer(i: number): Promise<unknown> {
    const [count, width, height] = SIZES[i % SIZES.length]!;
    const images = randomBytes(count * width * height * 3, i % SIZES.length);
    const options = { count, width, height };
    if (i % 4 === 3) return await this.#translator.translate(images, options);
    return await this.segmenter.predict(images, { ...options, confidence: true, flip: i % 4 === 2 });
  }

  async answers(count: number): Promise<unknown[]> {
    const all: unknown[] = [];
    for (let i = 0; i < count; ++i) all.push(await this.answer(i));
    return all;
  }

  /** Compares every answer with those from before, until end() is called. */
  async serve(expected: unknown[]): Promise<void> {
    for (; !this.#ends; ++this.calls) {
      const i = this.calls % expected.length;
      assert.deepEqual(await this.answer(i), expected[i]);
    }
  }

  end(): void {
    this.#ends = true;
  }

  [Symbol.dispose](): void {
    this.segmenter.dispose();
    this.#translator.dispose();
  }
}

async function train(training: Training): Promise<Snapshot> {
  for (let i = 0; i < STEPS; ++i) await training.run(i);
  return await training.state();
}

describe('predictions beside a training', () => {
  for (const [title, create] of Object.entries(TRAININGS)) {
    it(`change no bit of it, and it none of theirs: ${title}`, async () => {
      using undisturbed = await create();
      const expected = await train(undisturbed);
      using service = await Service.create();
      const answers = await service.answers(12);

      using training = await create();
      const serving = Promise.all([service.serve(answers), service.serve(answers)]);
      const state = await train(training).finally(() => service.end());
      await serving;
      assert.deepEqual(state, expected);
      assert.ok(service.calls > STEPS, `${service.calls} predictions in ${STEPS} steps`);
    });
  }

  it('keep their own kind of convolutions', async () => {
    // Blocks of 128 channels, which Winograd's algorithm computes.
    using service = await Service.create(32);
    const answers = await service.answers(4);
    using training = await segmentation({ backbone: 'resnet50' }, { convolutions: 'direct' });
    const serving = service.serve(answers);
    await train(training).finally(() => service.end());
    await serving;
    assert.ok(service.calls > STEPS, `${service.calls} predictions in ${STEPS} steps`);
  });

  it('do not wait for the end of a step', async () => {
    using training = await segmentation({ backbone: 'resnet50' });
    using service = await Service.create();
    await service.answer(0);
    let ended = false;
    const step = training.run(0).then(() => {
      ended = true;
    });
    await service.answer(0);
    assert.ok(!ended, 'the prediction came after the step');
    await step;
  });

  it('of the network that a step trains see the weights after it, as in the order of the calls', async () => {
    const shape = { count: 1, height: 96, width: 96 };
    const run = async (inOrder: boolean) => {
      using segmenter = await Segmenter.create({
        backbone: 'resnet18',
        width: 1 / 8,
        classCount: 5,
        seed: 3,
      });
      using translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, seed: 5 });
      using step = await SegmentationStep.create(segmenter, null, SEGMENTATION);
      using translation = await TranslationStep.create(translator, segmenter, TRANSLATION);
      const images = randomBytes(96 * 96 * 3, 1);
      const results: unknown[] = [];
      for (let i = 0; i < STEPS; ++i) {
        const batch = { source: randomBatch(shape, i, 5), target: randomBatch(shape, 50 + i) };
        const work = [
          () => step.run({ source: batch.source, learningRate: 1e-2 }),
          () => segmenter.predict(images, { ...shape, confidence: true }),
          () => translation.run({ ...batch, learningRate: 1e-2 }),
          // The step uses the segmenter too, for its losses.
          () => segmenter.predict(images, { ...shape, flip: true, confidence: true }),
          () => translator.translate(images, shape),
        ];
        if (inOrder) for (const each of work) results.push(await each());
        else results.push(...(await Promise.all(work.map((each) => each()))));
      }
      return results;
    };
    assert.deepEqual(await run(false), await run(true));
  });

  it('do not overtake other work on their network', async () => {
    using training = await segmentation({ backbone: 'resnet50' });
    using other = await Segmenter.create({ backbone: 'resnet18', width: 1 / 4, classCount: 5, seed: 10 });
    const [count, width, height] = SIZES[0];
    const images = randomBytes(count * width * height * 3, 0);
    const before = await other.predict(images, { count, width, height, confidence: true });
    const step = training.run(0);
    const update = other.updateStatistics(images, { count, width, height, momentum: 0.5 });
    const after = other.predict(images, { count, width, height, confidence: true });
    await Promise.all([step, update]);
    assert.notDeepEqual(await after, before);
    assert.deepEqual(await other.predict(images, { count, width, height, confidence: true }), await after);
  });

  it('can be aborted within a step, and so can the step', async () => {
    using training = await segmentation({ backbone: 'resnet50' });
    using service = await Service.create();
    const state = await training.state();
    const big = new Uint8Array(512 * 512 * 3);
    for (const delayMs of [0, 5, 20, 60]) {
      const [step, prediction] = [new AbortController(), new AbortController()];
      const reasons = [new Error('no step'), new Error('no prediction')];
      const running = training.run(0, step.signal);
      const options = { count: 1, width: 512, height: 512, signal: prediction.signal };
      const answer = service.segmenter.predict(big, options);
      const settled = Promise.allSettled([running, answer]);
      await setTimeout(delayMs);
      prediction.abort(reasons[1]);
      step.abort(reasons[0]);
      const [first, second] = await settled;
      if (second!.status === 'rejected') assert.equal(second!.reason, reasons[1]);
      assert.equal(first!.status === 'rejected' && first!.reason, reasons[0], 'the step was over too soon');
      assert.deepEqual(await training.state(), state);
    }
    await training.run(0);
    await service.answer(0);
  });

  it('finish when their network is disposed meanwhile', async () => {
    using training = await segmentation({ backbone: 'resnet50' });
    const service = await Service.create();
    const expected = await service.answer(0);
    const step = training.run(0);
    const answers = [service.answer(0), service.answer(0)];
    service[Symbol.dispose]();
    assert.deepEqual(await Promise.all(answers), [expected, expected]);
    await step;
  });

  it('wait for the end of the step if memory does not suffice for both', async () => {
    using training = await segmentation({ backbone: 'resnet50' });
    using service = await Service.create();
    const expected = await service.answer(2);
    await training.run(0);
    const rest = memoryInUse();
    let peak = 0;
    const timer = setInterval(() => {
      peak = Math.max(peak, memoryInUse());
    }, 1);
    await training.run(0);
    clearInterval(timer);
    // Room for the step alone. A prediction within it finds memory that is nearly full.
    setMemoryLimit(Math.round(rest + (peak - rest) * 1.02));
    try {
      for (let i = 0; i < STEPS; ++i) {
        const step = training.run(i).then(
          () => true,
          () => false,
        );
        assert.deepEqual(await service.answer(2), expected);
        await step;
      }
    } finally {
      setMemoryLimit(null);
    }
  });

  for (const [mode, code] of [
    ['exit', 3],
    ['terminate', 0],
  ] as const) {
    it(`end cleanly with the process or the worker: ${mode}`, async () => {
      const results = await Promise.all(
        [0, 15, 60].map((delayMs) => runFixture('beside.mjs', [mode, String(delayMs)])),
      );
      for (const result of results) {
        const { stdout, stderr } = result;
        assert.deepEqual(
          { code: result.code, signal: result.signal, stderr },
          { code, signal: null, stderr: '' },
        );
        assert.match(stdout, /^busy\n/);
      }
    });
  }
});

describe('predictions beside each other', () => {
  const predictAt = (segmenter: Segmenter, i: number, sideBySide: boolean) => {
    const [count, width, height] = SIZES[i % SIZES.length]!;
    const images = randomBytes(count * width * height * 3, i);
    return segmenter.predict(images, { count, width, height, confidence: true, sideBySide });
  };

  const shareDifferent = (a: Uint8Array, b: Uint8Array) =>
    a.reduce((sum, label, i) => sum + Number(label !== b[i]), 0) / a.length;

  it('give what each gives alone, and leave the network and the number of threads as they were', async () => {
    using service = await Service.create();
    const { segmenter } = service;
    const alone = [];
    for (let i = 0; i < 12; ++i) alone.push(await predictAt(segmenter, i, false));
    const before = await snapshot(segmenter);
    const { threads } = await buildInfo();

    for (let round = 0; round < 5; ++round) {
      const together = await Promise.all(alone.map((_, i) => predictAt(segmenter, i, true)));
      for (const [i, { labels, confidence }] of together.entries()) {
        const expected = alone[i]!;
        const error = confidence!.reduce(
          (most, x, k) => Math.max(most, Math.abs(x - expected.confidence![k]!)),
          0,
        );
        assert.ok(error < 1e-5, `prediction ${i}: probabilities differ by ${error}`);
        assert.ok(shareDifferent(labels, expected.labels) < 1e-3, `prediction ${i}: labels differ`);
      }
    }
    assert.deepEqual(await snapshot(segmenter), before);
    assert.equal((await buildInfo()).threads, threads);
    using input = Tensor.from(new Float32Array(3 * 64 * 64), [1, 3, 64, 64]);
    (await segmenter.forward(input)).dispose();
    assert.notDeepEqual(await snapshot(segmenter), before, 'the network is no longer in training mode');
  });

  it('overtake each other, but no other work on their network', async function () {
    if ((await buildInfo()).threads < 2) {
      console.log('    skipped: it needs two threads');
      this.skip();
    }
    using service = await Service.create();
    const { segmenter } = service;
    const older = await predictAt(segmenter, 0, true);
    const ended: string[] = [];
    const note = <T>(name: string, promise: Promise<T>) => promise.finally(() => ended.push(name));
    const large = { count: 1, width: 640, height: 480 };
    const first = note(
      'large',
      segmenter.predict(new Uint8Array(3 * 640 * 480), { ...large, sideBySide: true }),
    );
    const second = note('small', predictAt(segmenter, 0, true));
    const update = segmenter.updateStatistics(randomBytes(3 * 64 * 64, 5), {
      ...{ count: 1, width: 64, height: 64, momentum: 0.5 },
    });
    const last = predictAt(segmenter, 0, true);
    await Promise.all([first, second, update]);
    assert.deepEqual(ended, ['small', 'large']);
    // The number of threads is the same, so all bits are.
    assert.deepEqual(await second, older);
    assert.notDeepEqual(await last, older);
    assert.deepEqual(await last, await predictAt(segmenter, 0, true));
  });

  it('and within steps need no more threads of the system than jobs one after the other', async () => {
    const { threads } = await buildInfo();
    const systemThreads = () => readdirSync('/proc/self/task').length;
    using service = await Service.create();
    using training = await segmentation();
    try {
      await setThreadCount(4);
      await training.run(0);
      for (let i = 0; i < 4; ++i) await service.answer(i);
      const before = systemThreads();
      for (let round = 0; round < 3; ++round) {
        await Promise.all([training.run(round), ...[0, 1, 2, 3].map((i) => service.answer(i))]);
        await Promise.all([0, 1, 2, 3].map((i) => predictAt(service.segmenter, i, true)));
        await service.answer(0);
        assert.ok(systemThreads() <= before, `${systemThreads()} threads instead of ${before}`);
      }
    } finally {
      await setThreadCount(threads);
    }
  });
});
