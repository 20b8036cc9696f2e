/** Micro-batches, or images, of a step, whatever the number of processes. */
export const BATCHES = 2;

/** Trainings that are measured. A twin exists for segmentation. */
export const CASES = {
  'segmentation step, ResNet-50 at half width, 256×128': {
    ...{ kind: 'segmentation', width: 256, height: 128 },
    network: { backbone: 'resnet50', width: 0.5 },
  },
  'translation step, 6 blocks of width 16, 128×128': {
    ...{ kind: 'translation', width: 128, height: 128 },
    network: { blocks: 6, baseWidth: 16, discriminatorWidth: 16 },
  },
};
