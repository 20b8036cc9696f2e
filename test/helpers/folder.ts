import { createHash } from 'node:crypto';
import { lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** The package's root, from dist/test/helpers/. */
export const ROOT = resolve(import.meta.dirname, '../../..');

/** A new empty folder and a function that removes it. */
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
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()) {
    const file = join(folder, name);
    const info = lstatSync(file);
    if (info.isSymbolicLink()) content[name] = `-> ${readlinkSync(file)}`;
    else if (info.isFile()) content[name] = createHash('sha256').update(readFileSync(file)).digest('hex');
  }
  return content;
}
