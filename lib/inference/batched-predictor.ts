import type { ImageSize } from '../data/image-size.js';
import {
  checkOutputSizes,
  type PredictOptions,
  type Segmenter,
  type SegmenterPrediction,
} from '../models/segmenter.js';
import type { CompleteSegmenterOptions } from '../models/segmenter-options.js';
import type { MemoryReservation } from '../native/binding-types.js';
import { reserveMemory } from '../native/device.js';
import { onAbort } from '../support/abort.js';
import { DisposedError, QueueFullError } from '../support/errors.js';
import { checkInteger, checkNumber, checkObject, checkSignal, invalidArgument } from '../support/validate.js';
import { Call, Group } from './batch-queue.js';
import { type Histogram, HistogramCounter } from './histogram.js';

/** Options of {@link BatchedPredictor}. */
export interface BatchingOptions {
  /**
   * Largest number of images that go through the network together, 1–1024. Default 8. A CPU that computes two batches at
   * a time divides it between them, but a call with no more than `limit` images stays whole.
   */
  limit?: number;
  /**
   * Time in milliseconds that a call waits for others, 0–60,000. Default 0: it waits only for calls from the same turn
   * of the event loop. While a batch computes, calls always gather for the next one.
   */
  deadlineMs?: number;
  /**
   * Largest number of images that wait, ≥ 1. Images that are being computed do not count. A call beyond it fails with
   * {@link QueueFullError}. Default Infinity.
   */
  maxQueue?: number;
}

/** Options of {@link BatchedPredictor.warmUp}. */
export interface WarmUpOptions extends Omit<PredictOptions, 'count' | 'width' | 'height' | 'otherSizes'> {}

/** What a {@link BatchedPredictor} has done since it was created. Numbers only grow, except `pending` and `waiting`. */
export interface BatchingStats {
  /** Calls that were accepted. */
  requests: number;
  /** Images that went through the network. */
  images: number;
  /** Batches that went through the network. */
  batches: number;
  /** Mean number of images of a batch. 0 before the first. */
  meanBatch: number;
  /** Calls that failed with {@link QueueFullError}. */
  rejected: number;
  /** Calls whose signal aborted after they were accepted. */
  aborted: number;
  /** Accepted calls that failed otherwise. */
  failed: number;
  /** Calls that have no answer yet. */
  pending: number;
  /** Images that wait to be computed. */
  waiting: number;
  /** Time that calls waited before their first image was computed, in seconds. */
  queueSeconds: Histogram;
  /** Time that batches took to compute, in seconds. */
  computeSeconds: Histogram;
  /** Number of images of the batches. */
  batchImages: Histogram;
}

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25];
const IMAGES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/** Hint for clients before the speed is known. */
const UNKNOWN_RETRY_MS = 1000;
/** Batches that a CPU computes at a time, each with half of the threads (docs/design/boundary.md). */
const BATCHES_ON_CPU = 2;
/** Weight of the newest batch in the mean time of an image. */
const NEWEST = 0.2;

/**
 * Predicts for many concurrent callers, such as the requests of a server.
 *
 * Concurrent calls of predict() with images of one size and the same options go through the network together. Their label
 * maps may differ in size. A CPU computes two batches at a time. Each call gets the result it would get alone, except for
 * the last bits of probabilities. An abort or a bad argument affects only its own call. The call that has waited longest
 * comes first. One with more images than a batch is computed in parts, and each part goes to the end of the queue.
 * See docs/design/boundary.md#batching-happens-in-javascript.
 */
export class BatchedPredictor implements AsyncDisposable {
  readonly #segmenter: Pick<Segmenter, 'predict'> & Partial<Pick<Segmenter, 'options'>>;
  readonly #limit: number;
  readonly #deadlineMs: number;
  readonly #maxQueue: number;
  readonly #batchesAtATime: number;
  /** Waiting calls by the size and options that they share. */
  readonly #groups = new Map<string, Group>();
  readonly #queueSeconds = new HistogramCounter(SECONDS);
  readonly #computeSeconds = new HistogramCounter(SECONDS);
  readonly #batchImages = new HistogramCounter(IMAGES);
  readonly #counts = { requests: 0, images: 0, batches: 0, rejected: 0, aborted: 0, failed: 0 };
  #pending = 0;
  #msPerImage: number | undefined;
  #computing = 0;
  #turn: NodeJS.Immediate | undefined;
  #timer: NodeJS.Timeout | undefined;
  #drained: Promise<void> | undefined;
  #onEmpty = () => {};

  /** @param segmenter segmenter to use. The caller disposes it */
  constructor(
    segmenter: Pick<Segmenter, 'predict'> & Partial<Pick<Segmenter, 'options'>>,
    { limit = 8, deadlineMs = 0, maxQueue = Infinity }: BatchingOptions = {},
  ) {
    this.#segmenter = segmenter;
    this.#limit = checkInteger('limit', limit, 1, 1024);
    this.#deadlineMs = checkNumber('deadlineMs', deadlineMs, 0, 60_000);
    this.#batchesAtATime = segmenter.options?.device === 'cpu' ? BATCHES_ON_CPU : 1;
    this.#maxQueue = maxQueue === Infinity ? maxQueue : checkInteger('maxQueue', maxQueue, 1);
  }

