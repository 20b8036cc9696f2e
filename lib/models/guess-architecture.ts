import type { Architecture } from '../weights/weights-metadata.js';

/**
 * Guesses by names and shapes which network of this package a state dict belongs to. Returns null if none fits.
 *
 * A state dict does not show two things. One is the number of summed branches of DeepLab-v2's head: all four have
 * weights, so the guess is 4. The other is the exact width if it is not a multiple of 1/512.
 */
export function guessArchitecture(
  tensors: readonly { name: string; shape: readonly number[] }[],
): Architecture | null {
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]));
  const out = (name: string) => shapes.get(name)?.[0];
  const count = (pattern: RegExp) => tensors.filter(({ name }) => pattern.test(name)).length;

  const classes = out('layer5.conv2d_list.0.weight');
  if (classes !== undefined && out('layer4.0.conv1.weight') !== undefined) {
    const blocks = [1, 2, 3, 4].map((layer) => count(new RegExp(`^layer${layer}\\.\\d+\\.conv1\\.weight$`)));
    const kind = `${blocks.join('-')}${shapes.has('layer1.0.conv3.weight') ? ' bottlenecks' : ''}`;
    const backbone = BACKBONES[kind];
    if (backbone === undefined) return null;
    const width = out('layer4.0.conv1.weight')! / 512;
    return {
      architecture: 'deeplab-v2',
      options: { backbone, width, branches: 4, classCount: classes },
    };
  }
  if (shapes.has('fc6.weight') && shapes.has('upscore8.weight')) {
    const width = out('fc6.weight')! / 4096;
    return { architecture: 'fcn-8s', options: { width, classCount: out('upscore8.weight') } };
  }
  if (shapes.has('classifier.weight') && shapes.has('conv4.weight')) {
    const classCount = shapes.get('conv1.weight')?.[1];
    return { architecture: 'output-discriminator', options: { classCount, baseWidth: out('conv1.weight') } };
  }
  const generator = (prefix: string) => ({
    blocks: count(new RegExp(`^${prefix}model\\.\\d+\\.conv_block\\.1\\.weight$`)),
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

/** Backbones by their blocks per layer and the kind of block. */
const BACKBONES: Record<string, string> = {
  '2-2-2-2': 'resnet18',
  '3-4-6-3': 'resnet34',
  '3-4-6-3 bottlenecks': 'resnet50',
  '3-4-23-3 bottlenecks': 'resnet101',
};
