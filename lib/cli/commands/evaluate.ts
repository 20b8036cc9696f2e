import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Config } from '../../config/schema.js';
import type { ImageDataset } from '../../data/dataset.js';
import type { ImageLimits } from '../../data/image-limits.js';
import type { ImageSize } from '../../data/image-size.js';
import { classIndices } from '../../data/label-maps.js';
import { listed } from '../../data/label-survey.js';
import type { Evaluation } from '../../inference/evaluate.js';
import { requirePrecision } from '../../pipeline/require-device.js';
import { DataError } from '../../support/errors.js';
import { counted, duration, percent } from '../../support/format.js';
import {
  CLASSES_HELP,
  classesOfLabelMap,
  LABEL_MAP_HELP,
  type LabelMapChoice,
  labelMapText,
  MEAN_CLASSES_HELP,
  readClasses,
  readLabelMap,
  readMeanClasses,
} from '../classes.js';
import { UsageError } from '../exit.js';
import {
  addNetworkOptions,
  findNetwork,
  firstSize,
  type NetworkOptions,
  segmenterClasses,
} from '../network-source.js';
import {
  addExamples,
  addJsonOption,
  addPredictionOptions,
  type CommonOptions,
  type PredictionOptions,
  parseCount,
  parseSize,
} from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { table } from '../table.js';

interface EvaluateOptions extends CommonOptions, NetworkOptions, PredictionOptions {
  predictions?: string;
  images?: string;
  labels?: string;
  labelMap?: string;
  classes?: string;
  meanClasses?: string;
  ignoreIndex?: number;
  size?: ImageSize;
  outputSize?: ImageSize | 'label';
  order?: (typeof ORDERS)[number];
}

const ORDERS = ['probabilities', 'logits'] as const;

export function addEvaluateCommand(program: Command): void {
  const command = program
    .command('evaluate')
    .description(
      'measures a segmenter or a folder of predictions on labeled images: IoU and accuracy per class, their means and, with --json, the confusion matrix',
    );
  addNetworkOptions(command, 'segmenter')
    .option(
      '--predictions <folder>',
      "folder of class PNGs instead of a network, with the labels' names and sizes, as `segment` writes them",
    )
    .option('--images <folder>', "folder of images (default: the run's validation images)")
    .option('--labels <folder>', "folder of label PNGs with the images' names")
    .option(
      '--label-map <map>',
      `conversion of the ids in the label files to classes: ${LABEL_MAP_HELP} (default: the run's, or identity)`,
    )
    .option('--classes <names>', `${CLASSES_HELP} (default: the run's, or the label map's)`)
    .option(
      '--mean-classes <names>',
      `classes to average over: ${MEAN_CLASSES_HELP} (default: the run's, or all)`,
    )
    .option(
      '--ignore-index <index>',
      'class index, 0 to 255, that means "no label" (default: the run\'s, or 255)',
      parseIgnoreIndex,
    )
    .option(
      '--size <WxH>',
      "input size of the network in pixels (default: the run's, or the first image's)",
      parseSize,
    )
    .option(
      '--output-size <WxH>',
      "size of predictions and labels in pixels, or 'label' for each label file's own (default: the run's, or label)",
      (text) => (text === 'label' ? text : parseSize(text)),
    )
    .addOption(
      new Option(
        '--order <name>',
        'what is upsampled to the output size: the softmax, as for published results, or the logits (default: probabilities)',
      ).choices(ORDERS),
    );
  addPredictionOptions(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg evaluate --run runs/demo', "the run's last segmenter on its validation images"],
    ["bidiseg evaluate --run runs/demo --stage 'M(0)'", 'the source-only segmenter of the same run'],
    [
      'bidiseg evaluate --weights m.safetensors --images leftImg8bit/val --labels gtFine/val --label-map cityscapes --size 1024x512',
      'as in published results on Cityscapes: probabilities upsampled to the size of the labels',
    ],
    [
      'bidiseg evaluate --run runs/street --images dusk/images --labels dusk/labels',
      "on other images, with the run's label map, classes and sizes",
    ],
    [
      "bidiseg evaluate -w m.safetensors --images images --labels masks --label-map '{0: 255, 1: 0, 2: 1}'",
      'label files with ids 1 and 2, and 0 for no label',
    ],
    [
      'bidiseg evaluate --predictions out/labels --labels gtFine/val --label-map cityscapes --mean-classes synthia-13',
      'predictions of any program',
    ],
  ]);
  command.action((options: EvaluateOptions) =>
    runCommand(options, (context) => evaluateCommand(options, context)),
  );
}

