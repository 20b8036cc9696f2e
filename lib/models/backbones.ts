import { native } from '../native/binding.js';
import type { TensorHandle } from '../native/binding-types.js';
import { call, callSync } from '../native/native-object.js';
import { SEGMENTER_MEAN_BGR } from '../native/pixels.js';
import { DataError } from '../support/errors.js';
import type { StridedTensorHeader } from '../weights/pth.js';
import { readWeights, type WeightsFile } from '../weights/weights-file.js';

/**
 * Backbones that were trained on ImageNet, under the names of other code: VGG-16 and ResNets. What differs is computed
 * from the file's tensors, so that the network is the same function of an image
 * (docs/design/files-and-safety.md#backbones-of-imagenet).
 */

/** Tensor of a weights file under our name. */
export interface NamedTensor extends StridedTensorHeader {
  /** How its values are computed. Absent: they are in the file as they are. */
  derived?: { from: StridedTensorHeader[]; compute(values: Float64Array[]): Float64Array };
}

/** Tensor whose values were computed from others. */
export interface Converted {
  /** Name in bidiseg. */
  name: string;
  /** What was done, such as `BatchNorm folded in`. */
  how: string;
}

/** Backbone under our names. */
export interface Backbone {
  tensors: NamedTensor[];
  renamed: { from: string; to: string }[];
  converted: Converted[];
  /** Names of tensors that a segmenter does not have. */
  left: string[];
}

/** Mean and deviation of the classifiers of torchvision, which take R, G, B from 0 to 1. */
const MEAN = [0.485, 0.456, 0.406] as const;
const DEVIATION = [0.229, 0.224, 0.225] as const;
const EPSILON = 1e-5;
/**
 * Size of our colors beside normalized ones. Weights divided by it would train thousands of times faster, so it is
 * taken from where it does not matter (docs/design/files-and-safety.md#converted-weights-keep-their-size).
 */
const COLOR_SIZE = 255 * (DEVIATION.reduce((sum, value) => sum + value, 0) / 3);
/** Factor on the weights of each of VGG-16's 13 convolutions, whose product is 1 / COLOR_SIZE. */
const VGG_FACTOR = COLOR_SIZE ** (-1 / 13);

/** Reason for leaving out a layer that tells the classes of ImageNet. */
export const CLASSIFIER = 'classifier of ImageNet, which no segmenter has';

const COLORS = 'takes B, G, R minus a mean instead of normalized R, G, B';
const FOLDED = 'BatchNorm folded in';
const SCALED = 'scaled for larger colors';
const TRANSPOSED = 'transposed from height, width, inputs, outputs';
const RESHAPED = 'reshaped from a fully connected layer';

/** Names of VGG-16's convolutions in their order. */
const VGG_NAMES = [2, 2, 3, 3, 3].flatMap((depth, stage) =>
  Array.from({ length: depth }, (_, i) => `conv${stage + 1}_${i + 1}`),
);

/** Modules in front of the convolutions and poolings of torchvision's VGG-16. */
function vggModules(hasNorms: boolean): number[] {
  const modules: number[] = [];
  let next = 0;
  for (const [i, name] of VGG_NAMES.entries()) {
    if (i > 0 && name.endsWith('_1')) next += 1;
    modules.push(next);
    next += hasNorms ? 3 : 2;
  }
  return modules;
}

/** Tells whether these are the names of torchvision's VGG-16, with or without BatchNorm. */
export function isVgg16(names: ReadonlySet<string>): boolean {
  const hasNorms = names.has('features.1.running_mean');
  const convolutions = new Set(vggModules(hasNorms).map((index) => `features.${index}`));
  const norms = new Set(hasNorms ? vggModules(true).map((index) => `features.${index + 1}`) : []);
  const found = new Set([...names].filter((name) => /^features\.\d+\.weight$/.test(name)));
  const wanted = [...convolutions, ...norms].map((name) => `${name}.weight`);
  return found.size === wanted.length && wanted.every((name) => found.has(name));
}

