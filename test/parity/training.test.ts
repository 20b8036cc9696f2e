import {
  maskedCrossEntropy,
  type Network,
  Optimizer,
  OutputDiscriminator,
  SegmentationStep,
  type SegmentationStepOptions,
  Segmenter,
  type StepBatch,
  segmenterInput,
  Tensor,
  TranslationStep,
  type TranslationStepOptions,
  Translator,
} from 'bidiseg';
import { type BatchShape, randomBatch, SEGMENTATION, TRANSLATION } from '../helpers/batches.js';
import { temporaryFolder } from '../helpers/folder.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

// SGD: norm-wise per tensor, the largest of a network. How far weights moved is looked at too, relative to how far they
// should have: the weights themselves hardly move in a few steps. It is a difference of nearly equal float32 numbers.
const SGD_BOUNDS = { weights: 1e-5, moved: 1e-3 };
// Adam divides a gradient by its own size, so that an element whose true gradient is 0 or nearly so moves by the
// learning rate in a direction that rounding decides; so the norm is that of the whole network.
const ADAM_BOUNDS = { weightsOverall: 1e-4, movedOverall: 1e-3 };
const LOSS_BOUND = 1e-5;
// The translators have too many such elements for one look: where one of the 130,000 of a generator goes the other way,
// that alone is 2 / √130000 = 5.5e-3 of the way. And their L1 terms have a gradient that jumps: after the first step a
// pixel whose error is 0 but for rounding may get the other sign here than there, and one sign in N changes a sum of
// signs of noise by 2 / √N, which Adam carries into all weights. Both are rare: the median over sets of images keeps
// tight bounds, and the largest error is only kept from being a mistake in the equations, which would be of order 1.
const BOUNDS_OF_SEVERAL = {
  1: { losses: [1e-6, 1e-6], weights: [1e-5, 1e-3], moved: [1e-3, 5e-2] },
  3: { losses: [1e-5, 1e-2], weights: [1e-4, 5e-3], moved: [1e-2, 2e-1] },
} as const;
// Biases in front of an InstanceNorm, which takes them away again, have no gradient but rounding: they go wherever, by
// at most (1 - beta1) / sqrt(1 - beta2) learning rates a step on either side, and nothing depends on them.
const IDLE_BOUND = (steps: number) => (steps === 1 ? 2 : (2 * steps * 0.5) / Math.sqrt(0.001)) * 1.001;

interface Errors {
  /** The largest error of a tensor. */
  weights: number;
  moved: number;
  /** The error of all tensors as one. */
  weightsOverall: number;
  movedOverall: number;
  /** The largest difference of an idle bias. */
  noise: number;
}

function rowsOf(item: string, errors: Errors, bounds: Partial<Record<keyof Errors, number>>): Measurement[] {
  return Object.entries(bounds).map(([key, bound]) => ({
    item: `${item} ${key}`,
    error: errors[key as keyof Errors],
    bound,
  }));
}

const CLASS_COUNT = 7;
const SEGMENTER = { backbone: 'resnet18', width: 1 / 8, branches: 4, classCount: CLASS_COUNT } as const;
const DISCRIMINATOR = { classCount: CLASS_COUNT, baseWidth: 8 };
const GENERATOR = { kind: 'resnet-generator', options: { blocks: 6, baseWidth: 8 } };
const CRITIC = { kind: 'patch-discriminator', options: { baseWidth: 8 } };

const plain = (batch: StepBatch, data: Uint8Array, channels: number[]): PlainTensor => ({
  data,
  shape: [batch.count, batch.height, batch.width, ...channels],
});

function writeBatch(file: string, batch: { source: StepBatch; target?: StepBatch }): string {
  const tensors: Record<string, PlainTensor> = {};
  for (const [domain, images] of Object.entries(batch)) {
    tensors[`${domain}.images`] = plain(images, images.images, [3]);
    if (images.labels) tensors[`${domain}.labels`] = plain(images, images.labels, []);
  }
  writeTensors(file, tensors);
  return file;
}

