import { type Command, Option } from 'commander';
import type { Converted } from '../../models/backbones.js';
import type { Shapes } from '../../models/guess-architecture.js';
import type { RenamedWeights, Renaming } from '../../models/other-names.js';
import { DataError } from '../../support/errors.js';
import { writeAtomically } from '../../support/files.js';
import { bytesText, counted } from '../../support/format.js';
import type { Skipped } from '../../weights/safetensors.js';
import type { WeightsDtype } from '../../weights/weights-dtype.js';
import type { Architecture, WeightsDescription } from '../../weights/weights-metadata.js';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, addOverwriteOption, type CommonOptions } from '../options.js';
import { prepareOutputFile } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { convertedText, renamedText, skippedText } from '../weights-info.js';

const DTYPES: readonly WeightsDtype[] = ['float32', 'float16', 'bfloat16'];

interface ConvertOptions extends CommonOptions {
  dtype?: WeightsDtype;
  strip?: string;
  branches?: '2' | '4';
  back?: string;
  raw?: boolean;
  overwrite?: boolean;
}

export function addConvertCommand(program: Command): void {
  const command = program
    .command('convert')
    .description('converts a PyTorch state dict (.pth) or a safetensors file to a safetensors file')
    .argument('<in>', 'weights file; nothing in a .pth file is executed')
    .argument('<out>', 'safetensors file to write; not an input')
    .addOption(
      new Option(
        '--dtype <name>',
        'type of the floating-point tensors (default: unchanged); integers stay',
      ).choices(DTYPES),
    )
    .option(
      '--strip <prefix>',
      'prefix to remove from the names (default: module., Scale., _orig_mod., model., net. and student. if all names have it)',
    )
    .addOption(
      new Option(
        '--branches <number>',
        'number of branches of a DeepLab-v2 head; 2 for weights trained with two (default: 4)',
      ).choices(['2', '4']),
    )
    .option(
      '--back <file>',
      'for a CycleGAN generator: weights of the generator from target to source (default: one direction only)',
    )
    .option(
      '--raw',
      'convert tensors of any names, without a description of the network (default: the network must be known)',
    );
  addOverwriteOption(command, 'OUT if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg convert gta5.pth gta5.safetensors', 'for bidiseg, or for any program that reads safetensors'],
    ['bidiseg convert old.pth m.safetensors --branches 2 --dtype float16', 'half the size'],
    [
      'bidiseg convert latest_net_G_A.pth f.safetensors --back latest_net_G_B.pth',
      'a translator from the two generators of CycleGAN',
    ],
  ]);
  command.action((input: string, output: string, options: ConvertOptions) =>
    runCommand(options, (context) => convert(input, output, options, context)),
  );
}

async function convert(
  input: string,
  output: string,
  { dtype, strip, branches, back, raw, overwrite }: ConvertOptions,
  context: CommandContext,
): Promise<void> {
  const { console, signal } = context;
  if (raw && (branches ?? back) !== undefined) {
    throw new UsageError('--raw names no network, so there is no use for --branches and --back');
  }
  const inputs = back === undefined ? [input] : [input, back];
  prepareOutputFile(output, { inputs, overwrite }, context);
  const { openWeights } = await import('../../weights/weights-file.js');
  const { readNamedWeights } = await import('../../models/backbones.js');
  const { writeSafetensors } = await import('../../weights/safetensors.js');
  const { castWeights } = await import('../../weights/weights-dtype.js');
  const named: Omit<Named, 'description'> & { description: WeightsDescription | null } = raw
    ? {
        parts: [{ ...(await openWeights(input, { strip })), renamed: [], converted: [] }],
        description: null,
        isGuess: false,
      }
    : await nameNetwork(input, strip, branches, back);
  const { parts, description, isGuess } = named;
  const entries: Awaited<ReturnType<typeof readNamedWeights>> = [];
  let bytes = 0;
  try {
    for (const part of parts) entries.push(...(await readNamedWeights(part, part.tensors, signal)));
    if (dtype) await castWeights(input, entries, dtype, signal);
    const metadata = await metadataFor(parts[0]!, description, isGuess);
    await writeAtomically(output, async (temporary) => {
      bytes = await writeSafetensors(temporary, entries, metadata, signal);
      if (description) await checkLoads(temporary, input, description, signal);
    });
  } finally {
    for (const { tensor } of entries) tensor.dispose();
  }
  const { format, path: keys, prefix } = parts[0]!;
  const skipped = parts.flatMap((part) => part.skipped);
  const renamed = parts.flatMap((part) => part.renamed);
  const converted = parts.flatMap((part) => part.converted);
  const missing = description?.missing ?? [];
  const origin = parts[0]!.classifier;
  const result = { input, output, format, path: keys, prefix, tensors: entries.length, bytes };
  const { architecture, options } = description ?? {};
  const guess = isGuess ? { architecture, options } : {};
  console.result(
    { ...result, skipped, renamed, converted, missing, ...guess },
    reportText({
      ...{ ...result, skipped, renamed, converted, missing, origin },
      guess: isGuess ? description : null,
    }),
  );
}

