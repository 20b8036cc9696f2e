import type { ClassList } from '../data/label-maps.js';
import { BatchedPredictor, type BatchingOptions } from '../inference/batched-predictor.js';
import type { Segmenter } from '../models/segmenter.js';

/** Network that a service predicts with. A {@link Segmenter}, or anything that predicts like one. */
export interface Network extends Pick<Segmenter, 'predict'> {
  dispose(): void;
}

export interface LoadedNetwork {
  network: Network;
  classes: ClassList;
}

/** Network in use, with the predictor that makes batches for it. */
export interface Model extends LoadedNetwork {
  predictor: BatchedPredictor;
}

interface Entry extends Model {
  users: number;
  isRetired: boolean;
}

/**
 * Holds the network of a service and exchanges it while requests run. A request keeps the network that it began with. A
 * network is disposed after its last request.
 */
export class ServedModel {
  readonly #load: () => Promise<LoadedNetwork>;
  readonly #prepare: (model: Model) => Promise<void>;
  readonly #batching: BatchingOptions;
  #current: Entry;
  #reloading: Promise<void> | undefined;
  #isClosed = false;

  private constructor(options: ServedModelOptions, current: Entry) {
    this.#load = options.load;
    this.#prepare = options.prepare;
    this.#batching = options.batching;
    this.#current = current;
  }

  /** Loads the first network. @throws what `load` throws */
  static async open(options: ServedModelOptions): Promise<ServedModel> {
    return new ServedModel(options, await prepared(options));
  }

  /** Network in use now. */
  get current(): Model {
    return this.#current;
  }

  /** Runs `work` with the network in use now. It stays usable until `work` ends. */
  async use<T>(work: (model: Model) => Promise<T>): Promise<T> {
    const entry = this.#current;
    entry.users++;
    try {
      return await work(entry);
    } finally {
      entry.users--;
      disposeIfUnused(entry);
    }
  }

  /** Loads the network again and exchanges it. If that fails, the old one stays. One reload runs at a time. */
  async reload(): Promise<void> {
    while (this.#reloading) await this.#reloading.catch(() => {});
    this.#reloading = this.#exchange();
    try {
      await this.#reloading;
    } finally {
      this.#reloading = undefined;
    }
  }

  /** Disposes the network after its last request. */
  close(): void {
    this.#isClosed = true;
    retire(this.#current);
  }

  async #exchange(): Promise<void> {
    const options = { load: this.#load, prepare: this.#prepare, batching: this.#batching };
    const next = await prepared(options);
    if (this.#isClosed) return retire(next);
    const old = this.#current;
    this.#current = next;
    retire(old);
  }
}

export interface ServedModelOptions {
  load: () => Promise<LoadedNetwork>;
  /** Makes a network ready before its first request. */
  prepare: (model: Model) => Promise<void>;
  batching: BatchingOptions;
}

async function prepared({ load, prepare, batching }: ServedModelOptions): Promise<Entry> {
  const loaded = await load();
  const entry = {
    ...loaded,
    predictor: new BatchedPredictor(loaded.network, batching),
    users: 0,
    isRetired: false,
  };
  try {
    await prepare(entry);
    return entry;
  } catch (error) {
    loaded.network.dispose();
    throw error;
  }
}

function retire(entry: Entry): void {
  entry.isRetired = true;
  disposeIfUnused(entry);
}

function disposeIfUnused({ isRetired, users, network }: Entry): void {
  if (isRetired && users === 0) network.dispose();
}
