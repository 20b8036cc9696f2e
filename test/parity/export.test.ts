import assert from 'node:assert/strict';
import { existsSync, readdirSync, statSync } from 'node:fs';
import {
  DataError,
  exportOnnx,
  exportTorchScript,
  InvalidArgumentError,
  SEGMENTER_MEAN_BGR,
  Segmenter,
  type SegmenterOptions,
  segmenterInput,
  Tensor,
} from 'bidiseg';
import { layOut } from '../../lib/export/onnx-file.js';
import { fcn8sGraph } from '../../lib/export/onnx-segmenter.js';
import { native } from '../../lib/native/binding.js';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { temporaryFolder } from '../helpers/folder.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { randomizeWeights, snapshot } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

const ERROR_BOUND = 1e-4;
const DISAGREEMENT_BOUND = 1e-4;

/** Small networks of every kind, as this package and the twin describe them. */
const KINDS: { item: string; options: SegmenterOptions }[] = [
  ...(['resnet18', 'resnet34', 'resnet50', 'resnet101'] as const).flatMap((backbone) =>
    ([4, 2] as const).map((branches) => ({
      item: `DeepLab-v2 ${backbone}, ${branches} branches`,
      options: { backbone, branches, width: 1 / 16, classCount: 7 },
    })),
  ),
  {
    item: 'DeepLab-v2 resnet50, stride in the middle',
    options: { backbone: 'resnet50', bottleneckStride: 'middle', width: 1 / 16, classCount: 7 },
  },
  { item: 'DeepLab-v2 vgg16', options: { backbone: 'vgg16', width: 1 / 16, classCount: 7 } },
  { item: 'FCN-8s', options: { network: 'fcn-8s', width: 1 / 16, classCount: 5 } },
];

/** Input shapes to test. The traced shape is [1, 3, 65, 65]. */
const SHAPES = [
  [1, 3, 65, 65],
  [2, 3, 64, 96],
  [1, 3, 47, 121],
  [3, 3, 90, 33],
  [2, 3, 33, 33],
];

/** Sizes that models are fixed to, upsampled or not. */
const FIXED = [
  { upsample: true, size: { width: 96, height: 64 } },
  { upsample: true, size: { width: 121, height: 47 }, batch: 2 },
  { upsample: false, size: { width: 121, height: 47 }, batch: 2 },
  { upsample: true, size: { width: 33, height: 33 } },
];
/** One of each kind of block, and one of each head. */
const SOME_KINDS = KINDS.filter(({ item }) => /resnet18|resnet50, 4|vgg16|FCN/.test(item));

const shapeOf = ({ size, batch = 1 }: (typeof FIXED)[number]) => [batch, 3, size.height, size.width];

interface Run {
  results: { error: number; agreement: number; classes: number }[];
  metadata: Record<string, unknown>;
  values?: [name: string, type: string, shape: unknown[]][];
}

