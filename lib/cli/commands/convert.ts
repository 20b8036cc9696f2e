import path from 'node:path';
import { type Command, Option } from 'commander';
import { bytesText, counted } from '../../support/format.js';
import type { WeightsDtype } from '../../weights/weights-dtype.js';
import type { WeightsFile } from '../../weights/weights-file.js';
import type { Architecture } from '../../weights/weights-metadata.js';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';

const DTYPES: readonly WeightsDtype[] = ['float32', 'float16', 'bfloat16'];

interface ConvertOptions extends CommonOptions {
  dtype?: WeightsDtype;
  strip?: string;
  branches?: '2' | '4';
}

export function addConvertCommand(program: Command): void {
  const command = program
    .command('convert')
    .description('converts a PyTorch state dict (.pth) or a safetensors file to a safetensors file')
    .argument('<in>', 'weights file; nothing in a .pth file is executed')
    .argument('<out>', 'safetensors file to write; an existing file is replaced')
    .addOption(
      new Option(
        '--dtype <name>',
        'type of the floating-point tensors (default: unchanged); integers stay',
      ).choices(DTYPES),
    )
    .option(
      '--strip <prefix>',
      'prefix to remove from the names (default: module. and Scale. if all names have it)',
    )
    .addOption(
      new Option(
        '--branches <number>',
        'number of branches of a DeepLab-v2 head; 2 for weights trained with two (default: 4)',
      ).choices(['2', '4']),
    );
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg convert gta5.pth gta5.safetensors', 'for bidiseg, or for any program that reads safetensors'],
    ['bidiseg convert old.pth m.safetensors --branches 2 --dtype float16', 'half the size'],
  ]);
  command.action((input: string, output: string, options: ConvertOptions) =>
    runCommand(options, (context) => convert(input, output, options, context)),
  );
}

async function convert(
  input: string,
  output: string,
  { dtype, strip, branches }: ConvertOptions,
  { console, signal }: CommandContext,
): Promise<void> {
  if (path.resolve(input) === path.resolve(output)) {
    throw new UsageError(`IN and OUT are the same file: ${input}`);
  }
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

/** Describes the new file: by the metadata of the old file, or by the names and shapes of its tensors. */
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
      throw new UsageError('--branches needs weights of DeepLab-v2, but these belong to another network');
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
  if (prefix !== '') lines.push(`removed the prefix ${prefix}`);
  if (others.length > 0) lines.push(`left out, not tensors: ${others.join(', ')}`);
  if (architecture) {
    const { architecture: name, options } = architecture;
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
