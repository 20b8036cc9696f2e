import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { getEventListeners } from 'node:events';
import {
  buildInfo,
  InvalidArgumentError,
  memoryInUse,
  OutOfMemoryError,
  OutputDiscriminator,
  SegmentationStep,
  Segmenter,
  setMemoryLimit,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { PROCESS_ENDS, tryProcessEnd, tryWorkerEnd, WORKER_ENDS } from '../engines/boundary/ends.js';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { runFixture } from '../helpers/child.js';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes } from '../helpers/random.js';
import { printAndCheck } from '../helpers/table.js';
import { relativeDifference, type Snapshot, snapshot } from '../helpers/tensor-file.js';
import { DEVICE, describeOnDevice, differingShare, IS_CUDA } from './device.js';

const MIB = 2 ** 20;
const PLACE = { device: DEVICE } as const;
const SHAPE = { count: 2, height: 41, width: 57 };

interface Training extends Disposable {
  run(index: number, options?: { signal?: AbortSignal; height?: number }): Promise<object>;
  state(): Promise<Snapshot>;
}

async function segmentation(width = 1 / 8): Promise<Training> {
  const options = { classCount: 5, ...PLACE };
  const segmenter = await Segmenter.create({
    ...{ backbone: 'resnet18', width, initialization: 'kaiming' },
    ...options,
  });
  const discriminator = await OutputDiscriminator.create({ baseWidth: 8, ...options });
  const step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
  return {
    run: (index, { signal, height = SHAPE.height } = {}) => {
      const shape = { ...SHAPE, height };
      return step.run({
        ...{ source: randomBatch(shape, index, 5), target: randomBatch(shape, 50 + index, 5) },
        ...{ learningRate: 1e-3, discriminatorLearningRate: 1e-4, signal },
      });
    },
    state: () => snapshot(step),
    [Symbol.dispose]() {
      for (const object of [step, segmenter, discriminator]) object.dispose();
    },
  };
}

async function translation(): Promise<Training> {
  const translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8, ...PLACE });
  const step = await TranslationStep.create(translator, null, { ...TRANSLATION, poolSize: 2 });
  return {
    run: (index, { signal } = {}) => {
      const shape = { count: 1, height: 32, width: 44 };
      return step.run({
        ...{ source: randomBatch(shape, index), target: randomBatch(shape, 50 + index) },
        learningRate: 1e-4,
        ...(signal && { signal }),
      });
    },
    state: () => snapshot(step),
    [Symbol.dispose]() {
      for (const object of [step, translator]) object.dispose();
    },
  };
}

/** Trains a few steps and returns the state. */
async function trained(create: () => Promise<Training>, steps = 4): Promise<Snapshot> {
  using training = await create();
  for (let i = 0; i < steps; i++) await training.run(i);
  return await training.state();
}

/**
 * Memory in use on the device in MiB, or NaN if that is unknown: of the GPU with all its processes, or of this process
 * in a rehearsal.
 */
function deviceMemory(): number {
  if (!IS_CUDA) return process.memoryUsage.rss() / MIB;
  const query = ['--query-gpu=memory.used', '--format=csv,noheader,nounits'];
  try {
    return Number(execFileSync('nvidia-smi', query, { encoding: 'utf8' }).split('\n')[0]);
  } catch (error) {
    console.log(`    the memory of the device is unknown: ${error}`);
    return Number.NaN;
  }
}

/** Growth in MiB. 0 if it is unknown. */
function growth(before: number, after: number): number {
  return Number.isNaN(after - before) ? 0 : Math.max(0, after - before);
}

async function prediction(): Promise<Uint8Array> {
  using segmenter = await Segmenter.create({
    ...{ backbone: 'resnet18', width: 1 / 8, classCount: 5, initialization: 'kaiming', seed: 9 },
    ...PLACE,
  });
  const { count, height, width } = SHAPE;
  return (await segmenter.predict(randomBytes(count * height * width * 3, 4), SHAPE)).labels;
}

/** Starts all at once, because most of their time is the start of a process. Each has a test of its own. */
function atOnce<End extends { title: string }>(ends: readonly End[], run: (end: End) => Promise<void>): void {
  let running: Promise<PromiseSettledResult<void>[]> | undefined;
  for (const [i, end] of ends.entries()) {
    it(end.title, async () => {
      running ??= Promise.allSettled(ends.map(run));
      const result = (await running)[i]!;
      if (result.status === 'rejected') throw result.reason;
    });
  }
}

