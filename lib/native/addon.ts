/* Finds and loads the native addon (docs/design/packages.md#the-order-of-the-loader). */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import type bindings from 'bindings';
import { BindingError } from '../support/errors.js';
import { cacheFolder, isCheckout, packageRoot } from '../support/package.js';
import type { NativeBinding } from './binding-types.js';

const ADDON_PACKAGE = '@bidiseg/linux-x64';
const LIBTORCH_PACKAGE = '@bidiseg/libtorch-cpu-linux-x64';

/** Where the addon and its LibTorch come from. */
export interface AddonOrigin {
  /** Path of the addon. */
  file: string;
  /** How the addon was found. */
  origin: string;
  /** How its LibTorch was found. Undefined: the addon itself knows, because it was built for this one. */
  libtorchOrigin?: string;
}

interface Found extends AddonOrigin {
  /** Folder of a LibTorch to load before the addon, in place of the one that the addon's run path names. */
  libtorch?: string;
  /** What helps if this addon cannot be loaded. */
  remedy: string;
}

/** A place that has no addon, and why. */
type Miss = string;

/** Loads the addon from the first place that has one. An addon that is there but fails to load is an error. */
export function loadAddon(): { native: NativeBinding; addon: AddonOrigin } {
  const root = packageRoot();
  const misses: Miss[] = [];
  for (const find of [namedAddon, builtAddon, addonForLibTorchOfUser, addonOfPackages]) {
    const found = find(root);
    if (typeof found === 'string') misses.push(found);
    else if (found) return load(found);
  }
  throw failure(misses, remedyForNothing(root));
}

/** Another build of the addon, such as the one with sanitizers (scripts/check-addon-sanitized.sh). */
function namedAddon(): Found | undefined {
  const { BIDISEG_ADDON } = process.env;
  if (!BIDISEG_ADDON) return undefined;
  const remedy = 'correct or unset the variable BIDISEG_ADDON.';
  return { file: path.resolve(BIDISEG_ADDON), origin: 'BIDISEG_ADDON', remedy };
}

/** The addon that a checkout or `bidiseg setup` built. */
function builtAddon(root: string): Found | Miss {
  const remedy = isCheckout(root) ? `run \`npm run setup\` in ${root}.` : 'run `npx bidiseg setup` again.';
  const file = buildOf(root);
  if (file !== undefined) return { file, origin: 'built in this folder', remedy };
  const cache = cacheFolder();
  // The sources of a checkout may differ from those of the release with the same version.
  if (isCheckout(root) || cache === undefined) return `a build in ${path.join(root, 'build')}: not there`;
  const record = path.join(cache, 'build.json');
  if (!existsSync(record)) return `a build of \`bidiseg setup\` in ${cache}: not there`;
  const { addon, libtorch } = readRecord(record, remedy);
  return { file: path.join(cache, addon), origin: 'bidiseg setup', libtorchOrigin: libtorch, remedy };
}

/** Finds a build in the folder itself, wherever cmake-js and node-gyp put it. */
function buildOf(root: string): string | undefined {
  try {
    // Required here, because a bundle that swallows this module must come as far as the message about it.
    const find = createRequire(import.meta.url)('bindings') as typeof bindings;
    // With `path`, which the types lack, the file is found but not loaded.
    const options = { bindings: 'bidiseg', module_root: root, path: true };
    return find(options) as unknown as string;
  } catch {
    return undefined;
  }
}

function readRecord(file: string, remedy: string): { addon: string; libtorch: string } {
  try {
    const { addon, libtorch } = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    if (typeof addon === 'string' && typeof libtorch === 'string') return { addon, libtorch };
  } catch {}
  throw failure([`${file}: is not the record of a build`], remedy);
}

/** The packaged addon with a LibTorch that LIBTORCH or PYTHON names. */
function addonForLibTorchOfUser(root: string): Found | Miss | undefined {
  const libtorch = libTorchOfUser();
  if (!libtorch) return undefined;
  const { folder, variable } = libtorch;
  const remedy = `run \`npx bidiseg setup\`, which builds the addon for it, or unset ${variable}.`;
  const version = libTorchVersion(folder);
  if (version === undefined) {
    throw failure([`${variable}: ${folder} holds no LibTorch`], `correct or unset ${variable}.`);
  }
  const packaged = packageFolder(root, ADDON_PACKAGE);
  if (packaged === undefined) return `${variable}: ${ADDON_PACKAGE} is not installed`;
  const { bidiseg } = readManifest(packaged);
  // LibTorch's C++ interface changes between minor versions.
  if (minor(bidiseg.libtorch) !== minor(version)) {
    const built = `the addon of ${ADDON_PACKAGE} is for ${minor(bidiseg.libtorch)}`;
    throw failure([`${variable}: ${folder} is LibTorch ${version}, but ${built}`], remedy);
  }
  const origin = `the package ${ADDON_PACKAGE}`;
  const libtorchOrigin = `${variable} (${folder})`;
  return { file: path.join(packaged, 'bidiseg.node'), origin, libtorchOrigin, libtorch: folder, remedy };
}

