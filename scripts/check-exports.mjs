// Exports the full-width networks and runs the exported models. ONNX runs in onnxruntime-node and in the engines below,
// and is compared with the segmenter itself. ONNX and TorchScript run with Python and are compared with the PyTorch
// twins. Prints a table. The exit code is 1 if an error exceeds its bound.
//   node scripts/check-exports.mjs          after `npm run setup`
// The engines are installed into a temporary folder. They are downloads of 115 MB with npm and 250 MB with pip, too large
// for everybody who runs the tests. The install script of onnxruntime-node, which would download CUDA libraries, is not
// run. An engine that cannot be installed is left out, and the reason is printed.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { exportOnnx, exportTorchScript, Segmenter, Tensor } from '../dist/lib/index.js';
import { randomNormal } from '../dist/test/helpers/random.js';
import { printAndCheck } from '../dist/test/helpers/table.js';
import { randomizeWeights } from '../dist/test/helpers/tensor-file.js';
import { findPython, Twin } from '../dist/test/helpers/twin.js';

const RUNTIME = 'onnxruntime-node@1.30.0';
/** What scripts/run-exported.py runs, each group of packages in a virtual environment of its own. */
const ENGINES = [
  { engine: 'checker', packages: ['onnx'] },
  { engine: 'onnxsim', packages: ['onnx', 'onnxsim', 'onnxruntime'] },
  { engine: 'openvino', packages: ['openvino'] },
  // OpenCV 4 wants fixed sizes.
  { engine: 'opencv', packages: ['opencv-python-headless==4.12.*'], fixedOnly: true },
  { engine: 'opencv', packages: ['opencv-python-headless==5.*'] },
];
const BOUND = 1e-4;
const CLASSES = 19;
const NETWORKS = [
  { item: 'DeepLab-v2 ResNet-18, 4 branches', options: { backbone: 'resnet18', branches: 4 } },
  { item: 'DeepLab-v2 ResNet-50, 2 branches', options: { backbone: 'resnet50', branches: 2 } },
  { item: 'DeepLab-v2 ResNet-101, 4 branches', options: { backbone: 'resnet101', branches: 4 } },
  { item: 'DeepLab-v2 VGG-16, 4 branches', options: { backbone: 'vgg16', branches: 4 } },
  { item: 'FCN-8s', options: { network: 'fcn-8s' } },
];
const SHAPES = [
  [1, 3, 512, 1024],
  [2, 3, 241, 399],
];
const FIXED = [
  { shape: [1, 3, 512, 1024], upsample: true },
  { shape: [2, 3, 241, 399], upsample: false },
  { shape: [1, 3, 33, 33], upsample: true },
];

const folder = mkdtempSync(path.join(tmpdir(), 'bidiseg-exports-'));
const at = (name) => path.join(folder, name);
const rows = [];
try {
  const engines = [installNodeRuntime(), ...ENGINES.map(installEngine)].filter((engine) => engine);
  const twin = startTwin();
  for (const { item, options } of NETWORKS) {
    console.log(`${item} ...`);
    const segmenter = await Segmenter.create({ ...options, classCount: CLASSES, initialization: 'kaiming' });
    await randomizeWeights(segmenter, at('weights'));
    await exportOnnx(segmenter, at('model.onnx'));
    await exportTorchScript(segmenter, at('model.pt'));
    await segmenter.eval();
    await segmenter.freeze();

    for (const shape of SHAPES) await runAll(engines, `${item}, [${shape}]`, segmenter, shape, true);
    for (const { shape, upsample } of FIXED) {
      const [batch, , height, width] = shape;
      await exportOnnx(segmenter, at('fixed.onnx'), { upsample, size: { width, height }, batch });
      const what = `${item}, fixed [${shape}]${upsample ? '' : ', not upsampled'}`;
      await runAll(engines, what, segmenter, shape, upsample, 'fixed.onnx');
    }
    segmenter.dispose();

    const { network: kind = 'deeplab-v2', ...rest } = options;
    const network = { kind, options: { ...rest, classCount: CLASSES } };
    const request = { network, weights: at('weights'), shapes: SHAPES, upsample: true };
    for (const [name, action, file] of [
      ['ONNX in Python', 'runOnnx', 'model.onnx'],
      ['TorchScript in Python', 'runTorchScript', 'model.pt'],
    ]) {
      const { results } = twin ? await twin.ask({ do: action, ...request, file: at(file) }) : { results: [] };
      for (const [i, { error, agreement, classes }] of results.entries()) {
        if (classes < 2) throw new Error(`${item}: all pixels are of one class, so they prove nothing`);
        add(`${item}, [${SHAPES[i]}], ${name}`, { error, disagreement: 1 - agreement });
      }
    }
  }
  twin?.close();
  printAndCheck(
    'the largest error relative to the largest logit, and the share of pixels of another class',
    rows,
  );
} finally {
  rmSync(folder, { recursive: true });
}

