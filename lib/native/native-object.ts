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

const ERRORS_BY_CODE: Record<string, new (message: string, options?: ErrorOptions) => BidisegError> = {
  ERR_INVALID_ARGUMENT: InvalidArgumentError,
  ERR_DISPOSED: DisposedError,
  ERR_DATA: DataError,
  ERR_NON_FINITE_LOSS: NonFiniteLossError,
  ERR_OUT_OF_MEMORY: OutOfMemoryError,
  ERR_PROCESS_GROUP: ProcessGroupError,
  ERR_NATIVE: NativeError,
};

/** The addon's error as its subclass, with the stack of the call instead of the addon's empty one. */
function translate(error: unknown, callSite: { stack?: string }): unknown {
  if (!(error instanceof Error) || error instanceof BidisegError) return error;
  const Subclass = ERRORS_BY_CODE[(error as { code?: string }).code ?? ''];
  if (!Subclass) return error;
  const translated = new Subclass(error.message);
  const frames = callSite.stack?.slice(callSite.stack.indexOf('\n')) ?? '';
  translated.stack = `${translated.name}: ${translated.message}${frames}`;
  return translated;
}

/** Runs a synchronous native function, translating its errors. */
export function callSync<T>(start: () => T): T {
  try {
    return start();
  } catch (error) {
    throw translate(error, new Error());
  }
}

/**
 * Runs an asynchronous native function, translating its errors. With a signal, an abort cancels the job at its next
 * cancellation point and the promise rejects with `signal.reason`; what the job would have changed is then unchanged.
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
  const onAbort = () => native.cancel(token);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await start(token);
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_CANCELED') throw signal.reason;
    throw translate(error, callSite);
  } finally {
    signal.removeEventListener('abort', onAbort);
    token.dispose();
  }
}

/**
 * A JavaScript object that owns a native one.
 *
 * `dispose()` is idempotent and lets go at once; work that is already running or queued finishes with its own share.
 * Any later use throws DisposedError. An object that is dropped without it is released by the garbage collector, at a
 * time nobody knows.
 */
export abstract class NativeObject<Handle extends NativeHandle> implements Disposable, AsyncDisposable {
  readonly #handle: Handle;

  protected constructor(handle: Handle) {
    this.#handle = handle;
  }

  /** @internal The native handle; throws DisposedError after `dispose()`. */
  get handle(): Handle {
    if (this.#handle.disposed) throw new DisposedError(`This ${this.constructor.name} has been disposed`);
    return this.#handle;
  }

  /** @internal Whether `value` is an object of ours, and not just one with such a prototype. */
  static isNative(value: object): value is NativeObject<NativeHandle> {
    return #handle in value;
  }

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

/** The native handle of an argument. @throws InvalidArgumentError naming it where it is no `kind`. */
export function handleOf<Handle extends NativeHandle>(
  name: string,
  value: NativeObject<Handle>,
  // Not a constructor type: those of the networks are private.
  kind: { readonly name: string; readonly prototype: NativeObject<Handle> },
): Handle {
  if (!Object.prototype.isPrototypeOf.call(kind.prototype, Object(value)) || !NativeObject.isNative(value)) {
    throw invalidArgument(name, `an instance of ${kind.name}`, value);
  }
  return value.handle;
}
