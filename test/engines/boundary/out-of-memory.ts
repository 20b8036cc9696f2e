import assert from 'node:assert/strict';
import { join } from 'node:path';
import {
  l1Loss,
  memoryInUse,
  Optimizer,
  OutOfMemoryError,
  OutputDiscriminator,
  pseudoLabels,
  SegmentationStep,
  Segmenter,
  setMemoryLimit,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../../helpers/batches.js';
import { snapshot } from '../../helpers/tensor-file.js';

type Snapshot = Awaited<ReturnType<typeof snapshot>>;

/** Work that needs memory. */
export interface Hungry {
  title: string;
  /** Prepares the work, and the state that must not change when the work fails. */
  prepare: (folder: string) => Promise<{ work: () => Promise<unknown>; state: () => Promise<Snapshot[]> }>;
}

const SHAPE = { count: 1, height: 64, width: 64 };
const SEGMENTER = { backbone: 'resnet18', width: 1 / 16, classCount: 5, initialization: 'kaiming' } as const;
const newTranslator = () => Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
const image = () => Tensor.from(new Float32Array(3 * 64 * 64).fill(0.5), [1, 3, 64, 64]);

export const HUNGRY: Hungry[] = [
  {
    title: 'a new network',
    prepare: async () => ({
      work: async () => (await Segmenter.create(SEGMENTER)).dispose(),
      state: async () => [],
    }),
  },
  {
    title: 'a forward pass in training mode',
    prepare: async () => {
      const segmenter = await Segmenter.create(SEGMENTER);
      const input = image();
      return {
        work: async () => (await segmenter.forward(input)).dispose(),
        state: async () => [await snapshot(segmenter)],
      };
    },
  },
  {
    title: 'a backward pass',
    prepare: async () => {
      const segmenter = await Segmenter.create(SEGMENTER);
      const zeros = Tensor.from(new Float32Array(5 * 81), [1, 5, 9, 9]);
      const input = image();
      await segmenter.eval();
      return {
        work: async () => {
          using logits = await segmenter.forward(input);
          using loss = await l1Loss(logits, zeros);
          await loss.backward();
        },
        state: async () => [await snapshot(segmenter)],
      };
    },
  },
  {
    title: 'a prediction',
    prepare: async () => {
      const segmenter = await Segmenter.create(SEGMENTER);
      return {
        work: () =>
          segmenter.predict(new Uint8Array(64 * 64 * 3), { ...SHAPE, flip: true, confidence: true }),
        state: async () => [await snapshot(segmenter)],
      };
    },
  },
  {
    title: 'pseudo-labels',
    prepare: async () => {
      const logits = Tensor.from(new Float32Array(5 * 64), [1, 5, 8, 8]);
      return {
        work: async () => (await pseudoLabels(logits, { height: 256, width: 256 })).labels.dispose(),
        state: async () => [],
      };
    },
  },
  {
    title: 'a segmentation step',
    prepare: async () => {
      const segmenter = await Segmenter.create(SEGMENTER);
      const discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4 });
      const step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
      const batch = { source: randomBatch(SHAPE, 1, 5), target: randomBatch(SHAPE, 2, 5) };
      return {
        work: () => step.run({ ...batch, learningRate: 1e-3, discriminatorLearningRate: 1e-4 }),
        state: async () => [await snapshot(segmenter), await snapshot(discriminator)],
      };
    },
  },
  {
    title: 'a translation step',
    prepare: async () => {
      const translator = await newTranslator();
      const segmenter = await Segmenter.create(SEGMENTER);
      const step = await TranslationStep.create(translator, segmenter, { ...TRANSLATION, poolSize: 2 });
      const batch = { source: randomBatch(SHAPE, 1), target: randomBatch(SHAPE, 2) };
      const networks = [
        translator.toTarget,
        translator.toSource,
        translator.targetDiscriminator,
        translator.sourceDiscriminator,
      ];
      return {
        work: () => step.run({ ...batch, learningRate: 2e-4 }),
        state: async () => Promise.all(networks.map(snapshot)),
      };
    },
  },
  {
    title: 'a new optimizer',
    prepare: async () => {
      const segmenter = await Segmenter.create(SEGMENTER);
      return {
        work: async () => (await Optimizer.adam(segmenter)).dispose(),
        state: async () => [await snapshot(segmenter)],
      };
    },
  },
  {
    title: 'loading weights',
    prepare: async (folder) => {
      const file = join(folder, 'weights');
      await (await Segmenter.create({ ...SEGMENTER, seed: 9 })).save(file);
      const segmenter = await Segmenter.create(SEGMENTER);
      return { work: () => segmenter.load(file), state: async () => [await snapshot(segmenter)] };
    },
  },
  {
    title: 'saving weights in another dtype',
    prepare: async (folder) => {
      const segmenter = await Segmenter.create(SEGMENTER);
      return {
        work: () => segmenter.save(join(folder, 'saved'), { dtype: 'float16' }),
        state: async () => [await snapshot(segmenter)],
      };
    },
  },
];

const SIZES =
  /^out of memory: a tensor of \d+ bytes was asked for while tensors hold \d+ bytes; the limit is \d+ bytes$/;

/**
 * Runs the work under limits from "hardly more than is in use" to "enough". Each time it must either succeed or fail
 * with the sizes in the message. A failure must leave everything as it was, and the work must succeed later with the
 * same result.
 *
 * @param times number of limits to try, beside some powers of two
 * @returns the number of failures
 */
export async function starve({ prepare }: Hungry, folder: string, times: number): Promise<number> {
  const unlimited = await prepare(folder);
  await unlimited.work();
  const expected = await unlimited.state();

  const failsWith = async (bytes: number): Promise<boolean> => {
    const { work, state } = await prepare(folder);
    const before = await state();
    setMemoryLimit(memoryInUse() + bytes);
    const failure = await work().then(
      () => undefined,
      (error: Error) => error,
    );
    setMemoryLimit(null);
    if (failure) {
      assert.ok(failure instanceof OutOfMemoryError, failure.stack);
      assert.match(failure.message, SIZES);
      assert.deepEqual(await state(), before, `a failure with ${bytes} bytes to go left a trace`);
      await work();
    }
    assert.deepEqual(await state(), expected, `a failure with ${bytes} bytes to go changed what came later`);
    return failure !== undefined;
  };

  let failures = 0;
  let enough = 2 ** 12;
  for (; await failsWith(enough); enough *= 2) failures++;
  for (let i = 1; i <= times; i++) {
    if (await failsWith(Math.round((enough * i) / (times + 1)))) failures++;
  }
  return failures;
}
