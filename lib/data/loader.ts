import { InvalidArgumentError } from '../support/errors.js';
import { decodingThreads } from '../support/threads.js';
import { checkInteger, checkString } from '../support/validate.js';
import {
  type Augmentation,
  coveredPart,
  jittered,
  NO_AUGMENTATION,
  padded,
  randomWindow,
  scaledSize,
} from './augmentation.js';
import { type CopyPaste, pasteObject } from './copy-paste.js';
import type { ImageDataset, Sample } from './dataset.js';
import type { ImageSize } from './image-size.js';
import { Random } from './random.js';

/** The images of one training step, all of one size. */
export interface Batch {
  /** [count, height, width, 3], R, G, B in 0–255. */
  images: Uint8Array;
  /** [count, height, width], class indices; present when the data set has labels. */
  labels?: Uint8Array;
  /** [count, height, width], how much each labeled pixel counts, 0–255 for 0 to 1; present when labels have weights. */
  weights?: Uint8Array;
  count: number;
  width: number;
  height: number;
  /** The data set's name for each image. */
  names: string[];
  /** The step this batch belongs to, counted from 0. */
  step: number;
}

/** Options of {@link BatchLoader}. */
export interface BatchLoaderOptions {
  /** Images in each batch, ≥ 1. */
  batchSize: number;
  /** Images are resized to this (bicubic; labels nearest). */
  size: ImageSize;
  /**
   * Then a random area of this size is cut out; default `size`, the whole image. At most `size`, but where images are scaled
   * at random: one that is smaller is placed at random within the area, on the mean color and labels to ignore.
   */
  crop?: ImageSize | undefined;
  /** Then every other image, by chance, is mirrored left and right; default false. */
  flip?: boolean;
  /** Objects of the data set's other images are pasted onto some. Default none. */
  copyPaste?: CopyPaste | undefined;
  /** Further random changes; default none. */
  augmentation?: Augmentation | undefined;
  /** Which image fills a place of a batch, by a stream of random numbers of that place; default: all in turn, see below. */
  choose?: ((random: Random) => number) | undefined;
  /** The label around an image that is smaller than its area, 0–255; default 255. */
  ignoreIndex?: number;
  /** With `stage` it decides order and augmentation. */
  seed: number;
  /** Name of the training stage. */
  stage: string;
  /** The step to begin with; default 0. A resumed run gives the first step that it has not done. */
  firstStep?: number;
  /** Number of steps of the whole stage: the last batch is for step `steps` − 1, whatever `firstStep` is. */
  steps: number;
  /** Batches decoded ahead of the consumer, ≥ 1; default 4. */
  prefetch?: number;
  /** Stops the iteration, which then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * The batches of a training stage, decoded in the background while the consumer computes.
 *
 * Which images a step gets, and how they are cut, follows from (seed, stage, step) alone: image number
 * step · batchSize + slot of an endless sequence of epochs, each its own permutation of the data set. So a loader
 * that begins at `firstStep` repeats what an uninterrupted one would have given.
 *
 * Each iteration is independent. When it ends, by completion, `break` or an error, no decoding is left behind. A
 * file that cannot be read rejects at the step that needs it.
 */
export class BatchLoader implements AsyncIterable<Batch> {
  readonly #dataset: ImageDataset;
  readonly #options: Required<
    Omit<BatchLoaderOptions, 'crop' | 'copyPaste' | 'augmentation' | 'choose' | 'signal'>
  >;
  readonly #crop: ImageSize | undefined;
  readonly #copyPaste: CopyPaste | undefined;
  readonly #augmentation: Augmentation;
  readonly #choose: BatchLoaderOptions['choose'];
  readonly #signal: AbortSignal | undefined;
  readonly #epochs = new Map<number, Uint32Array>();
  #waitMs = 0;

  /**
   * @throws {InvalidArgumentError} for an option out of range, a crop larger than `size` or an empty data set
   */
  constructor(dataset: ImageDataset, options: BatchLoaderOptions) {
    const { size, crop, augmentation = NO_AUGMENTATION } = options;
    this.#dataset = dataset;
    this.#options = {
      batchSize: checkInteger('batchSize', options.batchSize, 1),
      size: checkSize('size', size),
      ignoreIndex: checkInteger('ignoreIndex', options.ignoreIndex ?? 255, 0, 255),
      flip: options.flip ?? false,
      seed: checkInteger('seed', options.seed),
      stage: checkString('stage', options.stage),
      steps: checkInteger('steps', options.steps, 0),
      firstStep: checkInteger('firstStep', options.firstStep ?? 0, 0, options.steps),
      prefetch: checkInteger('prefetch', options.prefetch ?? 4, 1),
    };
    this.#crop = crop && checkSize('crop', crop);
    this.#copyPaste = options.copyPaste;
    this.#augmentation = augmentation;
    this.#choose = options.choose;
    this.#signal = options.signal;
    if (crop && !augmentation.scale && (crop.width > size.width || crop.height > size.height)) {
      throw new InvalidArgumentError(
        `Expected a crop of at most ${size.width}×${size.height} (the size) but received ${crop.width}×${crop.height}`,
      );
    }
    if (dataset.length === 0)
      throw new InvalidArgumentError('Expected a data set with images but it is empty');
  }