/** Gives torchvision's VGG-16 the names of FCN-8s. BatchNorm becomes a part of the convolutions. */
export function fromVgg16(tensors: readonly StridedTensorHeader[]): Backbone {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const hasNorms = byName.has('features.1.running_mean');
  const result: Backbone = { tensors: [], renamed: [], converted: [], left: [] };
  for (const [i, index] of vggModules(hasNorms).entries()) {
    const name = VGG_NAMES[i]!;
    const parts = [
      ...['weight', 'bias'].map((part) => `features.${index}.${part}`),
      ...(hasNorms
        ? ['weight', 'bias', 'running_mean', 'running_var'].map((part) => `features.${index + 1}.${part}`)
        : []),
    ];
    result.renamed.push({ from: `features.${index}.`, to: `${name}.` });
    const from = parts.flatMap((part) => byName.get(part) ?? []);
    if (from.length < parts.length) continue; // What the network lacks then is reported as missing.
    const fold = (values: Float64Array[]) => {
      const folded = foldNorm(values);
      const { weight, bias } = i === 0 ? foldColors(folded.weight, folded.bias) : folded;
      const factor = i === 0 ? COLOR_SIZE * VGG_FACTOR : VGG_FACTOR;
      const size = COLOR_SIZE * VGG_FACTOR ** (i + 1); // of what this convolution gives
      return { weight: weight.map((value) => value * factor), bias: bias.map((value) => value * size) };
    };
    const how = [...(hasNorms ? [FOLDED] : []), ...(i === 0 ? [COLORS] : []), SCALED].join(', ');
    for (const [part, key] of [
      [0, 'weight'],
      [1, 'bias'],
    ] as const) {
      const compute = (values: Float64Array[]) => fold(values)[key];
      result.tensors.push({ ...derivedHeader(from[part]!, `${name}.${key}`), derived: { from, compute } });
      result.converted.push({ name: `${name}.${key}`, how });
    }
  }
  const layers = { 'classifier.0': 'fc6', 'classifier.3': 'fc7' };
  addFullyConnected(result, byName, layers);
  result.left = namesLeft(tensors, result, layers, 'features.');
  return result;
}

/** Gives the fully connected layers of a VGG-16 with our names the shapes of convolutions. */
export function fromNamedVgg16(tensors: readonly StridedTensorHeader[]): Backbone {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const result: Backbone = { tensors: [], renamed: [], converted: [], left: [] };
  const layers = { fc6: 'fc6', fc7: 'fc7' };
  result.tensors = tensors.filter(({ name }) => name.startsWith('conv'));
  addFullyConnected(result, byName, layers);
  result.left = namesLeft(tensors, result, layers, 'conv');
  return result;
}

/** Names of Keras's VGG-16: those of Keras 3, `block1_conv1/kernel`, and those in the files that Keras publishes. */
const KERAS = /^(block(\d)_conv(\d)|fc([12]))[/.](?:\1[/_.])?(?:(kernel|W_1)|bias|b_1)(?::0)?$/;

/** Returns our name for a tensor of Keras's VGG-16. null: it has none. */
function kerasName(name: string): string | null {
  const match = KERAS.exec(name);
  if (!match) return null;
  const [, , stage, place, layer, weight] = match;
  return `${stage ? `conv${stage}_${place}` : `fc${Number(layer) + 5}`}.${weight ? 'weight' : 'bias'}`;
}

/** Tells whether these are the names of Keras's VGG-16. */
export function isKerasVgg16(names: ReadonlySet<string>): boolean {
  const own = new Set([...names].map(kerasName));
  return VGG_NAMES.every((name) => own.has(`${name}.weight`));
}

/** Gives Keras's VGG-16 the names of FCN-8s. Its weights are laid out as height, width, inputs, outputs. */
export function fromKerasVgg16(tensors: readonly StridedTensorHeader[]): Backbone {
  const result: Backbone = { tensors: [], renamed: [], converted: [], left: [] };
  for (const tensor of tensors) {
    const name = kerasName(tensor.name);
    if (name === null) {
      result.left.push(tensor.name);
      continue;
    }
    const [layer, part] = name.split('.') as [string, string];
    if (part === 'bias') {
      result.tensors.push({ ...tensor, name });
      continue;
    }
    const from = /^[^/.]+[/.]/.exec(tensor.name)![0];
    result.renamed.push({ from, to: `${layer}.` });
    const shape =
      tensor.shape.length === 4 ? tensor.shape : kernelShape(tensor.shape, layer === 'fc6' ? 7 : 1);
    const [height, width, inputs, outputs] = shape as [number, number, number, number];
    const compute = ([values]: Float64Array[]) => outputsFirst(values!, height * width, inputs, outputs);
    const header = { ...derivedHeader(tensor, name), shape: [outputs, inputs, height, width] };
    result.tensors.push({ ...header, derived: { from: [tensor], compute } });
    result.converted.push({ name, how: TRANSPOSED });
  }
  return result;
}

/** Shape of the kernel that a fully connected layer [inputs of all places, outputs] is, in Keras's order. */
function kernelShape([rows, outputs]: readonly number[], side: number): number[] {
  return [side, side, Math.floor(rows! / side ** 2), outputs!];
}

