import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { writeImage } from '../../../lib/data/image-codec.js';
import { writeLabels } from '../../../lib/data/label-codec.js';
import { BatchLoader } from '../../../lib/data/loader.js';
import { evaluate, type Predictor } from '../../../lib/inference/evaluate.js';
import { InvalidArgumentError } from '../../../lib/support/errors.js';
import { drain } from '../../../lib/support/generators.js';
import {
  type LabelingState,
  SelfTraining,
  type SelfTrainingOptions,
} from '../../../lib/training/self-training.js';

const size = { width: 4, height: 2 };
const classes = ['road', 'sky', 'never'];

/** Predictions of the segmenter, by the red value of the image's first pixel. */
const OPINIONS: Record<number, { labels: number[]; confidence: number[] }> = {
  10: { labels: [0, 0, 0, 0, 1, 1, 1, 1], confidence: [0.95, 0.9, 0.8, 0.4, 0.99, 0.7, 0.6, 0.5] },
  20: { labels: [0, 0, 0, 0, 0, 0, 0, 0], confidence: [0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36, 0.37] },
  30: { labels: [1, 1, 1, 1, 1, 1, 1, 1], confidence: [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.98] },
};

function fakeSegmenter() {
  const asked: { red: number; order: string | undefined }[] = [];
  const predictor: Predictor = {
    async predict(images, { order }) {
      const opinion = OPINIONS[images[0]!]!;
      asked.push({ red: images[0]!, order });
      return { labels: Uint8Array.from(opinion.labels), confidence: Float32Array.from(opinion.confidence) };
    },
  };
  return { predictor, asked };
}

