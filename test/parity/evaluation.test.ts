import assert from 'node:assert/strict';
import {
  type Evaluation,
  type EvaluationOptions,
  evaluate,
  ImageDataset,
  type ImageSize,
  type PredictOptions,
  readImage,
  renderScene,
  Segmenter,
  SYNTHIA_13_CLASSES,
  SYNTHIA_16_CLASSES,
} from 'bidiseg';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { temporaryFolder } from '../helpers/folder.js';
import {
  CITYSCAPES_IDS,
  type Frame,
  SYNTHIA_IDS,
  writeCityscapes,
  writeGta5,
  writeSynthia,
} from '../helpers/published-layouts.js';
import { randomSource } from '../helpers/random.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { type PlainTensor, writeTensors } from '../helpers/tensor-file.js';
import { CITYSCAPES_CLASSES, TRAINED_NETWORK, writeTrainedSegmenter } from '../helpers/trained-segmenter.js';
import { useTwin } from '../helpers/twin.js';

/** Difference that two probabilities may have when both sides compute in single precision. */
const NOISE = 1e-6;
const ALL = Array.from({ length: 19 }, (_, index) => index);

interface Answer {
  pixels: number;
  /** Pixels in another cell of our confusion matrix, and pixels whose two best classes are too close to call. */
  different: number;
  tied: number;
  /** Scores computed from our confusion matrix. */
  scores: Omit<Evaluation, 'confusion' | 'images' | 'seconds'>;
}

/**
 * Generates a street scene at dusk, with the label ids of the data set. Blocks of random other ids are added: ids of
 * absent classes, and ids of no class. Every pixel is repeated `zoom` times in both directions.
 */
function scene(seed: number, size: ImageSize, idsOfClasses: number[], zoom = 1): Frame {
  const rendered = renderScene({ seed, index: 0, look: 'dusk', ...size });
  const next = randomSource(seed);
  const blocks = Array.from({ length: 24 }, (_, id) => ({
    id: idsOfClasses[id] ?? [0, 4, 14, 22, 30][id - idsOfClasses.length]!,
    x: Math.floor(next() * (size.width - 8)),
    y: Math.floor(next() * (size.height - 6)),
  }));
  const [width, height] = [size.width * zoom, size.height * zoom];
  const ids = new Uint8Array(width * height);
  const image = new Uint8Array(3 * width * height);
  for (let i = 0; i < ids.length; i++) {
    const x = Math.floor((i % width) / zoom);
    const y = Math.floor(i / width / zoom);
    const pixel = y * size.width + x;
    const block = blocks.find((one) => x >= one.x && x < one.x + 8 && y >= one.y && y < one.y + 6);
    ids[i] = block?.id ?? idsOfClasses[CITYSCAPES_CLASSES[rendered.labels[pixel]!]!]!;
    image.set(rendered.image.subarray(3 * pixel, 3 * pixel + 3), 3 * i);
  }
  return { width, height, image, ids };
}

