import type { ImageSize } from '../data/image-size.js';
import type { PredictOptions, SegmenterPrediction } from '../models/segmenter.js';

/* The queue of {@link BatchedPredictor}: calls in groups, and the batches that are taken from them. */

/** Options that calls of one batch have in common. */
type SharedOptions = Omit<PredictOptions, 'count' | 'flip' | 'otherSizes' | 'signal' | keyof OutputOptions>;
type Views = Pick<PredictOptions, 'flip' | 'otherSizes'>;
type OutputOptions = Pick<PredictOptions, 'outputWidth' | 'outputHeight' | 'outputSizes'>;

/** A call of predict() and what is known of its answer. */
export class Call {
  readonly images: Uint8Array;
  readonly count: number;
  readonly views: Views;
  /** Size of the label map of each image. */
  readonly outputs: readonly ImageSize[];
  readonly since = performance.now();
  /** When the images that still wait were put at the end of the queue. */
  queuedAt = this.since;
  readonly answer: Promise<SegmenterPrediction>;
  /** Number of images that batches have taken. */
  taken = 0;
  isAnswered = false;
  /** Batches with images of this call. */
  readonly batches: Batch[] = [];
  readonly #resolve: (prediction: SegmenterPrediction) => void;
  readonly #reject: (reason: unknown) => void;
  #done = 0;
  #whole: SegmenterPrediction | undefined;

  constructor(images: Uint8Array, outputs: readonly ImageSize[], views: Views) {
    this.images = images;
    this.count = outputs.length;
    this.outputs = outputs;
    this.views = views;
    let settle!: [(prediction: SegmenterPrediction) => void, (reason: unknown) => void];
    this.answer = new Promise((...functions) => {
      settle = functions;
    });
    [this.#resolve, this.#reject] = settle;
  }

  /** Adds the prediction of `count` images from `first` on. Answers when it is the last one. */
  add(part: SegmenterPrediction, first: number, count: number): void {
    if (count === this.count) this.#whole = part;
    else this.#copy(part, first);
    this.#done += count;
    if (this.#done < this.count || this.isAnswered) return;
    this.isAnswered = true;
    this.#resolve(this.#whole!);
  }

  #copy({ labels, confidence }: SegmenterPrediction, first: number): void {
    const pixels = pixelsOf(this.outputs);
    this.#whole ??= {
      labels: new Uint8Array(pixels),
      ...(confidence && { confidence: new Float32Array(pixels) }),
    };
    const before = pixelsOf(this.outputs.slice(0, first));
    this.#whole.labels.set(labels, before);
    if (confidence) this.#whole.confidence!.set(confidence, before);
  }

  fail(reason: unknown): void {
    this.isAnswered = true;
    this.#reject(reason);
  }

  /** Answers at once. The batch goes on for its other calls. */
  abort(reason: unknown): void {
    this.fail(reason);
    for (const batch of this.batches) batch.cancelIfAbandoned();
  }
}

/** Waiting calls that may go through the network together. */
export class Group {
  readonly isAlone: boolean;
  readonly shared: SharedOptions;
  readonly calls: Call[] = [];
  /** Number of images that wait. */
  waiting = 0;

  /** @param isAlone true if each call goes alone */
  constructor(isAlone: boolean, shared: SharedOptions) {
    this.isAlone = isAlone;
    this.shared = shared;
  }

  add(call: Call): void {
    this.calls.push(call);
    this.waiting += call.count;
  }

  remove(call: Call): void {
    const index = this.calls.indexOf(call);
    if (index < 0) return;
    this.calls.splice(index, 1);
    this.waiting -= call.count - call.taken;
  }

  /**
   * Takes the images of the next batch: those of one or more whole calls, `share` images if possible, or `limit` images of
   * a call that has more.
   */
  take(limit: number, share = limit): Batch {
    const head = this.calls.shift()!;
    const most = this.isAlone ? head.count : limit;
    const parts = [partOf(head, most)];
    // The other calls come before its next part.
    if (head.taken < head.count) {
      head.queuedAt = performance.now();
      this.calls.push(head);
    }
    let room = share - parts[0]!.count;
    while (!this.isAlone && head.count <= limit && this.calls.length > 0 && this.calls[0]!.count <= room) {
      const part = partOf(this.calls.shift()!, room);
      parts.push(part);
      room -= part.count;
    }
    const batch = new Batch(parts);
    this.waiting -= batch.count;
    return batch;
  }
}

/** Some consecutive images of a call. */
interface Part {
  call: Call;
  first: number;
  count: number;
}

function partOf(call: Call, most: number): Part {
  const first = call.taken;
  const count = Math.min(most, call.count - first);
  call.taken += count;
  return { call, first, count };
}

const outputsOf = ({ call, first, count }: Part) => call.outputs.slice(first, first + count);
const pixelsOf = (sizes: readonly ImageSize[]) =>
  sizes.reduce((sum, { width, height }) => sum + width * height, 0);

/** Images that go through the network together. */
class Batch {
  readonly parts: readonly Part[];
  readonly count: number;
  readonly #cancel = new AbortController();

  constructor(parts: readonly Part[]) {
    this.parts = parts;
    this.count = parts.reduce((sum, { count }) => sum + count, 0);
    for (const { call } of parts) call.batches.push(this);
  }

  /** Size of the images. */
  get bytes(): number {
    return this.parts.reduce((sum, { call, count }) => sum + (call.images.length / call.count) * count, 0);
  }

  get signal(): AbortSignal {
    return this.#cancel.signal;
  }

  /** Stops the work if nobody waits for it any more. */
  cancelIfAbandoned(): void {
    if (this.parts.every(({ call }) => call.isAnswered)) this.#cancel.abort();
  }

  /** Sizes of the label maps, for predict(): one for all images if they agree, as most do. */
  outputOptions(): OutputOptions {
    const sizes = this.parts.flatMap(outputsOf);
    const { width, height } = sizes[0]!;
    if (sizes.every((size) => size.width === width && size.height === height)) {
      return { outputWidth: width, outputHeight: height };
    }
    return { outputSizes: sizes };
  }

  images(): Uint8Array {
    const pieces = this.parts.map(({ call, first, count }) => {
      const perImage = call.images.length / call.count;
      return call.images.subarray(perImage * first, perImage * (first + count));
    });
    if (pieces.length === 1) return pieces[0]!;
    const whole = new Uint8Array(this.bytes);
    let offset = 0;
    for (const piece of pieces) {
      whole.set(piece, offset);
      offset += piece.length;
    }
    return whole;
  }

  /** Gives each call its share. They are copies, because a caller may transfer its own. */
  answer(prediction: SegmenterPrediction): void {
    if (this.parts.length === 1) {
      const { call, first } = this.parts[0]!;
      call.add(prediction, first, this.count);
      return;
    }
    const { labels, confidence } = prediction;
    let at = 0;
    for (const part of this.parts) {
      const range = [at, at + pixelsOf(outputsOf(part))] as const;
      at = range[1];
      part.call.add(
        { labels: labels.slice(...range), ...(confidence && { confidence: confidence.slice(...range) }) },
        part.first,
        part.count,
      );
    }
  }
}
