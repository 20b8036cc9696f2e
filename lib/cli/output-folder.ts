import { accessSync, constants, mkdirSync, statSync } from 'node:fs';
import { DataError } from '../errors.js';

/** Makes `folder` (and its parents) and checks that files can be made in it, before any work is spent on them. */
export function prepareOutputFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new DataError(`Cannot write into the output folder ${folder}: ${reason(code)}`, { cause: error });
  }
  if (!statSync(folder).isDirectory()) {
    throw new DataError(`Cannot write into the output folder ${folder}: it is a file; name a folder`);
  }
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
      return 'a file of that name is in the way; choose another with --output';
    case 'ENOSPC':
      return 'no space is left on the disk';
    default:
      return code ?? 'unknown error';
  }
}