describe('exported segmenters', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  /** Creates a segmenter whose every weight matters, its weights file, and the twin's network. */
  async function prepared(options: SegmenterOptions) {
    const weights = folder.path('weights');
    const segmenter = await Segmenter.create({ ...options, initialization: 'kaiming' });
    await randomizeWeights(segmenter, weights);
    const { network: kind = 'deeplab-v2', classNames: _names, ...rest } = options;
    return { segmenter, weights, network: { kind, options: rest } };
  }

  function rowsOf(item: string, { results }: Run): Measurement[] {
    assert.ok(
      results.every(({ classes }) => classes > 1),
      `${item}: nothing to agree on`,
    );
    return [
      { item: `${item}, error`, error: Math.max(...results.map(({ error }) => error)), bound: ERROR_BOUND },
      {
        item: `${item}, other class`,
        error: Math.max(...results.map(({ agreement }) => 1 - agreement)),
        bound: DISAGREEMENT_BOUND,
      },
    ];
  }

  const common = {
    input: { name: 'image', layout: 'NCHW', channels: 'BGR', range: [0, 255], mean: [...SEGMENTER_MEAN_BGR] },
  };
  const output = (upsampled: boolean) => ({ name: 'logits', layout: 'NCHW', upsampled });

  describe('as TorchScript, run by Python', () => {
    const twin = useTwin();

    it('give the logits of the PyTorch twin at any size, and hold its weights', async () => {
      const rows: Measurement[] = [];
      for (const { item, options } of KINDS) {
        const { segmenter, weights, network } = await prepared(options);
        const file = folder.path('model.pt');
        await exportTorchScript(segmenter, file);
        const request = { do: 'runTorchScript', network, weights, file, shapes: SHAPES, upsample: true };
        rows.push(...rowsOf(item, await twin().ask<Run>(request)));
        segmenter.dispose();
      }
      printAndCheck('TorchScript: the largest error of a size, and pixels of another class', rows);
    });

    it('leave logits at the network’s resolution on request, and describe their use', async () => {
      const classNames = ['road', 'sky', 'tree', 'car', 'sign'];
      const options: SegmenterOptions = { backbone: 'resnet18', width: 1 / 16, classCount: 5, classNames };
      const { segmenter, weights, network } = await prepared(options);
      const file = folder.path('small.pt');
      await exportTorchScript(segmenter, file, { upsample: false });
      segmenter.dispose();
      const request = { do: 'runTorchScript', network, weights, file, shapes: SHAPES, upsample: false };
      const run = await twin().ask<Run>(request);
      printAndCheck('TorchScript, not upsampled', rowsOf('DeepLab-v2 resnet18', run));
      assert.deepEqual(run.metadata, {
        version: 1,
        architecture: 'deeplab-v2',
        options: { backbone: 'resnet18', width: 1 / 16, branches: 4, classCount: 5 },
        classes: classNames,
        ...common,
        output: output(false),
      });
    });
  });

  describe('as ONNX, seen by onnx', () => {
    const twin = useTwin('onnx');

    interface Check {
      operators: string[];
      without: string[];
      shapes: [name: string, shape: (number | string)[]][];
    }

    it('pass its checker, spell out every zero and leave no shape open where the size is fixed', async () => {
      for (const { item, options: network } of KINDS) {
        const { segmenter } = await prepared(network);
        const file = folder.path('model.onnx');
        for (const options of [{ upsample: true }, { upsample: false }, ...FIXED]) {
          await exportOnnx(segmenter, file, options);
          const { operators, without, shapes } = await twin().ask<Check>({ do: 'checkOnnx', file });
          const label = `${item}, ${JSON.stringify(options)}`;
          assert.deepEqual(without, [], label);
          assert.ok(!operators.includes('Sum'), label);
          if (!('size' in options)) continue;
          const dynamic = operators.filter((operator) => ['Shape', 'Gather', 'Concat'].includes(operator));
          const open = shapes.filter(([, shape]) => shape.includes('?'));
          assert.deepEqual([dynamic, open], [[], []], label);
          const [count, , ...image] = shapeOf(options);
          const isSmall = !options.upsample && network.network !== 'fcn-8s';
          const isVgg = network.backbone === 'vgg16';
          const small = image.map((n) => (isVgg ? Math.ceil(n / 8) : Math.floor((n + 1) / 8) + 1));
          const extents = isSmall ? small : image;
          assert.deepEqual(shapes.at(-1), ['logits', [count, network.classCount, ...extents]], label);
        }
        segmenter.dispose();
      }
    });

    it("give the PyTorch twin's logits in its reference implementation too", async () => {
      const { item, options } = KINDS[0]!;
      const { segmenter, weights, network } = await prepared(options);
      const file = folder.path('model.onnx');
      const request = { do: 'runReference', network, weights, file, shapes: [[1, 3, 33, 40]] };
      await exportOnnx(segmenter, file);
      const any = await twin().ask<Run>({ ...request, upsample: true });
      await exportOnnx(segmenter, file, { upsample: false, size: { width: 40, height: 33 } });
      const fixed = await twin().ask<Run>({ ...request, upsample: false });
      segmenter.dispose();
      printAndCheck("ONNX in onnx's reference implementation", [
        ...rowsOf(`${item}, any size`, any),
        ...rowsOf(`${item}, fixed size`, fixed),
      ]);
    });
  });

  describe('as ONNX, run by ONNX Runtime', () => {
    const twin = useTwin('onnxruntime');

    it('give the logits of the PyTorch twin at any size', async () => {
      const rows: Measurement[] = [];
      for (const { item, options } of KINDS) {
        const { segmenter, weights, network } = await prepared(options);
        const file = folder.path('model.onnx');
        await exportOnnx(segmenter, file);
        const request = { do: 'runOnnx', network, weights, file, shapes: SHAPES, upsample: true };
        const run = await twin().ask<Run>(request);
        rows.push(...rowsOf(item, run));
        assert.deepEqual(run.values, [
          ['image', 'tensor(float)', ['batch', 3, 'height', 'width']],
          ['logits', 'tensor(float)', ['batch', options.classCount, 'height', 'width']],
        ]);
        assert.deepEqual(
          { ...common, output: output(true) },
          { input: run.metadata.input, output: run.metadata.output },
        );
        segmenter.dispose();
      }
      printAndCheck('ONNX: the largest error of a size, and pixels of another class', rows);
    });

    it('take one shape of images only where it is fixed', async () => {
      const rows: Measurement[] = [];
      for (const { item, options } of SOME_KINDS) {
        const { segmenter, weights, network } = await prepared(options);
        const file = folder.path('fixed.onnx');
        for (const fixed of FIXED) {
          await exportOnnx(segmenter, file, fixed);
          const shape = shapeOf(fixed);
          const refused = [
            [1, 3, 65, 65],
            [3, ...shape.slice(1)],
          ];
          const { upsample } = fixed;
          const request = { do: 'runOnnx', network, weights, file, upsample, shapes: [shape], refused };
          const run = await twin().ask<Run>(request);
          rows.push(...rowsOf(`${item}${upsample ? '' : ', not upsampled'}, [${shape}]`, run));
          assert.deepEqual(run.values![0], ['image', 'tensor(float)', shape]);
          assert.ok(run.values![1]![2].every(Number.isInteger));
        }
        segmenter.dispose();
      }
      printAndCheck('ONNX of fixed sizes', rows);
    });

    it('leave logits at the network’s resolution on request', async () => {
      const { segmenter, weights, network } = await prepared({
        backbone: 'resnet18',
        width: 1 / 16,
        classCount: 5,
      });
      const file = folder.path('small.onnx');
      await exportOnnx(segmenter, file, { upsample: false });
      segmenter.dispose();
      const request = { do: 'runOnnx', network, weights, file, shapes: SHAPES, upsample: false };
      const run = await twin().ask<Run>(request);
      printAndCheck('ONNX, not upsampled', rowsOf('DeepLab-v2 resnet18', run));
      assert.deepEqual(run.values![1]![2], ['batch', 5, 'logits_height', 'logits_width']);
      assert.deepEqual(run.metadata.output, output(false));
    });

    it('hold float32 weights where the segmenter has float64', async () => {
      const options: SegmenterOptions = { backbone: 'resnet18', width: 1 / 16, classCount: 5 };
      const { segmenter, weights, network } = await prepared(options);
      segmenter.dispose();
      using double = await Segmenter.create({ ...options, dtype: 'float64' });
      await double.load(weights);
      const [onnx, torchScript] = [folder.path('double.onnx'), folder.path('double.pt')];
      await exportOnnx(double, onnx);
      await exportTorchScript(double, torchScript);
      const request = { network, weights, shapes: SHAPES.slice(1, 3), upsample: true };
      printAndCheck('out of float64', [
        ...rowsOf('ONNX', await twin().ask<Run>({ do: 'runOnnx', ...request, file: onnx })),
        ...rowsOf(
          'TorchScript',
          await twin().ask<Run>({ do: 'runTorchScript', ...request, file: torchScript }),
        ),
      ]);
    });

    it('can be exported on the command line, from weights in half precision', async () => {
      const { segmenter, network } = await prepared({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
      const [half, weights] = [folder.path('half.safetensors'), folder.path('widened')];
      await segmenter.save(half, { dtype: 'float16' });
      segmenter.dispose();
      for (const [name, format, action, ...more] of [
        ['cli.onnx', 'onnx', 'runOnnx'],
        ['cli.pt', 'torchscript', 'runTorchScript'],
        ['cli-fixed.onnx', 'onnx', 'runOnnx', '--size', '121x47', '--batch', '2'],
      ] as [string, string, string, ...string[]][]) {
        const file = folder.path(name);
        const { code, stdout, stderr } = await bidiseg(['export', half, file, '--json', ...more]);
        assert.equal(code, 0, stderr);
        const { output: written, format: chosen, bytes } = jsonLines(stdout).at(-1)!;
        assert.deepEqual([written, chosen, bytes], [file, format, statSync(file).size]);
        using read = await Segmenter.fromFile(half);
        await read.save(weights);
        const shapes = more.length > 0 ? [[2, 3, 47, 121]] : SHAPES.slice(0, 2);
        const request = { do: action, network, weights, file, shapes, upsample: true };
        printAndCheck(`bidiseg export to ${name}`, rowsOf(name, await twin().ask<Run>(request)));
      }
    });
  });

  it('expect images as segmenterInput() prepares them', async () => {
    using black = Tensor.from(new Uint8Array(3), [1, 1, 1, 3]);
    using input = await segmenterInput(black);
    assert.deepEqual([...(await input.data())], [...Float32Array.from(SEGMENTER_MEAN_BGR, (mean) => -mean)]);
  });

  it('refuse sizes that no model could have', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 3 });
    const file = folder.path('refused');
    const size = { width: 64, height: 48 };
    for (const [options, message] of [
      [
        { size: { ...size, width: 0 } },
        'Expected a whole number from 1 to 16384 for size.width but received 0',
      ],
      [
        { size: { width: 64 } },
        'Expected a whole number from 1 to 16384 for size.height but received undefined',
      ],
      [{ size: '64x48' }, 'Expected an object { width, height } for size but received "64x48"'],
      [{ size, batch: 1.5 }, 'Expected a whole number from 1 to 1024 for batch but received 1.5'],
      [{ batch: 2 }, 'Expected no value without size for batch but received 2'],
      [{ sizes: size }, 'sizes: unknown key; did you mean size?'],
    ] as [object, string][]) {
      await assert.rejects(
        () => exportOnnx(segmenter, file, options),
        (error: Error) => {
          assert.ok(error instanceof InvalidArgumentError);
          assert.ok(error.message.startsWith(message), error.message);
          return true;
        },
      );
    }
    await assert.rejects(() => exportTorchScript(segmenter, file, { size } as object), {
      name: 'InvalidArgumentError',
      message: 'size: unknown key; expected one of upsample',
    });
    assert.ok(!existsSync(file));
  });

  it('do not change the segmenter, also when they cannot be written', async () => {
    using segmenter = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 3 });
    const before = await snapshot(segmenter);
    const list = () => readdirSync(folder.path('.')).sort();
    const files = list();
    for (const write of [
      (file: string, signal?: AbortSignal) => exportOnnx(segmenter, file, signal && { signal }),
      (file: string, signal?: AbortSignal) => exportTorchScript(segmenter, file, signal && { signal }),
    ]) {
      for (const file of [folder.path('no/such/folder'), folder.path('.')]) {
        await assert.rejects(
          () => write(file),
          (error: Error) => error instanceof DataError && error.message.includes(file),
        );
      }
      await assert.rejects(() => write(folder.path('aborted'), AbortSignal.abort()), { name: 'AbortError' });
    }
    assert.deepEqual(list(), files, 'a failed export left something behind');
    // Simulates a full disk. LibTorch's own writer would end the process.
    const options = { upsample: true, metadata: '{}' };
    await assert.rejects(() => native.writeTorchScript(segmenter.handle, '/dev/full', options), {
      code: 'ERR_DATA',
      message: '/dev/full cannot be written: No space left on device',
    });
    // The segmenter is still in training mode: running statistics move, and weights are trained.
    assert.deepEqual(await snapshot(segmenter), before);
    using image = Tensor.from(new Float32Array(3 * 33 * 33).fill(1), [1, 3, 33, 33]);
    using logits = await segmenter.forward(image);
    assert.ok(logits.requiresGrad);
    assert.notDeepEqual(await snapshot(segmenter), before);
  });

  it('refuse to write more than the 2 GiB that ONNX files can hold', () => {
    const width = 9000;
    const shapes = new Map<string, number[]>();
    const add = (name: string, ...shape: number[]) => shapes.set(`${name}.weight`, shape);
    for (const stage of [1, 2, 3, 4, 5]) add(`conv${stage}_1`, 1024, 1024, 3, 3);
    add('fc6', width, 1024, 7, 7);
    add('fc7', width, width, 1, 1);
    for (const name of ['score_fr', 'score_pool3', 'score_pool4']) add(name, 5, 1024, 1, 1);
    for (const name of ['upscore2', 'upscore_pool4', 'upscore8']) add(name, 5, 5, 16, 16);
    const value = { name: 'x', shape: [1], description: '' };
    const model = () => ({ graph: fcn8sGraph(shapes), input: value, output: value, metadata: {} });
    assert.throws(
      () => layOut('big.onnx', model()),
      (error: Error) => {
        assert.ok(error instanceof DataError);
        assert.match(
          error.message,
          /^big\.onnx cannot be written: .* 2 GiB, and this network takes 2\.2 GiB/,
        );
        return true;
      },
    );
    add('fc6', width / 2, 1024, 7, 7);
    add('fc7', width, width / 2, 1, 1);
    const { head, pieces, bytes } = layOut('small.onnx', model());
    const weights = [...shapes.values()].reduce((sum, shape) => sum + 4 * shape.reduce((a, b) => a * b), 0);
    assert.equal(bytes, head.length + pieces.reduce((sum, { prefix }) => sum + prefix.length, 0) + weights);
  });
});
