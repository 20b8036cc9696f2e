import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Datasets } from '../pipeline/datasets.js';
import { DataError } from '../support/errors.js';
import { writeFileAtomically } from '../support/files.js';
import { counted } from '../support/format.js';
import { readJson } from './run-files.js';

/** Record of a file: size in bytes, modification time in milliseconds, and a hash of its content. */
export type FileRecord = [bytes: number, modified: number, hash: string];

/** Record of a data set: its images in their order, and their label files. */
export interface SetRecord {
  names: string[];
  images: FileRecord[];
  /** null: the data set has no labels. */
  labels: FileRecord[] | null;
}

/** Content of `data.json`: the data of a run when it began. */
export interface DataRecord {
  version: 1;
  source: SetRecord;
  target: SetRecord;
  /** null: the run has no validation images. */
  validation: SetRecord | null;
  /** Labeled target images to train on. Absent: the run has none. */
  labeled?: SetRecord;
}

const SETS = ['source', 'target', 'validation', 'labeled'] as const;

/** Largest record, for about ten million files. */
const MAX_RECORD_BYTES = 2 ** 29;

/** Number of bytes at the beginning and at the end of a file that are hashed. Smaller files are hashed whole. */
const HASHED_BYTES = 2 ** 15;

/** Time after which other work gets a turn, in milliseconds. */
const SLICE_MS = 20;

export function dataRecordFile(folder: string): string {
  return path.join(folder, 'data.json');
}

/**
 * Reads the record of a run folder. undefined: there is none.
 *
 * @throws DataError when the record cannot be read
 */
export async function readDataRecord(folder: string): Promise<DataRecord | undefined> {
  const file = dataRecordFile(folder);
  const record = await readJson<DataRecord>(file, MAX_RECORD_BYTES);
  if (record === undefined || isRecord(record)) return record;
  throw new DataError(`${file}: found no record of data of version 1, expected one as a run writes it`);
}

/** Writes the record of a run folder. @throws DataError when it cannot be written */
export async function writeDataRecord(folder: string, record: DataRecord): Promise<void> {
  await writeFileAtomically(dataRecordFile(folder), `${JSON.stringify(record)}\n`);
}

/**
 * Records every file of a run's data. If size and time of a file are as in `known`, takes the hash from there and does not
 * open the file.
 *
 * @throws DataError when a file cannot be read
 */
export async function recordData(
  datasets: Datasets,
  { known, signal }: { known?: DataRecord | undefined; signal?: AbortSignal | undefined } = {},
): Promise<DataRecord> {
  const buffer = Buffer.alloc(2 * HASHED_BYTES);
  let sliceEnd = performance.now() + SLICE_MS;
  const recordSet = async (dataset: Datasets['source'], earlier: SetRecord | null | undefined) => {
    const names = Array.from({ length: dataset.length }, (_, index) => dataset.entry(index).name);
    const set: SetRecord = { names, images: [], labels: dataset.hasLabels ? [] : null };
    const places = new Map(earlier?.names.map((name, index) => [name, index]));
    for (const [index, name] of names.entries()) {
      const { image, label } = dataset.entry(index);
      const place = places.get(name);
      set.images.push(recordFile(image, place === undefined ? undefined : earlier?.images[place], buffer));
      if (label !== undefined && set.labels) {
        set.labels.push(
          recordFile(label, place === undefined ? undefined : earlier?.labels?.[place], buffer),
        );
      }
      if (performance.now() < sliceEnd) continue;
      await nextTurn();
      signal?.throwIfAborted();
      sliceEnd = performance.now() + SLICE_MS;
    }
    return set;
  };
  return {
    version: 1,
    source: await recordSet(datasets.source, known?.source),
    target: await recordSet(datasets.target, known?.target),
    validation: datasets.validation && (await recordSet(datasets.validation, known?.validation)),
    ...(datasets.labeled && { labeled: await recordSet(datasets.labeled, known?.labeled) }),
  };
}

