import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { StageBeginning, StageState } from '../pipeline/stage-store.js';
import { DataError } from '../support/errors.js';
import { syncFolder, writeAtomically } from '../support/files.js';
import { loadTensors, saveTensors } from '../weights/tensors.js';

/**
 * The checkpoints of a stage: files `checkpoint-STEP-CHECKSUM.safetensors` in its folder. The checksum is the beginning of
 * the file's SHA-256 in hexadecimal, as PyTorch has it in the names of its weights; what is no tensor is in the metadata.
 */
const NAME = /^checkpoint-(\d+)-([0-9a-f]{16})\.safetensors$/;

/** Version of what a checkpoint holds; another one cannot be gone on with. */
const VERSION = 1;

interface Checkpoint {
  file: string;
  step: number;
  checksum: string;
}

/**
 * Saves a state, then removes all checkpoints but the newest `keep`.
 *
 * @throws DataError when it cannot be written; the checkpoints before it are then as they were
 */
export async function saveCheckpoint(folder: string, state: StageState, keep: number): Promise<void> {
  const { tensors, ...values } = state;
  const place = path.join(folder, `checkpoint-${String(state.step).padStart(8, '0')}`);
  try {
    const file = await writeAtomically(place, async (temporary) => {
      await saveTensors(temporary, tensors, { checkpoint: JSON.stringify({ version: VERSION, ...values }) });
      return `${place}-${await checksumOf(temporary)}.safetensors`;
    });
    await syncFolder(folder);
    // Those of this step and of later ones belong to an attempt that turned out to be unreadable.
    const earlier = (await checkpointsIn(folder)).filter(({ step }) => step < state.step);
    await removeCheckpoints(folder, [file, ...earlier.slice(0, keep - 1).map((other) => other.file)]);
  } catch (cause) {
    throw new DataError(`No checkpoint: ${(cause as Error).message}`, { cause });
  }
}

/**
 * The newest state that is whole, and what is wrong with newer ones.
 *
 * @throws DataError when the newest that is whole was written by a bidiseg that this one does not understand
 */
export async function newestCheckpoint(folder: string): Promise<StageBeginning> {
  const warnings: string[] = [];
  for (const checkpoint of await checkpointsIn(folder)) {
    const damage = await damageOf(checkpoint);
    if (damage === undefined) return { state: await load(checkpoint.file), warnings };
    warnings.push(`${checkpoint.file} is passed over: ${damage}`);
  }
  if (warnings.length > 0) warnings.push('no checkpoint is left; the stage begins with its first step');
  return { state: null, warnings };
}

/** Removes a folder's checkpoints, but for the files in `except`. */
export async function removeCheckpoints(folder: string, except: readonly string[] = []): Promise<void> {
  for (const { file } of await checkpointsIn(folder)) {
    if (!except.includes(file)) await rm(file, { force: true });
  }
}

/** Newest first. */
async function checkpointsIn(folder: string): Promise<Checkpoint[]> {
  const checkpoints = (await readdir(folder)).flatMap((name): Checkpoint[] => {
    const [, step, checksum] = NAME.exec(name) ?? [];
    return checksum === undefined ? [] : [{ file: path.join(folder, name), step: Number(step), checksum }];
  });
  return checkpoints.sort((one, other) => other.step - one.step);
}

async function damageOf({ file, checksum }: Checkpoint): Promise<string | undefined> {
  try {
    const found = await checksumOf(file);
    return found === checksum ? undefined : `its checksum is ${found}, it was written with ${checksum}`;
  } catch (error) {
    return `it cannot be read: ${(error as Error).message}`;
  }
}

async function load(file: string): Promise<StageState> {
  const { tensors, metadata } = await loadTensors(file);
  try {
    const { version, ...values } = JSON.parse(metadata.checkpoint ?? '{}');
    if (version !== VERSION) {
      throw new DataError(`${file}: holds a checkpoint of version ${version}, expected version ${VERSION}`);
    }
    if (!(Number.isSafeInteger(values.step) && values.step >= 0)) {
      throw new DataError(`${file}: holds a checkpoint without a step, expected a whole number`);
    }
    return { ...values, tensors };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    if (error instanceof DataError) throw error;
    throw new DataError(`${file}: holds a checkpoint whose metadata are no JSON`, { cause: error });
  }
}

async function checksumOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file, { highWaterMark: 2 ** 20 }), hash);
  return hash.digest('hex').slice(0, 16);
}
