import type { Skipped } from '../weights/safetensors.js';
import type { WeightsFile } from '../weights/weights-file.js';

/** Knows names that other code gives to the tensors of our networks, and weights that fit by their names only. */

/** Replacement of the beginning of names. */
export interface Renaming {
  /** Beginning of names in the file, such as `layer6.`. */
  from: string;
  /** Beginning of names in bidiseg, such as `layer5.`. Null: these tensors are left out. */
  to: string | null;
}

interface Naming {
  is(names: ReadonlySet<string>): boolean;
  renamings: Renaming[];
  /** Reason for leaving tensors out. */
  reason: string;
}

const NAMINGS: Naming[] = [
  {
    // DeepLab-v2 of AdaptSegNet (two heads) and of ADVENT (one or two). The head on layer4 predicts.
    is: (names) => names.has('layer4.0.conv1.weight') && names.has('layer6.conv2d_list.0.weight'),
    renamings: [
      { from: 'layer5.', to: null },
      { from: 'layer6.', to: 'layer5.' },
    ],
    reason: 'auxiliary head on layer3; layer6 is the head that predicts and became layer5',
  },
  {
    // DeepLab-v2 of the Transfer Learning Library.
    is: (names) =>
      names.has('backbone.layer4.0.conv1.weight') && names.has('classifier.conv2d_list.0.weight'),
    renamings: [
      { from: 'backbone.', to: '' },
      { from: 'classifier.', to: 'layer5.' },
    ],
    reason: '',
  },
];

/** Weights whose names resemble those of our networks, but that are for other images or another network. */
const STRANGERS: { is(names: ReadonlySet<string>): boolean; what: string; why: string }[] = [
  {
    is: (names) =>
      names.has('fc.weight') &&
      names.has('layer4.0.conv1.weight') &&
      !names.has('layer5.conv2d_list.0.weight'),
    what: 'a ResNet classifier with the names of torchvision',
    why:
      'it takes RGB with the mean and deviation of ImageNet, and a segmenter BGR minus a mean. ' +
      "If these weights are for BGR minus a mean, as Caffe's are, save them without fc.weight and fc.bias",
  },
  {
    is: (names) => names.has('features.0.weight') && names.has('classifier.0.weight'),
    what: 'a VGG classifier with the names of torchvision',
    why: 'it takes RGB with the mean and deviation of ImageNet, and FCN-8s BGR minus a mean under names such as conv1_1.weight',
  },
  {
    is: (names) =>
      [...names].some((name) => name.startsWith('backbone.')) &&
      [...names].some((name) => name.startsWith('decode_head.')),
    what: 'a segmenter with the names of mmsegmentation',
    why:
      'it takes RGB divided by a deviation, and a segmenter BGR minus a mean. If it is a DeepLab-v2 for BGR minus a mean, ' +
      "rename backbone.* to * and the head's four convolutions to layer5.conv2d_list.0 to 3",
  },
];

/** Weights file with our names. */
export interface RenamedWeights extends WeightsFile {
  /** Names that were replaced. Usually empty. */
  renamed: Renaming[];
}

/** Gives the tensors of a file our names. A file that bidiseg wrote has them already. */
export function withOwnNames(weights: WeightsFile): RenamedWeights {
  const names = new Set([...weights.tensors, ...weights.skipped].map(({ name }) => name));
  const naming = weights.description ? undefined : NAMINGS.find(({ is }) => is(names));
  if (!naming) return { ...weights, renamed: [] };
  const renamings = naming.renamings.filter(({ from }) => [...names].some((name) => name.startsWith(from)));
  const left: Skipped[] = [];
  const renamedAs = <T extends { name: string }>(entries: readonly T[]): T[] =>
    entries.flatMap((entry) => {
      const renaming = renamings.find(({ from }) => entry.name.startsWith(from));
      if (!renaming) return [entry];
      const { from, to } = renaming;
      if (to !== null) return [{ ...entry, name: to + entry.name.slice(from.length) }];
      left.push({ name: entry.name, reason: naming.reason });
      return [];
    });
  const tensors = renamedAs(weights.tensors);
  const skipped = renamedAs(weights.skipped);
  return { ...weights, tensors, skipped: [...skipped, ...left], renamed: renamings };
}

/** Describes weights that none of our networks can use, and why. Returns null for other weights. */
export function strangerText({ description, tensors }: WeightsFile): { what: string; why: string } | null {
  if (description) return null;
  const names = new Set(tensors.map(({ name }) => name));
  return STRANGERS.find(({ is }) => is(names)) ?? null;
}