/**
 * How data differ from those of a record, a line for each file. Files of equal content are the same, whatever their folder
 * and times, so data may be copied and moved.
 */
export function dataDifferences(known: DataRecord, found: DataRecord): string[] {
  return SETS.flatMap((name) => {
    const [was, is] = [known[name], found[name]];
    return was && is
      ? setDifferences(name, was, is)
      : was === is
        ? []
        : [`${name}: ${is ? 'added' : 'removed'}`];
  });
}

/** What a run says that does not continue with other data. */
export function changedData(folder: string, differences: readonly string[]): DataError {
  return new DataError(
    `${folder}: the run began with other data (${differencesText(differences)}); put them back, or continue with --accept-changed-data (in code: acceptChangedData)`,
  );
}

/** What a run says that does. */
export function changedDataWarning(differences: readonly string[]): string {
  return `the run continues with other data than it began with (${differencesText(differences)})`;
}

/** The first few of many differences, in one line. */
function differencesText(differences: readonly string[]): string {
  const shown = differences.slice(0, 3);
  const more = differences.length - shown.length;
  return [...shown, ...(more > 0 ? [counted(more, 'more difference')] : [])].join(', ');
}

function setDifferences(set: string, was: SetRecord, is: SetRecord): string[] {
  const before = new Map(was.names.map((name, index) => [name, index]));
  const after = new Set(is.names);
  const lines = was.names.filter((name) => !after.has(name)).map((name) => `${set}: image '${name}' removed`);
  for (const [index, name] of is.names.entries()) {
    const place = before.get(name);
    if (place === undefined) {
      lines.push(`${set}: image '${name}' added`);
      continue;
    }
    if (!isSameFile(was.images[place], is.images[index])) lines.push(`${set}: image '${name}' altered`);
    if (!isSameFile(was.labels?.[place], is.labels?.[index]))
      lines.push(`${set}: label of '${name}' altered`);
  }
  const isReordered = lines.length === 0 && !isDeepStrictEqual(was.names, is.names);
  return isReordered ? [`${set}: images in another order`] : lines;
}

function isSameFile(was: FileRecord | undefined, is: FileRecord | undefined): boolean {
  return was?.[0] === is?.[0] && was?.[2] === is?.[2];
}

function recordFile(file: string, known: FileRecord | undefined, buffer: Buffer): FileRecord {
  try {
    const { size, mtimeMs } = statSync(file);
    const isKnown = known?.[0] === size && known[1] === mtimeMs;
    return [size, mtimeMs, isKnown ? known[2] : hashOf(file, size, buffer)];
  } catch (cause) {
    throw new DataError(`${file}: cannot be read: ${(cause as Error).message}`, { cause });
  }
}

/**
 * The beginning of the SHA-256 of a small file, or of the first and last 32 KiB of a larger one. The end of a PNG holds
 * checksums of all its pixels.
 */
function hashOf(file: string, size: number, buffer: Buffer): string {
  const descriptor = openSync(file, 'r');
  try {
    let bytes = readSync(descriptor, buffer, 0, HASHED_BYTES, 0);
    if (size > HASHED_BYTES) {
      const rest = Math.min(size - HASHED_BYTES, HASHED_BYTES);
      bytes += readSync(descriptor, buffer, bytes, rest, size - rest);
    }
    return createHash('sha256').update(buffer.subarray(0, bytes)).digest('hex').slice(0, 16);
  } finally {
    closeSync(descriptor);
  }
}

/** A run folder may come from anywhere. */
function isRecord(value: DataRecord): boolean {
  const isSet = (set: SetRecord | null) =>
    set !== null &&
    typeof set === 'object' &&
    [set.names, set.images].every(Array.isArray) &&
    (set.labels === null || Array.isArray(set.labels));
  if (value === null || typeof value !== 'object' || value.version !== 1) return false;
  const { source, target, validation, labeled } = value;
  return (
    [source, target].every(isSet) &&
    (validation === null || isSet(validation)) &&
    (labeled === undefined || isSet(labeled))
  );
}