function parseIgnoreIndex(text: string): number {
  const index = parseCount(text);
  if (index > 255) throw new InvalidArgumentError('Expected a whole number from 0 to 255.');
  return index;
}

/** Predictions to evaluate: their name in the result, and the names of their classes. */
interface Scored {
  source: { weights: string } | { predictions: string };
  names: readonly string[];
  /** Indices of the classes to average over. Default: all. */
  inMean: readonly number[] | undefined;
  result: Evaluation;
}

async function evaluateCommand(options: EvaluateOptions, { console, signal }: CommandContext): Promise<void> {
  const context = { console, signal };
  const {
    source,
    names,
    inMean: indices,
    result,
  } = options.predictions === undefined
    ? await scoreNetwork(options, context)
    : await scorePredictions(options.predictions, options, context);
  const { iou, accuracy, confusion, ...scores } = result;
  const perClass = (values: (number | null)[]) =>
    Object.fromEntries(names.map((name, i) => [name, values[i] ?? null]));
  const inMean = indices ? indices.map((index) => names[index]!) : [...names];
  console.result(
    {
      ...source,
      ...scores,
      meanClasses: inMean,
      iouPerClass: perClass(iou),
      accuracyPerClass: perClass(accuracy),
      confusion: confusion.rows(),
    },
    resultText(names, inMean, result),
  );
}

type Context = Pick<CommandContext, 'console' | 'signal'>;

async function scoreNetwork(options: EvaluateOptions, { console, signal }: Context): Promise<Scored> {
  const { flip, scales, precision = 'fp32', order } = options;
  const { file, config, device, limits } = await findNetwork('segmenter', options);
  await requirePrecision(device, precision, '--precision');
  const { Segmenter } = await import('../../models/segmenter.js');
  const { toSize } = await import('../../data/image-size.js');
  const { evaluate } = await import('../../inference/evaluate.js');
  using segmenter = await Segmenter.fromFile(file, { device, signal });
  const { classCount } = segmenter.options;
  const { names } =
    options.classes === undefined
      ? await segmenterClasses(config, segmenter)
      : await readClasses(options.classes);
  if (names.length !== classCount) {
    throw new DataError(`${file} segments ${classCount} classes, but --classes names ${names.length}`);
  }
  const { meanClassIndices } = await import('../../config/classes.js');
  const ofRun = config ? meanClassIndices(config) : undefined;
  const inMean = options.meanClasses === undefined ? ofRun : await meanIndices(options.meanClasses, names);
  const ignoreIndex = options.ignoreIndex ?? config?.data.ignoreIndex ?? 255;
  const dataset = await openLabeled(options, config, { classCount, ignoreIndex, ...limits }, console);
  const progress = console.progress('evaluating', dataset.length);
  const size = options.size ?? (config ? toSize(config.sizes.evaluation) : await firstSize(dataset));
  const ofConfig = config?.sizes.evaluationOutput ?? 'label';
  const outputSize = options.outputSize ?? (ofConfig === 'label' ? ofConfig : toSize(ofConfig));
  const result = await evaluate(segmenter, dataset, {
    size,
    outputSize,
    classCount,
    ignoreIndex,
    meanClasses: inMean,
    ...(order && { order }),
    ...(flip !== undefined && { flip }),
    ...(scales !== undefined && { scales }),
    precision,
    signal,
    onProgress: ({ done }) => progress.update(done),
  });
  return { source: { weights: file }, names, inMean, result };
}

/** Options that only apply to the predictions of a network. */
const NETWORK_ONLY = [
  ...(['weights', 'run', 'stage', 'images', 'size', 'outputSize'] as const),
  ...(['order', 'flip', 'scales', 'precision'] as const),
];

async function meanIndices(text: string, names: readonly string[]): Promise<number[]> {
  return classIndices(await readMeanClasses(text), names);
}