function libTorchOfUser(): { folder: string; variable: string } | undefined {
  const { LIBTORCH, PYTHON } = process.env;
  if (LIBTORCH) return { folder: path.resolve(LIBTORCH), variable: 'LIBTORCH' };
  if (!PYTHON) return undefined;
  // Torch is not imported, which would take seconds. A Python without torch is passed over, because other tools set
  // PYTHON too, to any Python.
  const code =
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
  const { stdout, status } = spawnSync(PYTHON, ['-c', code], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const folder = status === 0 ? stdout.trim() : '';
  return folder ? { folder, variable: 'PYTHON' } : undefined;
}

function libTorchVersion(folder: string): string | undefined {
  const header = path.join(folder, 'include', 'torch', 'headeronly', 'version.h');
  if (!existsSync(header)) return undefined;
  const text = readFileSync(header, 'utf8');
  const parts = ['MAJOR', 'MINOR', 'PATCH'].map(
    (part) => new RegExp(`#define TORCH_VERSION_${part} (\\d+)`).exec(text)?.[1],
  );
  return parts.includes(undefined) ? undefined : parts.join('.');
}

const minor = (version: string) => version.split('.').slice(0, 2).join('.');

/** The packaged addon with the packaged LibTorch. Its run path finds it where the two packages lie side by side. */
function addonOfPackages(root: string): Found | Miss {
  const packaged = packageFolder(root, ADDON_PACKAGE);
  if (packaged === undefined) return `the package ${ADDON_PACKAGE}: not installed`;
  const libtorch = packageFolder(packaged, LIBTORCH_PACKAGE);
  if (libtorch === undefined) {
    return `the package ${LIBTORCH_PACKAGE}: not installed`;
  }
  return {
    file: path.join(packaged, 'bidiseg.node'),
    origin: `the package ${ADDON_PACKAGE}`,
    libtorchOrigin: `the package ${LIBTORCH_PACKAGE}`,
    // Yarn's Plug'n'Play keeps packages apart.
    ...(!existsSync(path.join(packaged, '..', path.basename(LIBTORCH_PACKAGE))) && { libtorch }),
    remedy: 'run `npx bidiseg setup`, which builds the addon for this system.',
  };
}

/** Finds an installed package as Node does from a folder. */
function packageFolder(from: string, name: string): string | undefined {
  try {
    return path.dirname(createRequire(path.join(from, 'package.json')).resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

function readManifest(folder: string): { bidiseg: { libtorch: string } } {
  return JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
}

function load({ libtorch, remedy, ...addon }: Found): { native: NativeBinding; addon: AddonOrigin } {
  try {
    if (libtorch !== undefined) preload(path.join(libtorch, 'lib', 'libtorch_cpu.so'));
    return { native: createRequire(import.meta.url)(addon.file) as NativeBinding, addon };
  } catch (cause) {
    const reason = (cause as Error).message.trim().split('\n', 1)[0]!;
    throw failure(
      [`${libtorch === undefined ? addon.origin : addon.libtorchOrigin}: ${reason}`],
      remedy,
      cause,
    );
  }
}

/**
 * Loads LibTorch before the addon. The dynamic linker then takes it for the addon too, because it knows libraries by
 * their names. Node has no call for libraries, only one for addons. It reports that this one is no addon, and the flag
 * NODELETE keeps the library.
 */
function preload(library: string): void {
  const RTLD_NODELETE = 0x1000;
  try {
    process.dlopen({ exports: {} }, library, os.constants.dlopen.RTLD_LAZY | RTLD_NODELETE);
  } catch (error) {
    if (!/did not self-register/.test((error as Error).message)) throw error;
  }
}

/** At most five lines: the machine, what was tried, one remedy. */
function failure(tried: readonly string[], remedy: string, cause?: unknown): BindingError {
  const lines = [
    `The native addon of bidiseg cannot be loaded (${describeMachine()}).`,
    ...tried.map((text) => `Tried ${text}.`),
    `Remedy: ${remedy}`,
  ];
  return new BindingError(lines.join('\n'), { cause });
}

function describeMachine(): string {
  const libc = glibcVersion();
  return `${process.platform} ${process.arch}, ${libc ? `glibc ${libc}, ` : ''}Node.js ${process.versions.node}`;
}

function glibcVersion(): string | undefined {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime;
}

function remedyForNothing(root: string): string {
  if (process.platform !== 'linux' || process.arch !== 'x64' || glibcVersion() === undefined) {
    return 'use Linux on x86-64 with glibc, such as Debian 12 or the image node:22-slim.';
  }
  if (isCheckout(root)) return `run \`npm run setup\` in ${root}.`;
  return 'run `npm install --include=optional bidiseg`, which installs these packages.';
}
