import type { CompleteSegmenterOptions } from '../models/segmenter-options.js';
import { type ImageShape, OnnxGraph } from './onnx-graph.js';

/** The forward passes of native/core/models/, in evaluation mode, as ONNX operators. */

/** Names of the model's input and output. */
export const IMAGE = 'image';
export const LOGITS = 'logits';

/**
 * Builds the graph of DeepLab-v2.
 *
 * @param shapes shapes of all weights, by their state-dict names
 * @param options branches of the head that are summed, and where bottlenecks have their stride
 * @param upsample resizes the logits to the image's size
 * @param image shape of the images, if the graph is for one shape only
 */
export function deepLabV2Graph(
  shapes: ReadonlyMap<string, readonly number[]>,
  options: Pick<CompleteSegmenterOptions, 'branches' | 'bottleneckStride'>,
  upsample: boolean,
  image?: ImageShape,
): OnnxGraph {
  const { branches, bottleneckStride } = options;
  const graph = new OnnxGraph(shapes, image && { [IMAGE]: image });
  let x = graph.has('conv1_1.weight') ? dilatedVgg(graph) : dilatedResNet(graph, bottleneckStride);
  const outputs = HEAD_DILATIONS.slice(0, branches).map((dilation, i) =>
    convolution(graph, `layer5.conv2d_list.${i}`, x, { padding: dilation, dilation }),
  );
  // OpenCV 4 computes a Sum of more than two values wrongly.
  x = outputs.reduce((sum, output, i) => {
    const name = upsample ? 'layer5' : LOGITS;
    return graph.node(i < branches - 1 ? `layer5.add${i}` : name, 'Add', [sum, output]);
  });
  if (upsample) resizeLike(graph, LOGITS, x, IMAGE);
  return graph;
}

function dilatedResNet(graph: OnnxGraph, place: 'first' | 'middle'): string {
  let x = convolution(graph, 'conv1', IMAGE, { stride: 2, padding: 3 });
  x = relu(graph, 'relu', batchNorm(graph, 'bn1', x));
  x = maxPool(graph, 'maxpool', x, { kernel: 3, padding: 1 });
  for (const [i, { stride, dilation }] of LAYERS.entries()) {
    for (let block = 0; graph.has(`layer${i + 1}.${block}.conv1.weight`); ++block) {
      const shape = { stride: block === 0 ? stride : 1, place, dilation };
      x = residualBlock(graph, `layer${i + 1}.${block}`, x, shape);
    }
  }
  return x;
}

/** Adds VGG-16 whose last two poolings keep the size and whose last convolutions have dilation 2. */
function dilatedVgg(graph: OnnxGraph): string {
  let x = IMAGE;
  for (let stage = 1; stage <= 5; ++stage) {
    x = vggStage(graph, stage, x, { dilation: stage === 5 ? 2 : 1 });
    x = maxPool(graph, `pool${stage}`, x, stage > 3 ? { kernel: 3, padding: 1, stride: 1 } : { kernel: 2 });
  }
  return x;
}

/** Adds the convolutions of VGG-16 between two poolings, which keep the size but for `firstPadding` of conv1_1. */
function vggStage(
  graph: OnnxGraph,
  stage: number,
  input: string,
  { dilation = 1, firstPadding = 1 } = {},
): string {
  let x = input;
  for (let i = 1; graph.has(`conv${stage}_${i}.weight`); ++i) {
    const padding = stage === 1 && i === 1 ? firstPadding : dilation;
    x = convolution(graph, `conv${stage}_${i}`, x, { padding, dilation });
    x = relu(graph, `relu${stage}_${i}`, x);
  }
  return x;
}

const LAYERS = [
  { stride: 1, dilation: 1 },
  { stride: 2, dilation: 1 },
  { stride: 1, dilation: 2 },
  { stride: 1, dilation: 4 },
];
const HEAD_DILATIONS = [6, 12, 18, 24];

/**
 * Adds two 3×3 convolutions, or 1×1, 3×3, 1×1. The first has the stride, or in bottlenecks the one at `place`. Those of
 * 3×3 have the dilation.
 */
function residualBlock(
  graph: OnnxGraph,
  name: string,
  input: string,
  { stride, place, dilation }: { stride: number; place: 'first' | 'middle'; dilation: number },
): string {
  const count = graph.has(`${name}.conv3.weight`) ? 3 : 2;
  const strided = count === 3 && place === 'middle' ? 2 : 1;
  let x = input;
  for (let i = 1; i <= count; ++i) {
    const isWide = graph.shapeOf(`${name}.conv${i}.weight`)[2] === 3;
    x = convolution(graph, `${name}.conv${i}`, x, {
      stride: i === strided ? stride : 1,
      ...(isWide && { padding: dilation, dilation }),
    });
    x = batchNorm(graph, `${name}.bn${i}`, x);
    if (i < count) x = relu(graph, `${name}.relu${i}`, x);
  }
  let shortcut = input;
  if (graph.has(`${name}.downsample.0.weight`)) {
    shortcut = convolution(graph, `${name}.downsample.0`, input, { stride });
    shortcut = batchNorm(graph, `${name}.downsample.1`, shortcut);
  }
  return relu(graph, name, graph.node(`${name}.add`, 'Add', [x, shortcut]));
}

