import { type Command, Option } from 'commander';
import { bytesText, counted } from '../../support/format.js';
import type { WeightsDtype } from '../../weights/weights-dtype.js';
import type { WeightsFile } from '../../weights/weights-file.js';
import type { Architecture } from '../../weights/weights-metadata.js';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, addOverwriteOption, type CommonOptions } from '../options.js';
import { prepareOutputFile } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const DTYPES: readonly WeightsDtype[] = ['float32', 'float16', 'bfloat16'];

interface ConvertOptions extends CommonOptions {
  dtype?: WeightsDtype;
  strip?: string;
  branches?: '2' | '4';
  overwrite?: boolean;
}

export function addConvertCommand(program: Command): void {
  const command = program
    .command('convert')
    .description('turns a PyTorch state dict (.pth) or a safetensors file into a safetensors file')
    .argument('<in>', 'weights; of a .pth file nothing is ever executed')
    .argument('<out>', 'the safetensors file to write; not the input')
    .addOption(
      new Option(
        '--dtype <name>',
        'of the floating-point tensors (default: as they are); integers stay',
      ).choices(DTYPES),
    )
    .option('--strip <prefix>', 'drop this from the names (default: module. and Scale. where all have them)')
    .addOption(
      new Option(
        '--branches <number>',
        'of a DeepLab-v2 head: 2 for weights trained with two (default: 4)',
      ).choices(['2', '4']),
    );
  addOverwriteOption(command, 'OUT if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg convert gta5.pth gta5.safetensors', 'for bidiseg, or for anything that reads safetensors'],
    ['bidiseg convert old.pth m.safetensors --branches 2 --dtype float16', 'half the size'],
  ]);
  command.action((input: string, output: string, options: ConvertOptions) =>
    runCommand(options, (context) => convert(input, output, options, context)),
  );
}

async function convert(
  input: string,
  output: string,
  { dtype, strip, branches, overwrite }: ConvertOptions,
  context: CommandContext,
): Promise<void> {
  const { console, signal } = context;
  prepareOutputFile(output, { inputs: [input], overwrite }, context);
  const { openWeights, readWeights } = await import('../../weights/weights-file.js');
  const { writeSafetensors } = await import('../../weights/safetensors.js');
  const { castWeights } = await import('../../weights/weights-dtype.js');
  const weights = await openWeights(input, strip);
  const { architecture, metadata } = await describe(weights, branches);
  const entries = await readWeights(weights, weights.tensors, signal);
  let bytes: number;
  try {
    if (dtype) await castWeights(input, entries, dtype, signal);
    bytes = await writeSafetensors(output, entries, metadata, signal);
  } finally {
    for (const { tensor } of entries) tensor.dispose();
  }
  const { format, path: keys, prefix, others } = weights;
  const result = { input, output, format, path: keys, prefix, tensors: entries.length, bytes };
  console.result({ ...result, skipped: others, ...architecture }, reportText(weights, architecture, result));
}

/** The metadata for the new file: the old file's own, or what its names and shapes tell. */
async function describe(
  { metadata, description, tensors }: WeightsFile,
  branches: string | undefined,
): Promise<{ architecture: Architecture | null; metadata: Record<string, string> }> {
  const { encodeDescription } = await import('../../weights/weights-metadata.js');
  const { guessArchitecture } = await import('../../models/guess-architecture.js');
  if (description && branches === undefined) return { architecture: null, metadata };
  const architecture = guessArchitecture(tensors);
  if (branches !== undefined) {
    if (architecture?.architecture !== 'deeplab-v2') {
      throw new UsageError('--branches is for DeepLab-v2, and these weights belong to another network');
    }
    architecture.options.branches = Number(branches);
  }
  return {
    architecture,
    metadata: {
      ...metadata,
      ...(architecture ? encodeDescription({ ...description, ...architecture }) : { format: 'pt' }),
    },
  };
}

function reportText(
  { format, path: keys, prefix, others }: WeightsFile,
  architecture: Architecture | null,
  { output, tensors, bytes }: { output: string; tensors: number; bytes: number },
): string {
  const lines = [`${output}: ${counted(tensors, 'tensor')}, ${bytesText(bytes)}, from ${format}`];
  if (keys.length > 0) lines.push(`taken from ${keys.join(' → ')}`);
  if (prefix !== '') lines.push(`dropped the prefix ${prefix}`);
  if (others.length > 0) lines.push(`left out, no tensors: ${others.join(', ')}`);
  if (architecture) {
    const { architecture: name, options } = architecture;
    lines.push(
      `looks like ${name}: ${Object.entries(options)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}`,
    );
    if (name === 'deeplab-v2' && options.branches === 4) {
      lines.push('a head trained with two of its branches looks the same: then convert with --branches 2');
    }
  }
  return lines.join('\n');
}
