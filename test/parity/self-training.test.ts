import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CITYSCAPES,
  ImageDataset,
  type PseudoLabelManifest,
  pseudoLabels,
  readImage,
  renderScene,
  Segmenter,
  SelfTraining,
  type SelfTrainingOptions,
  segmenterInput,
  Tensor,
  ThresholdHistogram,
} from 'bidiseg';
import sharp from 'sharp';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { temporaryFolder } from '../helpers/folder.js';
import { randomNormal } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { TRAINED_NETWORK, writeTrainedSegmenter } from '../helpers/trained-segmenter.js';
import { useTwin } from '../helpers/twin.js';

/** Difference that a probability may have when both sides compute in single precision. */
const NOISE = 4e-6;

/** How pseudo-labels from the same logits differ from SSL.py's. */
interface SslAnswer {
  pixels: number;
  kept: number;
  capped: number;
  /** The largest difference of our thresholds from the sorted ones of our own confidences. */
  sorted: number;
  /** Pixels whose labels are not SSL.py's, and those of them that are or are not as all in float64 has them. */
  different: number;
  oursRight: number;
  theirsRight: number;
  /** The largest errors of confidences against float64. */
  oursError: number;
  theirsError: number;
}

const SIZE = { width: 104, height: 72 };
const REFERENCE = { method: 'per-class', order: 'probabilities', inclusive: true } as const;

interface Answer {
  pixels: number;
  /** Pixels that differ, and those of them without an explanation. */
  different: number;
  elsewhere: number;
  /** Pixels within rounding of their threshold, and pixels with two best classes. */
  near: number;
  tied: number;
  /** Largest difference of a threshold. */
  thresholds: number;
  kept: number;
  /** Classes that are predicted at all, and classes whose threshold is the cap. */
  classes: number;
  capped: number;
}