/** Turns values [place, input, output] into [output, input, place]. */
function outputsFirst(values: Float64Array, places: number, inputs: number, outputs: number): Float64Array {
  const result = new Float64Array(values.length);
  for (let place = 0, i = 0; place < places; ++place) {
    for (let input = 0; input < inputs; ++input) {
      for (let output = 0; output < outputs; ++output, ++i) {
        result[(output * inputs + input) * places + place] = values[i]!;
      }
    }
  }
  return result;
}

/** Lists the tensors that are neither convolutions nor the layers that were taken. */
function namesLeft(
  tensors: readonly StridedTensorHeader[],
  result: Backbone,
  layers: Record<string, string>,
  convolutions: string,
): string[] {
  const taken = new Set(result.tensors.map(({ name }) => name));
  const isTaken = (name: string) =>
    Object.entries(layers).some(
      ([from, to]) => name.startsWith(`${from}.`) && taken.has(to + name.slice(from.length)),
    );
  return tensors.map(({ name }) => name).filter((name) => !name.startsWith(convolutions) && !isTaken(name));
}

/** Adds fully connected layers as convolutions: the first takes the 7×7 values of every channel. */
function addFullyConnected(
  result: Backbone,
  byName: ReadonlyMap<string, StridedTensorHeader>,
  layers: Record<string, string>,
): void {
  let inputs = result.tensors.find(({ name }) => name === 'conv5_3.weight')?.shape[0] ?? 0;
  for (const [from, to] of Object.entries(layers)) {
    const kernel = to === 'fc6' ? 7 : 1;
    const weight = byName.get(`${from}.weight`);
    const bias = byName.get(`${from}.bias`);
    if (!weight || !bias) return;
    const [outputs, columns] = weight.shape;
    const isConvolution = weight.shape.length === 4 && columns === inputs && weight.shape[2] === kernel;
    const isLayer = weight.shape.length === 2 && columns === inputs * kernel ** 2;
    if (!isConvolution && !isLayer) return;
    if (from !== to) result.renamed.push({ from: `${from}.`, to: `${to}.` });
    if (isLayer) {
      const { stride, ...header } = weight;
      const [row, column] = stride ?? [];
      result.tensors.push({
        ...header,
        name: `${to}.weight`,
        shape: [outputs!, inputs, kernel, kernel],
        ...(row !== undefined &&
          column !== undefined && { stride: [row, column * kernel ** 2, column * kernel, column] }),
      });
      result.converted.push({ name: `${to}.weight`, how: RESHAPED });
    } else {
      result.tensors.push({ ...weight, name: `${to}.weight` });
    }
    result.tensors.push({ ...bias, name: `${to}.bias` });
    inputs = outputs!;
  }
}

/** Tells whether these are names and shapes of torchvision's ResNet with the usual widths, and not of a ResNeXt. */
export function isPlainResNet(tensors: readonly { name: string; shape: readonly number[] }[]): boolean {
  const shape = (name: string) => tensors.find((tensor) => tensor.name === name)?.shape ?? [];
  const [channels] = shape('conv1.weight');
  return shape('layer1.0.conv1.weight')[0] === channels && shape('layer1.0.conv2.weight')[1] === channels;
}

/** Makes torchvision's ResNet take the images of a segmenter. Its names are ours. */
export function fromResNet(tensors: readonly StridedTensorHeader[]): Backbone {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const from = ['conv1.weight', 'bn1.running_mean', 'bn1.running_var'].flatMap(
    (name) => byName.get(name) ?? [],
  );
  const left = tensors.map(({ name }) => name).filter((name) => name.startsWith('fc.'));
  const result: Backbone = { tensors: [], renamed: [], converted: [], left };
  for (const tensor of tensors) {
    const part = from.indexOf(tensor);
    if (tensor.name.startsWith('fc.')) continue;
    if (part < 0) {
      result.tensors.push(tensor);
    } else if (from.length === 3) {
      const compute = (values: Float64Array[]) => foldColorsIntoNorm(values)[part]!;
      result.tensors.push({ ...derivedHeader(tensor, tensor.name), derived: { from, compute } });
      result.converted.push({ name: tensor.name, how: COLORS });
    }
  }
  return result;
}

/**
 * Makes a convolution without bias take our colors. What it gives is COLOR_SIZE times as large, minus a constant. The
 * norm behind it takes both out again. Values: weight, mean and variance.
 */
function foldColorsIntoNorm([weight, mean, variance]: Float64Array[]): Float64Array[] {
  checkColors(weight!, variance!);
  const { weight: folded, bias } = foldColors(weight!, new Float64Array(mean!.length));
  return [
    folded.map((value) => value * COLOR_SIZE),
    mean!.map((value, i) => (value - bias[i]!) * COLOR_SIZE),
    variance!.map((value) => (value + EPSILON) * COLOR_SIZE ** 2 - EPSILON),
  ];
}

