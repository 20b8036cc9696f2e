import assert from 'node:assert/strict';
import {
  FeatureDiscriminator,
  InvalidArgumentError,
  maskedCrossEntropy,
  type Network,
  type NetworkDtype,
  NonFiniteLossError,
  OutputDiscriminator,
  PairedTranslationStep,
  SegmentationStep,
  type SegmentationStepOptions,
  Segmenter,
  type SegmenterOptions,
  segmenterInput,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { dispose } from '../../../lib/training/checkpoints.js';
import { loadTensors, saveTensors } from '../../../lib/weights/tensors.js';
import { PAIRED_TRANSLATION, randomBatch, SEGMENTATION, TRANSLATION } from '../../helpers/batches.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { snapshot } from '../../helpers/tensor-file.js';

const STEPS = 5;

/** Training that can run any number of steps. */
interface Training extends Disposable {
  step: SegmentationStep | TranslationStep | PairedTranslationStep;
  run(index: number): Promise<unknown>;
}

const SHAPE = { count: 2, height: 64, width: 96 };

/** Creates a training. `seed` sets the initial weights, which a state replaces. */
async function segmentation(
  seed: number,
  network: Partial<SegmenterOptions>,
  options: Partial<SegmentationStepOptions> = {},
): Promise<Training> {
  const segmenter = await Segmenter.create({ width: 1 / 16, classCount: 5, ...network, seed });
  const { featureCount } = segmenter;
  const discriminator =
    options.alignment === 'feature-discriminator'
      ? await FeatureDiscriminator.create({ featureCount, baseWidth: 4, seed })
      : await OutputDiscriminator.create({ classCount: 5, baseWidth: 4, seed });
  const step = await SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, ...options });
  return {
    step,
    run: (index) =>
      step.run({
        source: randomBatch(SHAPE, 10 + index, 5),
        target: randomBatch(SHAPE, 20 + index, 5),
        learningRate: 1e-3,
        discriminatorLearningRate: 1e-3,
      }),
    [Symbol.dispose]() {
      for (const object of [step, segmenter, discriminator]) object.dispose();
    },
  };
}

async function translation(seed: number, dtype: NetworkDtype = 'float32'): Promise<Training> {
  const translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, seed, dtype });
  // The pools keep two images and a batch has two. So they are full after the first step and draw from then on.
  const step = await TranslationStep.create(translator, null, { ...TRANSLATION, poolSize: 2 });
  const shape = { count: 2, height: 32, width: 40 };
  return {
    step,
    run: (index) =>
      step.run({
        source: randomBatch(shape, 10 + index),
        target: randomBatch(shape, 20 + index),
        learningRate: 1e-3,
      }),
    [Symbol.dispose]() {
      for (const object of [step, translator]) object.dispose();
    },
  };
}

async function pairedTranslation(seed: number): Promise<Training> {
  const shape = { depth: 5, baseWidth: 4, discriminatorWidth: 4, seed };
  const translator = await Translator.create({ pairing: 'paired', ...shape });
  const step = await PairedTranslationStep.create(translator, PAIRED_TRANSLATION);
  return {
    step,
    run: (index) =>
      step.run({
        source: randomBatch(SHAPE, 10 + index),
        target: randomBatch(SHAPE, 20 + index),
        learningRate: 1e-3,
      }),
    [Symbol.dispose]() {
      for (const object of [step, translator]) object.dispose();
    },
  };
}

