import {
  domainLoss,
  ganLoss,
  l1Loss,
  maskedCrossEntropy,
  type Network,
  type NetworkDtype,
  Optimizer,
  OutputDiscriminator,
  perceptualLoss,
  Segmenter,
  type SegmenterOptions,
  segmenterInputFromTranslator,
  Tensor,
  Translator,
} from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';
import { randomBytes, randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';
import { randomizeNormsAndBiases } from '../helpers/weights.js';

// In float32 the bound holds because both sides compute with the same kernels, LibTorch's. With other kernels, outputs differ by
// 1e-6. Then a few units (ReLU) and pixels (L1) change sign, and gradients differ by 1e-2. In float64 they differ by
// less than 1e-12 even then.
const BOUNDS = { float32: { loss: 1e-5, gradient: 1e-4 }, float64: { loss: 1e-12, gradient: 1e-9 } };

/** Networks: the segmenter M, its discriminator D, the translators F and G = F⁻¹, an image discriminator C. */
type Letter = 'M' | 'D' | 'F' | 'G' | 'C';

/** Network with the twin's description of it and its weights file. */
interface Member {
  network: Network;
  spec: { kind: string; options: object };
  weights: string;
}

type Family = Record<Letter, Member> & { dtype: NetworkDtype; sizes: Sizes };

interface Sizes {
  /** Size of M's input. */
  image: [height: number, width: number];
  /** Size of F's input, multiples of 4. */
  rgb: [height: number, width: number];
  count: number;
  classCount: number;
}

/** Keeps a tensor alive until the case is over. */
type Keep = (tensor: Promise<Tensor>) => Promise<Tensor>;
type Forward = (letter: Letter, input: Tensor) => Promise<Tensor>;
type Inputs = Record<'image' | 'labels' | 'scores', Tensor>;
// biome-ignore lint/suspicious/noExplicitAny: each loss knows its own
type Loss = (inputs: Inputs, options: any, forward: Forward, keep: Keep) => Promise<Tensor>;

/** Losses of the composable surface. test/parity/gradients.py has the same in PyTorch. */
const LOSSES: Record<string, Loss> = {
  crossEntropy: async ({ image, labels }, options, forward) =>
    maskedCrossEntropy(await forward('M', image), labels, options),
  adversarial: async ({ image }, _, forward, keep) => {
    const [height, width] = image.shape.slice(2) as [number, number];
    const logits = await keep((await forward('M', image)).resize(height, width));
    return domainLoss(await forward('D', await keep(logits.softmax())), 'source');
  },
  domain: async ({ scores }, { domain }, forward, keep) =>
    domainLoss(await forward('D', await keep(scores.softmax())), domain),
  gan: async ({ image }, options, forward) =>
    ganLoss(await forward('C', await forward('F', image)), true, options),
  discriminator: async ({ image }, { real, ...options }, forward) =>
    ganLoss(await forward('C', image), real, options),
  cycle: async ({ image }, _, forward) => l1Loss(await forward('G', await forward('F', image)), image),
  identity: async ({ image }, _, forward) => l1Loss(await forward('G', image), image),
  perceptual: async ({ image }, { form }, forward, keep) => {
    const seen = async (rgb: Tensor) => forward('M', await keep(segmenterInputFromTranslator(rgb)));
    return perceptualLoss(await seen(await forward('F', image)), await seen(image), form);
  },
  perceptualReconstruction: async ({ image }, { form }, forward, keep) => {
    const seen = async (rgb: Tensor) => forward('M', await keep(segmenterInputFromTranslator(rgb)));
    return perceptualLoss(await seen(await forward('G', await forward('F', image))), await seen(image), form);
  },
};

interface Case {
  loss: keyof typeof LOSSES;
  options?: object;
  /** Networks whose parameters' gradients are compared, in training mode. */
  trained: Letter[];
  /** Networks with frozen parameters. M is in evaluation mode, as for the perceptual terms. */
  frozen?: Letter[];
}

const SEGMENTATION_CASES: Case[] = [
  { loss: 'crossEntropy', options: { normalize: 'valid', ignoreIndex: 255 }, trained: ['M'] },
  { loss: 'crossEntropy', options: { normalize: 'all', ignoreIndex: 255 }, trained: ['M'] },
  { loss: 'adversarial', trained: ['M'], frozen: ['D'] },
];
const DISCRIMINATOR_CASES: Case[] = [
  { loss: 'domain', options: { domain: 'source' }, trained: ['D'] },
  { loss: 'domain', options: { domain: 'target' }, trained: ['D'] },
];
const TRANSLATION_CASES: Case[] = [
  ...['least-squares', 'bce'].flatMap((mode): Case[] => [
    { loss: 'gan', options: { mode }, trained: ['F'], frozen: ['C'] },
    { loss: 'discriminator', options: { mode, real: true }, trained: ['C'] },
    { loss: 'discriminator', options: { mode, real: false }, trained: ['C'] },
  ]),
  { loss: 'cycle', trained: ['F', 'G'] },
  { loss: 'identity', trained: ['G'] },
];
const PERCEPTUAL_CASES: Case[] = ['l1', 'normalized-mse'].flatMap((form): Case[] => [
  { loss: 'perceptual', options: { form }, trained: ['F'], frozen: ['M'] },
  { loss: 'perceptualReconstruction', options: { form }, trained: ['F', 'G'], frozen: ['M'] },
]);

describe('parity with PyTorch: gradients of the losses with respect to every parameter', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  after(folder.remove);
  let files = 0;

  async function member(network: Network, kind: string, options: object): Promise<Member> {
    const weights = folder.path(`weights-${++files}`);
    await randomizeNormsAndBiases(network, weights);
    await network.save(weights);
    return { network, spec: { kind, options }, weights };
  }

  async function segmenter(options: SegmenterOptions): Promise<Member> {
    const { network: kind = 'deeplab-v2', dtype: _, ...rest } = options;
    return member(await Segmenter.create({ ...options, initialization: 'kaiming' }), kind, rest);
  }

  async function others(dtype: NetworkDtype, classCount: number, baseWidth: number, blocks: 6 | 9) {
    const widths = { dtype, blocks, baseWidth, discriminatorWidth: baseWidth };
    const translator = await Translator.create(widths);
    const resizing = await Translator.create({ ...widths, upsampling: 'resize' });
    const { sourceDiscriminator, toSource } = translator;
    const unused = [sourceDiscriminator, toSource];
    unused.push(resizing.toTarget, resizing.targetDiscriminator, resizing.sourceDiscriminator);
    for (const network of unused) network.dispose();
    const D = await OutputDiscriminator.create({ dtype, classCount, baseWidth });
    return {
      D: await member(D, 'output-discriminator', { classCount, baseWidth }),
      F: await member(translator.toTarget, 'resnet-generator', { blocks, baseWidth }),
      G: await member(resizing.toSource, 'resnet-generator', { blocks, baseWidth, upsampling: 'resize' }),
      C: await member(translator.targetDiscriminator, 'patch-discriminator', { baseWidth }),
    };
  }

  /** Computes a case here and in the twin. */
  async function compare(family: Family, name: string, testCase: Case): Promise<Measurement[]> {
    const { dtype, sizes } = family;
    const kept: Tensor[] = [];
    const keep: Keep = async (tensor) => {
      kept.push(await tensor);
      return tensor;
    };
    const letters = [...testCase.trained, ...(testCase.frozen ?? [])];
    for (const letter of letters) {
      const { network } = family[letter];
      const isTrained = testCase.trained.includes(letter);
      await (letter === 'M' && !isTrained ? network.eval() : network.train());
      await (isTrained ? network.unfreeze() : network.freeze());
    }

    const ofDtype = (numbers: Float32Array) => (dtype === 'float64' ? Float64Array.from(numbers) : numbers);
    const isRgb = !testCase.trained.includes('M') && !testCase.trained.includes('D');
    const { count, classCount } = sizes;
    const [height, width] = isRgb ? sizes.rgb : sizes.image;
    const plain: Record<string, PlainTensor> = {
      image: {
        data: ofDtype(randomNormal(count * 3 * height * width, 1, isRgb ? 0.5 : 60)),
        shape: [count, 3, height, width],
      },
      labels: {
        data: randomBytes(count * height * width, 2, classCount, 0.2),
        shape: [count, height, width],
      },
      scores: {
        data: ofDtype(randomNormal(count * classCount * height * width, 3, 3)),
        shape: [count, classCount, height, width],
      },
    };
    const inputs = {} as Inputs;
    for (const [key, { data, shape }] of Object.entries(plain)) {
      inputs[key as keyof Inputs] = Tensor.from(data, shape);
    }
    kept.push(...Object.values(inputs));
    const forward: Forward = (letter, input) =>
      keep(family[letter].network.forward(input, { convolutions: 'direct' }));
    const loss = await keep(LOSSES[testCase.loss]!(inputs, testCase.options ?? {}, forward, keep));
    await loss.backward();

    plain.loss = { data: (await loss.data()) as PlainTensor['data'], shape: [] };
    const file = folder.path('case');
    writeTensors(file, plain);
    const networks: Record<string, object> = {};
    for (const letter of letters) {
      const { network, spec, weights } = family[letter];
      const isTrained = testCase.trained.includes(letter);
      networks[letter] = {
        network: spec,
        weights,
        training: letter !== 'M' || isTrained,
        ...(isTrained && { gradients: await writeGradients(network, folder.path(`gradients-${letter}`)) }),
      };
    }
    for (const tensor of kept) tensor.dispose();
    const { loss: lossError, ...gradients } = await twin().ask<Record<string, number>>({
      do: 'networkGradients',
      networks,
      case: file,
      loss: testCase.loss,
      options: testCase.options ?? {},
    });
    const options = Object.values(testCase.options ?? {}).filter((value) => value !== 255);
    const item = [`${name}: ${testCase.loss}`, ...options].join(', ');
    const bound = BOUNDS[dtype];
    return [
      { item: `${item}: value`, error: lossError!, bound: bound.loss },
      ...Object.entries(gradients).map(([what, error]) => ({
        item: `${item}: gradient of ${what}`,
        error,
        bound: bound.gradient,
      })),
    ];
  }

  /** Writes the gradients of all parameters that have one, then clears them. */
  async function writeGradients(network: Network, file: string): Promise<string> {
    const gradients: Record<string, PlainTensor> = {};
    for (const [name, parameter] of await network.parameters()) {
      using gradient = await parameter.gradient();
      if (gradient) {
        gradients[name] = { data: (await gradient.data()) as PlainTensor['data'], shape: gradient.shape };
      }
      parameter.dispose();
    }
    writeTensors(file, gradients);
    using optimizer = await Optimizer.sgd(network);
    await optimizer.zeroGrad();
    return file;
  }

  it('at the published widths, in float32', async function () {
    if (process.env.TEST_LONG === undefined) {
      console.log('    skipped: takes a minute; npm run test:long runs it');
      this.skip();
    }
    const rows: Measurement[] = [];
    const dtype = 'float32';
    const sizes: Sizes = { image: [49, 65], rgb: [44, 60], count: 1, classCount: 19 };
    const rest = await others(dtype, 19, 64, 9);
    for (const [name, options, cases] of [
      [
        'DeepLab-v2 ResNet-101',
        { classCount: 19, backbone: 'resnet101', branches: 4 },
        // The order matters: training mode moves the running statistics, which evaluation mode uses.
        [...PERCEPTUAL_CASES, ...SEGMENTATION_CASES],
      ],
      ['2 branches', { classCount: 19, backbone: 'resnet101', branches: 2 }, SEGMENTATION_CASES.slice(0, 1)],
      ['FCN-8s', { classCount: 19, network: 'fcn-8s' }, SEGMENTATION_CASES.slice(0, 1)],
    ] as const) {
      const family = { ...rest, M: await segmenter(options), dtype, sizes } as const;
      for (const testCase of cases) rows.push(...(await compare(family, name, testCase)));
      family.M.network.dispose();
    }
    const family = { ...rest, M: rest.D, dtype, sizes } as const;
    for (const testCase of DISCRIMINATOR_CASES) rows.push(...(await compare(family, 'D_M', testCase)));
    for (const testCase of TRANSLATION_CASES) rows.push(...(await compare(family, 'CycleGAN', testCase)));
    printAndCheck('gradients at the published widths, float32: relative errors', rows);
  });

  it('of small members, in float64', async () => {
    const rows: Measurement[] = [];
    const dtype = 'float64';
    const sizes: Sizes = { image: [49, 65], rgb: [36, 44], count: 2, classCount: 7 };
    const rest = await others(dtype, 7, 8, 6);
    const deeplab = { dtype, classCount: 7, width: 1 / 8 } as const;
    const fcn = { dtype, classCount: 7, network: 'fcn-8s', width: 1 / 16 } as const;
    for (const [name, options, cases] of [
      ['ResNet-18', { ...deeplab, backbone: 'resnet18' }, SEGMENTATION_CASES],
      [
        'ResNet-50, 2 branches',
        { ...deeplab, backbone: 'resnet50', branches: 2 },
        [...PERCEPTUAL_CASES, ...SEGMENTATION_CASES],
      ],
      [
        'DeepLab-v2 on VGG-16',
        { ...deeplab, backbone: 'vgg16', width: 1 / 16 },
        [...PERCEPTUAL_CASES, ...SEGMENTATION_CASES],
      ],
      // One case per network, because its dropout restarts with the network.
      ...[...PERCEPTUAL_CASES, ...SEGMENTATION_CASES].map((testCase) => ['FCN-8s', fcn, [testCase]] as const),
    ] as const) {
      const family = { ...rest, M: await segmenter(options), dtype, sizes } as const;
      for (const testCase of cases) rows.push(...(await compare(family, name, testCase)));
      family.M.network.dispose();
    }
    const family = { ...rest, M: rest.D, dtype, sizes } as const;
    for (const testCase of DISCRIMINATOR_CASES) rows.push(...(await compare(family, 'D_M', testCase)));
    for (const testCase of TRANSLATION_CASES) rows.push(...(await compare(family, 'CycleGAN', testCase)));
    printAndCheck('gradients of small members, float64: relative errors', rows);
  });
});
