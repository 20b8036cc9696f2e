import { InvalidArgumentError } from '../support/errors.js';
import { decodingThreads } from '../support/threads.js';
import { checkInteger, checkString } from '../support/validate.js';
import {
  type Augmentation,
  coveredPart,
  jittered,
  jitters,
  NO_AUGMENTATION,
  padded,
  randomWindow,
  scaledSize,
} from './augmentation.js';
import { type CopyPaste, pasteObject } from './copy-paste.js';
import type { ImageDataset, Sample } from './dataset.js';
import type { ImageSize, RgbImage } from './image-size.js';
import { Random } from './random.js';

/** The images of one training step, all of one size. */
export interface Batch {
  /** Pixels [count, height, width, 3]: R, G, B in 0–255. */
  images: Uint8Array;
  /** Class indices [count, height, width]. Present if the data set has labels. */
  labels?: Uint8Array;
  /** Weight of each labeled pixel [count, height, width], 0–255 for 0 to 1. Present if labels have weights. */
  weights?: Uint8Array;
  /** The same images before colors and sharpness changed. Present if colors or sharpness change and the option `weak` asks for it. */
  weakImages?: Uint8Array;
  count: number;
  width: number;
  height: number;
  /** Name of each image in the data set. */
  names: string[];
  /** Step that this batch belongs to, counted from 0. */
  step: number;
}

/** Options of {@link BatchLoader}. */
export interface BatchLoaderOptions {
  /** Images in each step, ≥ 1. */
  batchSize: number;
  /** Places [first, end) of a step whose images a batch holds, as the share of one process. Default all, [0, batchSize). */
  places?: readonly [first: number, end: number];
  /** Size to resize images to (bicubic, labels nearest). */
  size: ImageSize;
  /**
   * Size of the random area that is then cut out. Default `size`, the whole image. It is at most `size`, unless images
   * are scaled at random. An image smaller than the area is placed in it at random, on the mean color and ignored
   * labels.
   */
  crop?: ImageSize | undefined;
  /** Mirrors half of the images left and right, at random. Default false. */
  flip?: boolean;
  /** Pastes objects of the data set's other images onto some images. Default none. */
  copyPaste?: CopyPaste | undefined;
  /** Further random changes. Default none. */
  augmentation?: Augmentation | undefined;
  /** Returns each image also as it was before colors and sharpness changed, if they change. Default false. */
  weak?: boolean;
  /** Chooses the image for a place in a batch, by a random stream of that place. Default: all images in turn. */
  choose?: ((random: Random) => number) | undefined;
  /**
   * Data set whose images take some of the places instead: each with the probability `share`, and any image equally likely.
   * Labels must be present if the first data set has labels. Nothing is pasted onto these images. Default none.
   */
  beside?: { dataset: ImageDataset; share: number } | undefined;
  /**
   * Other versions of the data set's images, in the same order and with the same labels. Each place holds the one of its image
   * instead with the probability `share`. Default none.
   */
  versions?: { dataset: ImageDataset; share: number } | undefined;
  /** Label around an image that is smaller than its area, 0–255. Default 255. */
  ignoreIndex?: number;
  /** Seed. Together with `stage` it decides order and augmentation. */
  seed: number;
  /** Name of the training stage. */
  stage: string;
  /** First step. Default 0. A resumed run passes the first step that it has not done. */
  firstStep?: number;
  /** Number of steps of the whole stage. The last batch is for step `steps` − 1, whatever `firstStep` is. */
  steps: number;
  /** Batches decoded ahead of the consumer, ≥ 1. Default 4. */
  prefetch?: number;
  /** Signal that stops the iteration, which then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Decodes the batches of a training stage in the background while the consumer computes.
 *
 * The images of a step and their random changes depend only on (seed, stage, step). A step holds images step ·
 * batchSize + place of an endless sequence of epochs, and a batch those of its places. Each epoch is its own permutation of the data set. So a loader
 * that starts at `firstStep` repeats the batches of an uninterrupted one.
 *
 * Iterations are independent of each other. When one ends, by completion, `break` or an error, no decoding is left
 * running. A file that cannot be read makes the iteration reject at the step that needs it.
 */
export class BatchLoader implements AsyncIterable<Batch> {
  readonly #dataset: ImageDataset;
  readonly #options: Required<
    Omit<
      BatchLoaderOptions,
      'places' | 'crop' | 'copyPaste' | 'augmentation' | 'weak' | 'choose' | 'beside' | 'versions' | 'signal'
    >
  >;
  readonly #places: readonly [first: number, end: number];
  readonly #crop: ImageSize | undefined;
  readonly #copyPaste: CopyPaste | undefined;
  readonly #augmentation: Augmentation;
  readonly #weak: boolean;
  readonly #choose: BatchLoaderOptions['choose'];
  readonly #beside: BatchLoaderOptions['beside'];
  readonly #versions: BatchLoaderOptions['versions'];
  readonly #signal: AbortSignal | undefined;
  readonly #epochs = new Map<number, Uint32Array>();
  #waitMs = 0;