/**
 * Rejects weights for colors up to 255. The variance of a channel is at most (Σ|w|)² times that of a color, which is
 * about 1 if normalized and thousands otherwise.
 */
function checkColors(weight: Float64Array, variance: Float64Array): void {
  const size = weight.length / variance.length;
  const isLarge = variance.some((value, i) => {
    const sum = weight.subarray(i * size, (i + 1) * size).reduce((total, w) => total + Math.abs(w), 0);
    return value > 10 * sum ** 2 && value > EPSILON;
  });
  if (!isLarge) return;
  throw new DataError(
    'found a ResNet with fc whose bn1.running_var is too large for normalized R, G, B, as torchvision has them. If it ' +
      "is for B, G, R minus a mean, as Caffe's, save it without fc.weight and fc.bias",
  );
}

function derivedHeader({ dtype: from, shape }: StridedTensorHeader, name: string): NamedTensor {
  const dtype = from === 'float64' ? 'float64' : 'float32';
  const count = shape.reduce((product, extent) => product * extent, 1);
  return { name, dtype, shape, offset: 0, bytes: count * (dtype === 'float64' ? 8 : 4) };
}

interface Convolution {
  weight: Float64Array;
  bias: Float64Array;
}

/** Folds BatchNorm into a convolution. Values: weight, bias, and possibly γ, β, mean and variance of the norm. */
function foldNorm([weight, bias, gamma, beta, mean, variance]: Float64Array[]): Convolution {
  if (!gamma || !beta || !mean || !variance) return { weight: weight!, bias: bias! };
  const factor = gamma.map((value, i) => value / Math.sqrt(variance[i]! + EPSILON));
  const size = weight!.length / bias!.length;
  return {
    weight: weight!.map((value, i) => value * factor[Math.floor(i / size)]!),
    bias: bias!.map((value, i) => (value - mean[i]!) * factor[i]! + beta[i]!),
  };
}

/** Makes a convolution [O, 3, h, w] of normalized R, G, B take B, G, R from 0 to 255 minus the segmenters' mean. */
function foldColors(weight: Float64Array, bias: Float64Array): Convolution {
  const area = weight.length / bias.length / 3;
  const result = { weight: new Float64Array(weight.length), bias: Float64Array.from(bias) };
  for (let output = 0; output < bias.length; ++output) {
    for (let color = 0; color < 3; ++color) {
      const scale = 1 / (255 * DEVIATION[color]!);
      const offset = (SEGMENTER_MEAN_BGR[2 - color]! - 255 * MEAN[color]!) * scale;
      for (let i = 0; i < area; ++i) {
        const value = weight[(3 * output + color) * area + i]!;
        result.weight[(3 * output + 2 - color) * area + i] = value * scale;
        result.bias[output]! += value * offset;
      }
    }
  }
  return result;
}

/** Reads tensors of a weights file and computes those that are not in it. The caller disposes them. */
export async function readNamedWeights(
  weights: WeightsFile,
  tensors: readonly NamedTensor[],
  signal?: AbortSignal,
): Promise<{ name: string; tensor: TensorHandle }[]> {
  const stored = tensors.filter(({ derived }) => !derived);
  const result = await readWeights(weights, stored, signal);
  try {
    for (const { name, dtype, shape, derived } of tensors) {
      if (!derived) continue;
      const values = await readValues(weights, derived.from, signal);
      const data = within(weights.file, () => derived.compute(values));
      const typed = dtype === 'float64' ? data : Float32Array.from(data);
      result.push({ name, tensor: callSync(() => native.createTensor(typed, shape)) });
    }
    return result;
  } catch (error) {
    for (const { tensor } of result) tensor.dispose();
    throw error;
  }
}

/** Computes something. An error begins with the file's name. */
function within<T>(file: string, compute: () => T): T {
  try {
    return compute();
  } catch (cause) {
    if (!(cause instanceof DataError)) throw cause;
    throw new DataError(`${file}: ${cause.message}`, { cause });
  }
}

async function readValues(
  weights: WeightsFile,
  tensors: StridedTensorHeader[],
  signal?: AbortSignal,
): Promise<Float64Array[]> {
  const read = await readWeights(weights, tensors, signal);
  try {
    const values: Float64Array[] = [];
    for (const { tensor } of read) {
      const options = { device: 'cpu', dtype: 'float64', memoryFormat: 'preserve' } as const;
      const wide = await call(() => native.tensorTo(tensor, options));
      values.push((await call(() => native.tensorData(wide)).finally(() => wide.dispose())) as Float64Array);
    }
    return values;
  } finally {
    for (const { tensor } of read) tensor.dispose();
  }
}
