import { z } from 'zod';
import type { ImageSize } from '../data/image-size.js';
import { descriptionOf, Segmenter } from '../models/segmenter.js';
import { native } from '../native/binding.js';
import type { StateEntry } from '../native/binding-types.js';
import { call, callSync, handleOf } from '../native/native-object.js';
import { SEGMENTER_MEAN_BGR } from '../native/pixels.js';
import { writeAtomically } from '../support/files.js';
import { boolean, integer, parseOptions, section } from '../support/options.js';
import { checkObject, checkPath, checkSignal } from '../support/validate.js';
import { descriptionText } from '../weights/weights-metadata.js';
import { writeOnnx } from './onnx-file.js';
import type { ImageShape, OnnxValue } from './onnx-graph.js';
import { deepLabV2Graph, fcn8sGraph, IMAGE, LOGITS } from './onnx-segmenter.js';

/** Options of {@link exportOnnx} and {@link exportTorchScript}. */
export interface ExportOptions {
  /**
   * Resizes logits to the image's height and width, bilinearly with aligned corners. Default true. With false,
   * DeepLab-v2's logits keep the network's size, [N, C, ⌊(H+1)/8⌋+1, ⌊(W+1)/8⌋+1], or [N, C, ⌈H/8⌉, ⌈W/8⌉] on VGG-16.
   * FCN-8s's logits always have the image's size.
   */
  upsample?: boolean;
  signal?: AbortSignal;
}

/** Options of {@link exportOnnx}. */
export interface OnnxExportOptions extends ExportOptions {
  /**
   * Width and height of the images in pixels, each from 1 to 16384. The model then takes only this size, and all its
   * shapes are constants. OpenCV 4 needs that. Default: images of any size.
   */
  size?: ImageSize;
  /** Number of images that a model of a fixed `size` takes, from 1 to 1024. Default 1. Only with `size`. */
  batch?: number;
}

const exportSchema = section({ upsample: boolean().default(true) });

const side = integer(1, 16_384);
const onnxExportSchema = exportSchema
  .extend({
    size: z.strictObject({ width: side, height: side }, 'an object { width, height }').optional(),
    batch: integer(1, 1024).optional(),
  })
  .refine(({ size, batch }) => size !== undefined || batch === undefined, {
    path: ['batch'],
    message: 'no value without size',
  });

/**
 * Writes an ONNX model (opset 17) of a segmenter in evaluation mode, whole or not at all.
 *
 * The input `image` is float32 [N, 3, H, W], prepared as for `Segmenter.forward`, with any N, H and W unless `size`
 * fixes them. The output `logits` is [N, C, H, W]. The metadata property `bidiseg` is JSON. It holds the network, the
 * classes and how to prepare images. See docs/design/export.md#the-onnx-graph-is-written-in-typescript.
 *
 * @throws DataError that names the file when it cannot be written or would exceed the 2 GiB of ONNX files
 */
export async function exportOnnx(
  segmenter: Segmenter,
  file: string,
  options: OnnxExportOptions = {},
): Promise<void> {
  handleOf('segmenter', segmenter, Segmenter);
  const { upsample, size, batch = 1, signal } = checkOptions(onnxExportSchema, file, options);
  const image: ImageShape | undefined = size && [batch, 3, size.height, size.width];
  const { network, classCount } = segmenter.options;
  const state: StateEntry[] = await segmenter.state();
  try {
    const shapes = new Map(
      state.map(({ name, tensor }) => [name, callSync(() => native.tensorInfo(tensor).shape)]),
    );
    const graph =
      network === 'deeplab-v2'
        ? deepLabV2Graph(shapes, segmenter.options, upsample, image)
        : fcn8sGraph(shapes, image);
    const hasImageSize = upsample || network === 'fcn-8s';
    const extents = hasImageSize ? ['height', 'width'] : ['logits_height', 'logits_width'];
    const input: OnnxValue = {
      name: IMAGE,
      shape: image ?? ['batch', 3, 'height', 'width'],
      description: `BGR, 0 to 255, minus the mean (${SEGMENTER_MEAN_BGR.join(', ')})`,
    };
    const output: OnnxValue = {
      name: LOGITS,
      shape: graph.fixedShapeOf(LOGITS) ?? ['batch', classCount, ...extents],
      description: 'One score for each class; the largest is the class, their softmax the probabilities',
    };
    const metadata = { bidiseg: metadataOf(segmenter, upsample) };
    await writeOnnx(file, { graph, input, output, metadata }, state, signal);
  } finally {
    for (const { tensor } of state) tensor.dispose();
  }
}

/**
 * Writes a TorchScript archive of a segmenter for `torch.jit.load` in Python and C++, whole or not at all. Input,
 * output and metadata are the same as in `exportOnnx`. Images may have any size. Weights have their state-dict names.
 * The metadata is the archive's extra file `bidiseg.json`.
 *
 * @throws DataError that names the file when it cannot be written
 */
export async function exportTorchScript(
  segmenter: Segmenter,
  file: string,
  options: ExportOptions = {},
): Promise<void> {
  const handle = handleOf('segmenter', segmenter, Segmenter);
  const { upsample, signal } = checkOptions(exportSchema, file, options);
  const contents = { upsample, metadata: metadataOf(segmenter, upsample) };
  await writeAtomically(file, (temporary) =>
    call((token) => native.writeTorchScript(handle, temporary, contents, token), signal),
  );
}

function checkOptions<S extends z.ZodType<object>>(schema: S, file: string, options: ExportOptions) {
  checkPath('file', file);
  const { signal, ...rest } = checkObject('options', options);
  return { ...parseOptions(schema, rest), signal: checkSignal(signal) };
}

/** Describes an exported model: the description of weights files, and the model's input and output. */
function metadataOf(segmenter: Segmenter, upsample: boolean): string {
  const input = { name: IMAGE, layout: 'NCHW', channels: 'BGR', range: [0, 255], mean: SEGMENTER_MEAN_BGR };
  const output = { name: LOGITS, layout: 'NCHW', upsampled: upsample };
  return descriptionText(descriptionOf(segmenter.options), { input, output });
}
