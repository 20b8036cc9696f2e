import { shareJson } from '../native/group-values.js';
import type { ProcessGroup } from '../native/process-group.js';
import { Tensor, type TensorMap } from '../native/tensor.js';
import { dispose } from '../training/checkpoints.js';
import type { RunSummary, StageRecord } from './events.js';
import type { Stage } from './plan.js';
import type { StageBeginning, StageState, StageStore } from './stage-store.js';

/** Paths of a stage's files. */
type StagePaths = Pick<
  StageStore,
  | 'folder'
  | 'weightsFile'
  | 'bestWeightsFile'
  | 'teacherWeightsFile'
  | 'imagesFolder'
  | 'pictureFile'
  | 'classCountsFile'
>;

/**
 * Store that the processes of a group share. Rank 0 writes, and tells the others what it has read. Their calls wait for
 * each other, except `save`: a failing process can always save its state.
 */
export class SharedStore implements StageStore {
  readonly #group: ProcessGroup;
  readonly #paths: StagePaths;
  readonly #own: StageStore | null;

  /** @param own the store itself, in rank 0; null in the others */
  constructor(group: ProcessGroup, paths: StagePaths, own: StageStore | null) {
    this.#group = group;
    this.#paths = paths;
    this.#own = own;
  }

  get folder(): string {
    return this.#paths.folder;
  }

  weightsFile(stage: Stage): string {
    return this.#paths.weightsFile(stage);
  }

  bestWeightsFile(stage: Stage): string {
    return this.#paths.bestWeightsFile(stage);
  }

  teacherWeightsFile(stage: Stage): string {
    return this.#paths.teacherWeightsFile(stage);
  }

  imagesFolder(stage: Stage): string {
    return this.#paths.imagesFolder(stage);
  }

  pictureFile(stage: Stage, part?: string): string {
    return this.#paths.pictureFile(stage, part);
  }

  get classCountsFile(): string {
    return this.#paths.classCountsFile;
  }

  async record(stage: Stage): Promise<StageRecord | undefined> {
    return (await shareJson(this.#group, async () => (await this.#own!.record(stage)) ?? null)) ?? undefined;
  }

  async begin(stage: Stage, options: { resume: boolean }): Promise<StageBeginning> {
    let own: StageBeginning | undefined;
    const told = await shareJson(this.#group, async () => {
      own = await this.#own!.begin(stage, options);
      const { state, warnings } = own;
      if (!state) return { warnings, state: null };
      const { tensors, ...values } = state;
      const shapes = [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
      return { warnings, state: { values, shapes } };
    });
    if (!told.state) return own ?? { state: null, warnings: told.warnings };
    const { values, shapes } = told.state;
    const tensors: TensorMap =
      own?.state?.tensors ??
      new Map(shapes.map(({ name, dtype, shape }) => [name, Tensor.from(arrayOf(dtype, shape), shape)]));
    try {
      await this.#group.broadcast([...tensors.values()]);
    } catch (error) {
      dispose(tensors);
      throw error;
    }
    return own ?? { state: { ...values, tensors }, warnings: told.warnings };
  }

  async save(stage: Stage, state: StageState): Promise<void> {
    await this.#own?.save(stage, state);
  }

  async complete(stage: Stage, record: StageRecord): Promise<void> {
    await this.#group.barrier(); // until all have written their images
    await shareJson(this.#group, async () => {
      await this.#own!.complete(stage, record);
      return null;
    });
  }

  summary(): Promise<RunSummary> {
    return shareJson(this.#group, () => this.#own!.summary());
  }
}

const ARRAYS = {
  float64: Float64Array,
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
} as const;

function arrayOf(dtype: string, shape: readonly number[]) {
  const Kind = ARRAYS[dtype as keyof typeof ARRAYS];
  if (!Kind) throw new TypeError(`Expected a dtype of checkpoints but found ${dtype}`);
  return new Kind(shape.reduce((product, extent) => product * extent, 1));
}
