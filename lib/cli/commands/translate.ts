import { type Command, Option } from 'commander';
import { resultFile } from '../../data/file-names.js';
import type { ImageSize } from '../../data/image-size.js';
import type { Translator } from '../../models/translator.js';
import { DataError, InvalidArgumentError } from '../../support/errors.js';
import { forEachImage, summary } from '../each-image.js';
import { UsageError } from '../exit.js';
import { collectImages } from '../inputs.js';
import { addNetworkOptions, findNetwork, type NetworkOptions } from '../network-source.js';
import { addExamples, addJsonOption, addOverwriteOption, type CommonOptions, parseSize } from '../options.js';
import { ResultFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const DIRECTIONS = ['source-to-target', 'target-to-source'] as const;

interface TranslateOptions extends CommonOptions, NetworkOptions {
  output: string;
  overwrite?: boolean;
  direction: (typeof DIRECTIONS)[number];
  back?: string;
  size?: ImageSize;
}

export function addTranslateCommand(program: Command): void {
  const command = program
    .command('translate')
    .description('makes source images look like target images, or the reverse')
    .argument('<inputs...>', 'images, folders of images, or patterns such as "photos/**/*.jpg"')
    .requiredOption('-o, --output <folder>', 'output folder; receives one PNG per image, with its name');
  addNetworkOptions(command, 'translator')
    .addOption(
      new Option('--direction <way>', 'direction of translation').choices(DIRECTIONS).default(DIRECTIONS[0]),
    )
    .option(
      '--back <file>',
      'with --weights FILE of a CycleGAN generator: the generator from target to source (default: one direction only)',
    )
    .option(
      '--size <WxH>',
      "size to scale images to first, in pixels (default: the run's translation size, or the image's own)",
      parseSize,
    );
  addOverwriteOption(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg translate rendered --run runs/demo --output translated', 'with the last translator of a run'],
    [
      'bidiseg translate a.png --weights f.safetensors --direction target-to-source -o out',
      'from target to source',
    ],
    ['bidiseg translate rendered --weights latest_net_G_A.pth -o translated', 'with a generator of CycleGAN'],
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
  const { output, overwrite, direction, back } = options;
  if (back !== undefined && options.weights === undefined) throw new UsageError('--back needs --weights');
  const images = await collectImages(inputs, output);
  const results = await ResultFolder.plan(output, {
    command: 'translate',
    files: images.map(({ name }) => `${name}.png`),
    inputs: images.map((image) => image.file),
    overwrite,
  });
  const { file, config, device, limits } = await findNetwork('translator', options);

  const { toSize } = await import('../../data/image-size.js');
  const { Translator } = await import('../../models/translator.js');
  const { writeImage } = await import('../../data/image-codec.js');
  using translator = await Translator.fromFile(file, { device, back, signal: context.signal });
  if (direction === 'target-to-source') requireToSource(translator, file);
  await results.prepare(context);
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
  await results.complete();
  context.console.result(
    { output, images: images.length, weights: file, direction, seconds },
    summary(images.length, 'translated image', output, seconds),
  );
}

/** Rejects a translator without a generator from target to source. @throws DataError that names the file */
function requireToSource(translator: Translator, file: string): void {
  try {
    translator.toSource;
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    throw new DataError(
      `${file}: found one generator, from source to target; expected both for --direction target-to-source. ` +
        '--back FILE adds the other generator of CycleGAN',
      { cause: error },
    );
  }
}