describe('self-training', () => {
  let folder: string;
  let dataset: ImageDataset;
  let output: string;

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-labels-'));
    output = path.join(folder, 'pseudo-labels');
    await mkdir(path.join(folder, 'images'));
    for (const red of Object.keys(OPINIONS)) {
      const data = new Uint8Array(4 * 2 * 3).fill(Number(red));
      await writeImage(path.join(folder, 'images', `image-${red}.png`), { data, ...size });
    }
    dataset = await ImageDataset.fromFolder({ images: path.join(folder, 'images') });
  });

  afterEach(() => rm(folder, { recursive: true }));

  async function label(choice: SelfTrainingOptions['choice']) {
    const { predictor, asked } = fakeSegmenter();
    const progress: string[] = [];
    const selfTraining = new SelfTraining(predictor, { classes, size, choice: choice! });
    await rm(output, { recursive: true, force: true });
    const manifest = await drain(selfTraining.label(dataset, output), (event) => {
      if (event.type === 'progress') progress.push(`${event.task} ${event.done}/${event.total}`);
    });
    const labeled = await dataset.withLabels(output, { classCount: 3 });
    const labels: Record<string, number[]> = {};
    for (let i = 0; i < labeled.length; i++) {
      const sample = await labeled.read(i);
      labels[sample.name] = [...sample.labels!.data];
    }
    return { manifest, labels, progress, asked };
  }

  it('mpt: one pass, keeps pixels above the threshold', async () => {
    const { labels, manifest, progress, asked } = await label({ threshold: 0.9 });
    assert.deepEqual(labels, {
      'image-10': [0, 255, 255, 255, 1, 255, 255, 255],
      'image-30': [255, 255, 255, 255, 255, 255, 255, 1],
    });
    assert.deepEqual(progress, ['pseudo-label 1/3', 'pseudo-label 2/3', 'pseudo-label 3/3']);
    assert(asked.every(({ order }) => order === 'logits'));
    assert.equal(manifest.keptImages, 2);
    assert.equal(manifest.keptShare, 3 / 24);
    assert.deepEqual(
      manifest.classes.map(({ medianConfidence: _, ...row }) => row),
      [
        { class: 'road', predicted: 12, kept: 1, keptShare: 1 / 12, threshold: 0.9 },
        { class: 'sky', predicted: 12, kept: 2, keptShare: 2 / 12, threshold: 0.9 },
        { class: 'never', predicted: 0, kept: 0, keptShare: 0, threshold: 0.9 },
      ],
    );
    // Counts of all pixels, kept or not. See the sorted probabilities below.
    for (const [index, expected] of [0.36, 0.5, 0].entries()) {
      const median = manifest.classes[index]!.medianConfidence;
      assert(Math.abs(median - expected) <= 1 / 256, `${median} is not ${expected}`);
    }
    assert.deepEqual(JSON.parse(await readFile(path.join(output, 'manifest.json'), 'utf8')), manifest);
  });

  it('mpt: keeps pixels exactly at the threshold on request', async () => {
    // 0.5 has no rounding in single precision.
    const exclusive = await label({ threshold: 0.5, inclusive: false });
    assert.deepEqual(exclusive.labels['image-30'], [255, 255, 255, 255, 255, 255, 255, 1]);
    const inclusive = await label({ threshold: 0.5, inclusive: true });
    assert.deepEqual(inclusive.labels['image-30'], [1, 1, 1, 1, 1, 1, 1, 1]);
  });

  it('class-balanced: thresholds are the portion’s quantile, without a cap, and decide between classes', async () => {
    const asked: (readonly number[] | undefined)[] = [];
    const { predictor } = fakeSegmenter();
    const spy: Predictor = {
      predict(images, options) {
        asked.push(options.classThresholds);
        return predictor.predict(images, options);
      },
    };
    const choice = { method: 'class-balanced', portion: 1, threshold: 0.1 } as const;
    const selfTraining = new SelfTraining(spy, { classes, size, choice });
    const manifest = await drain(selfTraining.label(dataset, output), () => {});
    const thresholds = manifest.classes.map(({ threshold }) => threshold);
    // The highest probability of each class; 1 for the one that is never predicted, so that it never wins.
    assert.deepEqual(thresholds, [0.95, 0.99, 1].map(Math.fround));
    const twoPasses = new Array<undefined>(2 * dataset.length).fill(undefined);
    assert.deepEqual(asked, [...twoPasses, thresholds, thresholds, thresholds]);
  });

  const toByte = (confidence: number) => Math.round(255 * Math.fround(confidence));

  it('soft weights: the confidence stands beside the labels and goes with them into batches', async () => {
    const { manifest } = await label({ threshold: 0.5, weighting: 'soft' });
    assert.deepEqual((await readdir(output)).sort(), [
      'image-10.confidence.png',
      'image-10.png',
      'image-30.confidence.png',
      'image-30.png',
      'manifest.json',
    ]);
    assert.equal(manifest.choice.weighting, 'soft');
    const labeled = await dataset.withLabels(output, { classCount: 3, weights: true });
    const { weights } = await labeled.read(0);
    assert.deepEqual([...weights!.data], OPINIONS[10]!.confidence.map(toByte));
    const loader = new BatchLoader(labeled, { batchSize: 2, size, seed: 1, stage: 'test', steps: 1 });
    for await (const batch of loader) {
      for (const [slot, name] of batch.names.entries()) {
        const { confidence } = OPINIONS[Number(name.slice('image-'.length))]!;
        assert.deepEqual([...batch.weights!.subarray(slot * 8, slot * 8 + 8)], confidence.map(toByte));
      }
    }
  });

  it('soft: an image whose labels would overwrite the weights of another is an error', async () => {
    const twin = path.join(folder, 'images', 'image-10.confidence.png');
    await writeImage(twin, { data: new Uint8Array(4 * 2 * 3).fill(20), ...size });
    dataset = await ImageDataset.fromFolder({ images: path.join(folder, 'images') });
    await assert.rejects(label({ weighting: 'soft' }), {
      code: 'ERR_DATA',
      message: /^image-10\.confidence: .*rename the image$/,
    });
    assert.equal(Object.keys((await label({ threshold: 0.3 })).labels).length, 4);
  });

  it('soft weights: one that is missing is an error that names the file', async () => {
    await label({ threshold: 0.5 });
    const labeled = await dataset.withLabels(output, { classCount: 3, weights: true });
    await assert.rejects(labeled.read(0), /image-10\.confidence\.png/);
  });

  it('per-class: thresholds are the portion’s quantile over the whole set, but at most the cap', async () => {
    const choice = { method: 'per-class', order: 'probabilities', inclusive: true } as const;
    const { labels, manifest, progress, asked } = await label({ ...choice, portion: 0.5, threshold: 0.9 });
    const thresholds = manifest.classes.map(({ threshold }) => threshold);
    // Ascending, road is .30 … .37 .40 .80 .90 .95 (12 pixels: the one at index 6 is .36) and sky is eight times .50,
    // then .60 .70 .98 .99 (the one at index 6 is .50); a class that is never predicted has 0.
    assert.deepEqual(thresholds, [0.36, 0.5, 0].map(Math.fround));
    // So the pixel of .36 is kept, which a threshold of less than .36 would not show, but the one of .35 is not.
    assert.deepEqual(labels['image-20'], [255, 255, 255, 255, 255, 255, 0, 0]);
    assert.deepEqual(labels['image-10'], [0, 0, 0, 0, 1, 1, 1, 1]);
    assert.equal(asked.length, 9);
    assert(asked.every(({ order }) => order === 'probabilities'));
    assert.deepEqual(progress.slice(0, 7), [
      'confidences 1/3',
      'confidences 2/3',
      'confidences 3/3',
      'thresholds 1/3',
      'thresholds 2/3',
      'thresholds 3/3',
      'pseudo-label 1/3',
    ]);
    const capped = await label({ ...choice, portion: 1, threshold: 0.6 });
    assert.deepEqual(
      capped.manifest.classes.slice(0, 2).map(({ threshold }) => threshold),
      [0.6, 0.6],
    );
    // All thresholds are at the cap, so that no second pass can change them.
    assert.equal(capped.asked.length, 6);
  });

  it('an image of which nothing is kept has no file', async () => {
    const { labels, manifest } = await label({ threshold: 1 });
    assert.deepEqual(labels, {});
    assert.equal(manifest.keptImages, 0);
    assert.equal(manifest.keptShare, 0);
    assert.deepEqual(await readdir(output), ['manifest.json']);
  });

  it('refuses a folder that holds anything, and touches nothing in it', async () => {
    const selfTraining = new SelfTraining(fakeSegmenter().predictor, {
      classes,
      size,
      choice: { threshold: 1 },
    });
    const images = path.join(folder, 'images');
    const contents = () =>
      readdir(images).then((names) => Promise.all(names.map((name) => readFile(path.join(images, name)))));
    await writeFile(path.join(images, 'manifest.json'), 'mine');
    const before = await contents();
    await assert.rejects(drain(selfTraining.label(dataset, images)), {
      code: 'ERR_DATA',
      message: /images: holds other files \(image-10\.png, .*\), expected a new or empty folder$/,
    });
    assert.deepEqual(await contents(), before);
    // Hidden files are no data.
    await mkdir(output);
    await writeFile(path.join(output, '.keep'), '');
    await drain(selfTraining.label(dataset, output));
    assert.deepEqual((await readdir(output)).sort(), ['.keep', 'manifest.json']);
  });

  it('resumed, takes away what the interrupted labeling kept after its last state', async () => {
    const choice = { threshold: 0.75 } as const;
    const states: LabelingState[] = [];
    const save = async (state: LabelingState) => {
      states.push(structuredClone(state));
    };
    const work = new SelfTraining(fakeSegmenter().predictor, { classes, size, choice }).label(
      dataset,
      output,
      {
        checkpoints: { every: 1, state: null, save },
      },
    );
    for await (const event of work) if (event.type === 'progress' && event.done === 2) break;
    // Of the second image nothing is kept.
    await writeFile(path.join(output, 'image-20.png'), 'of a device that rounds otherwise');
    const second = new SelfTraining(fakeSegmenter().predictor, { classes, size, choice });
    await drain(second.label(dataset, output, { checkpoints: { every: 100, state: states[0]!, save } }));
    assert.deepEqual((await readdir(output)).sort(), ['image-10.png', 'image-30.png', 'manifest.json']);
  });

  it('stops with the signal’s reason and leaves no manifest', async () => {
    const controller = new AbortController();
    const selfTraining = new SelfTraining(fakeSegmenter().predictor, { classes, size });
    const labeling = selfTraining.label(dataset, output, { signal: controller.signal });
    await labeling.next();
    controller.abort(new Error('enough'));
    await assert.rejects(drain(labeling), /enough/);
    assert(!(await readdir(output)).includes('manifest.json'));
  });

  for (const method of ['mpt', 'per-class'] as const) {
    it(`${method}: continued from any image, gives the same result`, async () => {
      const choice = { method, threshold: 0.75, portion: 0.5 };
      const filesOf = async (folder: string) =>
        Promise.all(
          (await readdir(folder)).sort().map(async (name) => [name, await readFile(path.join(folder, name))]),
        );
      await label(choice);
      const expected = await filesOf(output);
      for (let cut = 1; cut <= dataset.length; cut++) {
        const other = path.join(folder, `cut-${cut}`);
        const states: LabelingState[] = [];
        const save = async (state: LabelingState) => {
          states.push(structuredClone(state));
        };
        const first = new SelfTraining(fakeSegmenter().predictor, { classes, size, choice });
        const work = first.label(dataset, other, { checkpoints: { every: 100, state: null, save } });
        let labeled = 0;
        for await (const event of work) {
          if (event.type === 'progress' && event.task === 'pseudo-label') labeled++;
          if (labeled === cut) break;
        }
        assert.deepEqual(
          states.map(({ step }) => step),
          [cut],
        );
        assert(!(await readdir(other)).includes('manifest.json'));
        const { predictor, asked } = fakeSegmenter();
        const second = new SelfTraining(predictor, { classes, size, choice });
        const state = states[0]!;
        await drain(second.label(dataset, other, { checkpoints: { every: 100, state, save } }));
        assert.deepEqual(await filesOf(other), expected);
        assert.equal(asked.length, dataset.length - cut, 'images are looked at again');
      }
    });
  }

  it('refuses options out of range', () => {
    const { predictor } = fakeSegmenter();
    const make = (options: Partial<SelfTrainingOptions>) => () =>
      new SelfTraining(predictor, { classes, size, ...options });
    assert.throws(
      make({ choice: { threshold: 2 } }),
      /Expected a number from 0 to 1 for choice\.threshold but received 2/,
    );
    assert.throws(
      make({ choice: { treshold: 1 } as never }),
      /choice\.treshold: unknown key; did you mean threshold\?/,
    );
    assert.throws(make({ ignoreIndex: 1 }), InvalidArgumentError);
  });

  it('evaluation compares with the labels, wherever they are', async () => {
    const { predictor } = fakeSegmenter();
    const truth = path.join(folder, 'truth');
    await mkdir(truth);
    const maps: Record<string, number[]> = {
      10: [0, 0, 0, 0, 0, 0, 1, 1],
      20: [0, 0, 0, 0, 255, 255, 255, 255],
      30: [1, 1, 1, 1, 1, 1, 1, 2],
    };
    for (const [red, map] of Object.entries(maps)) {
      await writeLabels(path.join(truth, `image-${red}.png`), { data: Uint8Array.from(map), ...size });
    }
    const labeled = await dataset.withLabels(truth, { classCount: 3 });
    const done: number[] = [];
    const result = await evaluate(predictor, labeled, {
      classCount: 3,
      size,
      onProgress: (progress) => done.push(progress.done),
    });
    // road: 8 right, 2 missed; sky: 9 right, 2 + 1 too many; never: 1 missed.
    assert.deepEqual(result.iou, [8 / 10, 9 / 12, 0]);
    assert.equal(result.meanIou, (8 / 10 + 9 / 12 + 0) / 3);
    assert.equal(result.pixelAccuracy, 17 / 20);
    assert.equal(result.images, 3);
    assert.deepEqual(done, [1, 2, 3]);
    await assert.rejects(evaluate(predictor, dataset, { classCount: 3, size }), InvalidArgumentError);
  });
});
