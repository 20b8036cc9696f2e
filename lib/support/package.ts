import { existsSync, readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { BindingError } from './errors.js';

/**
 * Returns the folder that holds package.json. It is three folders above the compiled file.
 *
 * @throws BindingError if a bundler has moved this file
 */
export function packageRoot(): string {
  // A bundle in CommonJS has no import.meta.url.
  const { url } = import.meta as { url?: string };
  const root = url && path.join(path.dirname(fileURLToPath(url)), '..', '..', '..');
  if (root && nameOf(root) === 'bidiseg') return root;
  throw new BindingError(
    'bidiseg has been bundled, and so cannot find its native addon. Mark it as external: `--external:bidiseg` for ' +
      "esbuild, `serverExternalPackages: ['bidiseg']` for Next.js.",
  );
}

function nameOf(root: string): string | undefined {
  try {
    return readManifest(root).name;
  } catch {
    return undefined;
  }
}

function readManifest(root: string): { name: string; version: string } {
  return JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
}

/** Returns the version of bidiseg from package.json. */
export function packageVersion(): string {
  return readManifest(packageRoot()).version;
}

/** Tests whether a root is a checkout of the repository and not an installed package. */
export function isCheckout(root: string): boolean {
  return existsSync(path.join(root, 'tsconfig.json'));
}

/**
 * Returns the folder for what `bidiseg setup` builds for this version: bidiseg/VERSION in XDG_CACHE_HOME or in ~/.cache.
 * It is undefined if the user has no home folder.
 */
export function cacheFolder(): string | undefined {
  const base = cacheHome();
  return base && path.join(base, 'bidiseg', packageVersion());
}

function cacheHome(): string | undefined {
  const { XDG_CACHE_HOME } = process.env;
  // The XDG specification has relative paths ignored.
  if (XDG_CACHE_HOME && path.isAbsolute(XDG_CACHE_HOME)) return XDG_CACHE_HOME;
  try {
    return path.join(os.homedir(), '.cache');
  } catch {
    return undefined;
  }
}