describeOnDevice('the end of a process while a step computes', () => {
  atOnce(PROCESS_ENDS, (end) => tryProcessEnd(end, 1, DEVICE));
});

describeOnDevice('worker threads', () => {
  atOnce(WORKER_ENDS, (end) => tryWorkerEnd(end, 1, DEVICE));
});

describeOnDevice('memory', () => {
  it('many steps take no more memory than few, and dispose() gives it back', async () => {
    const before = deviceMemory();
    const host = memoryInUse();
    const [few, many] = IS_CUDA ? [50, 300] : [10, 40];
    let atFew = 0;
    let atMany = 0;
    {
      using training = await segmentation(1 / 16);
      // Several shapes, as random crops have.
      for (let i = 1; i <= many!; i++) {
        await training.run(i % 7, { height: [41, 49, 33][i % 3]! });
        if (i === few) atFew = deviceMemory();
      }
      atMany = deviceMemory();
    }
    const sizes = [before, atFew, atMany].map((mib) => mib.toFixed(0));
    console.log(`    device, MiB: before, after ${few} and ${many} steps: ${sizes.join(', ')}`);
    printAndCheck('memory in MiB', [
      { item: 'growth on the device', error: growth(atFew, atMany), bound: 64 },
      { item: 'growth on the host', error: Math.max(0, memoryInUse() - host) / MIB, bound: 1 },
    ]);
  });

  it('live objects and bytes return exactly to their earlier numbers', async () => {
    const options = { env: { TEST_DEVICE: DEVICE }, timeoutMs: 50_000 };
    const { code, stdout, stderr } = await runFixture('leaks.mjs', ['dispose'], options);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.match(stdout, /^equal$/m, stdout);
  });

  it('garbage collection releases what was dropped', async () => {
    const options = { env: { TEST_DEVICE: DEVICE }, timeoutMs: 50_000, nodeFlags: ['--expose-gc'] };
    const { code, stdout, stderr } = await runFixture('leaks.mjs', ['collect'], options);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.match(stdout, /^equal$/m, stdout);
  });
});

describeOnDevice('side by side', () => {
  // Some kernels of CUDA add up in any order, so a repetition may differ too.
  const bound = (repeated: number) => (IS_CUDA ? Math.max(1e-4, 20 * repeated) : 0);

  it('two trainings at once have the results of one after the other', async () => {
    const alone = [await trained(segmentation), await trained(translation)] as const;
    const again = [await trained(segmentation), await trained(translation)] as const;
    const together = await Promise.all([trained(segmentation), trained(translation)]);
    printAndCheck(
      'two trainings at once: relative differences of the states',
      ['segmentation', 'translation'].map((item, i) => {
        const repeated = relativeDifference(again[i]!, alone[i]!);
        const error = relativeDifference(together[i]!, alone[i]!);
        return { item: `${item} (repeated ${repeated.toExponential(1)})`, error, bound: bound(repeated) };
      }),
    );
  });

  it('predictions beside a training change nothing, and are not changed', async () => {
    const expected = await prediction();
    const alone = await trained(segmentation, 10);
    const repeated = relativeDifference(await trained(segmentation, 10), alone);
    let ends = false;
    const shares: number[] = [];
    const serve = async () => {
      while (!ends) shares.push(differingShare(await prediction(), expected));
    };
    const serving = serve();
    const beside = await trained(segmentation, 10);
    ends = true;
    await serving;
    printAndCheck(`${shares.length} predictions beside a training`, [
      { item: 'share of labels that differ', error: Math.max(...shares), bound: 0 },
      {
        item: `state of the training (repeated ${repeated.toExponential(1)})`,
        error: relativeDifference(beside, alone),
        bound: bound(repeated),
      },
    ]);
  });
});

