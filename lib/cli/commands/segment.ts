import path from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { resultFile } from '../../data/file-names.js';
import type { ImageSize, LabelImage, RgbImage } from '../../data/image-size.js';
import { overlay } from '../../data/palette.js';
import { averagedOver, scaledSizes } from '../../inference/views.js';
import { requirePrecision } from '../../pipeline/require-device.js';
import { forEachImage, type OpenInput, summary } from '../each-image.js';
import { collectImages } from '../inputs.js';
import { addNetworkOptions, classesOf, findNetwork, type NetworkOptions } from '../network-source.js';
import {
  addExamples,
  addJsonOption,
  addPredictionOptions,
  type CommonOptions,
  type PredictionOptions,
  parseSize,
} from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const KINDS = ['labels', 'color', 'overlay'] as const;
type Kind = (typeof KINDS)[number];

interface SegmentOptions extends CommonOptions, NetworkOptions, PredictionOptions {
  output: string;
  size?: ImageSize;
  write: Kind[];
}

export function addSegmentCommand(program: Command): void {
  const command = program
    .command('segment')
    .description(
      'segments images: class indices, colors, and the colors over the image, each as large as the image',
    )
    .argument('<inputs...>', 'images, folders of images, or patterns such as "photos/**/*.jpg"')
    .requiredOption('-o, --output <folder>', 'gets labels/, color/ and overlay/');
  addNetworkOptions(command, 'segmenter').option(
    '--size <WxH>',
    "scale to this for the network (default: the run's evaluation size, or the image's own)",
    parseSize,
  );
  addPredictionOptions(command).addOption(
    new Option('--write <kinds>', 'which of these to write')
      .argParser(parseKinds)
      .default([...KINDS], KINDS.join(',')),
  );
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg segment photos --run runs/demo --output segmented', 'with the last segmenter of a run'],
    ['bidiseg segment a.png b.jpg --weights m.safetensors --size 1024x512 -o out', 'with a weights file'],
    ['bidiseg segment "photos/**/*_left.png" --run runs/street -o out', 'those that match, quoted or not'],
    ['bidiseg segment photos --run runs/street --stage source-only -o before', 'with an earlier stage'],
    ['bidiseg segment photos --run runs/street --flip --scales 0.75,1,1.25 -o out', 'slower, and better'],
  ]);
  command.action((inputs: string[], options: SegmentOptions) =>
    runCommand(options, (context) => segment(inputs, options, context)),
  );
}

function parseKinds(text: string): Kind[] {
  const kinds = text.split(',').map((kind) => kind.trim());
  const isKind = (kind: string): kind is Kind => (KINDS as readonly string[]).includes(kind);
  if (!kinds.every(isKind))
    throw new InvalidArgumentError(`Expected any of ${KINDS.join(', ')} with commas between.`);
  return kinds;
}

interface Pixels {
  /** What the network sees. */
  input: RgbImage;
  /** The same at other sizes, for averaging. */
  others: RgbImage[];
  /** What the overlay is laid over. */
  full: RgbImage;
}

async function segment(inputs: string[], options: SegmentOptions, context: CommandContext): Promise<void> {
  const { output, write, flip, scales, precision = 'fp32' } = options;
  const images = await collectImages(inputs, output);
  const { file, config, device, limits } = await findNetwork('segmenter', options);
  await requirePrecision(device, precision, '--precision');

  const { toSize } = await import('../../data/image-size.js');
  const { Segmenter } = await import('../../models/segmenter.js');
  const { writeImage } = await import('../../data/image-codec.js');
  const { writeColorLabels, writeLabels } = await import('../../data/label-codec.js');
  using segmenter = await Segmenter.fromFile(file, { device, signal: context.signal });
  prepareOutputFolder(output, context);
  const { names, palette } = await classesOf(config, segmenter.options.classCount);
  const size = options.size ?? (config && toSize(config.sizes.evaluation));

  const seconds = await forEachImage(context, {
    label: 'segmenting',
    images,
    limits,
    output,
    read: (image) => readPixels(image, scaledSizes(size ?? image.image, scales), write.includes('overlay')),
    compute: async ({ input, others }, { image }): Promise<LabelImage> => {
      const { labels: data } = await segmenter.predict(input.data, {
        count: 1,
        width: input.width,
        height: input.height,
        outputWidth: image.width,
        outputHeight: image.height,
        // As in evaluation, so that the pictures show what the numbers measure.
        order: 'probabilities',
        precision,
        ...averagedOver({ flip, others }),
        signal: context.signal,
      });
      return { data, width: image.width, height: image.height };
    },
    write: async (labels, { name }, { full }) => {
      const writers: Record<Kind, (file: string) => Promise<void>> = {
        labels: (file) => writeLabels(file, labels),
        color: (file) => writeColorLabels(file, labels, palette),
        overlay: (file) => writeImage(file, overlay(full, labels, palette)),
      };
      const files = write.map(async (kind) => writers[kind](await resultFile(path.join(output, kind), name)));
      await Promise.all(files);
    },
  });
  context.console.result(
    { output, images: images.length, weights: file, classes: names, written: write, seconds },
    `${summary(images.length, 'segmentation', output, seconds)} (${write.map((kind) => `${kind}/`).join(', ')})`,
  );
}

async function readPixels(
  { image }: OpenInput,
  [size, ...otherSizes]: ImageSize[],
  wantsFull: boolean,
): Promise<Pixels> {
  const { width, height } = size!;
  const isOwnSize = width === image.width && height === image.height;
  const input = await image.decode({ size: size! });
  const full = isOwnSize || !wantsFull ? input : await image.decode();
  const others: RgbImage[] = [];
  for (const other of otherSizes) others.push(await image.decode({ size: other }));
  return { input, others, full };
}
