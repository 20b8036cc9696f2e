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
 * Name of a checkpoint in a stage's folder: `checkpoint-STEP-CHECKSUM.safetensors`. The checksum is the beginning of
 * the file's SHA-256 in hexadecimal, as in the names of PyTorch's weights files. The file's metadata hold everything
 * that is not a tensor.
 */
const NAME = /^checkpoint-(\d+)-([0-9a-f]{16})\.safetensors$/;

/** Version of the checkpoint format. A run cannot continue from a checkpoint of another version. */
const VERSION = 1;

interface Checkpoint {
  file: string;
  step: number;
  checksum: string;
}

/**
 * Saves a state, then removes all checkpoints except the newest `keep`.
 *
 * @throws DataError when the state cannot be written; earlier checkpoints then stay as they were
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
    // Checkpoints of this step or a later one belong to an attempt that turned out to be unreadable.
    const earlier = (await checkpointsIn(folder)).filter(({ step }) => step < state.step);
    await removeCheckpoints(folder, [file, ...earlier.slice(0, keep - 1).map((other) => other.file)]);
  } catch (cause) {
    throw new DataError(`The checkpoint was not saved: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Reads the newest state that is whole, and reports the problems of newer ones.
 *
 * @throws DataError when a bidiseg of another format version wrote the newest state that is whole
 */
export async function newestCheckpoint(folder: string): Promise<StageBeginning> {
  const warnings: string[] = [];
  for (const checkpoint of await checkpointsIn(folder)) {
    const damage = await damageOf(checkpoint);
    if (damage === undefined) return { state: await load(checkpoint.file), warnings };
    warnings.push(`${checkpoint.file} was skipped: ${damage}`);
  }
  if (warnings.length > 0)
    warnings.push('no readable checkpoint is left; the stage starts from its first step');
  return { state: null, warnings };
}

/** Removes a folder's checkpoints except the files in `except`. */
export async function removeCheckpoints(folder: string, except: readonly string[] = []): Promise<void> {
  for (const { file } of await checkpointsIn(folder)) {
    if (!except.includes(file)) await rm(file, { force: true });
  }
}

/** Lists a folder's checkpoints, newest first. */
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
    return found === checksum ? undefined : `expected checksum ${checksum} but found ${found}`;
  } catch (error) {
    return `it cannot be read: ${(error as Error).message}`;
  }
}

async function load(file: string): Promise<StageState> {
  const { tensors, metadata } = await loadTensors(file);
  try {
    const { version, ...values } = JSON.parse(metadata.checkpoint ?? '{}');
    if (version !== VERSION) {
      throw new DataError(
        `${file}: expected a checkpoint of version ${VERSION} but found version ${version}`,
      );
    }
    if (!(Number.isSafeInteger(values.step) && values.step >= 0)) {
      throw new DataError(`${file}: expected a checkpoint with a whole number as its step but found none`);
    }
    return { ...values, tensors };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    if (error instanceof DataError) throw error;
    throw new DataError(`${file}: expected a checkpoint with JSON metadata but found other text`, {
      cause: error,
    });
  }
}

async function checksumOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file, { highWaterMark: 2 ** 20 }), hash);
  return hash.digest('hex').slice(0, 16);
}
