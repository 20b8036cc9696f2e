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
  classesOf,
  findNetwork,
  firstSize,
  type NetworkOptions,
} from '../network-source.js';
import { addExamples, addJsonOption, type CommonOptions, parseRatio, parseSize } from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { table } from '../table.js';

interface PseudoLabelOptions extends CommonOptions, NetworkOptions {
  output: string;
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
    .description('labels images where the segmenter is confident: class indices, and 255 where it is not')
    .argument(
      '[images]',
      "folder of images, or a text file that lists them (default: the run's target images)",
    )
    .requiredOption(
      '-o, --output <folder>',
      'gets NAME.png for each image with any label, and manifest.json',
    );
  addNetworkOptions(command, 'segmenter')
    .addOption(
      new Option(
        '--method <name>',
        "one threshold for all pixels (mpt), or one per class from the whole set; class-balanced: also to weigh classes (default: the run's, or mpt)",
      ).choices(['mpt', 'per-class', 'class-balanced']),
    )
    .option(
      '--threshold <p>',
      'keep a pixel above this probability (per-class: the highest threshold of a class) (default: 0.9)',
      parseRatio,
    )
    .option(
      '--portion <share>',
      "not mpt: drop this share of a class's pixels, the least confident (default: 0.5)",
      parseRatio,
    )
    .addOption(
      new Option(
        '--order <name>',
        "what is upsampled from the network's resolution: its logits, or their softmax (default: the run's, or logits)",
      ).choices(['logits', 'probabilities']),
    )
    .addOption(
      new Option(
        '--weighting <name>',
        "soft: write NAME.confidence.png too, by which training weighs pixels (default: the run's, or hard)",
      ).choices(['hard', 'soft']),
    )
    .option('--inclusive', 'keep pixels exactly at the threshold too')
    .option(
      '--size <WxH>',
      "size of the network's input and of the labels (default: the run's, or the first image's)",
      parseSize,
    )
    .option(
      '--root <folder>',
      "with a list: what its paths start from, and stay below (default: the list's folder)",
    );
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg pseudo-label photos --run runs/street --output pseudo', 'as the run itself would do it'],
    [
      'bidiseg pseudo-label photos --weights m.safetensors --method per-class --portion 0.3 -o pseudo',
      'keep 70 %',
    ],
    [
      'bidiseg pseudo-label photos -w m.safetensors --method per-class --order probabilities --inclusive --size 1024x512 -o pseudo',
      "as BDL's published code does it",
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
  const { output } = options;
  const { signal } = context;
  const { file, config, device, limits } = await findNetwork('segmenter', options);
  const dataset = await openImages(images, options.root, config, limits);

  const { Segmenter } = await import('../../models/segmenter.js');
  const { SelfTraining } = await import('../../training/self-training.js');
  const { toSize } = await import('../../data/image-size.js');
  using segmenter = await Segmenter.fromFile(file, { device, signal });
  prepareOutputFolder(output, context);
  const { names } = await classesOf(config, segmenter.options.classCount);
  const { method, threshold, portion, order, weighting, inclusive } = options;
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
  context.console.result({ output, weights: file, ...manifest }, resultText(manifest, output));
}

async function openImages(
  images: string | undefined,
  root: string | undefined,
  config: Config | null,
  limits: ImageLimits,
): Promise<ImageDataset> {
  const found = images === undefined ? undefined : statSync(images, { throwIfNoEntry: false });
  if (root !== undefined && (found === undefined || found.isDirectory())) {
    throw new UsageError('--root is for a list of images');
  }
  if (images === undefined) {
    if (!config) throw new UsageError('Name the images: these weights belong to no run');
    const { openDatasets } = await import('../../pipeline/datasets.js');
    return (await openDatasets(config)).target;
  }
  const { ImageDataset } = await import('../../data/dataset.js');
  if (!found) throw new DataError(`No such file or folder: ${images}`);
  if (found.isDirectory()) return ImageDataset.fromFolder({ images, ...limits });
  return ImageDataset.fromList({ list: images, ...(root !== undefined && { root }), ...limits });
}

/** Shows the passes over the images; returns what the generator returns. */
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
    labeled > 0 ? `${counted(labeled, 'image')} labeled in ${output}, without manifest.json` : '';
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
