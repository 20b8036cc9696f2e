import path from 'node:path';
import { type Command, Option } from 'commander';
import type { Dtype, TensorHandle } from '../../binding-types.js';
import { DataError } from '../../errors.js';
import { bytesText, counted } from '../../format.js';
import type { WeightsFile } from '../../io/weights-file.js';
import type { Architecture } from '../../models/network.js';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';

const DTYPES = ['float32', 'float16', 'bfloat16'] as const;

/** From here on, float32 rounds to infinity in float16. */
const FLOAT16_OVERFLOW = 65520;

interface ConvertOptions extends CommonOptions {
  dtype?: (typeof DTYPES)[number];
  strip?: string;
  branches?: '2' | '4';
}

export function addConvertCommand(program: Command): void {
  const command = program
    .command('convert')
    .description('turns a PyTorch state dict (.pth) or a safetensors file into a safetensors file')
    .argument('<in>', 'weights; of a .pth file nothing is ever executed')
    .argument('<out>', 'the safetensors file to write; one that exists is replaced')
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
  { dtype, strip, branches }: ConvertOptions,
  { console, signal }: CommandContext,
): Promise<void> {
  if (path.resolve(input) === path.resolve(output)) {
    throw new UsageError(`IN and OUT are the same file: ${input}`);
  }
  const { openWeights, readWeights } = await import('../../io/weights-file.js');
  const { writeSafetensors } = await import('../../io/safetensors.js');
  const weights = await openWeights(input, strip);
  const { architecture, metadata } = await describe(weights, branches);
  const entries = await readWeights(weights, weights.tensors, signal);
  let bytes = 0;
  try {
    for (const [i, entry] of entries.entries()) {
      signal.throwIfAborted();
      const header = weights.tensors[i]!;
      if (dtype && header.dtype !== dtype && /float/.test(header.dtype)) {
        const converted = await toDtype(input, entry, dtype);
        entry.tensor.dispose();
        entry.tensor = converted;
        bytes += (header.bytes / elementBytes(header.dtype)) * elementBytes(dtype);
      } else {
        bytes += header.bytes;
      }
    }
    await writeSafetensors(output, entries, metadata, signal);
  } finally {
    for (const { tensor } of entries) tensor.dispose();
  }
  const { format, path: keys, prefix, others } = weights;
  const result = { input, output, format, path: keys, prefix, tensors: entries.length, bytes };
  console.result({ ...result, skipped: others, ...architecture }, reportText(weights, architecture, result));
}

/** The metadata for the new file: the old file's own, or what its names and shapes tell. */
async function describe(
  { metadata, tensors }: WeightsFile,
  branches: string | undefined,
): Promise<{ architecture: Architecture | null; metadata: Record<string, string> }> {
  const { describeArchitecture } = await import('../../models/network.js');
  const { guessArchitecture } = await import('../../models/guess-architecture.js');
  if (metadata.bidiseg !== undefined && branches === undefined) return { architecture: null, metadata };
  const architecture = guessArchitecture(tensors);
  if (branches !== undefined) {
    if (architecture?.architecture !== 'deeplab-v2') {
      throw new UsageError('--branches is for DeepLab-v2, and these weights belong to another network');
    }
    architecture.options.branches = Number(branches);
  }
  return {
    architecture,
    metadata: { ...metadata, ...(architecture ? describeArchitecture(architecture) : { format: 'pt' }) },
  };
}

async function toDtype(
  file: string,
  { name, tensor }: { name: string; tensor: TensorHandle },
  dtype: Dtype,
): Promise<TensorHandle> {
  const { Tensor } = await import('../../tensor.js');
  const source = new Tensor(tensor);
  if (dtype === 'float16') {
    using wide = await source.to({ dtype: source.dtype === 'float64' ? 'float64' : 'float32' });
    const values = (await wide.data()) as Float32Array;
    const tooLarge = values.find((value) => Number.isFinite(value) && Math.abs(value) >= FLOAT16_OVERFLOW);
    if (tooLarge !== undefined) {
      throw new DataError(
        `${file}: '${name}' has the value ${tooLarge}, too large for float16; use --dtype bfloat16`,
      );
    }
  }
  return (await source.to({ dtype })).handle;
}

function elementBytes(dtype: Dtype): number {
  return { float64: 8, float32: 4, float16: 2, bfloat16: 2, int64: 8, int32: 4, uint8: 1 }[dtype];
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
