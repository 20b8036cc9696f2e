import { checkChoice, checkIntegers, checkObject, invalidArgument } from '../support/validate.js';
import { native } from './binding.js';
import type { Dtype, TensorHandle, TypedArray } from './binding-types.js';
import { call, callSync, handleOf, NativeObject } from './native-object.js';

export type { Dtype, TypedArray } from './binding-types.js';

/** Tensors by name. The receiver disposes them. */
export type TensorMap = ReadonlyMap<string, Tensor>;

/**
 * An n-dimensional array in native memory, with automatic differentiation.
 *
 * Operations run off the event loop, in the order of the calls. Each returns a new tensor, which the caller disposes. A
 * result remembers its inputs only if a trained parameter took part.
 */
export class Tensor extends NativeObject<TensorHandle> {
  /** @internal */
  constructor(handle: TensorHandle) {
    super(handle);
  }

  /**
   * Makes a tensor on the CPU with a copy of `data` in row-major order. The dtype follows the array: Float32Array →
   * float32, Float64Array → float64, Uint8Array → uint8, Int32Array → int32, BigInt64Array → int64. The default `shape`
   * is a vector.
   *
   * @throws InvalidArgumentError when the product of `shape` is not the length of `data`
   */
  static from(data: TypedArray, shape?: readonly number[]): Tensor {
    if (!ArrayBuffer.isView(data)) throw invalidArgument('data', 'a typed array', data);
    const checked = checkIntegers('shape', shape ?? [data.length], 0);
    return new Tensor(callSync(() => native.createTensor(data, checked)));
  }

  /** Extent of each dimension. */
  get shape(): number[] {
    return callSync(() => native.tensorInfo(this.handle).shape);
  }

  /** Dtype of the elements. */
  get dtype(): Dtype {
    return callSync(() => native.tensorInfo(this.handle).dtype);
  }

  /** Device of the tensor, such as `cpu` or `cuda:0`. */
  get device(): string {
    return callSync(() => native.tensorInfo(this.handle).device);
  }

  /** True if backward() reaches this tensor. */
  get requiresGrad(): boolean {
    return callSync(() => native.tensorInfo(this.handle).requiresGrad);
  }

  /**
   * Copies the elements in row-major order. float16 and bfloat16 have no typed array, so convert them with `to()`
   * first.
   */
  async data(): Promise<TypedArray> {
    return call(() => native.tensorData(this.handle));
  }

  /** Returns the value of a tensor with one element. */
  async item(): Promise<number> {
    const data = await this.data();
    if (data.length !== 1) throw invalidArgument('tensor', 'exactly one element', data);
    return Number(data[0]);
  }

  /**
   * Adds d(this)/dp to the gradient of every trained parameter p that this scalar was computed from.
   *
   * @throws InvalidArgumentError when the tensor is not a scalar or depends on no parameter
   */
  async backward(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkObject('options', options);
    await call((cancellation) => native.tensorBackward(this.handle, cancellation), options.signal);
  }

  /** Returns the gradient that backward() has accumulated, or null. */
  async gradient(): Promise<Tensor | null> {
    const handle = await call(() => native.tensorGradient(this.handle));
    return handle && new Tensor(handle);
  }

  /** Makes backward() accumulate a gradient for this tensor. The tensor must not be the result of an operation. */
  async requireGrad(): Promise<this> {
    await call(() => native.tensorRequireGrad(this.handle));
    return this;
  }

  /** Returns the same values without the history of their computation. */
  async detach(): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorDetach(this.handle)));
  }

  /**
   * Converts device, dtype and memory format. Differentiable. The memory format is the order in which the elements of a
   * tensor [N, C, H, W] lie in memory. It changes no value, but it decides which operations are fast. Default
   * `preserve`.
   */
  async to(options: {
    device?: string;
    dtype?: Dtype;
    memoryFormat?: 'preserve' | 'contiguous' | 'channels-last';
  }): Promise<Tensor> {
    checkObject('options', options);
    const { device = this.device, dtype = this.dtype, memoryFormat = 'preserve' } = options;
    checkChoice('memoryFormat', memoryFormat, ['preserve', 'contiguous', 'channels-last']);
    return new Tensor(await call(() => native.tensorTo(this.handle, { device, dtype, memoryFormat })));
  }

  /** Computes the element-wise sum, with broadcasting. */
  async add(other: Tensor): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorAdd(this.handle, handleOf('other', other, Tensor))));
  }

  /** Multiplies every element by `factor`. */
  async scale(factor: number): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorScale(this.handle, factor)));
  }

  /** Computes the softmax over dimension 1, the classes of [N, C, H, W]. */
  async softmax(): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorSoftmax(this.handle)));
  }

  /** Resizes [N, C, h, w] to [N, C, height, width], bilinearly with aligned corners. */
  async resize(height: number, width: number): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorResize(this.handle, [height, width])));
  }
}