describeOnDevice('abort', () => {
  for (const [item, create] of [
    ['segmentation', segmentation],
    ['translation', translation],
  ] as const) {
    it(`stops a step without a trace: ${item}`, async () => {
      using aborted = await create();
      using whole = await create();
      for (const training of [aborted, whole]) for (let i = 0; i < 2; i++) await training.run(i);
      const start = performance.now();
      await whole.run(2);
      const duration = performance.now() - start;
      await aborted.run(2);
      let steps = 3;
      let caught = 0;
      for (const share of [0, 0.1, 0.3, 0.5, 0.7, 0.9]) {
        const before = await aborted.state();
        const controller = new AbortController();
        const reason = new Error(`aborted after ${share}`);
        const running = aborted.run(steps, { signal: controller.signal });
        if (share === 0) controller.abort(reason);
        else setTimeout(() => controller.abort(reason), share * duration);
        const failure = await running.then(
          () => null,
          (error: unknown) => error,
        );
        assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
        if (failure === null) {
          await whole.run(steps++);
          continue;
        }
        caught++;
        assert.equal(failure, reason);
        const change = relativeDifference(await aborted.state(), before);
        assert.equal(change, 0, `an abort after ${share} of the step left a trace`);
      }
      for (const training of [aborted, whole]) await training.run(steps);
      console.log(`    a step takes ${duration.toFixed(1)} ms; ${caught} of 6 aborts came in time`);
      assert.ok(caught >= 1);
      const error = relativeDifference(await aborted.state(), await whole.state());
      printAndCheck(`${item} with aborts`, [
        { item: 'state, against none', error, bound: IS_CUDA ? 1e-2 : 0 },
      ]);
    });
  }
});

describeOnDevice('wrong numbers', () => {
  const batch = (shape = SHAPE) => ({
    source: randomBatch(shape, 1, 5),
    target: randomBatch(shape, 2, 5),
    discriminatorLearningRate: 1e-4,
  });

  async function refused(
    wrong: Partial<Parameters<SegmentationStep['run']>[0]>,
    expected: { code: string; message?: RegExp },
    cause?: Partial<Parameters<SegmentationStep['run']>[0]>,
  ): Promise<void> {
    const options = { classCount: 5, ...PLACE };
    using segmenter = await Segmenter.create({
      ...{ backbone: 'resnet18', width: 1 / 8, initialization: 'kaiming' },
      ...options,
    });
    using discriminator = await OutputDiscriminator.create({ baseWidth: 8, ...options });
    using step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
    await step.run({ ...batch(), learningRate: 1e-3, ...cause });
    const before = await snapshot(step);
    await assert.rejects(step.run({ ...batch(), learningRate: 1e-3, ...wrong }), (error: Error) => {
      console.log(`    ${error}`);
      assert.equal((error as { code?: string }).code, expected.code);
      assert.match(error.message, expected.message ?? /./);
      return true;
    });
    assert.deepEqual(await snapshot(step), before);
    if (cause) return;
    const { total } = await step.run({ ...batch(), learningRate: 1e-3 });
    assert.ok(Number.isFinite(total));
  }

  it('a label that is no class is an error before any weight moves', async () => {
    const { source, target } = batch();
    const labels = source.labels!.with(77, 200);
    const expected = { code: 'ERR_INVALID_ARGUMENT', message: /found 200/ };
    await refused({ source: { ...source, labels } }, expected);
    await refused({ target: { ...target, labels } }, expected);
  });

  it('a loss that is not finite is an error before any weight moves', async () => {
    await refused({}, { code: 'ERR_NON_FINITE_LOSS' }, { learningRate: 1e38 });
  });
});

describeOnDevice('a device that does not exist', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  it('is an error that names it, and no objects are half made', async () => {
    const { cudaDevices } = await buildInfo();
    const segmenter = { backbone: 'resnet18', width: 1 / 16, classCount: 5 } as const;
    using present = await Segmenter.create({ ...segmenter, ...PLACE });
    const file = folder.path('weights');
    await present.save(file);
    using tensor = Tensor.from(new Float32Array(4));
    for (const device of [`cuda:${cudaDevices.length}`, 'cuda:99']) {
      for (const create of [
        () => Segmenter.create({ ...segmenter, device }),
        () => OutputDiscriminator.create({ classCount: 5, baseWidth: 4, device }),
        () => Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, device }),
        () => Segmenter.fromFile(file, { device }),
        () => tensor.to({ device }),
      ]) {
        await assert.rejects(create(), (error: Error) => {
          assert.ok(error instanceof InvalidArgumentError, error.stack);
          assert.ok(error.message.includes(`'${device}'`), error.message);
          return true;
        });
      }
    }
    const before = deviceMemory();
    await assert.rejects(Segmenter.create({ classCount: 19, device: 'cuda:98' }), InvalidArgumentError);
    const growth = Math.max(0, deviceMemory() - before) / MIB;
    printAndCheck('memory in MiB', [
      { item: 'growth by a network that was refused', error: growth, bound: 16 },
    ]);
  });
});

