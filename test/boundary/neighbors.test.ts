import assert from 'node:assert/strict';
import {
  correlationDistance,
  FeatureDiscriminator,
  InvalidArgumentError,
  meanDistance,
  OutputDiscriminator,
  PairedTranslationStep,
  SegmentationStep,
  Segmenter,
  selfInformation,
  Tensor,
  TranslationStep,
  Translator,
} from 'bidiseg';
import { PAIRED_TRANSLATION, randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';

const SHAPE = { count: 2, height: 33, width: 49 };
const TEACHER = { decay: 0.9, threshold: 0.5, weight: 1, classMix: true };

const rejects = (attempt: () => Promise<unknown>, message: RegExp) =>
  assert.rejects(attempt, (error: Error) => {
    assert.ok(error instanceof InvalidArgumentError, error.stack);
    assert.match(error.message, message);
    return true;
  });

const zeros = (...shape: number[]) => Tensor.from(new Float32Array(shape.reduce((a, b) => a * b)), shape);

describe("misuse of BDL's neighbors", () => {
  let segmenter: Segmenter;
  before(async () => {
    segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
  });
  after(() => segmenter.dispose());

  it('a discriminator that is not the alignment’s', async () => {
    using onOutputs = await OutputDiscriminator.create({ classCount: 5, baseWidth: 4 });
    const { featureCount } = segmenter;
    assert.equal(featureCount, 32);
    using onFeatures = await FeatureDiscriminator.create({ featureCount, baseWidth: 4 });
    const create = (
      discriminator: OutputDiscriminator | FeatureDiscriminator,
      alignment: 'entropy-discriminator' | 'feature-discriminator' | 'mean',
    ) => SegmentationStep.create(segmenter, discriminator, { ...SEGMENTATION, alignment });
    await rejects(() => create(onFeatures, 'entropy-discriminator'), /OutputDiscriminator for discriminator/);
    await rejects(() => create(onOutputs, 'feature-discriminator'), /FeatureDiscriminator for discriminator/);
    await rejects(() => create(onOutputs, 'mean'), /null with the alignment 'mean' for discriminator/);
    const options = { ...SEGMENTATION, alignment: 'means' as 'mean' };
    await rejects(() => SegmentationStep.create(segmenter, null, options), /one of output-discriminator/);
    using narrow = await FeatureDiscriminator.create({ featureCount: 7, baseWidth: 4 });
    using step = await create(narrow, 'feature-discriminator');
    const batch = { source: randomBatch(SHAPE, 1, 5), target: randomBatch(SHAPE, 2), learningRate: 1e-3 };
    await assert.rejects(step.run(batch), /7 channels/);
  });

  it('a teacher out of range, and ClassMix on images of two sizes', async () => {
    const create = (teacher: Partial<typeof TEACHER> & { seed?: number; classShares?: number[] }) =>
      SegmentationStep.create(segmenter, null, { ...SEGMENTATION, teacher: { ...TEACHER, ...teacher } });
    await rejects(() => create({ decay: 1.1 }), /from 0 to 1 for teacher\.decay but received 1\.1/);
    await rejects(() => create({ threshold: Number.NaN }), /teacher\.threshold but received NaN/);
    await rejects(
      () => create({ classShares: [1.1] }),
      /from 0 to 1 for teacher\.classShares\.0 but received 1\.1/,
    );
    await rejects(
      () => create({ classShares: [1, 0] }),
      /Expected 5 class shares, one per class, but received 2/,
    );
    await rejects(() => create({ seed: -1 }), /teacher\.seed but received -1/);
    const masked = (masking: object) => create({ masking } as never);
    await rejects(() => masked({ ratio: 1.1 }), /from 0 to 1 for teacher\.masking\.ratio but received 1\.1/);
    await rejects(() => masked({ patch: -1 }), /from 0 to 1 for teacher\.masking\.patch but received -1/);
    await rejects(() => masked({ weight: Number.NaN }), /teacher\.masking\.weight but received NaN/);
    await rejects(() => masked({ rate: 0.5 }), /teacher\.masking.*rate/);
    const anchored = (classes: unknown) =>
      SegmentationStep.create(segmenter, null, { ...SEGMENTATION, featureDistance: { classes } as never });
    await rejects(() => anchored([]), /list of class indices for featureDistance\.classes/);
    await rejects(() => anchored(['car']), /featureDistance\.classes\.0 but received "car"/);
    using step = await create({});
    const batch = { source: randomBatch(SHAPE, 1, 5), learningRate: 1e-3 };
    await rejects(
      () => step.run({ ...batch, target: randomBatch({ ...SHAPE, height: 41 }, 2) }),
      /one shape for ClassMix but received \[2, 33, 49, 3\] and \[2, 41, 49, 3\]/,
    );
    // The teacher starts as the student. A failed step does not move it.
    const state = await step.state();
    for (const [name, tensor] of state) {
      if (name.startsWith('teacher.') && name !== 'teacher.steps') {
        const own = state.get(name.replace('teacher.', 'segmenter.'))!;
        assert.deepEqual(await tensor.data(), await own.data(), name);
      }
    }
    assert.deepEqual(await state.get('teacher.steps')!.data(), BigInt64Array.of(0n));
    for (const tensor of state.values()) tensor.dispose();
  });

  it('the inverse of a paired translator, and images that form no pairs', async () => {
    const shape = { depth: 5, baseWidth: 2, discriminatorWidth: 2 };
    using paired = await Translator.create({ pairing: 'paired', ...shape });
    using unpaired = await Translator.create({ blocks: 6, baseWidth: 2, discriminatorWidth: 2 });
    const back = { count: 1, width: 32, height: 32, direction: 'target-to-source' } as const;
    const needsBoth = /with both generators but this one is paired/;
    await rejects(() => paired.translate(new Uint8Array(32 * 32 * 3), back), needsBoth);
    await rejects(() => TranslationStep.create(paired, null, TRANSLATION), needsBoth);
    await rejects(() => PairedTranslationStep.create(unpaired, PAIRED_TRANSLATION), /a paired Translator/);
    await rejects(() => Translator.create({ pairing: 'paired', depth: 11 }), /from 2 to 10 for depth/);
    assert.deepEqual([paired.sizeMultiple, unpaired.sizeMultiple], [32, 4]);

    using step = await PairedTranslationStep.create(paired, PAIRED_TRANSLATION);
    const run = (width: number, other: number) =>
      step.run({
        source: randomBatch({ count: 1, height: 32, width }, 1),
        target: randomBatch({ count: 1, height: 32, width: other }, 2),
        learningRate: 1e-3,
      });
    await rejects(() => run(64, 32), /pairs of images of one shape but received \[1, 32, 64, 3\] and/);
    await rejects(() => run(48, 48), /multiples of 32 for the generator but received 32 x 48/);
  });

  it('images that are too small for a discriminator', async () => {
    using translator = await Translator.create({ blocks: 6, baseWidth: 2, discriminatorWidth: 2 });
    using translation = await TranslationStep.create(translator, null, {
      ...TRANSLATION,
      perceptualWeight: 0,
    });
    const pair = (side: number) => ({
      source: randomBatch({ count: 1, height: side, width: side + 4 }, 1),
      target: randomBatch({ count: 1, height: side, width: side + 4 }, 2),
      learningRate: 1e-3,
    });
    await rejects(() => translation.run(pair(20)), /at least 24x24 \(width x height\) .* received 24x20/);
    assert((await translation.run(pair(24))).total > 0);
    using discriminator = await OutputDiscriminator.create({ classCount: 5, baseWidth: 2 });
    using step = await SegmentationStep.create(segmenter, discriminator, SEGMENTATION);
    const domains = (side: number) => {
      const shape = { count: 2, height: side, width: side };
      return { source: randomBatch(shape, 1, 5), target: randomBatch(shape, 2), learningRate: 1e-3 };
    };
    await rejects(() => step.run(domains(31)), /at least 32x32 \(width x height\) .* received 31x31/);
    assert((await step.run(domains(32))).total > 0);
  });

  it('a number of thresholds that differs from the number of classes', async () => {
    const job = { count: 1, width: 8, height: 8 };
    const predict = (options: object) => segmenter.predict(new Uint8Array(192), { ...job, ...options });
    await rejects(() => predict({ classThresholds: [1, 1] }), /5 thresholds above 0, one per class/);
    await rejects(() => predict({ classThresholds: [1, 1, 0, 1, 1] }), /5 thresholds above 0/);
    await rejects(
      () => predict({ classThresholds: [1, 1, 1, 1, 1], flip: true }),
      /no classThresholds with flip/,
    );
  });

  it('features and probabilities of incompatible shapes', async () => {
    using one = zeros(1, 3, 1, 1);
    using three = zeros(2, 3, 4, 5);
    using four = zeros(2, 4, 4, 5);
    await rejects(() => correlationDistance(three, one), /at least two positions but received one/);
    await rejects(() => meanDistance(three, four), /equal C but received \[2, 3, 4, 5\] and \[2, 4, 4, 5\]/);
    using flat = zeros(3, 4);
    await rejects(() => selfInformation(flat), /probabilities \[N, C, H, W\]/);
  });
});
