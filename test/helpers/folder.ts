import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';

/** Root of the package, from dist/test/helpers/. */
export const ROOT = resolve(import.meta.dirname, '../../..');

/** Creates an empty folder, and a function that removes it. */
export function temporaryFolder(): { path: (name: string) => string; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'bidiseg-test-'));
  return {
    path: (name) => join(folder, name),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Hash of every file in a folder and its subfolders by its path. Links count by where they lead. */
export function contentOf(folder: string): Record<string, string> {
  const content: Record<string, string> = {};
  // With `withFileTypes`, links to folders are not followed.
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    const name = relative(folder, file);
    if (entry.isSymbolicLink()) content[name] = `-> ${readlinkSync(file)}`;
    else if (entry.isFile()) content[name] = createHash('sha256').update(readFileSync(file)).digest('hex');
  }
  return content;
}