const KINDS: Record<string, (seed: number) => Promise<Training>> = {
  'DeepLab-v2 with Adam': (seed) => segmentation(seed, { backbone: 'resnet18' }, { optimizer: 'adam' }),
  'DeepLab-v2 with SGD, moved repeatedly': (seed) =>
    segmentation(seed, { backbone: 'resnet18' }, { repeatedStep: true }),
  'DeepLab-v2 on VGG-16 with SGD': (seed) => segmentation(seed, { backbone: 'vgg16', width: 1 / 32 }),
  'FCN-8s with SGD and dropout': (seed) => segmentation(seed, { network: 'fcn-8s', width: 1 / 64 }),
  'DeepLab-v2 with a teacher, ClassMix, masked images and a discriminator on features': (seed) =>
    segmentation(
      seed,
      { backbone: 'resnet18' },
      {
        alignment: 'feature-discriminator',
        teacher: { decay: 0.9, threshold: 0.3, weight: 1, classMix: true, masking: {}, seed: 3 },
      },
    ),
  'FCN-8s with a teacher and without ClassMix': (seed) =>
    segmentation(
      seed,
      { network: 'fcn-8s', width: 1 / 64 },
      {
        alignment: 'entropy-discriminator',
        teacher: { decay: 0.9, threshold: 0.3, weight: 1, classMix: false },
      },
    ),
  'the translators with full image pools': (seed) => translation(seed),
  'the translators with full image pools, in float64': (seed) => translation(seed, 'float64'),
  'a paired translator': pairedTranslation,
};

