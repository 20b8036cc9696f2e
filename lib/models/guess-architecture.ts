import type { Architecture } from '../weights/weights-metadata.js';

/** Names and shapes of a state dict. */
export type Shapes = readonly { name: string; shape: readonly number[] }[];

/**
 * Guesses by names and shapes which network of this package a state dict belongs to. Returns null if none fits.
 *
 * A state dict does not show two things. One is the number of summed branches of DeepLab-v2's head: all four have
 * weights, so the guess is 4. The other is the exact width if it is not a multiple of 1/512.
 */
export function guessArchitecture(tensors: Shapes): Architecture | null {
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]));
  const out = (name: string) => shapes.get(name)?.[0];

  const classCount = out('layer5.conv2d_list.0.weight');
  if (classCount !== undefined && isDilatedVgg(tensors)) {
    const width = out('conv5_3.weight')! / 512;
    return { architecture: 'deeplab-v2', options: { backbone: 'vgg16', width, branches: 4, classCount } };
  }
  if (classCount !== undefined) {
    const kind = blockText(tensors);
    if (kind === null || !Object.hasOwn(BACKBONES, kind)) return null;
    const width = out('layer4.0.conv1.weight')! / 512;
    return {
      architecture: 'deeplab-v2',
      options: { backbone: BACKBONES[kind], width, branches: 4, classCount },
    };
  }
  if (shapes.has('fc6.weight') && shapes.has('upscore8.weight')) {
    const width = out('fc6.weight')! / 4096;
    return { architecture: 'fcn-8s', options: { width, classCount: out('upscore8.weight') } };
  }
  // Backbones alone have no class count.
  const kind = blockText(tensors);
  if (kind !== null && Object.hasOwn(BACKBONES, kind) && shapes.has('conv1.weight')) {
    const width = out('layer4.0.conv1.weight')! / 512;
    return { architecture: 'deeplab-v2', options: { backbone: BACKBONES[kind], width } };
  }
  if (shapes.has('conv1_1.weight') && shapes.has('conv5_3.weight')) {
    return { architecture: 'fcn-8s', options: { width: out('conv5_3.weight')! / 512 } };
  }
  if (shapes.has('classifier.weight') && shapes.has('conv4.weight')) {
    const classCount = shapes.get('conv1.weight')?.[1];
    return { architecture: 'output-discriminator', options: { classCount, baseWidth: out('conv1.weight') } };
  }
  if (shapes.has('classifier.weight') && shapes.has('conv2.weight') && !shapes.has('conv3.weight')) {
    const featureCount = shapes.get('conv1.weight')?.[1];
    const baseWidth = (out('conv1.weight') ?? 0) / 8;
    return { architecture: 'feature-discriminator', options: { featureCount, baseWidth } };
  }
  const generator = (prefix: string) => ({
    blocks: blocksOf(tensors, prefix),
    baseWidth: out(`${prefix}model.1.weight`),
  });
  if (shapes.has('to_target.model.1.weight') && shapes.has('source_discriminator.model.0.weight')) {
    const discriminatorWidth = out('source_discriminator.model.0.weight');
    return { architecture: 'translator', options: { ...generator('to_target.'), discriminatorWidth } };
  }
  if (shapes.has('model.10.conv_block.1.weight')) {
    return { architecture: 'resnet-generator', options: generator('') };
  }
  if (shapes.has('model.0.weight') && shapes.has('model.11.weight')) {
    return { architecture: 'patch-discriminator', options: { baseWidth: out('model.0.weight') } };
  }
  return null;
}

/** Counts the residual blocks of an image generator whose names begin with `prefix`. */
function blocksOf(tensors: Shapes, prefix: string): number {
  const pattern = new RegExp(`^${prefix.replace('.', '\\.')}model\\.\\d+\\.conv_block\\.1\\.weight$`);
  return tensors.filter(({ name }) => pattern.test(name)).length;
}

/** Backbones by their blocks per layer and the kind of block. */
const BACKBONES: Record<string, string> = {
  '2-2-2-2': 'resnet18',
  '3-4-6-3': 'resnet34',
  '3-4-6-3 bottlenecks': 'resnet50',
  '3-4-23-3 bottlenecks': 'resnet101',
};

/** Tells whether these are the names of DeepLab-v2 on VGG-16. */
function isDilatedVgg(tensors: Shapes): boolean {
  const wanted = ['conv1_1.weight', 'conv5_3.weight', 'layer5.conv2d_list.0.weight'];
  return wanted.every((wanted) => tensors.some(({ name }) => name === wanted));
}

/** Describes the blocks of a ResNet, such as `3-4-23-3 bottlenecks`. Returns null if a layer is missing. */
function blockText(tensors: Shapes): string | null {
  const blocks = [1, 2, 3, 4].map((layer) => {
    const pattern = new RegExp(`^layer${layer}\\.\\d+\\.conv1\\.weight$`);
    return tensors.filter(({ name }) => pattern.test(name)).length;
  });
  if (blocks.includes(0)) return null;
  return `${blocks.join('-')}${tensors.some(({ name }) => name === 'layer1.0.conv3.weight') ? ' bottlenecks' : ''}`;
}

/**
 * Describes the body that two networks need to have in common to share weights: the backbone, or the number of residual
 * blocks. Returns null for other networks. A head is not needed.
 */
export function bodyText(tensors: Shapes): string | null {
  const kind = blockText(tensors);
  if (kind !== null) return BACKBONES[kind] ?? `ResNet with ${kind}`;
  if (isDilatedVgg(tensors)) return 'vgg16';
  const blocks = blocksOf(tensors, '');
  return blocks > 0 ? `generator with ${blocks} blocks` : null;
}
