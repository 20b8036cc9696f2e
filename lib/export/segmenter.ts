import { descriptionOf, Segmenter } from '../models/segmenter.js';
import { native } from '../native/binding.js';
import type { StateEntry } from '../native/binding-types.js';
import { call, callSync, handleOf } from '../native/native-object.js';
import { SEGMENTER_MEAN_BGR } from '../native/pixels.js';
import { writeAtomically } from '../support/files.js';
import { checkBoolean, checkObject, checkPath, checkSignal } from '../support/validate.js';
import { descriptionText } from '../weights/weights-metadata.js';
import { writeOnnx } from './onnx-file.js';
import type { OnnxValue } from './onnx-graph.js';
import { deepLabV2Graph, fcn8sGraph, IMAGE, LOGITS } from './onnx-segmenter.js';

/** Options of {@link exportOnnx} and {@link exportTorchScript}. */
export interface ExportOptions {
  /**
   * Resizes logits to the image's height and width, bilinearly with aligned corners. Default true. With false,
   * DeepLab-v2's logits keep the network's size, [N, C, ⌊(H+1)/8⌋+1, ⌊(W+1)/8⌋+1]. FCN-8s's logits always have the
   * image's size.
   */
  upsample?: boolean;
  signal?: AbortSignal;
}

/**
 * Writes an ONNX model (opset 17) of a segmenter in evaluation mode, whole or not at all.
 *
 * The input `image` is float32 [N, 3, H, W] with any N, H and W, prepared as for `Segmenter.forward`. The output
 * `logits` is [N, C, H, W]. The metadata property `bidiseg` is JSON. It holds the network, the classes and how to
 * prepare images. See docs/design/export.md#the-onnx-graph-is-written-in-typescript.
 *
 * @throws DataError that names the file when it cannot be written or would exceed the 2 GiB of ONNX files
 */
export async function exportOnnx(
  segmenter: Segmenter,
  file: string,
  options: ExportOptions = {},
): Promise<void> {
  handleOf('segmenter', segmenter, Segmenter);
  const { upsample, signal } = checkOptions(file, options);
  const { network, branches, classCount } = segmenter.options;
  const state: StateEntry[] = await segmenter.state();
  try {
    const shapes = new Map(
      state.map(({ name, tensor }) => [name, callSync(() => native.tensorInfo(tensor).shape)]),
    );
    const graph = network === 'deeplab-v2' ? deepLabV2Graph(shapes, branches, upsample) : fcn8sGraph(shapes);
    const hasImageSize = upsample || network === 'fcn-8s';
    const size = hasImageSize ? ['height', 'width'] : ['logits_height', 'logits_width'];
    const input: OnnxValue = {
      name: IMAGE,
      shape: ['batch', 3, 'height', 'width'],
      description: `BGR, 0 to 255, minus the mean (${SEGMENTER_MEAN_BGR.join(', ')})`,
    };
    const output: OnnxValue = {
      name: LOGITS,
      shape: ['batch', classCount, ...size],
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
 * output and metadata are the same as in `exportOnnx`. Weights have their state-dict names. The metadata is the
 * archive's extra file `bidiseg.json`.
 *
 * @throws DataError that names the file when it cannot be written
 */
export async function exportTorchScript(
  segmenter: Segmenter,
  file: string,
  options: ExportOptions = {},
): Promise<void> {
  const handle = handleOf('segmenter', segmenter, Segmenter);
  const { upsample, signal } = checkOptions(file, options);
  const contents = { upsample, metadata: metadataOf(segmenter, upsample) };
  await writeAtomically(file, (temporary) =>
    call((token) => native.writeTorchScript(handle, temporary, contents, token), signal),
  );
}

function checkOptions(file: string, options: ExportOptions) {
  checkPath('file', file);
  const { upsample = true, signal } = checkObject('options', options);
  return { upsample: checkBoolean('upsample', upsample), signal: checkSignal(signal) };
}

/** Describes an exported model: the description of weights files, and the model's input and output. */
function metadataOf(segmenter: Segmenter, upsample: boolean): string {
  const input = { name: IMAGE, layout: 'NCHW', channels: 'BGR', range: [0, 255], mean: SEGMENTER_MEAN_BGR };
  const output = { name: LOGITS, layout: 'NCHW', upsampled: upsample };
  return descriptionText(descriptionOf(segmenter.options), { input, output });
}
