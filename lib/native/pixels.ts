import { checkObject } from '../support/validate.js';
import { native } from './binding.js';
import type { NetworkDtype } from './binding-types.js';
import { checkDtype } from './dtype.js';
import { call, handleOf } from './native-object.js';
import { Tensor } from './tensor.js';

/** What segmenterInput() takes away from blue, green and red: the mean that the usual ImageNet weights of Caffe go with. */
export const SEGMENTER_MEAN_BGR = [104.00698793, 116.66876762, 122.67891434] as const;

export interface NetworkInputOptions {
  /** That of the network; default `float32`. */
  dtype?: NetworkDtype;
}

/**
 * RGB bytes [N, H, W, 3] → what a segmenter takes: BGR [N, 3, H, W] minus SEGMENTER_MEAN_BGR, not divided.
 */
export async function segmenterInput(images: Tensor, options: NetworkInputOptions = {}): Promise<Tensor> {
  const dtype = checkDtype(checkObject('options', options).dtype);
  return new Tensor(await call(() => native.segmenterInput(handleOf('images', images, Tensor), { dtype })));
}

/** RGB bytes [N, H, W, 3] → what a generator takes: RGB [N, 3, H, W] in [-1, 1]. */
export async function translatorInput(images: Tensor, options: NetworkInputOptions = {}): Promise<Tensor> {
  const dtype = checkDtype(checkObject('options', options).dtype);
  return new Tensor(await call(() => native.translatorInput(handleOf('images', images, Tensor), { dtype })));
}

/** What a generator gives → what a segmenter takes; differentiable. */
export async function segmenterInputFromTranslator(images: Tensor): Promise<Tensor> {
  return new Tensor(
    await call(() => native.segmenterInputFromTranslator(handleOf('images', images, Tensor))),
  );
}

/** What a generator gives → RGB bytes [N, H, W, 3]. */
export async function translatorOutputBytes(images: Tensor): Promise<Tensor> {
  return new Tensor(await call(() => native.translatorOutputBytes(handleOf('images', images, Tensor))));
}
