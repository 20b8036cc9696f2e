import path from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { resultFile } from '../../data/file-names.js';
import type { ImageSize, LabelImage, RgbImage } from '../../data/image-size.js';
import { overlay } from '../../data/palette.js';
import { averagedOver, scaledSizes } from '../../inference/views.js';
import { requirePrecision } from '../../pipeline/require-device.js';
import { forEachImage, type OpenInput, summary } from '../each-image.js';
import { collectImages } from '../inputs.js';
import { addNetworkOptions, findNetwork, type NetworkOptions, segmenterClasses } from '../network-source.js';
import {
  addExamples,
  addJsonOption,
  addOverwriteOption,
  addPredictionOptions,
  type CommonOptions,
  type PredictionOptions,
  parseSize,
} from '../options.js';
import { ResultFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const KINDS = ['labels', 'color', 'overlay'] as const;
type Kind = (typeof KINDS)[number];

interface SegmentOptions extends CommonOptions, NetworkOptions, PredictionOptions {
  output: string;
  overwrite?: boolean;
  size?: ImageSize;
  write: Kind[];
}

export function addSegmentCommand(program: Command): void {
  const command = program
    .command('segment')
    .description(
      'segments images: writes class indices, colors and an overlay, each in the size of the image',
    )
    .argument('<inputs...>', 'images, folders of images, or patterns such as "photos/**/*.jpg"')
    .requiredOption('-o, --output <folder>', 'output folder; receives labels/, color/ and overlay/');
  addNetworkOptions(command, 'segmenter').option(
    '--size <WxH>',
    "input size of the network in pixels (default: the run's evaluation size, or the image's own)",
    parseSize,
  );
  addPredictionOptions(command).addOption(
    new Option('--write <kinds>', 'outputs to write, separated by commas')
      .argParser(parseKinds)
      .default([...KINDS], KINDS.join(',')),
  );
  addOverwriteOption(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg segment photos --run runs/demo --output segmented', 'with the last segmenter of a run'],
    [
      'bidiseg segment a.png b.jpg --weights m.safetensors --size 1024x512 -o out',
      'with a weights file, at a fixed input size',
    ],
    [
      'bidiseg segment "photos/**/*_left.png" --run runs/street -o out',
      'images that match a pattern, quoted or not',
    ],
    ['bidiseg segment photos --run runs/street --stage source-only -o before', 'with an earlier stage'],
    ['bidiseg segment photos --run runs/street --flip --scales 0.75,1,1.25 -o out', 'slower and better'],
  ]);
  command.action((inputs: string[], options: SegmentOptions) =>
    runCommand(options, (context) => segment(inputs, options, context)),
  );
}

function parseKinds(text: string): Kind[] {
  const kinds = text.split(',').map((kind) => kind.trim());
  const isKind = (kind: string): kind is Kind => (KINDS as readonly string[]).includes(kind);
  if (!kinds.every(isKind))
    throw new InvalidArgumentError(`Expected any of ${KINDS.join(', ')}, separated by commas.`);
  return kinds;
}

interface Pixels {
  /** Input of the network. */
  input: RgbImage;
  /** Inputs at other sizes, for averaging. */
  others: RgbImage[];
  /** Image under the overlay. */
  full: RgbImage;
}

async function segment(inputs: string[], options: SegmentOptions, context: CommandContext): Promise<void> {
  const { output, overwrite, write, flip, scales, precision = 'fp32' } = options;
  const images = await collectImages(inputs, output);
  const results = await ResultFolder.plan(output, {
    command: 'segment',
    files: write.flatMap((kind) => images.map(({ name }) => path.posix.join(kind, `${name}.png`))),
    inputs: images.map((image) => image.file),
    overwrite,
  });
  const { file, config, device, limits } = await findNetwork('segmenter', options);
  await requirePrecision(device, precision, '--precision');

  const { toSize } = await import('../../data/image-size.js');
  const { Segmenter } = await import('../../models/segmenter.js');
  const { writeImage } = await import('../../data/image-codec.js');
  const { writeColorLabels, writeLabels } = await import('../../data/label-codec.js');
  using segmenter = await Segmenter.fromFile(file, { device, signal: context.signal });
  await results.prepare(context);
  const { names, palette } = await segmenterClasses(config, segmenter);
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
        // The same order as in evaluation, so the images show what the numbers measure.
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
  await results.complete();
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
