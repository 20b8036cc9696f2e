import {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmdirSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { readJson, toJson } from '../run/run-files.js';
import { DataError } from '../support/errors.js';
import { isTemporary, liesIn, realPath, requireEmptyFolder, writeFileAtomically } from '../support/files.js';
import { packageVersion } from '../support/package.js';
import { UsageError } from './exit.js';

/*
 * No command writes over or deletes what it did not make. An output folder is new or empty, or holds the manifest of an
 * earlier command, which lists its files. Only these are replaced, and only with --overwrite.
 */

/** Place that a command writes to. */
export interface Output {
  /** Removes what the command made for results that were not written. */
  removeIfUnused(): void;
}

interface Outputs {
  readonly outputs: Output[];
}

const CHOOSE = 'choose another with --output';

/**
 * Creates `folder` and its parents. Checks that files can be created in it, before any work. A command that fails before
 * its first file removes the folder, if it created it.
 */
export function prepareOutputFolder(folder: string, context: Outputs): void {
  refuseFile(folder);
  let first: string | undefined;
  try {
    first = mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new DataError(`Cannot write into the output folder ${folder}: ${reason(code)}`, { cause: error });
  }
  context.outputs.push({ removeIfUnused: () => removeEmptyFolders(folder, first) });
}

/** Refuses a folder that is a file, or lies below one. */
function refuseFile(folder: string): void {
  let place = path.resolve(folder);
  let found = statOf(statSync, place);
  while (!found) {
    place = path.dirname(place);
    found = statOf(statSync, place);
  }
  if (found.isDirectory()) return;
  const what = place === path.resolve(folder) ? 'a file has that name' : `${place} is a file`;
  throw new DataError(`Cannot write into the output folder ${folder}: ${what}; ${CHOOSE}`);
}

function reason(code: string | undefined): string {
  switch (code) {
    case 'EACCES':
    case 'EPERM':
      return `permission denied; ${CHOOSE}`;
    case 'EROFS':
      return `the file system is read-only; ${CHOOSE}`;
    case 'EEXIST':
    case 'ENOTDIR':
      return `a file has that name; ${CHOOSE}`;
    case 'ENOSPC':
      return 'no space is left on the disk';
    default:
      return code ?? 'unknown error';
  }
}

/** Removes a folder and its parents up to `first`, as long as they are empty. Removes none without `first`. */
function removeEmptyFolders(folder: string, first: string | undefined): void {
  if (first === undefined) return;
  const end = path.dirname(path.resolve(first));
  for (let place = path.resolve(folder); place !== end; place = path.dirname(place)) {
    if (!removeEmpty(place)) return;
  }
}

function removeEmpty(folder: string): boolean {
  try {
    rmdirSync(folder);
    return true;
  } catch {
    // The folder is not empty, or does not exist any more.
    return false;
  }
}

/**
 * Checks a file that a command is about to write, and creates its folder.
 *
 * @param options.inputs files and folders that the command reads. The file must not be or lie in one of them
 * @throws UsageError when it does, or when the file exists and `overwrite` is not set
 */
export function prepareOutputFile(
  file: string,
  options: { inputs: readonly string[]; overwrite: boolean | undefined },
  context: Outputs,
): void {
  const place = realPath(file);
  const input = options.inputs.find((other) => liesIn(place, realPath(other)));
  if (input !== undefined) {
    const what = place === realPath(input) ? 'is the input' : `lies in ${input}, which is read`;
    throw new UsageError(`${file}: ${what}; choose another file to write`);
  }
  if (statOf(statSync, file)?.isDirectory()) {
    throw new UsageError(`${file}: is a folder; name a file to write`);
  }
  if (isThere(file) && options.overwrite !== true) {
    throw new UsageError(`${file} exists already; choose another file, or replace it with --overwrite`);
  }
  prepareOutputFolder(path.dirname(file), context);
}

/** Returns the status of a file. undefined: no such file, or a parent is not a folder. */
function statOf(stat: typeof statSync | typeof lstatSync, file: string): Stats | undefined {
  try {
    return stat(file, { throwIfNoEntry: false });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** Tells whether a file or link exists, even a link to a missing file. */
function isThere(file: string): boolean {
  return statOf(lstatSync, file) !== undefined;
}

const MANIFEST = '.bidiseg.json';

/** List of the files that a command wrote into a folder, or was about to write. */
interface Manifest {
  /** Name of the command. */
  command: string;
  /** Version of bidiseg. */
  version: string;
  /** Paths relative to the folder. */
  files: string[];
}

/** Results of a command in a folder. */
export interface Results {
  /** Name of the command. */
  command: string;
  /** All files that it may write, relative to the folder. */
  files: readonly string[];
}

/** Output folder that holds the results of one command, with a manifest of them. */
export class ResultFolder implements Output {
  readonly #folder: string;
  readonly #results: Results;
  /** Files of an earlier command, to be replaced. null: the folder has no manifest. */
  readonly #replaced: readonly string[] | null;

  private constructor(folder: string, results: Results, replaced: readonly string[] | null) {
    this.#folder = folder;
    this.#results = results;
    this.#replaced = replaced;
  }

  /**
   * Checks that the results would not replace other files. Changes nothing yet.
   *
   * @param options.inputs files that the command reads. None may lie in the folder
   * @param options.overwrite whether to replace the results of an earlier command
   * @param options.alone whether the folder may hold only the results. Default false
   * @throws DataError when a file would be lost
   */
  static async plan(
    folder: string,
    options: Results & { inputs: readonly string[]; overwrite: boolean | undefined; alone?: boolean },
  ): Promise<ResultFolder> {
    const { inputs, overwrite, alone = false, ...results } = options;
    refuseFile(folder);
    const input = filesIn(folder, inputs)[0];
    if (input !== undefined) throw liesInOutput(input, folder);
    const manifest = await readManifest(folder);
    if (!manifest) {
      await requireEmptyFolder(folder).catch((cause: Error) => {
        throw new DataError(`${cause.message}; ${CHOOSE}`, { cause });
      });
    } else if (overwrite !== true) {
      throw new DataError(
        `${folder}: holds the results of 'bidiseg ${manifest.command}'; ${CHOOSE}, or replace them with --overwrite`,
      );
    }
    const replaced = manifest?.files ?? [];
    refuseStrangers(folder, results.files, replaced);
    if (manifest && alone) {
      const own = new Set(replaced.map((file) => file.split('/')[0]!));
      const other = readdirSync(folder).find((name) => !name.startsWith('.') && !own.has(name));
      if (other !== undefined) throw notOurs(path.join(folder, other));
    }
    return new ResultFolder(folder, results, manifest ? replaced : null);
  }

  /** Creates the folder, removes the results of an earlier command, and writes the manifest. */
  async prepare(context: Outputs): Promise<void> {
    prepareOutputFolder(this.#folder, context);
    // The manifest comes before the results, so that it is true whenever the command is stopped.
    if (this.#replaced) this.#remove(this.#replaced);
    else claimNewFolder(this.#folder);
    await writeManifest(this.#folder, this.#results);
    // Comes before the folder itself, which must be empty to be removed.
    context.outputs.unshift(this);
  }

  /** Reduces the manifest to the files that were written. */
  async complete(): Promise<void> {
    const { command, files } = this.#results;
    const written = files.filter((file) => existsSync(path.join(this.#folder, file)));
    if (written.length < files.length) await writeManifest(this.#folder, { command, files: written });
  }

  removeIfUnused(): void {
    const { files } = this.#results;
    if (files.some((file) => existsSync(path.join(this.#folder, file)))) return;
    rmSync(path.join(this.#folder, MANIFEST), { force: true });
    this.#remove(files);
  }

  /** Removes files, temporary files beside them, and then empty folders. */
  #remove(files: readonly string[]): void {
    for (const file of files) rmSync(path.join(this.#folder, file), { force: true });
    if (files.length > 0) removeTemporaries(this.#folder);
    for (const folder of foldersOf(files)) {
      const place = path.join(this.#folder, folder);
      removeTemporaries(place);
      removeEmpty(place);
    }
  }
}

/** Makes the error for an input that is the output folder or lies in it. */
export function liesInOutput(input: string, folder: string): DataError {
  const what = realPath(input) === realPath(folder) ? 'is' : 'lies in';
  return new DataError(`${input}: ${what} the output folder ${folder}; ${CHOOSE}`);
}

/** Returns the files that lie in a folder. Follows links. */
export function filesIn(folder: string, files: readonly string[]): string[] {
  const root = realPath(folder);
  return files.filter((file) => liesIn(realPath(file), root));
}

/**
 * Claims the files that a command writes again each time it resumes. The folder may hold other files.
 *
 * @throws DataError when the command did not write one of these files
 */
export async function claimFiles(folder: string, results: Results, context: Outputs): Promise<void> {
  refuseFile(folder);
  const manifest = await readManifest(folder);
  if (manifest && manifest.command !== results.command) {
    throw new DataError(`${folder}: holds the results of 'bidiseg ${manifest.command}'; ${CHOOSE}`);
  }
  refuseStrangers(folder, results.files, manifest?.files ?? []);
  prepareOutputFolder(folder, context);
  await writeManifest(folder, results);
}

/** Creates an empty manifest, which only one of several commands can. @throws DataError in the others */
function claimNewFolder(folder: string): void {
  const file = path.join(folder, MANIFEST);
  try {
    writeFileSync(file, toJson({ command: '', version: packageVersion(), files: [] }), { flag: 'wx' });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
    throw new DataError(`${folder}: another command has begun to write there; ${CHOOSE}`, { cause });
  }
}

function writeManifest(folder: string, { command, files }: Results): Promise<void> {
  const manifest: Manifest = { command, version: packageVersion(), files: [...files] };
  return writeFileAtomically(path.join(folder, MANIFEST), toJson(manifest));
}

/** Reads a manifest. @throws DataError when it is malformed, or names a file outside of its folder */
async function readManifest(folder: string): Promise<Manifest | undefined> {
  const file = path.join(folder, MANIFEST);
  const manifest = await readJson<Manifest>(file);
  if (manifest === undefined) return undefined;
  const { command, files } = manifest ?? {};
  if (typeof command === 'string' && Array.isArray(files) && files.every(isInside)) return manifest;
  throw new DataError(`${file}: expected a list of files that bidiseg wrote; ${CHOOSE}`);
}

/** Tells whether a path from a manifest leads to a file in its folder. */
function isInside(file: unknown): boolean {
  return (
    typeof file === 'string' &&
    file !== '' &&
    file.split('/').every((part) => !['', '.', '..'].includes(part))
  );
}

/**
 * Refuses to replace a file that is not in the manifest, and to follow a link in place of a folder or file.
 */
function refuseStrangers(folder: string, files: readonly string[], own: readonly string[]): void {
  const places = [...foldersOf(files), ...foldersOf(own)].map((name) => path.join(folder, name));
  for (const place of places) {
    const found = statOf(lstatSync, place);
    if (found && !found.isDirectory()) {
      throw new DataError(`${place}: was not made by bidiseg, expected a folder; move it away, or ${CHOOSE}`);
    }
  }
  const replaceable = new Set(own);
  for (const name of new Set([...files, ...own])) {
    const file = path.join(folder, name);
    const found = statOf(lstatSync, file);
    if (found && !(replaceable.has(name) && found.isFile())) {
      throw notOurs(file);
    }
  }
}

function notOurs(file: string): DataError {
  return new DataError(`${file}: exists and was not written by bidiseg; move it away, or ${CHOOSE}`);
}

/** Returns the folders of relative paths, the deepest first. */
function foldersOf(files: readonly string[]): string[] {
  const folders = new Set<string>();
  for (const file of files) {
    for (let place = path.dirname(file); place !== '.'; place = path.dirname(place)) folders.add(place);
  }
  return [...folders].sort((one, other) => other.length - one.length);
}

function removeTemporaries(folder: string): void {
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) {
    if (isTemporary(name)) rmSync(path.join(folder, name), { force: true, recursive: true });
  }
}
