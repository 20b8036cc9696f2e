// Trains, predicts, saves, fails and aborts for a long time and disposes nothing, so the garbage collector must keep
// up. In the end, all native objects and bytes must be gone, and the process must not have grown. Needs `npm run setup`
// before.
//   node scripts/soak.mjs [MINUTES | --steps COUNT]      60 minutes by default
// See docs/robustness.md#soak.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  BidisegError,
  liveObjects,
  maskedCrossEntropy,
  memoryInUse,
  Optimizer,
  OutputDiscriminator,
  pseudoLabels,
  SegmentationStep,
  Segmenter,
  segmenterInput,
  Tensor,
  ThresholdHistogram,
  TranslationStep,
  Translator,
} from 'bidiseg';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc');

const [first = '60', second] = process.argv.slice(2);
const steps = first === '--steps' ? Number(second) : Infinity;
const minutes = first === '--steps' ? Infinity : Number(first);
if (!(steps > 0 && minutes > 0))
  throw new Error('Expected a number of minutes, or --steps and a number of steps');

const CLASSES = 5;
const SIZE = 64;
const POOL_SIZE = 2;
const PIXELS = SIZE * SIZE;
const SEGMENTATION = { normalize: 'valid', repeatedStep: true };
const TRANSLATION = { identityWeight: 5, poolSize: POOL_SIZE };

const newSegmenter = () => Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: CLASSES });

function newBatch(step) {
  const images = Uint8Array.from({ length: PIXELS * 3 }, (_, i) => (i * 31 + step * 7) % 256);
  const labels = Uint8Array.from({ length: PIXELS }, (_, i) => (i + step) % CLASSES);
  return { count: 1, height: SIZE, width: SIZE, images, labels };
}

/** Runs one round of everything and drops the results. */
async function work({ segmenter, training, translation, translator, optimizer, file }, step) {
  const batch = newBatch(step);
  const rates = { learningRate: 1e-5, discriminatorLearningRate: 1e-5 };
  await training.run({ source: batch, target: newBatch(step + 1), ...rates });

  const input = await segmenterInput(Tensor.from(batch.images, [1, SIZE, SIZE, 3]));
  const labels = Tensor.from(batch.labels, [1, SIZE, SIZE]);
  const loss = await maskedCrossEntropy(await segmenter.forward(input), labels);
  await loss.backward();
  await optimizer.step(1e-5);
  await optimizer.zeroGrad();
  const logits = await segmenter.forward(input); // with everything that backward() would need
  await pseudoLabels(logits, { height: SIZE, width: SIZE, histogram: new ThresholdHistogram(CLASSES, 1024) });
  await segmenter.predict(batch.images, { ...batch, flip: true, confidence: true });

  const controller = new AbortController();
  const aborted = segmenter.predict(batch.images, { ...batch, signal: controller.signal });
  controller.abort();
  await aborted.catch((error) => {
    if (error.name !== 'AbortError') throw error;
  });
  await segmenter.forward(labels).catch((error) => {
    if (!(error instanceof BidisegError)) throw error;
  });
  if (step % 10 === 0 || step <= POOL_SIZE) {
    await translation.run({ source: batch, target: newBatch(step + 1), learningRate: 1e-5 });
    await translator.translate(batch.images, batch);
    await segmenter.save(file);
    await segmenter.parameters();
    await Optimizer.adam(await Segmenter.fromFile(file));
    await training.loadState(await training.state());
  }
}

/** Collects garbage until nothing more is freed. */
async function settle() {
  for (let before = Infinity, rounds = 0; rounds < 3; ) {
    collectGarbage();
    await new Promise((resolve) => setTimeout(resolve, 10));
    const now = memoryInUse() + Object.values(liveObjects()).reduce((a, b) => a + b, 0);
    rounds = now < before ? 0 : rounds + 1;
    before = Math.min(before, now);
  }
}

async function run(folder) {
  const segmenter = await newSegmenter();
  const discriminator = await OutputDiscriminator.create({ classCount: CLASSES, baseWidth: 4 });
  const translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
  const tools = {
    ...{ segmenter, translator, file: join(folder, 'weights') },
    training: await SegmentationStep.create(segmenter, discriminator, SEGMENTATION),
    translation: await TranslationStep.create(translator, segmenter, TRANSLATION),
    optimizer: await Optimizer.sgd(segmenter),
  };
  const start = performance.now();
  const progress = (step) => Math.max(step / steps, (performance.now() - start) / 60_000 / minutes);
  const samples = [];
  for (let step = 1; ; step++) {
    await work(tools, step);
    const share = progress(step);
    // The first quarter is the warm-up.
    if (share < (5 + samples.length) / 20) continue;
    await settle();
    const { rss } = process.memoryUsage();
    samples.push({ rss, tensors: memoryInUse(), live: JSON.stringify(liveObjects()) });
    const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    console.log(
      `${step} steps: ${mib(rss)} resident, ${mib(memoryInUse())} in tensors, ${samples.at(-1).live}`,
    );
    if (share >= 1) return { step, samples };
  }
}

const folder = mkdtempSync(join(tmpdir(), 'bidiseg-soak-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const before = { live: JSON.stringify(liveObjects()), tensors: memoryInUse() };
const { step, samples } = await run(folder);
await settle();
const after = { live: JSON.stringify(liveObjects()), tensors: memoryInUse() };

const problems = [];
const sizes = samples.map(({ rss }) => rss);
// The minimum of several samples, because the resident size varies with what the allocator has not yet returned.
const growth = Math.min(...sizes.slice(-4)) / Math.min(...sizes.slice(0, 4)) - 1;
if (new Set(samples.map(({ live }) => live)).size > 1)
  problems.push('the number of live objects or their bytes changed');
// The number of bytes depends on the last calls of a step: predictions keep weights in their own layout until the
// weights change. So the maxima of the two halves are compared.
const held = samples.map(({ tensors }) => tensors);
console.log(`bytes in tensors: ${Math.min(...held)} to ${Math.max(...held)}`);
const half = samples.length / 2;
if (Math.max(...held.slice(half)) > 1.01 * Math.max(...held.slice(0, half)))
  problems.push('the bytes in tensors grew by more than 1 %');
if (after.live !== before.live) problems.push(`left alive: ${after.live}; at the start: ${before.live}`);
if (after.tensors !== before.tensors)
  problems.push(`bytes in tensors: ${before.tensors} at the start, ${after.tensors} in the end`);
// A short run is not warm after a quarter of its time.
if (step >= 1000 && growth > 0.02) problems.push('the process grew by more than 2 %');
console.log(
  `${step} steps, growth of the resident set after the first quarter: ${(100 * growth).toFixed(2)} %`,
);
for (const problem of problems) console.log(`FAILED: ${problem}`);
process.exitCode = problems.length === 0 ? 0 : 1;