  /** Total time the consumer has waited for batches, in milliseconds. */
  get waitMs(): number {
    return this.#waitMs;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Batch, void, undefined> {
    const { firstStep, steps, prefetch } = this.#options;
    const ended = new AbortController();
    const signal = this.#signal ? AbortSignal.any([this.#signal, ended.signal]) : ended.signal;
    const queue: Promise<Batch>[] = [];
    try {
      for (let step = firstStep; step < steps; step++) {
        signal.throwIfAborted();
        // One more than `prefetch`: the batch that is awaited now.
        while (queue.length <= prefetch && step + queue.length < steps) {
          const batch = this.#load(step + queue.length, signal);
          // A failure is reported when its step comes; until then nobody awaits it.
          batch.catch(() => {});
          queue.push(batch);
        }
        const start = performance.now();
        const batch = await queue.shift()!;
        this.#waitMs += performance.now() - start;
        yield batch;
      }
    } finally {
      ended.abort();
      await Promise.allSettled(queue);
    }
  }

  async #load(step: number, signal: AbortSignal): Promise<Batch> {
    const { batchSize, size } = this.#options;
    const { width, height } = this.#crop ?? size;
    const images = new Uint8Array(batchSize * height * width * 3);
    const labels = this.#dataset.hasLabels ? new Uint8Array(batchSize * height * width) : undefined;
    const weights = this.#dataset.hasWeights ? new Uint8Array(batchSize * height * width) : undefined;
    const names = new Array<string>(batchSize);
    const readSlot = async (slot: number): Promise<void> => {
      const sample = await decoding.run(() => this.#read(step, slot), signal);
      images.set(sample.image.data, slot * height * width * 3);
      if (sample.labels) labels?.set(sample.labels.data, slot * height * width);
      if (sample.weights) weights?.set(sample.weights.data, slot * height * width);
      names[slot] = sample.name;
    };
    // All slots settle before the first failure is reported, so that none outlives the batch.
    const slots = await Promise.allSettled(Array.from({ length: batchSize }, (_, slot) => readSlot(slot)));
    const failure = slots.find((slot) => slot.status === 'rejected');
    if (failure) throw failure.reason;
    const content = { images, ...(labels && { labels }), ...(weights && { weights }) };
    return { ...content, count: batchSize, width, height, names, step };
  }

  async #read(step: number, slot: number): Promise<Sample> {
    const { batchSize, flip, seed, stage, ignoreIndex } = this.#options;
    const { scale } = this.#augmentation;
    const random = new Random(seed, stage, 'augment', step, slot);
    const size = scale ? scaledSize(this.#options.size, random.range(...scale)) : this.#options.size;
    const area = this.#crop ?? this.#options.size;
    const window = this.#crop || scale ? randomWindow(size, area, random) : { x: 0, y: 0, ...area };
    const crop = coveredPart(size, window);
    const index = this.#choose
      ? this.#choose(new Random(seed, stage, 'choice', step, slot))
      : this.#indexAt(step * batchSize + slot);
    const sample = await this.#dataset.read(index, {
      size,
      crop,
      flip: flip && random.next() < 0.5,
    });
    if (this.#copyPaste) {
      const options = { ...this.#copyPaste, dataset: this.#dataset, size: this.#options.size, flip };
      await pasteObject(sample, options, new Random(seed, stage, 'copy-paste', step, slot));
    }
    const image = await jittered(sample.image, this.#augmentation, random);
    const place = { x: crop.x - window.x, y: crop.y - window.y };
    return padded({ ...sample, image }, place, area, ignoreIndex);
  }

  /** The data set's index at a position of the endless sequence of epochs. */
  #indexAt(position: number): number {
    const epoch = Math.floor(position / this.#dataset.length);
    let order = this.#epochs.get(epoch);
    if (!order) {
      order = new Random(this.#options.seed, this.#options.stage, epoch).permutation(this.#dataset.length);
      this.#epochs.set(epoch, order);
      // What is decoded ahead spans neighboring epochs; older ones are not needed again.
      if (this.#epochs.size > 8) this.#epochs.delete(Math.min(...this.#epochs.keys()));
    }
    return order[position % this.#dataset.length]!;
  }
}

/** Lets a few tasks run at a time, the others wait in order. */
class Gate {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  async run<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((enter) => this.#waiting.push(enter));
    try {
      signal.throwIfAborted();
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}

const decoding = new Gate(decodingThreads);

function checkSize(name: string, size: ImageSize): ImageSize {
  return {
    width: checkInteger(`${name}.width`, size.width, 1),
    height: checkInteger(`${name}.height`, size.height, 1),
  };
}
