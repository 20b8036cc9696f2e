import type { StridedTensorHeader } from '../weights/pth.js';
import type { Skipped } from '../weights/safetensors.js';
import type { WeightsFile } from '../weights/weights-file.js';
import type { Architecture, WeightsDescription } from '../weights/weights-metadata.js';
import {
  type Backbone,
  CLASSIFIER,
  type Converted,
  fromKerasVgg16,
  fromNamedVgg16,
  fromResNet,
  fromVgg16,
  isKerasVgg16,
  isPlainResNet,
  isVgg16,
  type NamedTensor,
} from './backbones.js';
import { bodyText, guessArchitecture } from './guess-architecture.js';

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

const OF_VGG = 'a backbone of fcn-8s or of deeplab-v2 on vgg16';

/** Weights of an ImageNet classifier whose convolutions are a segmenter's backbone. */
const CLASSIFIERS: {
  is(names: ReadonlySet<string>, tensors: readonly StridedTensorHeader[]): boolean;
  take(tensors: readonly StridedTensorHeader[]): Backbone;
  what(tensors: readonly StridedTensorHeader[]): string;
}[] = [
  {
    is: (names, tensors) => isResNet(names) && isPlainResNet(tensors) && guessArchitecture(tensors) !== null,
    take: fromResNet,
    what: (tensors) => `${bodyText(tensors)} of torchvision, a backbone of deeplab-v2`,
  },
  { is: isVgg16, take: fromVgg16, what: () => `VGG-16 of torchvision, ${OF_VGG}` },
  { is: isKerasVgg16, take: fromKerasVgg16, what: () => `VGG-16 with Keras's names, ${OF_VGG}` },
  {
    is: (names) =>
      names.has('conv1_1.weight') &&
      names.has('conv5_3.weight') &&
      ![...names].some((name) => /^(score_|upscore|layer5\.)/.test(name)),
    take: fromNamedVgg16,
    what: () => `VGG-16 with Caffe's names, ${OF_VGG}`,
  },
];

const isResNet = (names: ReadonlySet<string>) =>
  names.has('fc.weight') &&
  names.has('layer4.0.conv1.weight') &&
  !names.has('layer5.conv2d_list.0.weight') &&
  !names.has('layer6.conv2d_list.0.weight');