  /** @throws {InvalidArgumentError} for an option out of range, a crop larger than `size` or an empty data set */
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
    const [first, end] = options.places ?? [0, options.batchSize];
    this.#places = [
      checkInteger('places[0]', first, 0, options.batchSize - 1),
      checkInteger('places[1]', end, first + 1, options.batchSize),
    ];
    this.#crop = crop && checkSize('crop', crop);
    this.#copyPaste = options.copyPaste;
    this.#augmentation = augmentation;
    this.#weak = options.weak === true && jitters(augmentation);
    this.#choose = options.choose;
    this.#beside = options.beside;
    this.#versions = options.versions;
    this.#signal = options.signal;
    if (crop && !augmentation.scale && (crop.width > size.width || crop.height > size.height)) {
      throw new InvalidArgumentError(
        `Expected a crop of at most ${size.width}×${size.height} (the size) but received ${crop.width}×${crop.height}`,
      );
    }
    const { beside, versions } = options;
    if (versions && versions.dataset.length !== dataset.length) {
      throw new InvalidArgumentError(
        `Expected versions of all ${dataset.length} images but received ${versions.dataset.length}`,
      );
    }
    if (beside && (beside.dataset.length === 0 || beside.dataset.hasLabels !== dataset.hasLabels)) {
      throw new InvalidArgumentError(
        `Expected images ${dataset.hasLabels ? 'with' : 'without'} labels beside the data set but there are none`,
      );
    }
    if (dataset.length === 0)
      throw new InvalidArgumentError('Expected a data set with images but it is empty');
  }

  /** Total time that consumers have waited for batches, in milliseconds. */
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
        // One more than `prefetch`, for the batch that is awaited now.
        while (queue.length <= prefetch && step + queue.length < steps) {
          const batch = this.#load(step + queue.length, signal);
          // A failure is reported when its step comes. Until then nobody awaits it.
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
    const { width, height } = this.#crop ?? this.#options.size;
    const [first, end] = this.#places;
    const count = end - first;
    const images = new Uint8Array(count * height * width * 3);
    const labels = this.#dataset.hasLabels ? new Uint8Array(count * height * width) : undefined;
    const weights = this.#dataset.hasWeights ? new Uint8Array(count * height * width) : undefined;
    const weakImages = this.#weak ? new Uint8Array(images.length) : undefined;
    const names = new Array<string>(count);
    const readSlot = async (slot: number): Promise<void> => {
      const { sample, weak } = await decoding.run(() => this.#read(step, first + slot), signal);
      weakImages?.set(weak.data, slot * height * width * 3);
      images.set(sample.image.data, slot * height * width * 3);
      if (sample.labels) labels?.set(sample.labels.data, slot * height * width);
      if (sample.weights) weights?.set(sample.weights.data, slot * height * width);
      names[slot] = sample.name;
    };
    // All slots settle before the first failure is reported, so that none outlives the batch.
    const slots = await Promise.allSettled(Array.from({ length: count }, (_, slot) => readSlot(slot)));
    const failure = slots.find((slot) => slot.status === 'rejected');
    if (failure) throw failure.reason;
    const marks = { ...(labels && { labels }), ...(weights && { weights }) };
    return { images, ...marks, ...(weakImages && { weakImages }), count, width, height, names, step };
  }

  async #read(step: number, place: number): Promise<{ sample: Sample; weak: RgbImage }> {
    const { batchSize, flip, seed, stage, ignoreIndex } = this.#options;
    const { scale } = this.#augmentation;
    const random = new Random(seed, stage, 'augment', step, place);
    const size = scale ? scaledSize(this.#options.size, random.range(...scale)) : this.#options.size;
    const area = this.#crop ?? this.#options.size;
    const window = this.#crop || scale ? randomWindow(size, area, random) : { x: 0, y: 0, ...area };
    const crop = coveredPart(size, window);
    const other = this.#drawBeside(step, place);
    const index = this.#choose
      ? this.#choose(new Random(seed, stage, 'choice', step, place))
      : this.#indexAt(step * batchSize + place);
    const own = this.#isVersion(step, place) ? this.#versions!.dataset : this.#dataset;
    const sample = await (other?.dataset ?? own).read(other?.index ?? index, {
      size,
      crop,
      flip: flip && random.next() < 0.5,
    });
    if (this.#copyPaste && !other) {
      const options = { ...this.#copyPaste, dataset: own, size: this.#options.size, flip };
      await pasteObject(sample, options, new Random(seed, stage, 'copy-paste', step, place));
    }
    const image = await jittered(sample.image, this.#augmentation, random);
    const corner = { x: crop.x - window.x, y: crop.y - window.y };
    const placed = padded({ ...sample, image }, corner, area, ignoreIndex);
    if (image === sample.image) return { sample: placed, weak: placed.image };
    const weak = { name: sample.name, image: sample.image };
    return { sample: placed, weak: padded(weak, corner, area, ignoreIndex).image };
  }

  /** Draws the image that takes a place instead. undefined: the place keeps its own. */
  #drawBeside(step: number, place: number): { dataset: ImageDataset; index: number } | undefined {
    if (!this.#beside) return undefined;
    const { dataset, share } = this.#beside;
    const random = new Random(this.#options.seed, this.#options.stage, 'beside', step, place);
    return random.next() < share ? { dataset, index: random.integer(dataset.length) } : undefined;
  }

  /** Draws whether a place holds the other version of its image. */
  #isVersion(step: number, place: number): boolean {
    if (!this.#versions) return false;
    const { seed, stage } = this.#options;
    return new Random(seed, stage, 'version', step, place).next() < this.#versions.share;
  }

  /** Returns the data set's index at a position of the endless sequence of epochs. */
  #indexAt(position: number): number {
    const epoch = Math.floor(position / this.#dataset.length);
    let order = this.#epochs.get(epoch);
    if (!order) {
      order = new Random(this.#options.seed, this.#options.stage, epoch).permutation(this.#dataset.length);
      this.#epochs.set(epoch, order);
      // Prefetched batches span neighboring epochs. Older epochs are not needed again.
      if (this.#epochs.size > 8) this.#epochs.delete(Math.min(...this.#epochs.keys()));
    }
    return order[position % this.#dataset.length]!;
  }
}

/** Runs a few tasks at a time. The others wait in order. */
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
