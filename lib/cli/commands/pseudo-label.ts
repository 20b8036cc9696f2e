import { statSync } from 'node:fs';
import { type Command, Option } from 'commander';
import type { Config } from '../../config/schema.js';
import type { ImageDataset } from '../../data/dataset.js';
import type { ImageLimits } from '../../data/image-limits.js';
import type { ImageSize } from '../../data/image-size.js';
import { DataError } from '../../support/errors.js';
import { counted, percent } from '../../support/format.js';
import type { PseudoLabelManifest } from '../../training/self-training.js';
import type { PseudoLabelChoice } from '../../training/self-training-options.js';
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
  addOverwriteOption,
  type CommonOptions,
  parseRatio,
  parseSize,
} from '../options.js';
import { filesIn, liesInOutput, ResultFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { table } from '../table.js';

interface PseudoLabelOptions extends CommonOptions, NetworkOptions {
  output: string;
  overwrite?: boolean;
  method?: PseudoLabelChoice['method'];
  threshold?: number;
  portion?: number;
  order?: PseudoLabelChoice['order'];
  weighting?: PseudoLabelChoice['weighting'];
  inclusive?: boolean;
  size?: ImageSize;
  root?: string;
}

export function addPseudoLabelCommand(program: Command): void {
  const command = program
    .command('pseudo-label')
    .description('labels the pixels for which the segmenter is confident; the others get 255')
    .argument(
      '[images]',
      "folder of images, or a text file with one image per line (default: the run's target images)",
    )
    .requiredOption(
      '-o, --output <folder>',
      'output folder; receives NAME.png for each image with any label, and manifest.json',
    );
  addNetworkOptions(command, 'segmenter')
    .addOption(
      new Option(
        '--method <name>',
        "mpt: one threshold for all pixels; per-class: a threshold per class from the whole set, up to --threshold; class-balanced: the same without that limit, and it favors rare classes (default: the run's, or mpt)",
      ).choices(['mpt', 'per-class', 'class-balanced']),
    )
    .option(
      '--threshold <p>',
      "keep pixels above this probability, 0 to 1; per-class: highest threshold of a class; not for class-balanced (default: the run's, or 0.9)",
      parseRatio,
    )
    .option(
      '--portion <share>',
      "share of a class's pixels to drop, the least confident, 0 to 1; not for mpt (default: the run's, or 0.5)",
      parseRatio,
    )
    .addOption(
      new Option(
        '--order <name>',
        "upsample the network's logits, or its probabilities after the softmax (default: the run's, or logits)",
      ).choices(['logits', 'probabilities']),
    )
    .addOption(
      new Option(
        '--weighting <name>',
        "soft: also write NAME.confidence.png, with which training weights pixels (default: the run's, or hard)",
      ).choices(['hard', 'soft']),
    )
    .option('--inclusive', 'also keep pixels exactly at the threshold')
    .option(
      '--size <WxH>',
      "size of the network's input and the labels in pixels (default: the run's, or the first image's)",
      parseSize,
    )
    .option(
      '--root <folder>',
      "with a list: folder that its paths are relative to and must not leave (default: the list's folder)",
    );
  addOverwriteOption(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg pseudo-label photos --run runs/street --output pseudo', 'as the run itself does it'],
    [
      'bidiseg pseudo-label photos --weights m.safetensors --method per-class --portion 0.3 -o pseudo',
      'drops at most 30 % of the pixels of each class',
    ],
    [
      'bidiseg pseudo-label photos -w m.safetensors --method per-class --order probabilities --inclusive --size 1024x512 -o pseudo',
      'as the published code of BDL does it',
    ],
  ]);
  command.action((images: string | undefined, options: PseudoLabelOptions) =>
    runCommand(options, (context) => pseudoLabel(images, options, context)),
  );
}

