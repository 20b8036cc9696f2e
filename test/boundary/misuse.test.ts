import assert from 'node:assert/strict';
import {
  BidisegError,
  DisposedError,
  InvalidArgumentError,
  l1Loss,
  maskedCrossEntropy,
  NativeError,
  type Network,
  NonFiniteLossError,
  Optimizer,
  OutputDiscriminator,
  perceptualLoss,
  SegmentationStep,
  Segmenter,
  segmenterInput,
  Tensor,
  TranslationStep,
  Translator,
  translatorInput,
} from 'bidiseg';
import { randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { temporaryFolder } from '../helpers/folder.js';
import { readTensors, snapshot, writeTensors } from '../helpers/tensor-file.js';

type Kind = new (...args: never[]) => BidisegError;

/** Checks for a typed error with a code, a matching message, and this file in its stack. */
async function rejects(work: () => unknown, kind: Kind, message: RegExp): Promise<void> {
  try {
    await work();
  } catch (error) {
    assert.ok(error instanceof kind, `${kind.name} expected, not ${(error as Error)?.stack}`);
    assert.match(error.code, /^ERR_[A-Z_]+$/);
    assert.match(error.message, message);
    assert.match(error.stack!, /misuse\.test/, 'the stack does not lead to the caller');
    assert.ok(error.stack!.startsWith(`${error.name}: ${error.message}`), error.stack);
    return;
  }
  assert.fail(`${kind.name} expected, but nothing was thrown`);
}

const TINY = { backbone: 'resnet18', width: 1 / 16, classCount: 5 } as const;
const SHAPE = { count: 1, height: 40, width: 48 };
// Wrong on purpose.
const wrong = (value: unknown) => value as never;

describe('misuse', () => {
  let segmenter: Segmenter;
  let discriminator: OutputDiscriminator;
  let translator: Translator;
  let step: SegmentationStep;
  const folder = temporaryFolder();

  before(async () => {
    segmenter = await Segmenter.create(TINY);
    discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4 });
    translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
  });
  after(folder.remove);

  it('of disposed objects throws DisposedError', async () => {
    const tensor = Tensor.from(new Float32Array(4), [1, 1, 2, 2]);
    const other = Tensor.from(new Float32Array(4), [1, 1, 2, 2]);
    tensor.dispose();
    await rejects(() => tensor.shape, DisposedError, /Tensor has been disposed/);
    await rejects(() => tensor.data(), DisposedError, /Tensor has been disposed/);
    await rejects(() => other.add(tensor), DisposedError, /Tensor has been disposed/);
    await rejects(() => l1Loss(other, tensor), DisposedError, /Tensor has been disposed/);
    const gone = await Segmenter.create(TINY);
    gone.dispose();
    await rejects(() => gone.forward(other), DisposedError, /Segmenter has been disposed/);
    await rejects(
      () => gone.predict(new Uint8Array(12), { count: 1, width: 2, height: 2 }),
      DisposedError,
      /Segmenter/,
    );
    await rejects(() => gone.parameterCount, DisposedError, /Segmenter/);
    await rejects(() => gone.save(folder.path('gone')), DisposedError, /Segmenter/);
    await rejects(() => Optimizer.sgd(gone), DisposedError, /Segmenter/);
    await rejects(() => SegmentationStep.create(gone, null, SEGMENTATION), DisposedError, /Segmenter/);
    other.dispose();
  });

  it('of types throws InvalidArgumentError', async () => {
    using tensor = Tensor.from(new Float32Array(4), [1, 1, 2, 2]);
    for (const value of [undefined, null, 7, 'tensor', {}, [], new Float32Array(4), segmenter]) {
      await rejects(() => tensor.add(wrong(value)), InvalidArgumentError, /other/);
      await rejects(() => segmenter.forward(wrong(value)), InvalidArgumentError, /input/);
      await rejects(() => maskedCrossEntropy(tensor, wrong(value)), InvalidArgumentError, /labels|height/);
      await rejects(() => perceptualLoss(wrong(value), tensor, 'l1'), InvalidArgumentError, /logits/);
      if (value === segmenter) continue;
      await rejects(() => Optimizer.sgd(wrong(value)), InvalidArgumentError, /network/);
      await rejects(
        () => SegmentationStep.create(wrong(value), null, SEGMENTATION),
        InvalidArgumentError,
        /segmenter/,
      );
      if (value === null) continue; // null: none
      const another = value === undefined ? 7 : value;
      await rejects(
        () => SegmentationStep.create(segmenter, wrong(another), SEGMENTATION),
        InvalidArgumentError,
        /discriminator/,
      );
      await rejects(
        () => TranslationStep.create(translator, wrong(another), TRANSLATION),
        InvalidArgumentError,
        /segmenter/,
      );
      await rejects(
        () => TranslationStep.create(wrong(value), null, TRANSLATION),
        InvalidArgumentError,
        /translator/,
      );
    }
    await rejects(() => Tensor.from(wrong([1, 2, 3])), InvalidArgumentError, /typed array/);
    await rejects(() => Tensor.from(wrong(new Uint16Array(3))), InvalidArgumentError, /typed array/);
    await rejects(() => tensor.scale(Number.NaN), InvalidArgumentError, /finite/);
    await rejects(() => tensor.scale(wrong('2')), InvalidArgumentError, /finite/);
    await rejects(() => tensor.to({ device: 'abacus' }), InvalidArgumentError, /abacus/);
    await rejects(() => tensor.to({ dtype: wrong('float8') }), InvalidArgumentError, /float8/);
    await rejects(() => perceptualLoss(tensor, tensor, wrong('l3')), InvalidArgumentError, /l3/);
    await rejects(() => Segmenter.create({ ...TINY, classCount: 1 }), InvalidArgumentError, /classCount/);
    await rejects(() => Segmenter.create({ ...TINY, width: 1e9 }), InvalidArgumentError, /width/);
    await rejects(() => Segmenter.create({ ...TINY, branches: wrong(3) }), InvalidArgumentError, /branches/);
    await rejects(() => Segmenter.create({ ...TINY, seed: -1 }), InvalidArgumentError, /seed/);
    await rejects(() => Optimizer.adam(segmenter, { betas: [0.9, 1] }), InvalidArgumentError, /[bB]etas/);
    for (const [key, value] of [
      ['adversarialWeight', Number.NaN],
      ['weightDecay', '1'],
      ['normalize', 'some'],
      ['optimizer', 'sgdm'],
      ['repeatedStep', 1],
      ['discriminatorBetas', [0.9]],
      ['discriminatorBetas', [0.9, 1]],
      ['discriminatorBetas', [Number.NaN, 0.9]],
      ['ignoreIndex', 0.5],
      ['precision', 'fp8'],
      ['precision', 'tf32'],
      ['memoryFormat', 'nhwc'],
      ['convolutions', 'fft'],
      ['activationCheckpointing', 'yes'],
      ['precision', 'fp16'],
      ['lossScaling', 1],
      ['cudaGraphs', 'yes'],
      ['cudaGraphs', true],
      ['accumulation', 0],
      ['accumulation', 1.5],
    ] as const) {
      await rejects(
        () => SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, [key]: value } as never),
        InvalidArgumentError,
        new RegExp(key),
      );
    }
  });

  it('of a network where another kind is needed names the argument', async () => {
    const M = wrong(discriminator);
    await rejects(() => SegmentationStep.create(M, null, SEGMENTATION), InvalidArgumentError, /segmenter/);
    await rejects(
      () => SegmentationStep.create(wrong(translator.toTarget), null, SEGMENTATION),
      InvalidArgumentError,
      /segmenter/,
    );
    await rejects(
      () => SegmentationStep.create(segmenter, wrong(segmenter), SEGMENTATION),
      InvalidArgumentError,
      /discriminator/,
    );
    await rejects(
      () => TranslationStep.create(translator, M, TRANSLATION),
      InvalidArgumentError,
      /segmenter/,
    );
    // A native method must not reinterpret the memory of another class's object.
    const { dispose } = Object.getPrototypeOf(Tensor.from(new Uint8Array(1)).handle);
    assert.throws(() => dispose.call(segmenter.handle), /Illegal invocation|Invalid/);
    assert.throws(() => dispose.call({}), /Illegal invocation|Invalid/);
    assert.throws(() => dispose.call(Object.create(segmenter.handle)), /Illegal invocation|Invalid/);
    assert.ok(!segmenter.disposed);
  });

  it('of shapes and dtypes says what was expected', async () => {
    await rejects(
      () => Tensor.from(new Float32Array(4), [5]),
      InvalidArgumentError,
      /Expected 5 .*received 4/,
    );
    await rejects(() => Tensor.from(new Float32Array(4), [-4]), InvalidArgumentError, /shape\[0\]/);
    await rejects(() => Tensor.from(new Float32Array(4), [2.5]), InvalidArgumentError, /shape\[0\]/);
    await rejects(() => Tensor.from(new Float32Array(1), [1e15, 1e15]), InvalidArgumentError, /large/);
    await rejects(() => Tensor.from(new Float32Array(0), [2 ** 53 - 1, 2 ** 53 - 1, 0]), BidisegError, /./);
    using image = Tensor.from(new Float32Array(3 * 40 * 40), [1, 3, 40, 40]);
    using bytes = Tensor.from(new Uint8Array(3 * 40 * 40), [1, 3, 40, 40]);
    using flat = Tensor.from(new Float32Array(12), [12]);
    using gray = Tensor.from(new Float32Array(40 * 40), [1, 1, 40, 40]);
    using empty = Tensor.from(new Float32Array(0), [0, 3, 40, 40]);
    for (const input of [bytes, flat, gray]) {
      for (const network of [segmenter, translator.toTarget, translator.targetDiscriminator, discriminator]) {
        await rejects(() => (network as Network).forward(input), BidisegError, /./);
      }
    }
    await rejects(() => segmenter.forward(empty), BidisegError, /./).catch(() => undefined);
    await rejects(() => segmenterInput(image), InvalidArgumentError, /\[N, H, W, 3\]/);
    await rejects(() => flat.resize(4, 4), BidisegError, /./);
    await rejects(() => flat.softmax(), BidisegError, /./);
    await rejects(() => image.resize(-1, 4), InvalidArgumentError, /size/);
    await rejects(() => image.resize(1e9, 1e9), BidisegError, /./);
    await rejects(() => image.resize(2e6, 2e6), BidisegError, /./);
    await rejects(() => maskedCrossEntropy(image, image), InvalidArgumentError, /labels/);
    await rejects(() => maskedCrossEntropy(flat, flat), InvalidArgumentError, /logits/);
    await rejects(() => image.add(flat), NativeError, /size/);
    await rejects(() => image.backward(), InvalidArgumentError, /scalar/);
    await rejects(() => image.item(), InvalidArgumentError, /one element/);
    using half = await image.to({ dtype: 'float16' });
    await rejects(() => half.data(), InvalidArgumentError, /float16/);
    await rejects(() => bytes.requireGrad(), BidisegError, /./);
    const odd = { ...SHAPE, height: 42 };
    using translation = await TranslationStep.create(translator, segmenter, TRANSLATION);
    await rejects(
      () => translation.run({ source: randomBatch(odd, 1), target: randomBatch(odd, 2), learningRate: 1e-4 }),
      InvalidArgumentError,
      /multiples of 4/,
    );
    const source = randomBatch(SHAPE, 1, 5);
    for (const [changed, message] of [
      [{ ...source, count: 2 }, /source/],
      [{ ...source, count: -1, height: -40 }, /./],
      [{ ...source, count: 0.5 }, /count/],
      [{ ...source, count: 2 ** 40, height: 2 ** 40 }, /./],
      [{ ...source, width: Number.NaN }, /width/],
      [{ ...source, images: undefined }, /source/],
      [{ ...source, labels: undefined }, /labels/],
      [{ ...source, labels: null }, /source/],
      [{ ...source, labels: source.labels!.subarray(1) }, /source/],
      [{ ...source, labels: new Float32Array(40 * 48) }, /labels/],
      [{ ...source, images: new Float32Array(source.images) }, /uint8/],
      [undefined, /./],
    ] as const) {
      await rejects(() => step.run({ source: changed as never, learningRate: 1e-3 }), BidisegError, message);
    }
    await rejects(() => step.run({ source, learningRate: -1 }), InvalidArgumentError, /learningRate/);
    const job = { count: 1, width: 4, height: 4 };
    await rejects(() => segmenter.predict(new Uint8Array(47), job), InvalidArgumentError, /48 elements/);
    const enormous = { ...job, outputWidth: 2 ** 40, outputHeight: 2 ** 40 };
    await rejects(() => segmenter.predict(new Uint8Array(48), enormous), BidisegError, /./);
  });

  it('of dtypes says which one is needed', async () => {
    const half = { dtype: wrong('float16') };
    const file = folder.path('m');
    await segmenter.save(file);
    for (const create of [
      () => Segmenter.create({ ...TINY, ...half }),
      () => Segmenter.fromFile(file, half),
      () => OutputDiscriminator.create({ classCount: 5, ...half }),
      () => Translator.create(half),
      () => segmenterInput(Tensor.from(new Uint8Array(3), [1, 1, 1, 3]), half),
      () => translatorInput(Tensor.from(new Uint8Array(3), [1, 1, 1, 3]), half),
    ]) {
      await rejects(create, InvalidArgumentError, /float32, float64 for dtype .*float16/);
    }

    const dtype = 'float64';
    using wide = await Segmenter.create({ ...TINY, dtype });
    using wideDiscriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4, dtype });
    using wideTranslator = await Translator.create({
      blocks: 6,
      baseWidth: 4,
      discriminatorWidth: 4,
      dtype,
    });
    assert.deepEqual([segmenter.dtype, wide.dtype, wideTranslator.toSource.dtype], ['float32', dtype, dtype]);
    using image = Tensor.from(new Float32Array(3 * 40 * 40), [1, 3, 40, 40]);
    using wideImage = await image.to({ dtype });
    await rejects(() => wide.forward(image), InvalidArgumentError, /float64, the network's, .*float32/);
    await rejects(
      () => segmenter.forward(wideImage),
      InvalidArgumentError,
      /float32, the network's, .*float64/,
    );
    const step = (M: Segmenter, D: OutputDiscriminator) => SegmentationStep.create(M, D, SEGMENTATION);
    await rejects(() => step(wide, discriminator), InvalidArgumentError, /segmenter is float64 and discrim/);
    await rejects(() => step(segmenter, wideDiscriminator), InvalidArgumentError, /discriminator is float64/);
    for (const [F, M] of [
      [wideTranslator, segmenter],
      [translator, wide],
    ] as const) {
      const create = () => TranslationStep.create(F, M, TRANSLATION);
      await rejects(create, InvalidArgumentError, /one dtype but translator is float\d\d and segmenter is/);
    }
    using gone = await Segmenter.create(TINY);
    gone.dispose();
    await rejects(() => gone.dtype, DisposedError, /Segmenter/);
  });

  it('takes images in shared memory as well', async () => {
    const shared = new Uint8Array(new SharedArrayBuffer(48));
    const { labels } = await segmenter.predict(shared, { count: 1, width: 4, height: 4 });
    assert.equal(labels.length, 16);
  });

  it('of labels names the value that is out of range', async () => {
    using logits = Tensor.from(new Float32Array(5 * 4), [1, 5, 2, 2]);
    using labels = Tensor.from(Uint8Array.of(0, 4, 117, 255), [1, 2, 2]);
    await rejects(() => maskedCrossEntropy(logits, labels), InvalidArgumentError, /from 0 to 4 .*found 117/);
    using negative = Tensor.from(BigInt64Array.of(0n, -3n, 1n, 255n), [1, 2, 2]);
    await rejects(() => maskedCrossEntropy(logits, negative), InvalidArgumentError, /found -3/);
    const source = randomBatch(SHAPE, 1, 5);
    source.labels![100] = 9;
    const before = await snapshot(segmenter);
    await rejects(() => step.run({ source, learningRate: 1e-3 }), InvalidArgumentError, /found 9/);
    assert.deepEqual(await snapshot(segmenter), before, 'the failed step left a trace');
  });

  it('a loss that is not finite throws NonFiniteLossError and leaves weights and statistics alone', async () => {
    using network = await Segmenter.create(TINY);
    const file = folder.path('broken');
    await network.save(file);
    const tensors = readTensors(file);
    (tensors['layer5.conv2d_list.0.bias']!.data as Float32Array)[2] = Number.POSITIVE_INFINITY;
    writeTensors(file, tensors);
    await network.load(file);
    using discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4 });
    using broken = await SegmentationStep.create(network, discriminator, SEGMENTATION);
    const before = [await snapshot(network), await snapshot(discriminator)];
    const batch = { source: randomBatch(SHAPE, 1, 5), target: randomBatch(SHAPE, 2) };
    await rejects(
      () => broken.run({ ...batch, learningRate: 1e-3, discriminatorLearningRate: 1e-3 }),
      NonFiniteLossError,
      /segmentation loss is -?(nan|inf)/,
    );
    const after = [await snapshot(network), await snapshot(discriminator)];
    assert.deepEqual(after, before);

    using F = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    using translation = await TranslationStep.create(F, network, { ...TRANSLATION, perceptualForm: 'l1' });
    const weights = await snapshot(F.toTarget);
    await rejects(
      () =>
        translation.run({ source: randomBatch(SHAPE, 1), target: randomBatch(SHAPE, 2), learningRate: 1e-3 }),
      NonFiniteLossError,
      /perceptual/,
    );
    assert.deepEqual(await snapshot(F.toTarget), weights);
    assert.deepEqual(await snapshot(network), before[0]);
  });

  it('a second backward() through the same graph is an error, not a crash', async () => {
    using image = Tensor.from(new Float32Array(3 * 40 * 40), [1, 3, 40, 40]);
    using logits = await segmenter.forward(image);
    using zeros = Tensor.from(new Float32Array(logits.shape.reduce((a, b) => a * b)), logits.shape);
    using loss = await l1Loss(logits, zeros);
    await loss.backward();
    await rejects(() => loss.backward(), NativeError, /second time/);
  });

  it('networks keep the mode that their owner gave them', async () => {
    using network = await Segmenter.create({ ...TINY, initialization: 'kaiming' });
    using input = Tensor.from(new Float32Array(3 * 40 * 40).fill(1), [1, 3, 40, 40]);
    const trainsNow = async () => {
      const count = async () => (await snapshot(network)).get('bn1.num_batches_tracked')![0];
      const before = await count();
      (await network.forward(input)).dispose();
      return (await count()) !== before;
    };
    await network.train();
    await network.predict(new Uint8Array(48), { count: 1, width: 4, height: 4 });
    assert.ok(await trainsNow(), 'predict() left it in evaluation mode');
    using translation = await TranslationStep.create(translator, network, TRANSLATION);
    await translation.run({ source: randomBatch(SHAPE, 1), target: randomBatch(SHAPE, 2), learningRate: 0 });
    assert.ok(await trainsNow(), 'TranslationStep left it in evaluation mode');
    await network.eval();
    using training = await SegmentationStep.create(network, null, SEGMENTATION);
    await training.run({ source: randomBatch(SHAPE, 1, 5), learningRate: 0 });
    assert.ok(!(await trainsNow()), 'SegmentationStep left it in training mode');
  });
});