/** Weights whose names resemble those of our networks, but that are for other images or another network. */
const STRANGERS: {
  is(names: ReadonlySet<string>, tensors: WeightsFile['tensors']): boolean;
  what: string;
  why: string;
}[] = [
  {
    is: (names, tensors) =>
      isResNet(names) && !(isPlainResNet(tensors) && guessArchitecture(tensors) !== null),
    what: 'a ResNet classifier that is no ResNet-18, 34, 50 or 101',
    why: 'DeepLab-v2 has one of these four as its backbone, and no ResNeXt or wide ResNet',
  },
  {
    is: (names) => names.has('features.0.weight') && !isVgg16(names),
    what: 'a classifier with the names of torchvision that is no VGG-16',
    why: 'FCN-8s and DeepLab-v2 on vgg16 have VGG-16 as their backbone, with or without BatchNorm',
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
  tensors: NamedTensor[];
  /** Names that were replaced. Usually empty. */
  renamed: Renaming[];
  /** Tensors whose values are computed from the file's. Usually empty. */
  converted: Converted[];
  /** Text about weights of an ImageNet classifier. Absent for others. */
  classifier?: string;
}

/** Gives the tensors of a file our names. A file that bidiseg wrote has them already. */
export function withOwnNames(weights: WeightsFile): RenamedWeights {
  const names = new Set([...weights.tensors, ...weights.skipped].map(({ name }) => name));
  const naming = weights.description ? undefined : NAMINGS.find(({ is }) => is(names));
  if (!naming) return withBackboneNames(weights, names);
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
  return { ...weights, tensors, skipped: [...skipped, ...left], renamed: renamings, converted: [] };
}

/** Gives an ImageNet classifier the names of a segmenter's backbone. Other files stay as they are. */
function withBackboneNames(weights: WeightsFile, names: ReadonlySet<string>): RenamedWeights {
  const known = weights.description ? undefined : CLASSIFIERS.find(({ is }) => is(names, weights.tensors));
  if (!known) return { ...weights, renamed: [], converted: [] };
  const { tensors, renamed, converted, left } = known.take(weights.tensors);
  const skipped = weights.skipped.map(({ name, reason }) => {
    const renaming = renamed.find(({ from }) => name.startsWith(from));
    return { name: renaming ? renaming.to + name.slice(renaming.from.length) : name, reason };
  });
  return {
    ...weights,
    ...{ tensors, renamed, converted, classifier: known.what(weights.tensors) },
    skipped: [...skipped, ...left.map((name) => ({ name, reason: CLASSIFIER }))],
  };
}

/**
 * Describes the network of a file: by the description in it, or by names and shapes. A backbone alone lacks layers,
 * and a class count. Returns null for weights of no network of bidiseg.
 */
export function descriptionFor(weights: RenamedWeights): WeightsDescription | null {
  if (weights.description) return weights.description;
  const guess = guessArchitecture(weights.tensors);
  if (!guess || !isBackbone(guess)) return guess;
  const names = weights.tensors.map(({ name }) => name);
  const isMiddle = weights.classifier !== undefined && names.includes('layer1.0.conv3.weight');
  return {
    architecture: guess.architecture,
    options: { ...guess.options, ...(isMiddle && { bottleneckStride: 'middle' }) },
    missing: AFTER_BACKBONE[guess.architecture]!.filter(
      (layer) => !names.some((name) => name.startsWith(`${layer}.`)),
    ),
  };
}

/** Tells whether a description is that of a backbone alone, without the layers that tell classes. */
export function isBackbone({ architecture, options }: Architecture): boolean {
  return Object.hasOwn(AFTER_BACKBONE, architecture) && options.classCount === undefined;
}

/**
 * Makes a backbone that fits two networks one of the network that it is for. A VGG-16 alone counts as one of FCN-8s. For
 * DeepLab-v2 on VGG-16, its fully connected layers are left out.
 */
export function backboneFor(
  weights: RenamedWeights,
  { architecture, options }: Architecture,
): RenamedWeights {
  const found = descriptionFor(weights);
  const isVgg = found?.architecture === 'fcn-8s' && isBackbone(found);
  if (!isVgg || architecture !== 'deeplab-v2' || options.backbone !== 'vgg16') return weights;
  const description = {
    architecture,
    options: { backbone: 'vgg16', width: found.options.width },
    missing: AFTER_BACKBONE[architecture]!,
  };
  const isLeft = ({ name }: { name: string }) => /^fc[67]\./.test(name);
  const left = weights.tensors.filter(isLeft).map(({ name }) => ({ name, reason: FULLY_CONNECTED }));
  return {
    ...weights,
    description: { ...description, missing: [...description.missing] },
    tensors: weights.tensors.filter((tensor) => !isLeft(tensor)),
    converted: weights.converted.filter((tensor) => !isLeft(tensor)),
    renamed: weights.renamed.filter(({ to }) => to === null || !isLeft({ name: to })),
    skipped: [...weights.skipped, ...left],
  };
}

const FULLY_CONNECTED = 'fully connected layer, which deeplab-v2 does not have';

/** Layers that a backbone alone may lack. */
export const AFTER_BACKBONE: Readonly<Record<string, readonly string[]>> = {
  'deeplab-v2': ['layer5'],
  'fcn-8s': [
    ...['fc6', 'fc7', 'score_fr', 'score_pool3', 'score_pool4'],
    ...['upscore2', 'upscore_pool4', 'upscore8'],
  ],
};

/** Describes weights that none of our networks can use, and why. Returns null for other weights. */
export function strangerText({ description, tensors }: WeightsFile): { what: string; why: string } | null {
  if (description) return null;
  const names = new Set(tensors.map(({ name }) => name));
  return STRANGERS.find(({ is }) => is(names, tensors)) ?? null;
}