interface Named {
  parts: RenamedWeights[];
  description: WeightsDescription;
  /** Tells whether the description was guessed by names and shapes. */
  isGuess: boolean;
}

/**
 * Names the network of a file by its description, or by names and shapes.
 *
 * @throws DataError that names the file, if it holds no network of bidiseg
 */
async function nameNetwork(
  input: string,
  strip: string | undefined,
  branches: string | undefined,
  back: string | undefined,
): Promise<Named> {
  const { openTranslator } = await import('../../models/translator-files.js');
  const { guessArchitecture } = await import('../../models/guess-architecture.js');
  const { descriptionFor, strangerText } = await import('../../models/other-names.js');
  const fits = (tensors: Shapes) => guessArchitecture(tensors) !== null;
  const parts = await openTranslator(input, back, { strip, fits });
  const [first] = parts;
  const stranger = strangerText(first!);
  if (stranger) {
    throw new DataError(`${input}: found ${stranger.what}, expected a network of bidiseg: ${stranger.why}`);
  }
  const known = branches === undefined ? first!.description : null;
  const guess = known ?? descriptionFor({ ...first!, description: null });
  if (branches !== undefined && guess?.architecture !== 'deeplab-v2') {
    throw new UsageError('--branches needs weights of DeepLab-v2, but these belong to another network');
  }
  if (!guess) {
    const names = first!.tensors.slice(0, 3).map(({ name }) => name);
    throw new DataError(
      `${input}: found tensors such as ${names.join(', ')}, which belong to no network of bidiseg; expected ` +
        'the names of deeplab-v2 (layer5.conv2d_list.0.weight, and conv1.weight or conv1_1.weight), ' +
        'fcn-8s (conv1_1.weight, fc6.weight, upscore8.weight), or a CycleGAN generator (model.1.weight). ' +
        'Use --raw to convert tensors of any names',
    );
  }
  const options = { ...guess.options, ...(branches !== undefined && { branches: Number(branches) }) };
  return {
    parts,
    description: { ...first!.description, ...guess, options },
    isGuess: first!.metadata.bidiseg === undefined || branches !== undefined,
  };
}

/** Makes the metadata of the new file from the old file's metadata and the network's description. */
async function metadataFor(
  { metadata, renamed }: RenamedWeights,
  description: WeightsDescription | null,
  isGuess: boolean,
): Promise<Record<string, string>> {
  const { encodeDescription } = await import('../../weights/weights-metadata.js');
  if (!description) return { format: 'pt', ...metadata };
  const isUnchanged = !isGuess && renamed.length === 0;
  return isUnchanged ? metadata : { ...metadata, ...encodeDescription(description) };
}

/** Loads the new file, to be sure that it can be loaded. @throws DataError that names `input` */
async function checkLoads(
  file: string,
  input: string,
  description: WeightsDescription,
  signal: AbortSignal,
): Promise<void> {
  const { architecture } = description;
  const { isBackbone } = await import('../../models/other-names.js');

  const { Segmenter } = await import('../../models/segmenter.js');
  const { Translator } = await import('../../models/translator.js');
  const isSegmenter = architecture === 'deeplab-v2' || architecture === 'fcn-8s';
  const classCount = isBackbone(description) ? { classCount: 2 } : {};
  try {
    if (isSegmenter) (await Segmenter.fromFile(file, { signal, ...classCount })).dispose();
    else if (architecture === 'translator') (await Translator.fromFile(file, { signal })).dispose();
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    throw new DataError(error.message.replaceAll(file, input), { cause: error });
  }
}

function reportText(report: {
  output: string;
  format: string;
  path: string[];
  prefix: string;
  tensors: number;
  bytes: number;
  skipped: readonly Skipped[];
  renamed: readonly Renaming[];
  converted: readonly Converted[];
  missing: readonly string[];
  origin: string | undefined;
  guess: Architecture | null;
}): string {
  const { output, format, path: keys, prefix, tensors, bytes, guess } = report;
  const { skipped, renamed, converted, missing, origin } = report;
  const lines = [`${output}: ${counted(tensors, 'tensor')}, ${bytesText(bytes)}, from ${format}`];
  if (keys.length > 0) lines.push(`taken from ${keys.join(' → ')}`);
  if (prefix !== '') lines.push(`removed the prefix ${prefix}`);
  if (origin !== undefined) lines.push(`found a ${origin}`);
  if (renamed.length > 0) lines.push(`renamed: ${renamedText(renamed)}`);
  if (converted.length > 0) lines.push(`converted: ${convertedText(converted)}`);
  if (skipped.length > 0) lines.push(`left out: ${skippedText(skipped)}`);
  if (missing.length > 0) lines.push(`missing: ${missing.join(', ')}`);
  if (missing.includes('to_source')) {
    lines.push('this translator only translates from source to target; --back FILE adds the other direction');
  }
  if (guess) {
    const { architecture: name, options } = guess;
    lines.push(
      `looks like ${name}: ${Object.entries(options)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}`,
    );
    if (name === 'deeplab-v2' && options.branches === 4) {
      lines.push('a head trained with two of its branches looks the same; use --branches 2 for it');
    }
  }
  return lines.join('\n');
}
