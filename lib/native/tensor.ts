import { checkChoice, checkIntegers, checkObject, invalidArgument } from '../support/validate.js';
import { native } from './binding.js';
import type { Dtype, TensorHandle, TypedArray } from './binding-types.js';
import { call, callSync, handleOf, NativeObject } from './native-object.js';

export type { Dtype, TypedArray } from './binding-types.js';

/** Tensors by name; whoever is given one disposes the tensors. */
export type TensorMap = ReadonlyMap<string, Tensor>;

/**
 * An n-dimensional array in native memory, with automatic differentiation.
 *
 * Operations run off the event loop in the order in which they were called; each returns a new tensor, to be disposed
 * like every other. Results remember what they were computed from as long as a parameter that is trained took part.
 */
export class Tensor extends NativeObject<TensorHandle> {
  /** @internal */
  constructor(handle: TensorHandle) {
    super(handle);
  }

  /**
   * A tensor on the CPU with a copy of `data` in row-major order. The dtype follows the array: Float32Array → float32,
   * Float64Array → float64, Uint8Array → uint8, Int32Array → int32, BigInt64Array → int64. `shape` is by default that of a vector.
   *
   * @throws InvalidArgumentError where the product of `shape` is not the length of `data`.
   */
  static from(data: TypedArray, shape?: readonly number[]): Tensor {
    if (!ArrayBuffer.isView(data)) throw invalidArgument('data', 'a typed array', data);
    const checked = checkIntegers('shape', shape ?? [data.length], 0);
    return new Tensor(callSync(() => native.createTensor(data, checked)));
  }

  get shape(): number[] {
    return callSync(() => native.tensorInfo(this.handle).shape);
  }

  get dtype(): Dtype {
    return callSync(() => native.tensorInfo(this.handle).dtype);
  }

  /** Such as `cpu` or `cuda:0`. */
  get device(): string {
    return callSync(() => native.tensorInfo(this.handle).device);
  }

  /** Whether backward() will reach it. */
  get requiresGrad(): boolean {
    return callSync(() => native.tensorInfo(this.handle).requiresGrad);
  }

  /** A copy of the elements in row-major order. float16 and bfloat16 have no typed array: convert with `to()` first. */
  async data(): Promise<TypedArray> {
    return call(() => native.tensorData(this.handle));
  }

  /** The value of a tensor with one element. */
  async item(): Promise<number> {
    const data = await this.data();
    if (data.length !== 1) throw invalidArgument('tensor', 'exactly one element', data);
    return Number(data[0]);
  }

  /**
   * Adds d(this)/dp to the gradient of every trained parameter p that this scalar was computed from.
   *
   * @throws InvalidArgumentError where it is no scalar or depends on no parameter.
   */
  async backward(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkObject('options', options);
    await call((cancellation) => native.tensorBackward(this.handle, cancellation), options.signal);
  }

  /** The gradient that backward() has gathered, or null. */
  async gradient(): Promise<Tensor | null> {
    const handle = await call(() => native.tensorGradient(this.handle));
    return handle && new Tensor(handle);
  }

  /** Makes backward() gather a gradient for this tensor, which must not be the result of an operation. */
  async requireGrad(): Promise<this> {
    await call(() => native.tensorRequireGrad(this.handle));
    return this;
  }

  /** The same values, cut off from what they were computed from. */
  async detach(): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorDetach(this.handle)));
  }

  /**
   * Converted; differentiable. The memory format, of tensors [N, C, H, W], is the order in which the elements lie in memory: it
   * changes no value, but which operations are quick. Default `preserve`.
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

  /** Element-wise sum, with broadcasting. */
  async add(other: Tensor): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorAdd(this.handle, handleOf('other', other, Tensor))));
  }

  /** Every element times `factor`. */
  async scale(factor: number): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorScale(this.handle, factor)));
  }

  /** Softmax over dimension 1, the classes of [N, C, H, W]. */
  async softmax(): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorSoftmax(this.handle)));
  }

  /** [N, C, h, w] → [N, C, height, width], bilinear with aligned corners. */
  async resize(height: number, width: number): Promise<Tensor> {
    return new Tensor(await call(() => native.tensorResize(this.handle, [height, width])));
  }
}
