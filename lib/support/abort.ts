/** Functions to call when a signal aborts, and the one event listener that calls them. */
interface Waiting {
  calls: Set<() => void>;
  listener: () => void;
}

const waitingFor = new WeakMap<AbortSignal, Waiting>();

/**
 * Calls `call` once when `signal` aborts. A signal that has aborted before calls nothing.
 *
 * A signal gets one event listener from us, however many calls share it. Node warns of a leak beyond ten.
 *
 * @returns function that takes `call` back
 */
export function onAbort(signal: AbortSignal | undefined, call: () => void): () => void {
  if (!signal || signal.aborted) return () => {};
  const waiting = waitingFor.get(signal) ?? listenTo(signal);
  // A function of its own, because two callers may give the same one.
  const own = () => call();
  waiting.calls.add(own);
  return () => {
    waiting.calls.delete(own);
    if (waiting.calls.size === 0) stopListening(signal, waiting);
  };
}

function listenTo(signal: AbortSignal): Waiting {
  const calls = new Set<() => void>();
  const waiting = {
    calls,
    listener: () => {
      stopListening(signal, waiting);
      for (const call of calls) call();
    },
  };
  waitingFor.set(signal, waiting);
  signal.addEventListener('abort', waiting.listener, { once: true });
  return waiting;
}

function stopListening(signal: AbortSignal, waiting: Waiting): void {
  signal.removeEventListener('abort', waiting.listener);
  if (waitingFor.get(signal) === waiting) waitingFor.delete(signal);
}

/** Settles like `work`, or rejects with the signal's reason as soon as it aborts. `work` itself does not stop. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  let remove = () => {};
  const aborted = new Promise<never>((_, reject) => {
    if (signal?.aborted) reject(signal.reason);
    remove = onAbort(signal, () => reject(signal!.reason));
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    remove();
  }
}