/** Builds the graph of FCN-8s. Its logits have the image's size. Parameters are as in {@link deepLabV2Graph}. */
export function fcn8sGraph(shapes: ReadonlyMap<string, readonly number[]>, image?: ImageShape): OnnxGraph {
  const graph = new OnnxGraph(shapes, image && { [IMAGE]: image });
  const pools: string[] = [];
  let x = IMAGE;
  for (let stage = 1; stage <= 5; ++stage) {
    // The padding of the first convolution keeps small images from shrinking below fc6's 7×7 window.
    x = vggStage(graph, stage, x, { firstPadding: 100 });
    x = maxPool(graph, `pool${stage}`, x, { kernel: 2 });
    pools.push(x);
  }
  for (const name of ['fc6', 'fc7']) x = relu(graph, `relu_${name}`, convolution(graph, name, x));

  const up2 = upsampling(graph, 'upscore2', convolution(graph, 'score_fr', x));
  const fuse = (level: 3 | 4, scale: number, offset: number, coarse: string) => {
    const factor = graph.float(`scale_pool${level}`, scale);
    const scaled = graph.node(`scaled_pool${level}`, 'Mul', [pools[level - 1]!, factor]);
    const score = convolution(graph, `score_pool${level}`, scaled);
    const cropped = cropLike(graph, `crop_pool${level}`, score, offset, coarse);
    return graph.node(`fuse_pool${level}`, 'Add', [coarse, cropped]);
  };
  const up4 = upsampling(graph, 'upscore_pool4', fuse(4, 0.01, 5, up2));
  const up8 = upsampling(graph, 'upscore8', fuse(3, 0.0001, 9, up4));
  cropLike(graph, LOGITS, up8, 31, IMAGE);
  return graph;
}

function convolution(
  graph: OnnxGraph,
  name: string,
  x: string,
  { stride = 1, padding = 0, dilation = 1 } = {},
): string {
  const weight = `${name}.weight`;
  const bias = graph.has(`${name}.bias`) ? [`${name}.bias`] : [];
  const [outputs, , ...kernel] = graph.shapeOf(weight);
  const reach = (kernel[0]! - 1) * dilation;
  const extent = (n: number) => Math.floor((n + 2 * padding - reach - 1) / stride) + 1;
  return graph.node(
    name,
    'Conv',
    [x, weight, ...bias],
    {
      kernel_shape: kernel,
      strides: [stride, stride],
      pads: [padding, padding, padding, padding],
      dilations: [dilation, dilation],
    },
    ([count, , height, width]) => [count, outputs!, extent(height), extent(width)],
  );
}

/** Adds a pooling whose last window may reach over the edge. */
function maxPool(
  graph: OnnxGraph,
  name: string,
  x: string,
  { kernel, padding = 0, stride = 2 }: { kernel: number; padding?: number; stride?: number },
): string {
  const extent = (n: number) => Math.ceil((n + 2 * padding - kernel) / stride) + 1;
  return graph.node(
    name,
    'MaxPool',
    [x],
    {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [padding, padding, padding, padding],
      ceil_mode: 1,
    },
    ([count, channels, height, width]) => [count, channels, extent(height), extent(width)],
  );
}

/** Adds a transposed convolution whose stride is half its kernel. */
function upsampling(graph: OnnxGraph, name: string, x: string): string {
  const kernel = graph.shapeOf(`${name}.weight`).slice(2);
  const strides = kernel.map((extent) => extent / 2);
  const extent = (n: number) => (n + 1) * strides[0]!;
  return graph.node(
    name,
    'ConvTranspose',
    [x, `${name}.weight`],
    { kernel_shape: kernel, strides },
    ([count, channels, height, width]) => [count, channels, extent(height), extent(width)],
  );
}

function batchNorm(graph: OnnxGraph, name: string, x: string): string {
  const weights = ['weight', 'bias', 'running_mean', 'running_var'].map((part) => `${name}.${part}`);
  return graph.node(name, 'BatchNormalization', [x, ...weights], { epsilon: 1e-5 });
}

function relu(graph: OnnxGraph, name: string, x: string): string {
  return graph.node(name, 'Relu', [x]);
}

/** Resizes [N, C, h, w] to the height and width of `reference`, bilinearly with aligned corners. */
function resizeLike(graph: OnnxGraph, name: string, x: string, reference: string): string {
  const output = sizedLike(graph, reference);
  const fixed = graph.fixedShapeOf(x);
  let size: string;
  if (fixed) {
    size = graph.integers(`${name}.size`, output(fixed));
  } else {
    const outer = graph.node(`${name}.outer`, 'Shape', [x], { end: 2 });
    const inner = graph.node(`${name}.inner`, 'Shape', [reference], { start: 2, end: 4 });
    size = graph.node(`${name}.size`, 'Concat', [outer, inner], { axis: 0 });
  }
  const attributes = { mode: 'linear', coordinate_transformation_mode: 'align_corners' };
  return graph.node(name, 'Resize', [x, '', '', size], attributes, output);
}

/** Crops `x` from [offset, offset] to the height and width of `reference`. */
function cropLike(graph: OnnxGraph, name: string, x: string, offset: number, reference: string): string {
  const starts = graph.integers(`${name}.starts`, [offset, offset]);
  const axes = graph.integers(`${name}.axes`, [2, 3]);
  const fixed = graph.fixedShapeOf(reference);
  let ends: string;
  if (fixed) {
    ends = graph.integers(`${name}.ends`, [offset + fixed[2], offset + fixed[3]]);
  } else {
    const size = graph.node(`${name}.size`, 'Shape', [reference], { start: 2, end: 4 });
    ends = graph.node(`${name}.ends`, 'Add', [size, starts]);
  }
  return graph.node(name, 'Slice', [x, starts, ends, axes], {}, sizedLike(graph, reference));
}

/** A shape with the height and width of `reference`. */
function sizedLike(graph: OnnxGraph, reference: string): (shape: ImageShape) => ImageShape {
  return ([count, channels]) => {
    const [, , height, width] = graph.fixedShapeOf(reference)!;
    return [count, channels, height, width];
  };
}
