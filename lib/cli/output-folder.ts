import {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { readJson, toJson } from '../run/run-files.js';
import { DataError } from '../support/errors.js';
import { isTemporary, liesIn, realPath, requireEmptyFolder, writeFileAtomically } from '../support/files.js';
import { packageVersion } from '../support/package.js';
import { UsageError } from './exit.js';

/*
 * No command writes over what it did not make, and none deletes it. A folder that a command fills is new or empty, or it holds
 * the manifest of an earlier command: the list of its files. Only these are ever replaced, and only with --overwrite.
 */

/** Place that a command writes to. */
export interface Output {
  /** Removes what the command made for results that never came. */
  removeIfUnused(): void;
}

interface Outputs {
  readonly outputs: Output[];
}

const CHOOSE = 'choose another with --output';

/**
 * Makes a folder and its parents, and checks that files can be made in it, before any work is spent on them. A command that
 * fails before its first file leaves no empty folder, unless the folder was there before.
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

function refuseFile(folder: string): void {
  const found = statSync(folder, { throwIfNoEntry: false });
  if (!found || found.isDirectory()) return;
  throw new DataError(
    `Cannot write into the output folder ${folder}: a file of that name is in the way; ${CHOOSE}`,
  );
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
      return `a file of that name is in the way; ${CHOOSE}`;
    case 'ENOSPC':
      return 'no space is left on the disk';
    default:
      return code ?? 'unknown error';
  }
}

/** Removes a folder and its parents up to `first`, as long as they are empty. Without `first`: none. */
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
    // It holds something, or it is gone already.
    return false;
  }
}

/**
 * Checks a file that a command is to write, and makes its folder.
 *
 * @param options.inputs files and folders that the command reads: the file must not be or lie in one of them
 * @throws UsageError when it does, or when the file exists and is not to be overwritten
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
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
    throw new UsageError(`${file}: is a folder; name a file to write`);
  }
  if (isThere(file) && options.overwrite !== true) {
    throw new UsageError(`${file} exists already; choose another file, or replace it with --overwrite`);
  }
  prepareOutputFolder(path.dirname(file), context);
}

/** Also for a link that leads nowhere. */
function isThere(file: string): boolean {
  return lstatSync(file, { throwIfNoEntry: false }) !== undefined;
}

const MANIFEST = '.bidiseg.json';

/** What a command wrote into a folder, or was about to write when it was stopped. */
interface Manifest {
  /** Name of the command. */
  command: string;
  /** Version of bidiseg. */
  version: string;
  /** Paths relative to the folder. */
  files: string[];
}

/** Results that a command is to write into a folder. */
export interface Results {
  /** Name of the command. */
  command: string;
  /** All files that it may write, relative to the folder. */
  files: readonly string[];
}

/** Folder that a command fills with results. */
export class ResultFolder implements Output {
  readonly #folder: string;
  readonly #results: Results;
  /** The files of an earlier command, which are to be replaced. */
  readonly #replaced: readonly string[];

  private constructor(folder: string, results: Results, replaced: readonly string[]) {
    this.#folder = folder;
    this.#results = results;
    this.#replaced = replaced;
  }

  /**
   * Checks that results can be written without harm to any other file. Nothing is changed yet.
   *
   * @param options.inputs files that the command reads: none may lie in the folder
   * @param options.overwrite whether to replace the results of an earlier command
   * @throws DataError when a file would be harmed
   */
  static async plan(
    folder: string,
    options: Results & { inputs: readonly string[]; overwrite: boolean | undefined },
  ): Promise<ResultFolder> {
    const { inputs, overwrite, ...results } = options;
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
    return new ResultFolder(folder, results, replaced);
  }

  /** Makes the folder, removes the results of an earlier command, and writes the list of those to come. */
  async prepare(context: Outputs): Promise<void> {
    prepareOutputFolder(this.#folder, context);
    // The list comes before the results, so that it is true wherever the command is stopped.
    this.#remove(this.#replaced);
    await writeManifest(this.#folder, this.#results);
    // Before the folder itself, which must be empty to be removed.
    context.outputs.unshift(this);
  }

  /** Keeps in the list what was written in the end. */
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

  /** Removes files, what writers of such files left under temporary names, and then empty folders. */
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

/** The error for an input that is the output folder or lies in it. */
export function liesInOutput(input: string, folder: string): DataError {
  const what = realPath(input) === realPath(folder) ? 'is' : 'lies in';
  return new DataError(`${input}: ${what} the output folder ${folder}; ${CHOOSE}`);
}

/** Those of the files that lie in a folder, links followed. */
export function filesIn(folder: string, files: readonly string[]): string[] {
  const root = realPath(folder);
  return files.filter((file) => liesIn(realPath(file), root));
}

/**
 * For a command that continues in its folder: claims the files that it writes there again and again. The folder may hold other
 * files.
 *
 * @throws DataError when a file is there that the command did not write
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

function writeManifest(folder: string, { command, files }: Results): Promise<void> {
  const manifest: Manifest = { command, version: packageVersion(), files: [...files] };
  return writeFileAtomically(path.join(folder, MANIFEST), toJson(manifest));
}

/** @throws DataError when the manifest is not ours, or names a file outside of its folder */
async function readManifest(folder: string): Promise<Manifest | undefined> {
  const file = path.join(folder, MANIFEST);
  const manifest = await readJson<Manifest>(file);
  if (manifest === undefined) return undefined;
  const { command, files } = manifest ?? {};
  if (typeof command === 'string' && Array.isArray(files) && files.every(isInside)) return manifest;
  throw new DataError(`${file}: expected a list of files that bidiseg wrote; ${CHOOSE}`);
}

/** Whether a path from a manifest leads to a file in its folder. */
function isInside(file: unknown): boolean {
  return (
    typeof file === 'string' &&
    file !== '' &&
    file.split('/').every((part) => !['', '.', '..'].includes(part))
  );
}

/**
 * Refuses to write over a file that is not in the list of an earlier command, and to follow a link that stands where a folder
 * or file of ours was.
 */
function refuseStrangers(folder: string, files: readonly string[], own: readonly string[]): void {
  const places = [...foldersOf(files), ...foldersOf(own)].map((name) => path.join(folder, name));
  for (const place of places) {
    const found = lstatSync(place, { throwIfNoEntry: false });
    if (found && !found.isDirectory()) {
      throw new DataError(`${place}: was not made by bidiseg, expected a folder; move it away, or ${CHOOSE}`);
    }
  }
  const replaceable = new Set(own);
  for (const name of new Set([...files, ...own])) {
    const file = path.join(folder, name);
    const found = lstatSync(file, { throwIfNoEntry: false });
    if (found && !(replaceable.has(name) && found.isFile())) {
      throw new DataError(`${file}: exists and was not written by bidiseg; move it away, or ${CHOOSE}`);
    }
  }
}

/** The folders that relative paths lead through, the deepest first. */
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