describe('the state of training steps', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  for (const [kind, make] of Object.entries(KINDS)) {
    it(`of ${kind}: continued from any step, gives the same result as an uninterrupted training`, async () => {
      const files: string[] = [];
      using whole = await make(1);
      for (let done = 0; done < STEPS; done++) {
        files.push(folder.path(`${kind}-${done}`));
        const state = await whole.step.state();
        await saveTensors(files[done]!, state, {});
        dispose(state);
        await whole.run(done);
      }
      const expected = await snapshot(whole.step);
      for (const [first, file] of files.entries()) {
        using training = await make(2);
        const { tensors } = await loadTensors(file);
        await training.step.loadState(tensors);
        dispose(tensors);
        for (let index = first; index < STEPS; index++) await training.run(index);
        assert.deepEqual(await snapshot(training.step), expected, `from step ${first}`);
      }
    });
  }

  it('is untouched by a step that fails, the number of steps of dropout included', async () => {
    using segmenter = await Segmenter.create({ network: 'fcn-8s', width: 1 / 64, classCount: 5 });
    using infinite = Tensor.from(new Float32Array(5).fill(Number.POSITIVE_INFINITY));
    await assign(segmenter, 'score_fr.bias', infinite);
    using step = await SegmentationStep.create(segmenter, null, SEGMENTATION);
    const before = await snapshot(step);
    assert.ok(before.has('dropout.steps'));
    const source = randomBatch(SHAPE, 1, 5);
    await assert.rejects(step.run({ source, learningRate: 1e-3 }), NonFiniteLossError);
    assert.deepEqual(await snapshot(step), before);
  });

  it('has the momenta and moments that the gradients give', async () => {
    const source = randomBatch(SHAPE, 1, 5);
    for (const optimizer of ['sgd', 'adam'] as const) {
      using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
      using step = await SegmentationStep.create(segmenter, null, {
        ...SEGMENTATION,
        optimizer,
        weightDecay: 0,
        adamBetas: [0.9, 0.99],
      });
      // The gradients as the composable surface computes them, from one tensor and operation at a time.
      const gradients = new Map<string, Float32Array>();
      {
        using images = Tensor.from(source.images, [SHAPE.count, SHAPE.height, SHAPE.width, 3]);
        using labels = Tensor.from(source.labels!, [SHAPE.count, SHAPE.height, SHAPE.width]);
        using input = await segmenterInput(images);
        using logits = await segmenter.forward(input);
        using loss = await maskedCrossEntropy(logits, labels);
        await loss.backward();
        for (const [name, parameter] of await segmenter.parameters()) {
          const gradient = await parameter.gradient();
          if (gradient) gradients.set(name, (await gradient.data()) as Float32Array);
          gradient?.dispose();
          parameter.dispose();
        }
      }
      await step.run({ source, learningRate: 1e-3 });
      const state = await step.state();
      const check = async (name: string, expected: Float32Array) => {
        const found = (await state.get(`segmenter_optimizer.${name}`)!.data()) as Float32Array;
        const largest = Math.max(...expected.map(Math.abs));
        for (const [i, value] of found.entries()) {
          assert.ok(
            Math.abs(value - expected[i]!) <= 1e-4 * largest,
            `${name}: ${value} is not ${expected[i]}`,
          );
        }
      };
      assert.ok(gradients.size > 20);
      for (const [name, gradient] of gradients) {
        if (optimizer === 'sgd') {
          await check(`momentum_buffer.${name}`, gradient);
        } else {
          await check(
            `exp_avg.${name}`,
            gradient.map((g) => 0.1 * g),
          );
          await check(
            `exp_avg_sq.${name}`,
            gradient.map((g) => 0.01 * g * g),
          );
          await check(`step.${name}`, Float32Array.of(1));
        }
      }
      dispose(state);
    }
  });

  it('that does not fit is refused by name, and nothing changes', async () => {
    using training = await translation(1);
    await training.run(0);
    const before = await snapshot(training.step);
    const own = await training.step.state();
    using scalar = Tensor.from(new Float32Array(1), []);
    const changed = (change: (state: Map<string, Tensor>) => void) => {
      const state = new Map(own);
      change(state);
      return state;
    };
    for (const [state, message] of [
      [changed((state) => state.delete('to_target.model.1.weight')), /missing to_target\.model\.1\.weight/],
      [
        changed((state) => state.set('to_target.model.1.weight', scalar)),
        /model\.1\.weight is \[\], not \[4, 3, 7, 7\]/,
      ],
      [changed((state) => state.set('surplus', scalar)), /unexpected surplus/],
      [
        changed((state) => state.set('fake_target_pool.7', scalar)),
        /'7' does not belong in the state of an image pool/,
      ],
      [changed((state) => state.delete('fake_source_pool.draws')), /2 images of 2 and -1 draws/],
      [new Map(), /0 images of 2 and -1 draws/],
    ] as const) {
      await assert.rejects(training.step.loadState(state), (error: Error) => {
        assert.ok(error instanceof InvalidArgumentError, error.stack);
        assert.match(error.message, message);
        return true;
      });
      assert.deepEqual(await snapshot(training.step), before);
    }
    dispose(own);
  });

  it('is untouched by a step whose losses are finite but whose gradients are not', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
    using discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4 });
    // Forward, the small first layer compensates for the large others. Backward, the large ones come first, and their
    // product overflows.
    for (const [name, parameter] of await discriminator.parameters()) {
      using tensor = parameter;
      const scale = name.endsWith('.bias') ? 0 : name.startsWith('conv1') ? 1e-30 : 1e12;
      using scaled = await tensor.scale(scale);
      await assign(discriminator, name, scaled);
    }
    using step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
    const before = await snapshot(step);
    const batch = { source: randomBatch(SHAPE, 1, 5), target: randomBatch(SHAPE, 2) };
    await assert.rejects(step.run({ ...batch, learningRate: 1e-3 }), (error: Error) => {
      assert.ok(error instanceof NonFiniteLossError, error.stack);
      assert.match(
        error.message,
        /^The gradient of the (segmenter|discriminator)'s \S+ has values that are NaN or infinite; the step was not applied$/,
      );
      return true;
    });
    assert.deepEqual(await snapshot(step), before);
    // Without the discriminator's part all values are finite.
    await step.run({ source: batch.source, learningRate: 1e-3 });
  });
});

async function assign(network: Network, name: string, value: Tensor): Promise<void> {
  const state = await network.state();
  try {
    await network.loadState(
      state.map((entry) => (entry.name === name ? { name, tensor: value.handle } : entry)),
    );
  } finally {
    for (const { tensor } of state) tensor.dispose();
  }
}