describe('parity with PyTorch: training', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);

  async function saved(network: Network | Translator, name: string): Promise<string> {
    const file = folder.path(name);
    await network.save(file);
    return file;
  }

  it('moves the segmenter and D_M as the equations say', async () => {
    const rows: Measurement[] = [];

    async function compare(
      item: string,
      steps: number,
      changes: Partial<SegmentationStepOptions>,
      parts: { target: boolean; pseudoLabels: boolean; discriminator: boolean } = {
        target: true,
        pseudoLabels: true,
        discriminator: true,
      },
      shape: BatchShape = { count: 2, height: 49, width: 65 },
      network: Partial<typeof SEGMENTER> | { backbone: 'resnet50' } = {},
    ): Promise<void> {
      const options = { ...SEGMENTATION, ...changes };
      const spec = { ...SEGMENTER, ...network };
      using segmenter = await Segmenter.create({ ...spec, initialisation: 'kaiming' });
      using discriminator = parts.discriminator ? await OutputDiscriminator.create(DISCRIMINATOR) : null;
      using step = await SegmentationStep.create(segmenter, discriminator, options);
      const before = await saved(segmenter, 'm0');
      const criticBefore = discriminator && (await saved(discriminator, 'd0'));
      const rates = { learningRate: 1e-3, discriminatorLearningRate: 1e-3 };
      const batches: string[] = [];
      const losses: object[] = [];
      for (let i = 0; i < steps; ++i) {
        const source = randomBatch(shape, 10 * i, CLASS_COUNT);
        const target = randomBatch(
          { ...shape, height: shape.height + 8 },
          10 * i + 5,
          parts.pseudoLabels ? CLASS_COUNT : undefined,
        );
        const batch = parts.target ? { source, target } : { source };
        batches.push(writeBatch(folder.path(`batch${i}`), batch));
        losses.push(await step.run({ ...batch, ...rates }));
      }
      const errors = await twin().ask<{ segmenter: Errors; discriminator?: Errors; losses: number }>({
        do: 'segmentation',
        segmenter: {
          network: { kind: 'deeplab-v2', options: spec },
          before,
          after: await saved(segmenter, 'm1'),
        },
        ...(discriminator && {
          discriminator: {
            network: { kind: 'output-discriminator', options: DISCRIMINATOR },
            before: criticBefore,
            after: await saved(discriminator, 'd1'),
          },
        }),
        options,
        batches,
        losses,
        ...rates,
      });
      const name = `${item}, ${steps} step${steps > 1 ? 's' : ''}`;
      rows.push({ item: `${name}: losses`, error: errors.losses, bound: LOSS_BOUND });
      const bounds = options.optimizer === 'sgd' ? SGD_BOUNDS : ADAM_BOUNDS;
      rows.push(...rowsOf(`${name}: M`, errors.segmenter, bounds));
      if (errors.discriminator) {
        rows.push(...rowsOf(`${name}: D_M`, errors.discriminator, ADAM_BOUNDS));
      }
    }

    for (const steps of [1, 3]) {
      await compare('all terms', steps, {});
      await compare('all terms, repeatedStep', steps, { repeatedStep: true });
    }
    await compare('resnet50, repeatedStep', 1, { repeatedStep: true }, undefined, undefined, {
      backbone: 'resnet50',
    });
    await compare('paper: all pixels, Adam, weight 0.5', 3, {
      normalise: 'all',
      optimizer: 'adam',
      pseudoLabelWeight: 0.5,
      adversarialWeight: 1e-2,
    });
    await compare('no momentum', 2, { momentum: 0 });
    const without = { target: true, pseudoLabels: true, discriminator: true };
    await compare('source alone', 2, {}, { ...without, target: false, discriminator: false });
    await compare('no pseudo-labels', 2, {}, { ...without, pseudoLabels: false });
    await compare('no discriminator', 2, {}, { ...without, discriminator: false });
    printAndCheck('segmentation iterations: relative errors', rows);
  });

  it('moves the translators and both D_F as the equations say', async () => {
    const rows: Measurement[] = [];

    async function compare(
      seed: number,
      steps: number,
      changes: Partial<TranslationStepOptions>,
      M: boolean,
    ): Promise<Map<string, number>> {
      const options = { ...TRANSLATION, ...changes };
      using translator = await Translator.create({ blocks: 6, baseWidth: 8, discriminatorWidth: 8 });
      using segmenter = M ? await Segmenter.create({ ...SEGMENTER, initialisation: 'kaiming' }) : null;
      const segmenterFile = segmenter && (await saved(segmenter, 'm'));
      using step = await TranslationStep.create(translator, segmenter, options);
      const before = await saved(translator, 't0');
      const learningRate = 2e-4;
      const batches: string[] = [];
      const losses: object[] = [];
      for (let i = 0; i < steps; ++i) {
        const shape = { count: 2, height: 36, width: 44 };
        const batch = {
          source: randomBatch(shape, seed + 10 * i),
          target: randomBatch(shape, seed + 10 * i + 5),
        };
        batches.push(writeBatch(folder.path(`batch${i}`), batch));
        losses.push(await step.run({ ...batch, learningRate }));
      }
      const { losses: lossError, ...networks } = await twin().ask<
        { losses: number } & Record<string, Errors>
      >({
        do: 'translation',
        networks: {
          'to_target.': GENERATOR,
          'to_source.': GENERATOR,
          'target_critic.': CRITIC,
          'source_critic.': CRITIC,
        },
        before,
        after: await saved(translator, 't1'),
        ...(segmenter && {
          segmenter: { network: { kind: 'deeplab-v2', options: SEGMENTER }, before: segmenterFile },
        }),
        options,
        batches,
        losses,
        learningRate,
      });
      const errors = new Map([['losses', lossError]]);
      for (const [prefix, network] of Object.entries(networks)) {
        errors.set(`${prefix.slice(0, -1)} weights`, network.weightsOverall);
        errors.set(`${prefix.slice(0, -1)} moved`, network.movedOverall);
      }
      const idle = Math.max(...Object.values(networks).map(({ noise }) => noise)) / learningRate;
      return errors.set('idle biases / lr', idle);
    }

    /** The same with three sets of images: the median error, and the largest. */
    async function compareSeveral(
      item: string,
      steps: 1 | 3,
      changes: Partial<TranslationStepOptions>,
      M = true,
    ): Promise<void> {
      const runs: Map<string, number>[] = [];
      for (const seed of [1, 1000, 2000]) runs.push(await compare(seed, steps, changes, M));
      for (const what of runs[0]!.keys()) {
        const [, median, largest] = runs.map((run) => run.get(what)!).sort((a, b) => a - b) as [
          number,
          number,
          number,
        ];
        const name = `${item}, ${steps} step${steps > 1 ? 's' : ''}: ${what}`;
        if (what.startsWith('idle')) {
          rows.push({ item: name, error: largest, bound: IDLE_BOUND(steps) });
        } else {
          const [usual, worst] = BOUNDS_OF_SEVERAL[steps][what.split(' ').at(-1) as 'losses'];
          rows.push({ item: `${name}, median`, error: median, bound: usual });
          rows.push({ item: `${name}, largest`, error: largest, bound: worst });
        }
      }
    }

    for (const steps of [1, 3] as const) {
      await compareSeveral('reference', steps, {});
      await compareSeveral('paper: L1, no identity', steps, { perceptualForm: 'l1', identityWeight: 0 });
    }
    await compareSeveral('BCE, no segmenter', 1, { ganMode: 'bce' }, false);
    printAndCheck('translation iterations: relative errors', rows);
  });

  it('steps an optimizer as torch.optim does, gradients kept in between too', async () => {
    const rows: Measurement[] = [];
    const fcn = { width: 1 / 16, classCount: CLASS_COUNT };
    for (const [item, spec, options] of [
      ['SGD, decay, head', { kind: 'deeplab-v2', options: SEGMENTER }, { ...SEGMENTATION, weightDecay: 0.5 }],
      [
        'SGD without momentum',
        { kind: 'deeplab-v2', options: SEGMENTER },
        { ...SEGMENTATION, weightDecay: 0.5, momentum: 0 },
      ],
      ['Adam, FCN-8s', { kind: 'fcn-8s', options: fcn }, { ...SEGMENTATION, optimizer: 'adam' as const }],
    ] as const) {
      using network = await Segmenter.create({
        network: spec.kind,
        ...spec.options,
        initialisation: 'kaiming',
      });
      await network.eval();
      const before = await saved(network, 'before');
      const batch = randomBatch({ count: 1, height: 49, width: 65 }, 3, CLASS_COUNT);
      const optimizer =
        options.optimizer === 'sgd'
          ? await Optimizer.sgd(network, options)
          : await Optimizer.adam(network, { ...options, betas: options.adamBetas });
      using images = Tensor.from(batch.images, [1, 49, 65, 3]);
      using labels = Tensor.from(batch.labels!, [1, 49, 65]);
      using input = await segmenterInput(images);
      using logits = await network.forward(input);
      using loss = await maskedCrossEntropy(logits, labels);
      await loss.backward();
      // The decay is large, so that a gradient that had taken in the decay of an earlier step would show.
      const steps = 3;
      for (let i = 0; i < steps; ++i) await optimizer.step(1e-4);
      const errors = await twin().ask<Errors>({
        do: 'accumulation',
        network: spec,
        before,
        after: await saved(network, 'after'),
        batch: writeBatch(folder.path('batch'), { source: batch }),
        options,
        learningRate: 1e-4,
        steps,
      });
      optimizer.dispose();
      const bounds = options.optimizer === 'sgd' ? SGD_BOUNDS : ADAM_BOUNDS;
      rows.push(...rowsOf(item, errors, bounds));
    }
    printAndCheck('optimizer steps: relative errors', rows);
  });
});