async function pseudoLabel(
  images: string | undefined,
  options: PseudoLabelOptions,
  context: CommandContext,
): Promise<void> {
  const { output, overwrite } = options;
  const { signal } = context;
  const { file, config, device, limits } = await findNetwork('segmenter', options);
  const dataset = await openImages(images, options, config, limits);

  const { Segmenter } = await import('../../models/segmenter.js');
  const { labelFiles, SelfTraining } = await import('../../training/self-training.js');
  const { toSize } = await import('../../data/image-size.js');
  const { method, threshold, portion, order, weighting, inclusive } = options;
  const results = await ResultFolder.plan(output, {
    command: 'pseudo-label',
    files: labelFiles(dataset, weighting ?? config?.selfTraining.weighting ?? 'hard'),
    inputs: Array.from({ length: dataset.length }, (_, index) => dataset.entry(index).image),
    overwrite,
    // Training takes all of the folder for labels.
    alone: true,
  });
  using segmenter = await Segmenter.fromFile(file, { device, signal });
  await results.prepare(context);
  const { names } = await segmenterClasses(config, segmenter);
  const selfTraining = new SelfTraining(segmenter, {
    classes: names,
    size: options.size ?? (config ? toSize(config.sizes.target) : await firstSize(dataset)),
    ignoreIndex: config?.data.ignoreIndex ?? 255,
    choice: {
      ...config?.selfTraining,
      ...(method !== undefined && { method }),
      ...(threshold !== undefined && { threshold }),
      ...(portion !== undefined && { portion }),
      ...(order !== undefined && { order }),
      ...(weighting !== undefined && { weighting }),
      ...(inclusive !== undefined && { inclusive }),
    },
  });
  const manifest = await follow(selfTraining.label(dataset, output, { signal }), output, context);
  await results.complete();
  context.console.result({ output, weights: file, ...manifest }, resultText(manifest, output));
}

async function openImages(
  images: string | undefined,
  { root, output }: PseudoLabelOptions,
  config: Config | null,
  limits: ImageLimits,
): Promise<ImageDataset> {
  const found = images === undefined ? undefined : statSync(images, { throwIfNoEntry: false });
  if (root !== undefined && (found === undefined || found.isDirectory())) {
    throw new UsageError('--root needs a list of images');
  }
  if (images === undefined) {
    if (!config) throw new UsageError('Name the images, because these weights belong to no run');
    const { openDatasets } = await import('../../pipeline/datasets.js');
    return (await openDatasets(config)).target;
  }
  const { ImageDataset } = await import('../../data/dataset.js');
  if (!found) throw new DataError(`No such file or folder: ${images}`);
  if (found.isDirectory() && filesIn(output, [images]).length > 0) throw liesInOutput(images, output);
  // Results of an earlier command are not inputs.
  if (found.isDirectory()) return ImageDataset.fromFolder({ images, except: output, ...limits });
  return ImageDataset.fromList({ list: images, ...(root !== undefined && { root }), ...limits });
}

/** Shows the passes over the images. Returns the generator's result. */
async function follow(
  passes: ReturnType<import('../../training/self-training.js').SelfTraining['label']>,
  output: string,
  context: CommandContext,
): Promise<PseudoLabelManifest> {
  const { drain } = await import('../../support/generators.js');
  let task = '';
  let progress = context.console.progress('', 0);
  let labeled = 0;
  context.kept = () =>
    labeled > 0 ? `${counted(labeled, 'image')} labeled in ${output}; manifest.json is missing` : '';
  return drain(passes, (event) => {
    if (event.type !== 'progress') return;
    const { type, ...data } = event;
    if (event.task !== task) {
      task = event.task;
      progress = context.console.progress(task === 'pseudo-label' ? 'labels' : task, event.total);
    }
    if (event.task === 'pseudo-label') labeled = event.done;
    progress.update(event.done);
    context.console.event(type, data);
  });
}

function resultText({ classes, images, keptImages, keptShare }: PseudoLabelManifest, output: string): string {
  return [
    table(
      [
        { title: 'class' },
        { title: 'threshold', align: 'right' },
        { title: 'pixels', align: 'right' },
        { title: 'kept %', align: 'right' },
      ],
      classes.map((row) => [
        row.class,
        row.threshold.toFixed(4),
        String(row.predicted),
        row.predicted > 0 ? percent(row.keptShare) : '–',
      ]),
    ),
    '',
    `Kept ${percent(keptShare)} % of the pixels; ${keptImages} of ${counted(images, 'image')} have labels in ${output}`,
  ].join('\n');
}