describe('parity with PyTorch: pseudo-labels', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  let weights = '';
  let dataset: ImageDataset;
  let pixels: string[];
  after(folder.remove);

  before(async () => {
    weights = await writeTrainedSegmenter(folder.path('weights'));
    mkdirSync(folder.path('images'));
    for (let index = 0; index < 24; index++) {
      // Images of different sizes and formats, as photographs have. By day and at dusk, so that the segmenter's
      // confidence varies.
      const size = { width: 128 + 8 * (index % 3), height: 96 + 4 * (index % 5) };
      const { image } = renderScene({ seed: 7, index, look: index % 2 === 0 ? 'day' : 'dusk', ...size });
      const file = folder.path(`images/scene-${index}.${index % 4 < 2 ? 'png' : 'jpg'}`);
      await sharp(image, { raw: { ...size, channels: 3 } }).toFile(file);
    }
    dataset = await ImageDataset.fromFolder({ images: folder.path('images') });
    pixels = await Promise.all(
      Array.from({ length: dataset.length }, async (_, index) => {
        const { data } = await readImage(dataset.entry(index).image, SIZE);
        const file = folder.path(`pixels-${index}`);
        writeTensors(file, { pixels: { data, shape: [SIZE.height, SIZE.width, 3] } });
        return file;
      }),
    );
  });

  /** Reads the pseudo-labels, one tensor per image. An image without a file is all 255. */
  async function readFiles(output: string): Promise<Record<string, PlainTensor>> {
    const files = readdirSync(output);
    const tensors: Record<string, PlainTensor> = {};
    for (let index = 0; index < dataset.length; index++) {
      const name = `${dataset.entry(index).name}.png`;
      const data = files.includes(name)
        ? await sharp(join(output, name)).toColorspace('b-w').raw().toBuffer()
        : new Uint8Array(SIZE.width * SIZE.height).fill(255);
      tensors[index] = { data: Uint8Array.from(data), shape: [SIZE.height, SIZE.width] };
    }
    return tensors;
  }

  async function compare(
    item: string,
    output: string,
    { choice, classes, keptShare }: PseudoLabelManifest,
  ): Promise<{ answer: Answer; rows: Measurement[] }> {
    writeTensors(folder.path('ours'), await readFiles(output));
    const answer = await twin().ask<Answer>({
      do: 'pseudoLabels',
      network: TRAINED_NETWORK,
      weights,
      images: pixels,
      sizes: pixels.map(() => [SIZE.height, SIZE.width]),
      ...choice,
      labels: folder.path('ours'),
      thresholds: classes.map(({ threshold }) => threshold),
      noise: NOISE,
    });
    const explained = answer.near + answer.tied;
    const rows = [
      { item: `${item}: thresholds`, error: answer.thresholds, bound: NOISE },
      { item: `${item}: pixels that differ elsewhere`, error: answer.elsewhere, bound: 0 },
      { item: `${item}: pixels that differ`, error: answer.different, bound: explained },
      // At most a few pixels in a thousand may be that near to a threshold. Otherwise the test would compare nothing.
      { item: `${item}: pixels near a threshold or tied`, error: explained, bound: 2e-3 * answer.pixels },
      {
        item: `${item}: kept share in the manifest`,
        error: Math.abs(keptShare - answer.kept / answer.pixels),
        bound: answer.different / answer.pixels + 1e-12,
      },
    ];
    return { answer, rows };
  }

  async function label(choice: SelfTrainingOptions['choice'], output: string): Promise<PseudoLabelManifest> {
    using segmenter = await Segmenter.fromFile(weights);
    const selfTraining = new SelfTraining(segmenter, {
      classes: CITYSCAPES.names,
      size: SIZE,
      choice: choice!,
    });
    const labeling = selfTraining.label(dataset, output);
    for (;;) {
      const { value, done } = await labeling.next();
      if (done) return value;
    }
  }

  it('keeps the pixels that the paper and the reference keep', async () => {
    const rows: Measurement[] = [];
    for (const [item, choice] of [
      ['MPT 0.9', {}],
      ['MPT 0.5, probabilities upsampled', { threshold: 0.5, order: 'probabilities' }],
      ['per class', REFERENCE],
      ['per class, portion 0.3, cap 0.8', { ...REFERENCE, portion: 0.3, threshold: 0.8 }],
      ['per class, portion 0.7, no cap', { ...REFERENCE, portion: 0.7, threshold: 1 }],
      ['class-balanced', { method: 'class-balanced' }],
      ['class-balanced, a fifth', { method: 'class-balanced', portion: 0.8, order: 'probabilities' }],
    ] as const) {
      const output = folder.path(item);
      const compared = await compare(item, output, await label(choice, output));
      rows.push(...compared.rows);
      const { kept, pixels: all, classes, capped } = compared.answer;
      console.log(
        `    ${item}: ${((100 * kept) / all).toFixed(1)} % of ${all} pixels kept, ${classes} classes, ${capped} at the cap`,
      );
      if (item === 'per class') {
        // Otherwise some part of the rule would go untested.
        assert.ok(classes < CITYSCAPES.names.length, 'a class that never occurs');
        assert.ok(capped > 0 && capped < classes - 2, 'some thresholds at the cap, some below');
      }
    }
    printAndCheck('pseudo-labels beside a NumPy twin that holds the whole set', rows);
  });

  it("are SSL.py's from the same logits, but for pixels at a threshold or with two best classes", async () => {
    const grid = { height: 33, width: 65 };
    const size = { height: 256, width: 512 };
    const shape = [1, CITYSCAPES.names.length, grid.height, grid.width];
    using segmenter = await Segmenter.fromFile(weights);
    await segmenter.eval();
    const sources: Record<string, (index: number) => Promise<Tensor>> = {
      'random logits': async (index) =>
        Tensor.from(
          randomNormal(
            shape.reduce((a, b) => a * b),
            index,
            3,
          ),
          shape,
        ),
      'a trained segmenter': async (index) => {
        const scene = { width: 8 * (grid.width - 1), height: 8 * (grid.height - 1) };
        const { image } = renderScene({ seed: 9, index, look: index % 2 === 0 ? 'day' : 'dusk', ...scene });
        using bytes = Tensor.from(image, [1, scene.height, scene.width, 3]);
        using input = await segmenterInput(bytes);
        return segmenter.forward(input);
      },
    };
    const rows: Measurement[] = [];
    for (const [item, logitsOf] of Object.entries(sources)) {
      const set = await Promise.all(Array.from({ length: 8 }, (_, index) => logitsOf(index)));
      using histogram = new ThresholdHistogram(CITYSCAPES.names.length);
      do {
        for (const logits of set) {
          const { labels } = await pseudoLabels(logits, { ...size, order: 'probabilities', histogram });
          labels.dispose();
        }
      } while (await histogram.refine());
      const { thresholds } = await histogram.thresholds();
      const images = [];
      for (const [index, logits] of set.entries()) {
        const common = { ...size, order: 'probabilities', confidence: true } as const;
        const all = await pseudoLabels(logits, common);
        const kept = await pseudoLabels(logits, { ...common, threshold: thresholds, inclusive: true });
        const tensors = { logits, best: all.labels, confidence: all.confidence!, kept: kept.labels };
        const plain: Record<string, PlainTensor> = {};
        for (const [name, tensor] of Object.entries(tensors)) {
          plain[name] = { data: (await tensor.data()) as Uint8Array, shape: tensor.shape };
          tensor.dispose();
        }
        kept.confidence!.dispose();
        const file = folder.path(`logits-${index}`);
        writeTensors(file, plain);
        images.push(file);
      }
      const answer = await twin().ask<SslAnswer>({ do: 'sslPseudoLabels', images, thresholds });
      console.log(
        `    ${item}: ${answer.different} of ${answer.pixels} pixels differ; float64 agrees with ours at ${answer.oursRight}, with SSL.py's at ${answer.theirsRight}`,
      );
      rows.push(
        { item: `${item}: thresholds against sorting`, error: answer.sorted, bound: 0 },
        // Rounding moves a confidence by some 1e-7, so that few pixels in a million change sides.
        { item: `${item}: share that differs`, error: answer.different / answer.pixels, bound: 1e-5 },
        { item: `${item}: confidences against float64`, error: answer.oursError, bound: 1e-6 },
        {
          item: `${item}: the same, relative to SSL.py's`,
          error: answer.oursError / answer.theirsError,
          bound: 1,
        },
      );
      assert.ok(answer.kept > 0.2 * answer.pixels && answer.kept < 0.9 * answer.pixels);
    }
    printAndCheck("pseudo-labels beside SSL.py's procedure", rows);
  });

  it('is what the command line does', async () => {
    const rows: Measurement[] = [];
    for (const [item, args, choice] of [
      ['mpt', ['--threshold', '0.8'], { threshold: 0.8 }],
      [
        'reference',
        ['--method', 'per-class', '--order', 'probabilities', '--inclusive', '--portion', '0.4'],
        { ...REFERENCE, portion: 0.4 },
      ],
    ] as const) {
      const output = folder.path(`command-line ${item}`);
      const { code, stdout, stderr } = await bidiseg([
        ...['pseudo-label', folder.path('images'), '--weights', weights, '--output', output],
        ...['--size', `${SIZE.width}x${SIZE.height}`, '--json'],
        ...args,
      ]);
      assert.equal(code, 0, stderr);
      const manifest = jsonLines(stdout).at(-1) as unknown as PseudoLabelManifest;
      rows.push(...(await compare(item, output, manifest)).rows);

      const same = folder.path(`library ${item}`);
      await label(choice, same);
      const names = readdirSync(same);
      assert.deepEqual(
        readdirSync(output).filter((name) => !name.startsWith('.')),
        names,
      );
      for (const name of names.filter((file) => file.endsWith('.png'))) {
        assert.deepEqual(readFileSync(join(output, name)), readFileSync(join(same, name)), name);
      }
    }
    printAndCheck('bidiseg pseudo-label beside the same twin', rows);
  });
});