describe('parity with PyTorch: evaluation', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  const small = { width: 96, height: 64 };
  const input = { width: 80, height: 56 };
  const frames = Array.from({ length: 6 }, (_, seed) => scene(seed, small, CITYSCAPES_IDS));
  let weights = '';
  let segmenter: Segmenter | undefined;
  after(() => {
    segmenter?.dispose();
    folder.remove();
  });

  before(async () => {
    weights = await writeTrainedSegmenter(folder.path('weights'));
    segmenter = await Segmenter.fromFile(weights);
    writeCityscapes(folder.path('cityscapes'), {
      val: { lindau: frames.slice(0, 3), munster: frames.slice(3) },
    });
  });

  /** Predicts with LibTorch's kernels, as the twin does. Others differ by more than NOISE. */
  const sameKernels = {
    predict: (images: Uint8Array, options: PredictOptions) =>
      segmenter!.predict(images, { ...options, convolutions: 'direct' }),
  };

  const cityscapes = {
    images: folder.path('cityscapes/leftImg8bit/val'),
    labels: folder.path('cityscapes/gtFine/val'),
    labelMap: 'cityscapes',
  } as const;

  /**
   * Compares our evaluation with the twin's. The twin gets the pixels that enter the network and the ids in the files.
   */
  async function compare(
    item: string,
    set: {
      folders: { images: string; labels: string; labelMap: 'cityscapes' | 'gta5' | 'synthia' };
      frames: Frame[];
    },
    options: Omit<EvaluationOptions, 'classCount'>,
    ours?: Evaluation,
  ): Promise<Measurement[]> {
    const dataset = await ImageDataset.fromFolder(set.folders);
    const result = ours ?? (await evaluate(sameKernels, dataset, { classCount: 19, ...options }));
    const { size, scales = [1], outputSize = 'label', order = 'probabilities', flip = false } = options;
    const files = set.frames.map((_, i) => ({
      pixels: folder.path(`pixels-${i}`),
      ids: folder.path(`ids-${i}`),
    }));
    for (const [i, { width, height, ids }] of set.frames.entries()) {
      const views = scales.map(async (scale, k) => {
        const view = { width: Math.round(size.width * scale), height: Math.round(size.height * scale) };
        const { data } = await readImage(dataset.entry(i).image, view);
        return [`view ${k}`, { data, shape: [view.height, view.width, 3] }] as [string, PlainTensor];
      });
      writeTensors(files[i]!.pixels, Object.fromEntries(await Promise.all(views)));
      writeTensors(files[i]!.ids, { ids: { data: ids as Uint8Array, shape: [height, width] } });
    }
    const { meanClasses = ALL } = options;
    const { pixels, different, tied, scores } = await twin().ask<Answer>({
      do: 'evaluation',
      network: TRAINED_NETWORK,
      weights,
      images: files.map((file) => file.pixels),
      labels: files.map((file) => file.ids),
      sizes: set.frames.map((frame) => {
        const { width, height } = outputSize === 'label' ? frame : outputSize;
        return [height, width];
      }),
      labelMap: set.folders.labelMap === 'synthia' ? 'synthia' : 'cityscapes',
      order,
      flip,
      noise: NOISE,
      confusion: result.confusion.rows(),
      meanClasses,
    });
    assert.equal(result.images, set.frames.length);
    return [
      { item: `${item}: confusion matrix, of ${pixels} pixels`, error: different, bound: tied },
      { item: `${item}: undecided pixels`, error: tied, bound: 1e-4 * pixels },
      { item: `${item}: scores`, error: scoreError(result, scores), bound: 1e-12 },
    ];
  }

  it('as the reference does it: 1024×512 in, probabilities at 2048×1024, whatever the size of the labels', async () => {
    const rows: Measurement[] = [];
    const frame = scene(20, { width: 512, height: 256 }, CITYSCAPES_IDS, 4);
    writeCityscapes(folder.path('full'), { val: { frankfurt: [frame] } });
    const folders = {
      images: folder.path('full/leftImg8bit/val'),
      labels: folder.path('full/gtFine/val'),
      labelMap: 'cityscapes',
    } as const;
    rows.push(
      ...(await compare('2048×1024', { folders, frames: [frame] }, { size: { width: 1024, height: 512 } })),
    );
    const set = { folders: cityscapes, frames };
    rows.push(...(await compare('labels 96×64, input 80×56', set, { size: input })));
    rows.push(
      ...(await compare('truth resized to 100×50', set, {
        size: input,
        outputSize: { width: 100, height: 50 },
      })),
    );
    rows.push(...(await compare('logits upsampled', set, { size: input, order: 'logits' })));
    printAndCheck('evaluation on Cityscapes’ files beside a NumPy twin', rows);
  });

  it('over 19, 16 and 13 classes, and on the label ids of GTA5 and SYNTHIA', async () => {
    const rows: Measurement[] = [];
    const synthiaFrames = frames.map((_, seed) => scene(seed + 30, small, SYNTHIA_IDS));
    writeSynthia(folder.path('synthia'), synthiaFrames);
    writeGta5(folder.path('gta5'), frames);
    const synthia = {
      images: folder.path('synthia/RGB'),
      labels: folder.path('synthia/GT/LABELS'),
      labelMap: 'synthia',
    } as const;
    const gta5 = {
      images: folder.path('gta5/images'),
      labels: folder.path('gta5/labels'),
      labelMap: 'gta5',
    } as const;
    const means: number[] = [];
    for (const [item, meanClasses] of [
      ['19', undefined],
      ['16', SYNTHIA_16_CLASSES],
      ['13', SYNTHIA_13_CLASSES],
    ] as const) {
      const options = { size: input, meanClasses };
      for (const [name, set] of [
        ['Cityscapes', { folders: cityscapes, frames }],
        ['SYNTHIA', { folders: synthia, frames: synthiaFrames }],
      ] as const) {
        rows.push(...(await compare(`${name}, ${item} classes`, set, options)));
      }
      const dataset = await ImageDataset.fromFolder(cityscapes);
      means.push((await evaluate(segmenter!, dataset, { classCount: 19, ...options })).meanIou!);
    }
    assert.equal(new Set(means).size, 3, 'the number of classes makes a difference');
    rows.push(...(await compare('GTA5, 19 classes', { folders: gta5, frames }, { size: input })));
    printAndCheck('evaluation over parts of the classes beside a NumPy twin', rows);
  });

  it('averages over mirrored and scaled images', async () => {
    const rows: Measurement[] = [];
    const set = { folders: cityscapes, frames };
    for (const [item, options] of [
      ['flip', { flip: true }],
      ['scales 0.75, 1, 1.5', { scales: [0.75, 1, 1.5] }],
      ['flip, scales 1, 0.5, logits', { flip: true, scales: [1, 0.5], order: 'logits' }],
    ] as const) {
      rows.push(...(await compare(item, set, { size: input, ...options })));
    }
    printAndCheck('test-time averaging beside a NumPy twin', rows);
  });

  it('on the command line, of a network and of a folder of predictions', async () => {
    const rows: Measurement[] = [];
    const { images, labels, labelMap } = cityscapes;
    const run = async (...args: string[]): Promise<CommandResult> => {
      const { code, stdout, stderr } = await bidiseg([...args, '--json']);
      assert.equal(code, 0, stderr);
      return jsonLines(stdout).at(-1) as unknown as CommandResult;
    };
    const truth = ['--labels', labels, '--label-map', labelMap];
    const size = ['--size', '80x56'];
    const network = await run(
      ...['evaluate', '--weights', weights, '--images', images, ...truth, ...size],
      ...['--mean-classes', 'synthia-16', '--flip', '--scales', '1,0.75'],
    );
    const set = { folders: cityscapes, frames };
    const options = { size: input, meanClasses: SYNTHIA_16_CLASSES, flip: true, scales: [1, 0.75] };
    rows.push(...(await compare('network', set, options, asEvaluation(network))));
    assert.equal(network.meanClasses.length, 16);

    const output = folder.path('segmented');
    await run('segment', images, '--weights', weights, ...size, '--output', output, '--write', 'labels');
    const predictions = ['--predictions', folder.path('segmented/labels')];
    const scored = await run('evaluate', ...predictions, ...truth);
    rows.push(...(await compare('predictions', set, { size: input }, asEvaluation(scored))));
    printAndCheck('bidiseg evaluate beside a NumPy twin', rows);
  });
});

