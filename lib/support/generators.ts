/** Runs a generator to its end and returns its result. `onEvent` receives each event. */
export async function drain<Event, Result>(
  events: AsyncGenerator<Event, Result>,
  onEvent?: (event: Event) => void,
): Promise<Result> {
  for (;;) {
    const next = await events.next();
    if (next.done) return next.value;
    onEvent?.(next.value);
  }
}

/** Yields the events of a generator, each changed by `change`, and returns its result unchanged. */
export async function* mapEvents<Event, Other, Result>(
  events: AsyncGenerator<Event, Result>,
  change: (event: Event) => Other | Promise<Other>,
): AsyncGenerator<Other, Result> {
  let finished = false;
  try {
    for (;;) {
      const next = await events.next();
      if (next.done) {
        finished = true;
        return next.value;
      }
      yield await change(next.value);
    }
  } finally {
    // Only a consumer that leaves early, or a failing `change`, leaves the source open.
    if (!finished) await events.return(undefined as never);
  }
}

/** Yields a generator's events, each followed by those that `more` gives for it. Returns its result. */
export async function* followEvents<Event, Other, Result>(
  events: AsyncGenerator<Event, Result>,
  more: (event: Event) => Iterable<Other> | Promise<Iterable<Other>>,
): AsyncGenerator<Event | Other, Result> {
  let finished = false;
  try {
    for (;;) {
      const next = await events.next();
      finished = next.done ?? false;
      if (next.done) return next.value;
      yield next.value;
      yield* await more(next.value);
    }
  } finally {
    // Only a consumer that leaves early, or a failing `more`, has to end the source.
    if (!finished) await events.return(undefined as never);
  }
}

/**
 * Makes a generator from work that reports through a callback. A consumer that leaves early aborts the work's signal.
 */
export async function* fromCallback<Event, Result>(
  work: (emit: (event: Event) => void, signal: AbortSignal) => Promise<Result>,
  signal?: AbortSignal,
): AsyncGenerator<Event, Result> {
  const left = new AbortController();
  const queue: Event[] = [];
  let working = true;
  let wake = () => {};
  const result = work(
    (event) => {
      queue.push(event);
      wake();
    },
    signal ? AbortSignal.any([signal, left.signal]) : left.signal,
  );
  const end = () => {
    working = false;
    wake();
  };
  result.then(end, end);
  try {
    while (working || queue.length > 0) {
      if (queue.length > 0) yield queue.shift()!;
      else
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
    }
    return await result;
  } finally {
    left.abort();
    await Promise.allSettled([result]);
  }
}

/**
 * Reads items 0 … count − 1 in order, up to `depth` of them ahead of the caller, so that decoding continues while the
 * caller computes. No read is left running when the iteration ends.
 */
export async function* readAhead<T>(
  count: number,
  read: (index: number) => Promise<T>,
  options: { depth?: number; signal?: AbortSignal | undefined } = {},
): AsyncGenerator<T, void> {
  const { depth = 2, signal } = options;
  const queue: Promise<T>[] = [];
  try {
    for (let index = 0; index < count; index++) {
      signal?.throwIfAborted();
      while (queue.length <= depth && index + queue.length < count) {
        const item = read(index + queue.length);
        // A failure is reported when its turn comes. Until then nobody awaits it.
        item.catch(() => {});
        queue.push(item);
      }
      yield await queue.shift()!;
    }
  } finally {
    await Promise.allSettled(queue);
  }
}
