import { checkObject } from '../support/validate.js';
import { native } from './binding.js';
import type { NetworkDtype } from './binding-types.js';
import { checkDtype } from './dtype.js';
import { call, handleOf } from './native-object.js';
import { Tensor } from './tensor.js';

/** Mean of blue, green and red that segmenterInput() subtracts: the mean of Caffe's usual ImageNet weights. */
export const SEGMENTER_MEAN_BGR = [104.00698793, 116.66876762, 122.67891434] as const;

/** Options of {@link segmenterInput} and {@link translatorInput}. */
export interface NetworkInputOptions {
  /** Dtype of the network. Default `float32`. */
  dtype?: NetworkDtype;
}

/**
 * Converts RGB bytes [N, H, W, 3] to the input of a segmenter: BGR [N, 3, H, W] minus SEGMENTER_MEAN_BGR, not divided.
 */
export async function segmenterInput(images: Tensor, options: NetworkInputOptions = {}): Promise<Tensor> {
  const dtype = checkDtype(checkObject('options', options).dtype);
  return new Tensor(await call(() => native.segmenterInput(handleOf('images', images, Tensor), { dtype })));
}

/** Converts RGB bytes [N, H, W, 3] to the input of a generator: RGB [N, 3, H, W] in [-1, 1]. */
export async function translatorInput(images: Tensor, options: NetworkInputOptions = {}): Promise<Tensor> {
  const dtype = checkDtype(checkObject('options', options).dtype);
  return new Tensor(await call(() => native.translatorInput(handleOf('images', images, Tensor), { dtype })));
}

/** Converts the output of a generator, RGB [N, 3, H, W] in [-1, 1], to the input of a segmenter. Differentiable. */
export async function segmenterInputFromTranslator(images: Tensor): Promise<Tensor> {
  return new Tensor(
    await call(() => native.segmenterInputFromTranslator(handleOf('images', images, Tensor))),
  );
}

/** Converts the output of a generator, RGB [N, 3, H, W] in [-1, 1], to RGB bytes [N, H, W, 3]. */
export async function translatorOutputBytes(images: Tensor): Promise<Tensor> {
  return new Tensor(await call(() => native.translatorOutputBytes(handleOf('images', images, Tensor))));
}
