import { z } from 'zod';
import { choice, integer, number, numberChoice, section } from '../support/options.js';
import { networkFields } from './network-options.js';

/** Options of a segmenter's architecture and initial weights that configs have too. */
export const segmenterFields = {
  /** Architecture. */
  network: choice('deeplab-v2', 'fcn-8s').default('deeplab-v2'),
  /**
   * Backbone of DeepLab-v2: a ResNet, or the convolutions of VGG-16, which has no BatchNorm. FCN-8s always uses VGG-16, with
   * its fully connected layers.
   */
  backbone: choice('resnet18', 'resnet34', 'resnet50', 'resnet101', 'vgg16').default('resnet101'),
  /** Factor on every channel count. */
  width: number(1 / 64, 2).default(1),
  /** Number of dilated branches of DeepLab-v2's head that are summed. Checkpoints from before mid-2020 need 2. */
  branches: numberChoice(2, 4).default(4),
  /**
   * Convolution of the bottlenecks of ResNet-50 and 101 that has the stride: `first` (1×1), as in Caffe and DeepLab, or
   * `middle` (3×3), as in torchvision. Weights need the one that they were trained with.
   */
  bottleneckStride: choice('first', 'middle').default('first'),
  /** Distribution of the initial convolution weights: `normal` is N(0, 0.01), `kaiming` is N(0, 2/fan_out). */
  initialization: choice('normal', 'kaiming').default('normal'),
};

const isNames = (value: unknown) => Array.isArray(value) && value.every((name) => typeof name === 'string');

/** Returns whether it is an array of bytes whose memory was not transferred to another thread. */
function isReadable(value: unknown): boolean {
  if (!(value instanceof Uint8Array)) return false;
  try {
    value.values();
    return true;
  } catch {
    return false;
  }
}

export const segmenterSchema = section({
  ...segmenterFields,
  /** Number of classes. */
  classCount: integer(2, 256),
  /** Names of the classes in the order of their indices. Weights files carry them. Empty: no names. */
  classNames: z
    .custom<readonly string[]>(isNames, 'a list of names, one for each class')
    .transform((names): readonly string[] => [...names])
    .default([]),
  /** Colors of the classes, 3 bytes (R, G, B) each. Weights files carry them. Empty: no colors. */
  palette: z
    .custom<Uint8Array>(isReadable, 'a Uint8Array of 3 bytes for each class')
    .transform((colors) => Uint8Array.from(colors))
    .prefault(() => new Uint8Array()),
  ...networkFields,
});

/** Options of {@link Segmenter.create}. Omitted ones get their defaults. */
export interface SegmenterOptions extends z.input<typeof segmenterSchema> {}
/** Options of a segmenter, with defaults filled in. */
export interface CompleteSegmenterOptions extends Readonly<z.output<typeof segmenterSchema>> {}
