import { type Command, Option } from 'commander';
import type { Config } from '../../config/schema.js';
import type { ImageDataset } from '../../data/dataset.js';
import type { ImageSize } from '../../data/image-files.js';
import { LABEL_MAP_NAMES, type LabelMapName } from '../../data/label-maps.js';
import { DataError } from '../../errors.js';
import type { Evaluation } from '../../evaluate.js';
import { counted, duration, percent } from '../../format.js';
import { UsageError } from '../exit.js';
import {
  addNetworkOptions,
  classesOf,
  findNetwork,
  firstSize,
  type NetworkOptions,
} from '../network-source.js';
import { addExamples, addJsonOption, type CommonOptions, parseSize } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { table } from '../table.js';

interface EvaluateOptions extends CommonOptions, NetworkOptions {
  images?: string;
  labels?: string;
  labelMap?: LabelMapName;
  classes?: string[];
  size?: ImageSize;
}

export function addEvaluateCommand(program: Command): void {
  const command = program
    .command('evaluate')
    .description('measures a segmenter against labelled images: IoU of each class, mean IoU, pixel accuracy');
  addNetworkOptions(command, 'segmenter')
    .option('--images <folder>', "images (default: the run's validation images)")
    .option('--labels <folder>', "label PNGs with the images' base names")
    .addOption(
      new Option('--label-map <name>', 'from ids in the label files to classes').choices(LABEL_MAP_NAMES),
    )
    .option('--classes <names>', 'class names with commas between', parseNames)
    .option(
      '--size <WxH>',
      "input size of the network (default: the run's, or the first image's)",
      parseSize,
    );
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg evaluate --run runs/demo', "the run's last segmenter on its validation images"],
    ["bidiseg evaluate --run runs/demo --stage 'M(0)'", 'the source-only segmenter of the same run'],
    [
      'bidiseg evaluate --weights m.safetensors --images val/images --labels val/labels --label-map cityscapes --size 1024x512',
      'any weights on any labelled images',
    ],
  ]);
  command.action((options: EvaluateOptions) =>
    runCommand(options, (context) => evaluateCommand(options, context)),
  );
}

function parseNames(text: string): string[] {
  return text.split(',').map((name) => name.trim());
}

async function evaluateCommand(options: EvaluateOptions, context: CommandContext): Promise<void> {
  const { file, config, device } = await findNetwork('segmenter', options);
  const { Segmenter } = await import('../../models/segmenter.js');
  const { toSize } = await import('../../training/datasets.js');
  const { evaluate } = await import('../../evaluate.js');
  using segmenter = await Segmenter.fromFile(file, { device, signal: context.signal });
  const { classCount } = segmenter.options;
  const names = options.classes ?? (await classesOf(config, classCount)).names;
  if (names.length !== classCount) {
    throw new DataError(`${file} segments ${classCount} classes, but --classes names ${names.length}`);
  }
  const ignoreIndex = config?.data.ignoreIndex ?? 255;
  const dataset = await openLabelled(options, config, { classCount, ignoreIndex });
  const progress = context.console.progress('evaluating', dataset.length);
  const size = options.size ?? (config ? toSize(config.sizes.evaluation) : await firstSize(dataset));
  const outputSize = config?.sizes.evaluationOutput ?? 'label';
  const result = await evaluate(segmenter, dataset, {
    size,
    outputSize: outputSize === 'label' ? outputSize : toSize(outputSize),
    classCount,
    ignoreIndex,
    signal: context.signal,
    onProgress: ({ done }) => progress.update(done),
  });
  const { meanIou, iou, pixelAccuracy, images, seconds } = result;
  const iouPerClass = Object.fromEntries(names.map((name, i) => [name, iou[i] ?? null]));
  context.console.result(
    { weights: file, meanIou, iouPerClass, pixelAccuracy, images, seconds },
    resultText(names, result),
  );
}

/** The images that the options name or, without any, the validation images of the run. */
async function openLabelled(
  { images, labels, labelMap }: EvaluateOptions,
  config: Config | null,
  encoding: { classCount: number; ignoreIndex: number },
): Promise<ImageDataset> {
  const { ImageDataset } = await import('../../data/dataset.js');
  if (images !== undefined && labels !== undefined) {
    return ImageDataset.fromFolder({ images, labels, labelMap: labelMap ?? 'identity', ...encoding });
  }
  if (images !== undefined || labels !== undefined)
    throw new UsageError('Give --images and --labels together');
  if (!config) throw new UsageError('Give --images and --labels: these weights belong to no run');
  const { openDatasets } = await import('../../training/datasets.js');
  const { validation } = await openDatasets(config);
  if (!validation) throw new DataError('This run has no validation images; give --images and --labels');
  return validation;
}

function resultText(names: string[], { meanIou, iou, pixelAccuracy, images, seconds }: Evaluation): string {
  const rows = names.map((name, i) => [name, percent(iou[i])]);
  return [
    table([{ title: 'class' }, { title: 'IoU %', align: 'right' }], rows),
    '',
    `mIoU ${percent(meanIou)} %, pixel accuracy ${percent(pixelAccuracy)} % (${counted(images, 'image')}, ${duration(seconds)})`,
  ].join('\n');
}
