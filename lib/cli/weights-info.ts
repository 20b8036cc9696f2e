import type { Converted } from '../models/backbones.js';
import type { Renaming } from '../models/other-names.js';
import { bytesText, counted } from '../support/format.js';
import type { Skipped } from '../weights/safetensors.js';
import type { Architecture } from '../weights/weights-metadata.js';

/** Describes a weights file for `bidiseg info FILE`. Reads only its header. */
export async function weightsInfo(file: string): Promise<{ data: object; rows: [string, string][] }> {
  const { openWeights } = await import('../weights/weights-file.js');
  const { descriptionFor, strangerText, withOwnNames } = await import('../models/other-names.js');
  const weights = withOwnNames(await openWeights(file));
  const { format, path, prefix, renamed, converted, tensors, skipped, metadata } = weights;
  const stranger = strangerText(weights);
  const description = stranger ? null : descriptionFor(weights);
  const architecture: Architecture | null = description && {
    architecture: description.architecture,
    options: description.options,
  };
  const guessed = weights.description === null;
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
    ['network', architecture ? networkText(architecture, guessed) : (stranger?.what ?? 'unknown')],
    ...(weights.classifier ? [row('origin', weights.classifier)] : []),
    ...(description?.missing ? [row('missing', description.missing.join(', '))] : []),
    ...(description?.classes ? [row('classes', description.classes.join(', '))] : []),
    ...(description?.palette ? [row('palette', paletteText(description.palette))] : []),
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
    ...(renamed.length > 0 ? [row('names', renamedText(renamed))] : []),
    ...(converted.length > 0 ? [row('converted', convertedText(converted))] : []),
    ...(skipped.length > 0 ? [row('left out', skippedText(skipped))] : []),
  ];
  const network = architecture && { ...architecture, guessed };
  const counts = { tensors: tensors.length, parameters, bytes, dtypes };
  const { classes = null, palette = null, step = null } = description ?? {};
  const others = skipped.map(({ name }) => name);
  return {
    data: {
      file,
      format,
      path,
      prefix,
      network,
      classes,
      palette,
      step,
      ...counts,
      others,
      missing: description?.missing ?? [],
      converted,
      skipped,
      metadata,
    },
    rows,
  };
}

const row = (name: string, value: string): [string, string] => [name, value];

function networkText({ architecture, options }: Architecture, guessed: boolean): string {
  const list = Object.entries(options).map(([key, value]) => `${key} ${value}`);
  return `${architecture} (${list.join(', ')})${guessed ? ', by its names and shapes' : ''}`;
}

/** Writes colors as in CSS, such as #804080. */
function paletteText(palette: readonly (readonly number[])[]): string {
  const hex = (value: number) => value.toString(16).padStart(2, '0');
  return palette.map((color) => `#${color.map(hex).join('')}`).join(', ');
}

/** Lists what was left out of a weights file and why, with at most four names for a reason. */
export function skippedText(skipped: readonly Skipped[]): string {
  const byReason = new Map<string, string[]>();
  for (const { name, reason } of skipped) {
    const names = byReason.get(reason);
    if (names) names.push(name);
    else byReason.set(reason, [name]);
  }
  return [...byReason]
    .map(([reason, names]) => {
      const more = names.length > 4 ? ` and ${names.length - 4} more` : '';
      return `${names.slice(0, 4).join(', ')}${more} (${reason})`;
    })
    .join('; ');
}

/** Lists the names of other code that were replaced. */
export function renamedText(renamed: readonly Renaming[]): string {
  const texts = renamed.filter(({ to }) => to !== null).map(({ from, to }) => `${from}* is ${to}*`);
  const more = texts.length > 4 ? ` and ${texts.length - 4} more` : '';
  return `${texts.slice(0, 4).join(', ')}${more}`;
}

/** Lists tensors whose values are computed, and how. */
export function convertedText(converted: readonly Converted[]): string {
  return skippedText(converted.map(({ name, how }) => ({ name, reason: how })));
}

function sum<T>(items: T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}