interface CommandResult extends Pick<Evaluation, 'meanIou' | 'pixelAccuracy' | 'meanAccuracy'> {
  frequencyWeightedIou: number;
  images: number;
  meanClasses: string[];
  iouPerClass: Record<string, number | null>;
  accuracyPerClass: Record<string, number | null>;
  confusion: number[][];
}

function asEvaluation({ iouPerClass, accuracyPerClass, confusion, ...rest }: CommandResult): Evaluation {
  return {
    ...rest,
    iou: Object.values(iouPerClass),
    accuracy: Object.values(accuracyPerClass),
    confusion: { rows: () => confusion } as Evaluation['confusion'],
    seconds: 0,
  };
}

/** Returns the largest difference of a score. It is infinite if only one side has the score. */
function scoreError(ours: Evaluation, theirs: Answer['scores']): number {
  const pairs = [
    ...theirs.iou.map((value, i) => [ours.iou[i], value]),
    ...theirs.accuracy.map((value, i) => [ours.accuracy[i], value]),
    ...(['meanIou', 'meanAccuracy', 'pixelAccuracy', 'frequencyWeightedIou'] as const).map((name) => [
      ours[name],
      theirs[name],
    ]),
  ];
  const errors = pairs.map(([one, other]) => {
    if (one === null || other === null) return one === other ? 0 : Number.POSITIVE_INFINITY;
    return Math.abs(one! - other!);
  });
  return Math.max(...errors);
}
