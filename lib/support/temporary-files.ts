import { type Dirent, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';

/** How temporary names end: with a UUID that nobody else uses. */
const ENDING = '\\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.tmp';

export function isTemporary(name: string): boolean {
  return new RegExp(`${ENDING}$`).test(name);
}

/**
 * Removes what writers had under a temporary name in `folder` when they were cut off. Whole files are never touched, and links
 * not followed.
 */
export function removeTemporaryFiles(folder: string): void {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  } catch {
    return;
  }
  for (const { parentPath, name } of entries) {
    if (isTemporary(name)) rmSync(path.join(parentPath, name), { force: true, recursive: true });
  }
}

/** An error's message with the names that files would have had in the end. */
export function withoutTemporaryNames(message: string): string {
  return message.replaceAll(new RegExp(ENDING, 'g'), '');
}
