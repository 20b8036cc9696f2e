import { setImmediate, setTimeout } from 'node:timers/promises';
import type { PredictOptions, Segmenter, SegmenterPrediction } from '../models/segmenter.js';
import { checkInteger, checkNumber, invalidArgument } from '../support/validate.js';

/** Options of {@link BatchedPredictor}. */
export interface BatchingOptions {
  /** Largest number of images that go through the network together, 1–1024. Default 8. */
  limit?: number;
  /**
   * Time in milliseconds that a call waits for others, 0–60,000. Default 0: it waits only for calls from the same turn
   * of the event loop. While a batch computes, calls always gather for the next one.
   */
  deadlineMs?: number;
}

/**
 * Predicts for many concurrent callers, such as the requests of a server.
 *
 * Concurrent calls of predict() with images of one size and the same options go through the network together. Each gets
 * the result it would get alone, except for the last bits of probabilities. An abort or a bad argument affects only its
 * own call. See docs/design/boundary.md#batching-happens-in-javascript.
 */
export class BatchedPredictor {
  readonly #segmenter: Pick<Segmenter, 'predict'>;
  readonly #limit: number;
  readonly #deadlineMs: number;
  /** Batches that still accept images, by the size and options that their calls share. */
  readonly #open = new Map<string, Batch>();
  /** Resolves when no batch is computing. Until then, the next batches gather. */
  #last: Promise<void> = Promise.resolve();

  /** @param segmenter segmenter to use. The caller disposes it */
  constructor(segmenter: Pick<Segmenter, 'predict'>, { limit = 8, deadlineMs = 0 }: BatchingOptions = {}) {
    this.#segmenter = segmenter;
    this.#limit = checkInteger('limit', limit, 1, 1024);
    this.#deadlineMs = checkNumber('deadlineMs', deadlineMs, 0, 60_000);
  }

  /**
   * Predicts like {@link Segmenter.predict}. Calls that average over views, or have more than `limit` images, run
   * alone.
   */
  async predict(images: Uint8Array, options: PredictOptions): Promise<SegmenterPrediction> {
    const { signal, count, flip, otherSizes = [], ...shared } = options;
    if (flip || otherSizes.length > 0 || count > this.#limit) return this.#segmenter.predict(images, options);
    checkInteger('count', count, 1);
    checkInteger('width', shared.width, 1);
    checkInteger('height', shared.height, 1);
    const length = count * shared.width * shared.height * 3;
    if (!(images instanceof Uint8Array) || images.length !== length) {
      throw invalidArgument('images', `a Uint8Array of ${length} elements`, images);
    }
    signal?.throwIfAborted();
    const key = JSON.stringify(Object.entries(shared).sort());
    let batch = this.#open.get(key);
    if (batch && batch.count + count > this.#limit) {
      batch.close();
      batch = undefined;
    }
    if (!batch) {
      const opened = new Batch(shared, () => {
        if (this.#open.get(key) === opened) this.#open.delete(key);
      });
      batch = opened;
      this.#open.set(key, batch);
      void this.#schedule(batch);
    }
    // Copied now, because the caller may change or transfer the array.
    const prediction = batch.add({ images: images.slice(), count }, signal);
    if (batch.count === this.#limit) batch.close();
    return prediction;
  }

  async #schedule(batch: Batch): Promise<void> {
    const deadline = new AbortController();
    const { signal } = deadline;
    const due =
      this.#deadlineMs > 0 ? setTimeout(this.#deadlineMs, null, { signal }) : setImmediate(null, { signal });
    await Promise.race([due, batch.closed]).catch(() => {});
    deadline.abort();
    this.#last = this.#last.then(() => batch.run(this.#segmenter));
  }
}

type SharedOptions = Omit<PredictOptions, 'count' | 'flip' | 'otherSizes' | 'signal'>;

interface Request {
  images: Uint8Array;
  count: number;
  resolve: (prediction: SegmenterPrediction) => void;
  reject: (reason: unknown) => void;
}

/** A group of calls that go through the network together. */
class Batch {
  /** Resolves when no further call is accepted. */
  readonly closed: Promise<void>;
  readonly close: () => void;
  readonly #shared: SharedOptions;
  readonly #requests = new Set<Request>();
  readonly #cancel = new AbortController();

  constructor(shared: SharedOptions, onClose: () => void) {
    this.#shared = shared;
    let resolve!: () => void;
    this.closed = new Promise((end) => {
      resolve = end;
    });
    this.close = () => {
      onClose();
      resolve();
    };
  }

  /** Number of images so far. */
  get count(): number {
    return [...this.#requests].reduce((sum, { count }) => sum + count, 0);
  }

  async add(call: Pick<Request, 'images' | 'count'>, signal?: AbortSignal): Promise<SegmenterPrediction> {
    let request!: Request;
    const result = new Promise<SegmenterPrediction>((resolve, reject) => {
      request = { ...call, resolve, reject };
    });
    const onAbort = () => {
      request.reject(signal!.reason);
      this.#requests.delete(request);
      if (this.#requests.size === 0) this.#cancel.abort();
    };
    this.#requests.add(request);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await result;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Settles every call. It never rejects. */
  async run(segmenter: Pick<Segmenter, 'predict'>): Promise<void> {
    this.close();
    const requests = [...this.#requests];
    if (requests.length === 0) return;
    const count = this.count;
    try {
      const images =
        requests.length === 1 ? requests[0]!.images : concatenated(requests.map((one) => one.images));
      const { signal } = this.#cancel;
      const { labels, confidence } = await segmenter.predict(images, { ...this.#shared, count, signal });
      const pixels = labels.length / count;
      let first = 0;
      for (const { count, resolve } of requests) {
        const range = [first * pixels, (first + count) * pixels] as const;
        // Copies, because a caller may transfer its own.
        resolve({
          labels: labels.slice(...range),
          ...(confidence && { confidence: confidence.slice(...range) }),
        });
        first += count;
      }
    } catch (error) {
      for (const { reject } of requests) reject(error);
    }
  }
}

function concatenated(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
