import type { Segmenter } from '../models/segmenter.js';
import { native } from '../native/binding.js';
import type { StateEntry } from '../native/binding-types.js';
import { call, callSync } from '../native/native-object.js';
import { SEGMENTER_MEAN_BGR } from '../native/pixels.js';
import { checkBoolean, checkObject, checkPath, checkSignal } from '../support/validate.js';
import { writeWhole } from '../support/whole-file.js';
import { descriptionText, type WeightsDescription } from '../weights/weights-metadata.js';
import { writeOnnx } from './onnx-file.js';
import type { OnnxValue } from './onnx-graph.js';
import { deepLabV2Graph, fcn8sGraph, IMAGE, LOGITS } from './onnx-segmenter.js';

export interface ExportOptions {
  /**
   * Whether logits are resized to the image's height and width, bilinearly with aligned corners (default), or stay as the
   * network gives them: [N, C, ⌊(H+1)/8⌋+1, ⌊(W+1)/8⌋+1] for DeepLab-v2. Those of FCN-8s have the image's size anyway.
   */
  upsample?: boolean;
  signal?: AbortSignal;
}

/** Writes an ONNX model: Segmenter.exportOnnx(). */
export async function exportOnnx(
  segmenter: Segmenter,
  description: WeightsDescription,
  file: string,
  options: ExportOptions,
): Promise<void> {
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
    const metadata = { bidiseg: metadataOf(description, upsample) };
    await writeOnnx(file, { graph, input, output, metadata }, state, signal);
  } finally {
    for (const { tensor } of state) tensor.dispose();
  }
}

/** Writes a TorchScript archive: Segmenter.exportTorchScript(). */
export async function exportTorchScript(
  segmenter: Segmenter,
  description: WeightsDescription,
  file: string,
  options: ExportOptions,
): Promise<void> {
  const { upsample, signal } = checkOptions(file, options);
  const contents = { upsample, metadata: metadataOf(description, upsample) };
  await writeWhole(file, (temporary) =>
    call((token) => native.writeTorchScript(segmenter.handle, temporary, contents, token), signal),
  );
}

function checkOptions(file: string, options: ExportOptions) {
  checkPath('file', file);
  const { upsample = true, signal } = checkObject('options', options);
  return { upsample: checkBoolean('upsample', upsample), signal: checkSignal(signal) };
}

/** What an exported model says about itself: what weights files say, and what goes in and out. */
function metadataOf(description: WeightsDescription, upsample: boolean): string {
  const input = { name: IMAGE, layout: 'NCHW', channels: 'BGR', range: [0, 255], mean: SEGMENTER_MEAN_BGR };
  const output = { name: LOGITS, layout: 'NCHW', upsampled: upsample };
  return descriptionText(description, { input, output });
}
