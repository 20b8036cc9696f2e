// Exports the full-width networks and runs the exported models. ONNX runs with onnxruntime-node and is compared with
// the segmenter itself. ONNX and TorchScript run with Python and are compared with the PyTorch twins. Prints a table.
// The exit code is 1 if an error exceeds its bound.
//   node scripts/check-exports.mjs          after `npm run setup`
// onnxruntime-node is installed into a temporary folder. It is a download of 115 MB, too large for everybody who runs
// the tests. Its install script, which would download CUDA libraries, is not run. Takes about three minutes on two
// cores.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { exportOnnx, exportTorchScript, Segmenter, Tensor } from '../dist/lib/index.js';
import { randomNormal } from '../dist/test/helpers/random.js';
import { printAndCheck } from '../dist/test/helpers/table.js';
import { randomizeWeights } from '../dist/test/helpers/tensor-file.js';
import { findPython, Twin } from '../dist/test/helpers/twin.js';

const RUNTIME = 'onnxruntime-node@1.30.0';
const BOUND = 1e-4;
const CLASSES = 19;
const NETWORKS = [
  { item: 'DeepLab-v2 ResNet-101, 4 branches', options: { backbone: 'resnet101', branches: 4 } },
  { item: 'DeepLab-v2 ResNet-101, 2 branches', options: { backbone: 'resnet101', branches: 2 } },
  { item: 'FCN-8s', options: { network: 'fcn-8s' } },
];
const SHAPES = [
  [1, 3, 512, 1024],
  [2, 3, 241, 399],
];

const folder = mkdtempSync(path.join(tmpdir(), 'bidiseg-exports-'));
const at = (name) => path.join(folder, name);
const rows = [];
try {
  const ort = await installRuntime();
  const twin = startTwin();
  for (const { item, options } of NETWORKS) {
    const segmenter = await Segmenter.create({ ...options, classCount: CLASSES, initialization: 'kaiming' });
    await randomizeWeights(segmenter, at('weights'));
    await exportOnnx(segmenter, at('model.onnx'));
    await exportTorchScript(segmenter, at('model.pt'));
    await segmenter.eval();
    await segmenter.freeze();
    checkModel(twin);

    const session = await ort.InferenceSession.create(at('model.onnx'), { executionProviders: ['cpu'] });
    for (const shape of SHAPES) {
      const ours = await upsampledLogits(segmenter, shape);
      const image = new ort.Tensor('float32', imageOf(shape), shape);
      const { logits } = await session.run({ image });
      add(`${item}, [${shape}], onnxruntime-node`, compare(logits.data, ours, shape));
    }
    await session.release();
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

function add(item, { error, disagreement }) {
  rows.push({ item: `${item}, error`, error, bound: BOUND });
  rows.push({ item: `${item}, other class`, error: disagreement, bound: BOUND });
}

async function installRuntime() {
  const install = ['install', '--prefix', folder, '--no-save', '--ignore-scripts', '--no-audit', RUNTIME];
  if (spawnSync('npm', install, { stdio: 'inherit' }).status !== 0)
    throw new Error(`npm cannot install ${RUNTIME}`);
  return createRequire(at('package.json'))('onnxruntime-node');
}

function startTwin() {
  const found = findPython('onnxruntime');
  if ('python' in found) return Object.assign(new Twin(found.python), { python: found.python });
  console.log(`not run in Python: ${found.reason}`);
  return undefined;
}

/** Runs ONNX's own checker if the Python package onnx is installed. */
function checkModel(twin) {
  const script = 'import sys, onnx; onnx.checker.check_model(sys.argv[1], full_check=True)';
  const { status, stderr } = twin
    ? spawnSync(twin.python, ['-c', script, at('model.onnx')])
    : { status: 1, stderr: '' };
  console.log(`onnx.checker: ${status === 0 ? 'passed' : `not run or failed ${stderr}`}`);
}

function imageOf(shape) {
  return randomNormal(
    shape.reduce((a, b) => a * b),
    1,
    60,
  );
}

async function upsampledLogits(segmenter, shape) {
  const image = Tensor.from(imageOf(shape), shape);
  const logits = await segmenter.forward(image);
  const full = await logits.resize(shape[2], shape[3]);
  const data = await full.data();
  for (const tensor of [image, logits, full]) tensor.dispose();
  return data;
}

function compare(theirs, ours, [count, , height, width]) {
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
