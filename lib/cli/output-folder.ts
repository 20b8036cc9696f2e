import { accessSync, constants, mkdirSync, rmdirSync, statSync } from 'node:fs';
import { DataError } from '../support/errors.js';
import { removeTemporaryFiles } from '../support/files.js';

/** Folder that a command writes into. */
export class OutputFolder {
  readonly #folder: string;
  readonly #isNew: boolean;

  constructor(folder: string, isNew: boolean) {
    this.#folder = folder;
    this.#isNew = isNew;
  }

  removeTemporaryFiles(): void {
    removeTemporaryFiles(this.#folder);
  }

  /** Removes the folder if the command created it and it is empty, so that a failed command leaves none. */
  removeIfUnused(): void {
    if (!this.#isNew) return;
    try {
      rmdirSync(this.#folder);
    } catch {
      // The folder is not empty, or does not exist any more.
    }
  }
}

/**
 * Creates `folder` and its parents. Checks that files can be created in it, before any work. Notes the folder in
 * `context.outputs`.
 */
export function prepareOutputFolder(folder: string, context: { readonly outputs: OutputFolder[] }): void {
  let isNew: boolean;
  try {
    isNew = mkdirSync(folder, { recursive: true }) !== undefined;
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new DataError(`Cannot write into the output folder ${folder}: ${reason(code)}`, { cause: error });
  }
  if (!statSync(folder).isDirectory()) {
    throw new DataError(`Cannot write into the output folder ${folder}: it is a file; name a folder`);
  }
  context.outputs.push(new OutputFolder(folder, isNew));
}

function reason(code: string | undefined): string {
  switch (code) {
    case 'EACCES':
    case 'EPERM':
      return 'permission denied; choose another with --output';
    case 'EROFS':
      return 'the file system is read-only; choose another with --output';
    case 'EEXIST':
    case 'ENOTDIR':
      return 'a file of that name exists; choose another with --output';
    case 'ENOSPC':
      return 'no space is left on the disk';
    default:
      return code ?? 'unknown error';
  }
}