/** Runs a model in every engine that takes it, and compares with the segmenter. */
async function runAll(engines, what, segmenter, shape, upsample, file = 'model.onnx') {
  const image = imageOf(shape);
  const { logits, extents } = await ourLogits(segmenter, image, shape, upsample);
  for (const { name, run, fixedOnly } of engines) {
    if (fixedOnly && file === 'model.onnx') continue;
    try {
      const theirs = await run(at(file), image, shape);
      add(`${what}, ${name}`, theirs ? compare(theirs, logits, extents) : { error: 0, disagreement: 0 });
    } catch (error) {
      console.log(`${what}, ${name}: ${error.message}`);
      add(`${what}, ${name}`, { error: Number.NaN, disagreement: Number.NaN });
    }
  }
}

function add(item, { error, disagreement }) {
  rows.push({ item: `${item}, error`, error, bound: BOUND });
  rows.push({ item: `${item}, other class`, error: disagreement, bound: BOUND });
}

function installNodeRuntime() {
  const install = ['install', '--prefix', folder, '--no-save', '--ignore-scripts', '--no-audit', RUNTIME];
  const { status, stderr } = spawnSync('npm', install, { encoding: 'utf8' });
  if (status !== 0) return leaveOut(RUNTIME, stderr);
  const ort = createRequire(at('package.json'))('onnxruntime-node');
  const run = async (file, image, shape) => {
    const session = await ort.InferenceSession.create(file, { executionProviders: ['cpu'] });
    const { logits } = await session.run({ image: new ort.Tensor('float32', image, shape) });
    await session.release();
    return logits.data;
  };
  return { name: RUNTIME, run };
}

function installEngine({ engine, packages, fixedOnly }, i) {
  const python = at(`venv${i}/bin/python`);
  for (const [command, ...args] of [
    ['python3', '-m', 'venv', at(`venv${i}`)],
    [python, '-m', 'pip', 'install', '--quiet', '--only-binary=:all:', ...packages],
  ]) {
    const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
    if (status !== 0) return leaveOut(packages.at(-1), stderr ?? error.message);
  }
  const wanted = packages.map((name) => name.replace(/=.*/, ''));
  const versions = `import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')`;
  const name = spawnSync(python, ['-c', versions, ...wanted], { encoding: 'utf8' }).stdout.trim();
  const script = path.join(import.meta.dirname, 'run-exported.py');
  const run = (file, image, [count, , height, width]) => {
    writeFileSync(at('image'), image);
    rmSync(at('logits'), { force: true });
    const args = [script, engine, file, count, height, width, at('image'), at('logits')].map(String);
    const { status, stderr } = spawnSync(python, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr.trim().split('\n').at(-1));
    // The checker computes nothing.
    if (engine === 'checker') return undefined;
    const { buffer } = Uint8Array.from(readFileSync(at('logits')));
    return new Float32Array(buffer);
  };
  return { name, run, fixedOnly };
}

function leaveOut(name, output) {
  console.log(`not run: ${name} cannot be installed: ${output.trim().split('\n').at(-1)}`);
  return undefined;
}

function startTwin() {
  const found = findPython('onnxruntime');
  if ('python' in found) return new Twin(found.python);
  console.log(`not run in Python: ${found.reason}`);
  return undefined;
}

function imageOf(shape) {
  return randomNormal(
    shape.reduce((a, b) => a * b),
    1,
    60,
  );
}

async function ourLogits(segmenter, data, shape, upsample) {
  const image = Tensor.from(data, shape);
  const small = await segmenter.forward(image);
  const logits = upsample ? await small.resize(shape[2], shape[3]) : small;
  const ours = { logits: await logits.data(), extents: logits.shape };
  for (const tensor of new Set([image, small, logits])) tensor.dispose();
  return ours;
}

function compare(theirs, ours, [count, , height, width]) {
  if (theirs.length !== ours.length) throw new Error(`${theirs.length} values instead of ${ours.length}`);
  if (theirs.some(Number.isNaN)) throw new Error('some logits are not numbers');
  let [difference, largest, others] = [0, 0, 0];
  for (let i = 0; i < ours.length; ++i) {
    difference = Math.max(difference, Math.abs(theirs[i] - ours[i]));
    largest = Math.max(largest, Math.abs(ours[i]));
  }
  const area = height * width;
  const classOf = (logits, image, pixel) => {
    let best = 0;
    const value = (c) => logits[(image * CLASSES + c) * area + pixel];
    for (let c = 1; c < CLASSES; ++c) if (value(c) > value(best)) best = c;
    return best;
  };
  for (let image = 0; image < count; ++image) {
    for (let pixel = 0; pixel < area; ++pixel) {
      if (classOf(theirs, image, pixel) !== classOf(ours, image, pixel)) ++others;
    }
  }
  return { error: difference / largest, disagreement: others / (count * area) };
}