  /** Options of the segmenter. */
  get options(): CompleteSegmenterOptions | undefined {
    return this.#segmenter.options;
  }

  /** Number of calls that have no answer yet. */
  get pending(): number {
    return this.#pending;
  }

  /**
   * Predicts like {@link Segmenter.predict}. Calls that average over views run alone. Calls with more than `limit` images
   * are computed in several batches.
   *
   * @throws QueueFullError when more than `maxQueue` images would wait
   * @throws OutOfMemoryError when the copy of the images would exceed the limit of {@link setMemoryLimit}
   * @throws DisposedError after drain()
   */
  async predict(images: Uint8Array, options: PredictOptions): Promise<SegmenterPrediction> {
    const { signal, count, flip, otherSizes, outputWidth, outputHeight, outputSizes, ...shared } =
      checkObject('options', options);
    checkInteger('count', count, 1);
    if (count > this.#maxQueue)
      throw invalidArgument('count', `at most maxQueue (${this.#maxQueue}) images`, count);
    checkImages('images', images, count, shared);
    if (otherSizes !== undefined && !Array.isArray(otherSizes)) {
      throw invalidArgument('otherSizes', 'an array of images and sizes', otherSizes);
    }
    for (const [i, other] of (otherSizes ?? []).entries()) {
      checkImages(`otherSizes[${i}].images`, checkObject(`otherSizes[${i}]`, other).images, count, other);
    }
    const outputs = outputsOf(options);
    checkSignal(signal)?.throwIfAborted();
    this.requireRoom(count);
    const isAlone = flip === true || (otherSizes ?? []).length > 0;
    const key = JSON.stringify([isAlone, Object.entries(shared).sort()]);
    const others = (otherSizes ?? []).reduce((sum, other) => sum + other.images.length, 0);
    const reservation = reserveMemory(images.length + others);

    // Copied now, because the caller may change or transfer the arrays. Buffer's `slice` would not copy.
    const views = {
      ...(flip !== undefined && { flip }),
      ...(otherSizes && {
        otherSizes: otherSizes.map((other) => ({ ...other, images: Uint8Array.from(other.images) })),
      }),
    };
    const group = this.#groups.get(key) ?? new Group(isAlone, shared);
    this.#groups.set(key, group);
    const call = new Call(Uint8Array.from(images), outputs, views);
    group.add(call);
    this.#counts.requests++;
    this.#pending++;
    const removeListener = onAbort(signal, () => {
      if (call.isAnswered) return;
      this.#counts.aborted++;
      group.remove(call);
      call.abort(signal!.reason);
    });
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      this.#look();
    });
    try {
      return await call.answer;
    } finally {
      removeListener();
      reservation.dispose();
      this.#pending--;
      this.#checkEmpty();
    }
  }

  /**
   * Throws what a call with `count` images would get now if it cannot be accepted. A server can ask before it reads and
   * decodes an image.
   *
   * @throws QueueFullError when more than `maxQueue` images would wait
   * @throws DisposedError after drain()
   */
  requireRoom(count = 1): void {
    checkInteger('count', count, 1);
    if (this.#drained) throw new DisposedError('This BatchedPredictor has been drained');
    const waiting = this.#waiting();
    if (waiting + count <= this.#maxQueue) return;
    this.#counts.rejected++;
    const retryAfterMs = Math.ceil(
      this.#msPerImage === undefined ? UNKNOWN_RETRY_MS : waiting * this.#msPerImage,
    );
    throw new QueueFullError(
      `${waiting} images wait already, expected at most ${this.#maxQueue}: try again in ${retryAfterMs} ms`,
      retryAfterMs,
    );
  }

  /** Counts what has been done so far. */
  stats(): BatchingStats {
    const { images, batches } = this.#counts;
    return {
      ...this.#counts,
      meanBatch: batches === 0 ? 0 : images / batches,
      pending: this.#pending,
      waiting: this.#waiting(),
      queueSeconds: this.#queueSeconds.read(),
      computeSeconds: this.#computeSeconds.read(),
      batchImages: this.#batchImages.read(),
    };
  }

  /**
   * Predicts black images of each size, one and `limit` at a time. Then the first real calls are not slower than later
   * ones. {@link stats} does not count it.
   *
   * @param sizes sizes of the network's input
   * @param options options that real calls will have
   */
  async warmUp(sizes: readonly ImageSize[], options: WarmUpOptions = {}): Promise<void> {
    if (!Array.isArray(sizes)) throw invalidArgument('sizes', 'an array of sizes', sizes);
    for (const [i, size] of (sizes as ImageSize[]).entries()) {
      const width = checkInteger(`sizes[${i}].width`, checkObject(`sizes[${i}]`, size).width, 1);
      const height = checkInteger(`sizes[${i}].height`, size.height, 1);
      for (const count of new Set([1, this.#limit])) {
        const images = new Uint8Array(3 * count * width * height);
        await this.#segmenter.predict(images, { ...options, count, width, height });
      }
    }
  }

  /**
   * Accepts no further calls, and resolves when all earlier ones have their answers. It does not wait for deadlines. The
   * segmenter may be disposed then.
   */
  drain(): Promise<void> {
    if (this.#drained) return this.#drained;
    this.#drained = new Promise((resolve) => {
      this.#onEmpty = resolve;
    });
    this.#look();
    this.#checkEmpty();
    return this.#drained;
  }

  /** Drains. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.drain();
  }

  #checkEmpty(): void {
    if (this.#pending === 0 && this.#computing === 0) this.#onEmpty();
  }

  #waiting(): number {
    return [...this.#groups.values()].reduce((sum, group) => sum + group.waiting, 0);
  }

  /** Computes for groups whose time has come. If there is none, looks again when the first deadline passes. */
  #look(): void {
    clearTimeout(this.#timer);
    while (this.#computing < this.#batchesAtATime) {
      const due = this.#firstDue();
      if (!due) return;
      void this.#compute(due);
    }
  }

  /** The group that is due and whose first call has waited longest. */
  #firstDue(): Group | undefined {
    let first: Group | undefined;
    let soonest = Infinity;
    for (const [key, group] of this.#groups) {
      if (group.calls.length === 0) {
        this.#groups.delete(key);
        continue;
      }
      const isDue = this.#drained || group.isAlone || group.waiting >= this.#limit;
      const wait = isDue ? 0 : group.calls[0]!.since + this.#deadlineMs - performance.now();
      if (wait > 0) soonest = Math.min(soonest, wait);
      else if (!first || group.calls[0]!.queuedAt < first.calls[0]!.queuedAt) first = group;
    }
    if (!first && soonest < Infinity) this.#timer = setTimeout(() => this.#look(), Math.ceil(soonest));
    return first;
  }

  /** Computes one batch of a group. It never rejects. */
  async #compute(group: Group): Promise<void> {
    // Images of one group are shared between the batches that can begin now.
    const share = Math.ceil(group.waiting / (this.#batchesAtATime - this.#computing));
    const most = Math.ceil(this.#limit / this.#batchesAtATime);
    const batch = group.take(this.#limit, Math.min(most, share));
    const sideBySide = this.#batchesAtATime > 1 && (this.#computing > 0 || this.#waiting() > 0);
    this.#computing++;
    const begin = performance.now();
    for (const { call, first } of batch.parts) {
      if (first === 0) this.#queueSeconds.add((begin - call.since) / 1000);
    }
    let joined: MemoryReservation | undefined;
    try {
      const { count, signal } = batch;
      if (batch.parts.length > 1) joined = reserveMemory(batch.bytes);
      const prediction = await this.#segmenter.predict(batch.images(), {
        ...group.shared,
        ...batch.parts[0]!.call.views,
        ...batch.outputOptions(),
        count,
        signal,
        ...(sideBySide && { sideBySide }),
      });
      this.#measured(count, performance.now() - begin);
      batch.answer(prediction);
    } catch (error) {
      for (const { call } of batch.parts) {
        if (call.isAnswered) continue;
        this.#counts.failed++;
        group.remove(call);
        call.fail(error);
      }
    } finally {
      joined?.dispose();
    }
    this.#computing--;
    this.#look();
    this.#checkEmpty();
  }

  #measured(count: number, ms: number): void {
    this.#counts.batches++;
    this.#counts.images += count;
    this.#computeSeconds.add(ms / 1000);
    this.#batchImages.add(count);
    const perImage = ms / count / this.#computing;
    this.#msPerImage =
      this.#msPerImage === undefined ? perImage : this.#msPerImage + NEWEST * (perImage - this.#msPerImage);
  }
}

/** Returns the size of the label map of each image. */
function outputsOf(options: PredictOptions): readonly ImageSize[] {
  const { count, outputWidth = options.width, outputHeight = options.height } = options;
  const sizes = checkOutputSizes(options, count);
  if (sizes.length > 0) return sizes;
  const output = {
    width: checkInteger('outputWidth', outputWidth, 1),
    height: checkInteger('outputHeight', outputHeight, 1),
  };
  return new Array<ImageSize>(count).fill(output);
}

function checkImages(name: string, images: Uint8Array, count: number, { width, height }: ImageSize): void {
  checkInteger('width', width, 1);
  checkInteger('height', height, 1);
  const length = count * width * height * 3;
  if (!(images instanceof Uint8Array) || images.length !== length) {
    throw invalidArgument(name, `a Uint8Array of ${length} elements`, images);
  }
}
