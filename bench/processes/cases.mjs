/** Micro-batches, or images, of a step, whatever the number of processes. */
export const BATCHES = 2;

/** Trainings that are measured. `images`: in a micro-batch, default 1. A twin exists for the network of the first. */
export const CASES = {
  'segmentation step, ResNet-50 at half width, 256×128': {
    ...{ kind: 'segmentation', width: 256, height: 128, hasTwin: true },
    network: { backbone: 'resnet50', width: 0.5 },
  },
  'segmentation step, preset cpu-small, 4 of 160×120': {
    ...{ kind: 'segmentation', width: 160, height: 120, images: 4 },
    network: { backbone: 'resnet18', width: 0.5 },
  },
  'translation step, 6 blocks of width 16, 128×128': {
    ...{ kind: 'translation', width: 128, height: 128 },
    network: { blocks: 6, baseWidth: 16, discriminatorWidth: 16 },
  },
};
