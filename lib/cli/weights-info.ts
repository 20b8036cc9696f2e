import { bytesText, counted } from '../support/format.js';
import type { WeightsFile } from '../weights/weights-file.js';
import type { Architecture } from '../weights/weights-metadata.js';

/** Describes a weights file for `bidiseg info FILE`. Reads only its header. */
export async function weightsInfo(file: string): Promise<{ data: object; rows: [string, string][] }> {
  const { openWeights } = await import('../weights/weights-file.js');
  const weights = await openWeights(file);
  const { format, path, prefix, tensors, others, metadata, description } = weights;
  const { architecture, guessed } = await architectureOf(weights);
  const parameters = sum(
    tensors.filter(({ name }) => !/(^|\.)(running_mean|running_var|num_batches_tracked)$/.test(name)),
    ({ shape }) => shape.reduce((product, extent) => product * extent, 1),
  );
  const bytes = sum(tensors, (tensor) => tensor.bytes);
  const dtypes: Record<string, number> = {};
  for (const { dtype } of tensors) dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;

  const rows: [string, string][] = [
    ['file', file],
    ['format', [format, ...path].join(' → ')],
    ['network', architecture ? networkText(architecture, guessed) : 'unknown'],
    ...(description?.classes ? [row('classes', description.classes.join(', '))] : []),
    ...(description?.step === undefined ? [] : [row('trained for', counted(description.step, 'step'))]),
    ['tensors', String(tensors.length)],
    ['parameters', parameters.toLocaleString('en')],
    ['size', bytesText(bytes)],
    [
      'dtypes',
      Object.entries(dtypes)
        .map(([dtype, count]) => `${dtype} (${count})`)
        .join(', '),
    ],
    ...(prefix ? [row('prefix', prefix)] : []),
    ...(others.length > 0 ? [row('not tensors', others.join(', '))] : []),
  ];
  const network = architecture && { ...architecture, guessed };
  const counts = { tensors: tensors.length, parameters, bytes, dtypes };
  const { classes = null, step = null } = description ?? {};
  return { data: { file, format, path, prefix, network, classes, step, ...counts, others, metadata }, rows };
}

const row = (name: string, value: string): [string, string] => [name, value];

async function architectureOf({
  description,
  tensors,
}: WeightsFile): Promise<{ architecture: Architecture | null; guessed: boolean }> {
  if (description) {
    const { architecture, options } = description;
    return { architecture: { architecture, options }, guessed: false };
  }
  const { guessArchitecture } = await import('../models/guess-architecture.js');
  return { architecture: guessArchitecture(tensors), guessed: true };
}

function networkText({ architecture, options }: Architecture, guessed: boolean): string {
  const list = Object.entries(options).map(([key, value]) => `${key} ${value}`);
  return `${architecture} (${list.join(', ')})${guessed ? ', by its names and shapes' : ''}`;
}

function sum<T>(items: T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}