async function scorePredictions(
  predictions: string,
  options: EvaluateOptions,
  { console, signal }: Context,
): Promise<Scored> {
  const { labels, maxPixels, ignoreIndex } = options;
  for (const name of NETWORK_ONLY) {
    if (options[name] === undefined) continue;
    const option = name === 'outputSize' ? 'output-size' : name;
    throw new UsageError(`--${option} cannot be combined with --predictions`);
  }
  if (labels === undefined) throw new UsageError('--predictions needs --labels, the folder of labels');
  const labelMap = options.labelMap === undefined ? 'identity' : await readLabelMap(options.labelMap);
  const classes =
    options.classes === undefined ? classesOfLabelMap(labelMap) : await readClasses(options.classes);
  if (!classes)
    throw new UsageError('--predictions needs --classes, or a --label-map that defines the classes');
  const { names } = classes;
  const inMean =
    options.meanClasses === undefined ? undefined : await meanIndices(options.meanClasses, names);
  const { evaluatePredictions } = await import('../../inference/evaluate.js');
  let progress: ReturnType<typeof console.progress> | undefined;
  const result = await evaluatePredictions(
    { predictions, labels, labelMap, maxPixels },
    {
      classCount: names.length,
      ...(ignoreIndex !== undefined && { ignoreIndex }),
      meanClasses: inMean,
      signal,
      onProgress: ({ done, total }) => {
        progress ??= console.progress('evaluating', total);
        progress.update(done);
      },
    },
  );
  return { source: { predictions }, names, inMean, result };
}

/** Opens the images that the options name. Without options, opens the validation images of the run. */
async function openLabeled(
  { images, labels, labelMap: wanted }: EvaluateOptions,
  config: Config | null,
  encoding: { classCount: number; ignoreIndex: number } & ImageLimits,
  console: Context['console'],
): Promise<ImageDataset> {
  const { ImageDataset } = await import('../../data/dataset.js');
  const labelMap = wanted === undefined ? undefined : await readLabelMap(wanted);
  if (images !== undefined && labels !== undefined) {
    const map = labelMap ?? labelMapOfRun(config, console);
    return ImageDataset.fromFolder({ images, labels, labelMap: map, ...encoding });
  }
  if (images !== undefined || labels !== undefined)
    throw new UsageError('Give --images and --labels together');
  if (!config) throw new UsageError('Give --images and --labels, because these weights belong to no run');
  const { openDatasets } = await import('../../pipeline/datasets.js');
  const { data } = config;
  const { train, val } = data.target;
  const target = { train, labeled: null, val: val && { ...val, labelMap: labelMap ?? val.labelMap } };
  const { ignoreIndex } = encoding;
  const { validation } = await openDatasets({ ...config, data: { ...data, ignoreIndex, target } });
  if (!validation) throw new DataError('This run has no validation images; give --images and --labels');
  return validation;
}

/** Returns the label map of the run's validation images or, without any, of its source. */
function labelMapOfRun(config: Config | null, console: Context['console']): LabelMapChoice {
  if (!config) return 'identity';
  const { source, target } = config.data;
  if (target.val) return target.val.labelMap;
  const { labelMap } = source;
  if (labelMap !== 'identity') {
    console.note(
      `The run has no validation images, so these labels are read with the label map of its source (${labelMapText(labelMap)}); --label-map gives another`,
    );
  }
  return labelMap;
}

function resultText(names: readonly string[], inMean: readonly string[], result: Evaluation): string {
  const isPart = inMean.length < names.length;
  const rows = names.map((name, i) => [
    isPart && !inMean.includes(name) ? `(${name})` : name,
    percent(result.iou[i]),
    percent(result.accuracy[i]),
  ]);
  const pixels = result.confusion.truePixels();
  const missing = inMean.filter((name) => pixels[names.indexOf(name)] === 0);
  return [
    table(
      [{ title: 'class' }, { title: 'IoU %', align: 'right' }, { title: 'accuracy %', align: 'right' }],
      rows,
    ),
    '',
    `${isPart ? `Means over ${inMean.length} classes: ` : ''}mIoU ${percent(result.meanIou)} %, ` +
      `mean accuracy ${percent(result.meanAccuracy)} %, frequency-weighted IoU ${percent(result.frequencyWeightedIou)} %`,
    `Pixel accuracy ${percent(result.pixelAccuracy)} % (${counted(result.images, 'image')}, ${duration(result.seconds)})`,
    ...(missing.length > 0 ? [`No pixel of the labels is of ${listed(missing)}`] : []),
  ].join('\n');
}
