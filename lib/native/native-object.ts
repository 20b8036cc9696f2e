import { onAbort } from '../support/abort.js';
import {
  BidisegError,
  DataError,
  DisposedError,
  InvalidArgumentError,
  NativeError,
  NonFiniteLossError,
  OutOfMemoryError,
  ProcessGroupError,
} from '../support/errors.js';
import { checkSignal, invalidArgument } from '../support/validate.js';
import { native } from './binding.js';
import type { CancellationToken, NativeHandle } from './binding-types.js';

const ERRORS_BY_CODE: Record<
  string,
  new (
    message: string,
    options?: ErrorOptions & { rank?: number | undefined },
  ) => BidisegError
> = {
  ERR_INVALID_ARGUMENT: InvalidArgumentError,
  ERR_DISPOSED: DisposedError,
  ERR_DATA: DataError,
  ERR_NON_FINITE_LOSS: NonFiniteLossError,
  ERR_OUT_OF_MEMORY: OutOfMemoryError,
  ERR_PROCESS_GROUP: ProcessGroupError,
  ERR_NATIVE: NativeError,
};

/** Converts an error of the addon to its class here, with the stack of the call instead of the addon's empty one. */
function translate(error: unknown, callSite: { stack?: string }): unknown {
  if (!(error instanceof Error) || error instanceof BidisegError) return error;
  const Subclass = ERRORS_BY_CODE[(error as { code?: string }).code ?? ''];
  if (!Subclass) return error;
  const { rank } = error as { rank?: number };
  const translated = new Subclass(error.message, rank === undefined ? undefined : { rank });
  const frames = callSite.stack?.slice(callSite.stack.indexOf('\n')) ?? '';
  translated.stack = `${translated.name}: ${translated.message}${frames}`;
  return translated;
}

/** Runs a synchronous native function and translates its errors. */
export function callSync<T>(start: () => T): T {
  try {
    return start();
  } catch (error) {
    throw translate(error, new Error());
  }
}

/**
 * Runs an asynchronous native function and translates its errors. An abort cancels the job at its next cancellation
 * point. The promise then rejects with `signal.reason`, and the job has changed nothing.
 */
export async function call<T>(
  start: (cancellation?: CancellationToken) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const callSite: { stack?: string } = {};
  Error.captureStackTrace(callSite, call);
  checkSignal(signal);
  if (signal === undefined) {
    try {
      return await start();
    } catch (error) {
      throw translate(error, callSite);
    }
  }
  signal.throwIfAborted();
  const token = native.createCancellationToken();
  const removeListener = onAbort(signal, () => native.cancel(token));
  try {
    return await start(token);
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_CANCELED') throw signal.reason;
    throw translate(error, callSite);
  } finally {
    removeListener();
    token.dispose();
  }
}

/**
 * A JavaScript object that owns a native one.
 *
 * `dispose()` may be called twice. It releases the object at once, but work that is running or queued keeps its own
 * share until it finishes. Any later use throws DisposedError. Without `dispose()`, the garbage collector releases the
 * object at an unknown time. See docs/design/boundary.md#disposal.
 */
export abstract class NativeObject<Handle extends NativeHandle> implements Disposable, AsyncDisposable {
  readonly #handle: Handle;

  protected constructor(handle: Handle) {
    this.#handle = handle;
  }

  /** @internal The native handle. Throws DisposedError after `dispose()`. */
  get handle(): Handle {
    if (this.#handle.disposed) throw new DisposedError(`This ${this.constructor.name} has been disposed`);
    return this.#handle;
  }

  /** @internal Tests whether `value` was made by this class. A matching prototype alone is not enough. */
  static isNative(value: object): value is NativeObject<NativeHandle> {
    return #handle in value;
  }

  /** True after `dispose()`. */
  get disposed(): boolean {
    return this.#handle.disposed;
  }

  /** Releases the native object. */
  dispose(): void {
    this.#handle.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Releases the native object and waits until no work uses it any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await native.idle();
  }
}

/** Returns the native handle of an argument. @throws InvalidArgumentError that names it if it is not a `kind`. */
export function handleOf<Handle extends NativeHandle>(
  name: string,
  value: NativeObject<Handle>,
  // This is not a constructor type, because the constructors of networks are private.
  kind: { readonly name: string; readonly prototype: NativeObject<Handle> },
): Handle {
  if (!Object.prototype.isPrototypeOf.call(kind.prototype, Object(value)) || !NativeObject.isNative(value)) {
    throw invalidArgument(name, `an instance of ${kind.name}`, value);
  }
  return value.handle;
}
