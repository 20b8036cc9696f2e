import { type Command, Option } from 'commander';
import { resultFile } from '../../data/file-names.js';
import type { ImageSize } from '../../data/image-size.js';
import { forEachImage, summary } from '../each-image.js';
import { collectImages } from '../inputs.js';
import { addNetworkOptions, findNetwork, type NetworkOptions } from '../network-source.js';
import { addExamples, addJsonOption, type CommonOptions, parseSize } from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const DIRECTIONS = ['source-to-target', 'target-to-source'] as const;

interface TranslateOptions extends CommonOptions, NetworkOptions {
  output: string;
  direction: (typeof DIRECTIONS)[number];
  size?: ImageSize;
}

export function addTranslateCommand(program: Command): void {
  const command = program
    .command('translate')
    .description('makes source images look like target images, or the other way round')
    .argument('<inputs...>', 'images, folders of images, or patterns such as "photos/**/*.jpg"')
    .requiredOption('-o, --output <folder>', 'gets one PNG per image, with its name');
  addNetworkOptions(command, 'translator')
    .addOption(new Option('--direction <way>', 'which way').choices(DIRECTIONS).default(DIRECTIONS[0]))
    .option(
      '--size <WxH>',
      "scale images to this first (default: the run's translation size, or the image's own)",
      parseSize,
    );
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg translate rendered --run runs/demo --output translated', 'with the last translator of a run'],
    ['bidiseg translate a.png --weights f.safetensors --direction target-to-source -o out', 'backwards'],
  ]);
  command.action((inputs: string[], options: TranslateOptions) =>
    runCommand(options, (context) => translate(inputs, options, context)),
  );
}

async function translate(
  inputs: string[],
  options: TranslateOptions,
  context: CommandContext,
): Promise<void> {
  const { output, direction } = options;
  const images = await collectImages(inputs, output);
  const { file, config, device, limits } = await findNetwork('translator', options);

  const { toSize } = await import('../../data/image-size.js');
  const { Translator } = await import('../../models/translator.js');
  const { writeImage } = await import('../../data/image-codec.js');
  using translator = await Translator.fromFile(file, { device, signal: context.signal });
  prepareOutputFolder(output, context);
  const pair = config?.sizes.translation[direction === 'source-to-target' ? 'source' : 'target'];
  const size = options.size ?? (pair && toSize(pair));

  const seconds = await forEachImage(context, {
    label: 'translating',
    images,
    limits,
    output,
    read: ({ image }) => image.decode(size && { size }),
    compute: ({ data, width, height }) =>
      translator.translate(data, { count: 1, width, height, direction, signal: context.signal }),
    write: async (data, { name }, { width, height }) =>
      writeImage(await resultFile(output, name), { data, width, height }),
  });
  context.console.result(
    { output, images: images.length, weights: file, direction, seconds },
    summary(images.length, 'translated image', output, seconds),
  );
}