// Last in this file. The device's memory stays with this process, so that no other process would find any.
describeOnDevice('out of memory', () => {
  afterEach(() => setMemoryLimit(null));

  it('a tensor larger than the device is an OutOfMemoryError, and computing goes on', async () => {
    using host = Tensor.from(Float32Array.of(1, 2, 3, 4), [1, 1, 2, 2]);
    using tensor = await host.to(PLACE);
    // 256 GB, which the CPU may grant, and 16 TB.
    for (const [height, width] of [...(IS_CUDA ? [[2 ** 17, 2 ** 19]] : []), [2 ** 21, 2 ** 21]]) {
      await assert.rejects(tensor.resize(height!, width!), (error: Error) => {
        console.log(`    ${error.message.slice(0, 300)}`);
        assert.ok(error instanceof OutOfMemoryError, error.stack);
        return true;
      });
    }
    using small = await tensor.resize(3, 3);
    assert.equal(((await small.data()) as Float32Array)[4], 2.5);
    assert.equal((await prediction()).length, 2 * 41 * 57);
  });

  it('a step that does not fit changes nothing, and a small one works as if it had not been', async () => {
    // Far more than 140 GB of activations on a GPU. In a rehearsal, a limit is in the way.
    const backbone = IS_CUDA ? 'resnet101' : 'resnet18';
    const [width, count, side] = IS_CUDA ? [1 / 2, 128, 1024] : [1 / 8, 4, 256];
    const small = { source: randomBatch(SHAPE, 1, 5), learningRate: 1e-3 };
    const create = async () => {
      const options = { backbone, width, classCount: 5, initialization: 'kaiming' } as const;
      const segmenter = await Segmenter.create({ ...options, ...PLACE });
      return { segmenter, step: await SegmentationStep.create(segmenter, null, SEGMENTATION) };
    };
    const failing = await create();
    const whole = await create();
    await failing.step.run(small);
    await whole.step.run(small);
    const before = await snapshot(failing.segmenter);
    const images = new Uint8Array(count * side * side * 3).fill(90);
    const large = { count, height: side, width: side, images, labels: new Uint8Array(count * side * side) };
    if (!IS_CUDA) setMemoryLimit(memoryInUse() + 8 * MIB);
    const start = performance.now();
    await assert.rejects(failing.step.run({ source: large, learningRate: 1e-3 }), (error: Error) => {
      console.log(`    after ${Math.round(performance.now() - start)} ms: ${error.message.slice(0, 300)}`);
      assert.ok(error instanceof OutOfMemoryError, error.stack);
      return true;
    });
    setMemoryLimit(null);
    const after = await snapshot(failing.segmenter);
    const change = relativeDifference(after, before);
    const found = (await failing.step.run(small)).total;
    const expected = (await whole.step.run(small)).total;
    for (const { segmenter, step } of [failing, whole]) {
      step.dispose();
      segmenter.dispose();
    }
    printAndCheck('a step that did not fit', [
      { item: 'change of the weights by it', error: change, bound: 0 },
      { item: 'loss after it, against none', error: Math.abs(found / expected - 1), bound: 1e-4 },
    ]);
  });

  it('the limit of host memory holds beside a device', async () => {
    using segmenter = await Segmenter.create({
      ...{ backbone: 'resnet18', width: 1 / 8, classCount: 5 },
      ...PLACE,
    });
    const job = { count: 1, height: 1024, width: 1024 };
    const images = randomBytes(3 * MIB, 1);
    setMemoryLimit(memoryInUse() + MIB);
    await assert.rejects(segmenter.predict(images, job), (error: Error) => {
      assert.ok(error instanceof OutOfMemoryError, error.stack);
      assert.match(error.message, /the limit is \d+ bytes$/);
      return true;
    });
    setMemoryLimit(null);
    assert.equal((await segmenter.predict(images, job)).labels.length, MIB);
  });
});
