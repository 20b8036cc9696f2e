import { type Command, Option } from 'commander';
import type { Config } from '../../config/schema.js';
import type { ImageDataset } from '../../data/dataset.js';
import type { ImageLimits } from '../../data/image-limits.js';
import type { ImageSize } from '../../data/image-size.js';
import { type ClassSubset, classIndices, LABEL_MAP_NAMES, type LabelMapName } from '../../data/label-maps.js';
import { listed } from '../../data/label-survey.js';
import type { Evaluation } from '../../inference/evaluate.js';
import { requirePrecision } from '../../pipeline/require-device.js';
import { DataError } from '../../support/errors.js';
import { counted, duration, percent } from '../../support/format.js';
import {
  CLASSES_HELP,
  type Classes,
  classesOfLabelMap,
  MEAN_CLASSES_HELP,
  parseClasses,
  parseMeanClasses,
} from '../classes.js';
import { UsageError } from '../exit.js';
import {
  addNetworkOptions,
  classesOf,
  findNetwork,
  firstSize,
  type NetworkOptions,
} from '../network-source.js';
import {
  addExamples,
  addJsonOption,
  addPredictionOptions,
  type CommonOptions,
  type PredictionOptions,
  parseSize,
} from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { table } from '../table.js';

interface EvaluateOptions extends CommonOptions, NetworkOptions, PredictionOptions {
  predictions?: string;
  images?: string;
  labels?: string;
  labelMap?: LabelMapName;
  classes?: Classes;
  meanClasses?: ClassSubset | string[];
  size?: ImageSize;
}

export function addEvaluateCommand(program: Command): void {
  const command = program
    .command('evaluate')
    .description(
      'measures a segmenter, or a folder of predictions, against labeled images: IoU and accuracy of each class, their means, the confusion matrix (with --json)',
    );
  addNetworkOptions(command, 'segmenter')
    .option(
      '--predictions <folder>',
      "in place of a network: class PNGs of the labels' names and sizes, as `segment` writes them",
    )
    .option('--images <folder>', "images (default: the run's validation images)")
    .option('--labels <folder>', "label PNGs with the images' names")
    .addOption(
      new Option('--label-map <name>', 'from ids in the label files to classes').choices(LABEL_MAP_NAMES),
    )
    .option('--classes <names>', CLASSES_HELP, parseClasses)
    .option(
      '--mean-classes <names>',
      `what means are taken over: ${MEAN_CLASSES_HELP} (default: the run's, or all)`,
      parseMeanClasses,
    )
    .option(
      '--size <WxH>',
      "input size of the network (default: the run's, or the first image's)",
      parseSize,
    );
  addPredictionOptions(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg evaluate --run runs/demo', "the run's last segmenter on its validation images"],
    ["bidiseg evaluate --run runs/demo --stage 'M(0)'", 'the source-only segmenter of the same run'],
    [
      'bidiseg evaluate --weights m.safetensors --images leftImg8bit/val --labels gtFine/val --label-map cityscapes --size 1024x512',
      'as published results on Cityscapes: probabilities upsampled to the size of the labels',
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

/** What is evaluated, under the name it has in the result, with the names of its classes. */
interface Scored {
  source: { weights: string } | { predictions: string };
  names: readonly string[];
  meanClasses: ClassSubset | readonly string[] | undefined;
  result: Evaluation;
}

async function evaluateCommand(options: EvaluateOptions, { console, signal }: CommandContext): Promise<void> {
  const context = { console, signal };
  const { source, names, meanClasses, result } =
    options.predictions === undefined
      ? await scoreNetwork(options, context)
      : await scorePredictions(options.predictions, options, context);
  const { iou, accuracy, confusion, ...scores } = result;
  const perClass = (values: (number | null)[]) =>
    Object.fromEntries(names.map((name, i) => [name, values[i] ?? null]));
  const inMean =
    meanClasses === undefined ? [...names] : classIndices(meanClasses, names).map((i) => names[i]!);
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
  const { flip, scales, precision = 'fp32' } = options;
  const { file, config, device, limits } = await findNetwork('segmenter', options);
  await requirePrecision(device, precision, '--precision');
  const { Segmenter } = await import('../../models/segmenter.js');
  const { toSize } = await import('../../data/image-size.js');
  const { evaluate } = await import('../../inference/evaluate.js');
  using segmenter = await Segmenter.fromFile(file, { device, signal });
  const { classCount } = segmenter.options;
  const { names } = options.classes ?? (await classesOf(config, classCount));
  if (names.length !== classCount) {
    throw new DataError(`${file} segments ${classCount} classes, but --classes names ${names.length}`);
  }
  const meanClasses = options.meanClasses ?? config?.data.meanClasses ?? undefined;
  const ignoreIndex = config?.data.ignoreIndex ?? 255;
  const dataset = await openLabeled(options, config, { classCount, ignoreIndex, ...limits });
  const progress = console.progress('evaluating', dataset.length);
  const size = options.size ?? (config ? toSize(config.sizes.evaluation) : await firstSize(dataset));
  const outputSize = config?.sizes.evaluationOutput ?? 'label';
  const result = await evaluate(segmenter, dataset, {
    size,
    outputSize: outputSize === 'label' ? outputSize : toSize(outputSize),
    classCount,
    ignoreIndex,
    meanClasses: meanClasses && classIndices(meanClasses, names),
    ...(flip !== undefined && { flip }),
    ...(scales !== undefined && { scales }),
    precision,
    signal,
    onProgress: ({ done }) => progress.update(done),
  });
  return { source: { weights: file }, names, meanClasses, result };
}

async function scorePredictions(
  predictions: string,
  options: EvaluateOptions,
  { console, signal }: Context,
): Promise<Scored> {
  const { labels, labelMap = 'identity', meanClasses, maxPixels } = options;
  for (const name of ['weights', 'run', 'stage', 'images', 'size', 'flip', 'scales', 'precision'] as const) {
    if (options[name] !== undefined) throw new UsageError(`--${name} does not go with --predictions`);
  }
  if (labels === undefined) throw new UsageError('Give the folder of labels too: --labels');
  const classes = options.classes ?? classesOfLabelMap(labelMap);
  if (!classes) throw new UsageError('Name the classes, or the label map that leads to them: --classes');
  const { names } = classes;
  const { evaluatePredictions } = await import('../../inference/evaluate.js');
  let progress: ReturnType<typeof console.progress> | undefined;
  const result = await evaluatePredictions(
    { predictions, labels, labelMap, maxPixels },
    {
      classCount: names.length,
      meanClasses: meanClasses && classIndices(meanClasses, names),
      signal,
      onProgress: ({ done, total }) => {
        progress ??= console.progress('evaluating', total);
        progress.update(done);
      },
    },
  );
  return { source: { predictions }, names, meanClasses, result };
}

/** The images that the options name or, without any, the validation images of the run. */
async function openLabeled(
  { images, labels, labelMap }: EvaluateOptions,
  config: Config | null,
  encoding: { classCount: number; ignoreIndex: number } & ImageLimits,
): Promise<ImageDataset> {
  const { ImageDataset } = await import('../../data/dataset.js');
  if (images !== undefined && labels !== undefined) {
    return ImageDataset.fromFolder({ images, labels, labelMap: labelMap ?? 'identity', ...encoding });
  }
  if (images !== undefined || labels !== undefined)
    throw new UsageError('Give --images and --labels together');
  if (!config) throw new UsageError('Give --images and --labels: these weights belong to no run');
  const { openDatasets } = await import('../../pipeline/datasets.js');
  const { validation } = await openDatasets(config);
  if (!validation) throw new DataError('This run has no validation images; give --images and --labels');
  return validation;
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
