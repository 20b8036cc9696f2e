// Builds the npm packages of this checkout: bidiseg, the addon for a platform, and LibTorch's libraries for it.
//   npm run package -- --output DIR
//
// --gzip LEVEL    compression, 0 to 9 (default: 9); tests take 1
//
// DIR receives the tarballs and nothing else. The same checkout, LibTorch and compiler give the same bytes.
// See docs/releasing.md.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as tar from 'tar';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const BUILD = path.join(ROOT, 'build/cmake');
const PLATFORM = { os: ['linux'], cpu: ['x64'], libc: ['glibc'] };
const ADDON = '@bidiseg/linux-x64';
const LIBTORCH = '@bidiseg/libtorch-cpu-linux-x64';
/** The time that npm gives every packed file. */
const MTIME = new Date('1985-10-26T08:15:00.000Z');
/**
 * Libraries whose symbol tables are removed, a fifth of their size. libgomp's stays: it is small, and a tool has moved
 * its segments so that strip would write them anew.
 */
const STRIPPED = ['libtorch_cpu.so', 'libc10.so'];

class PackageError extends Error {}

function run(command, ...args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (status === 0) return stdout;
  const reason = error?.message ?? (stderr.trim() || stdout.trim());
  throw new PackageError(`\`${[command, ...args].slice(0, 3).join(' ')} …\` failed: ${reason}`);
}

const manifest = JSON.parse(fs.readFileSync(path.join(ROOT, 'package.json'), 'utf8'));

function options() {
  const { values } = parseArgs({ options: { output: { type: 'string' }, gzip: { type: 'string' } } });
  const level = Number(values.gzip ?? 9);
  if (!Number.isInteger(level) || level < 0 || level > 9) {
    throw new PackageError(`expected a level from 0 to 9 for --gzip but found ${values.gzip}`);
  }
  if (!values.output) throw new PackageError('expected --output DIR, a new or empty folder for the tarballs');
  const output = path.resolve(values.output);
  const found = fs.statSync(output, { throwIfNoEntry: false });
  if (found && !found.isDirectory()) throw new PackageError(`${output} is a file; expected a folder`);
  if (found && fs.readdirSync(output).length > 0) {
    throw new PackageError(`${output} is not empty; expected a new or empty folder`);
  }
  return { output, level };
}

// ---- what the packages hold ----

/** The LibTorch that the addon in build/cmake was compiled for. */
function libTorchOfBuild() {
  const cache = path.join(BUILD, 'CMakeCache.txt');
  const text = fs.existsSync(cache) ? fs.readFileSync(cache, 'utf8') : '';
  const folder = /^BIDISEG_LIBTORCH:INTERNAL=(.+)$/m.exec(text)?.[1];
  if (!folder) throw new PackageError('build/cmake is not configured; run `npm run setup` first');
  if (fs.existsSync(path.join(folder, 'lib/libtorch_cuda.so'))) {
    throw new PackageError(`${folder} is a CUDA build of LibTorch; expected the CPU build`);
  }
  const header = fs.readFileSync(path.join(folder, 'include/torch/headeronly/version.h'), 'utf8');
  const part = (name) => new RegExp(`#define TORCH_VERSION_${name} (\\d+)`).exec(header)[1];
  return { folder, version: ['MAJOR', 'MINOR', 'PATCH'].map(part).join('.') };
}

/** Lists the libraries in LibTorch's folder that a file needs, directly or through others. */
function neededLibraries(file, folder) {
  const needed = new Set();
  const add = (from) => {
    for (const [, name] of run('readelf', '-d', from).matchAll(/\(NEEDED\).*\[(.+)\]/g)) {
      const library = path.join(folder, 'lib', name);
      if (needed.has(name) || !fs.existsSync(library)) continue;
      needed.add(name);
      add(library);
    }
  };
  add(file);
  return [...needed].sort();
}

/** Removes the symbol table, and checks that all that is loaded into memory stays as it was. */
function strip(file) {
  const before = loadedBytes(file);
  run('strip', '--strip-unneeded', file);
  if (loadedBytes(file) !== before) throw new PackageError(`strip changed the code or data of ${file}`);
}

/** Hash of the segments that the dynamic linker maps, without the ELF header at their start. */
function loadedBytes(file) {
  const bytes = fs.readFileSync(file);
  const hash = createHash('sha256');
  const start = Number(bytes.readBigUInt64LE(32));
  const PT_LOAD = 1;
  for (let at = start; at < start + 56 * bytes.readUInt16LE(56); at += 56) {
    if (bytes.readUInt32LE(at) !== PT_LOAD) continue;
    const [offset, size] = [8, 32].map((field) => Number(bytes.readBigUInt64LE(at + field)));
    const header = offset === 0 ? start + 56 * bytes.readUInt16LE(56) : 0;
    hash.update(bytes.subarray(at, at + 48)).update(bytes.subarray(offset + header, offset + size));
  }
  return hash.digest('hex');
}

/** Newest versions of the system's libraries that files ask for. */
function requirements(files) {
  const symbols = files.map((file) => run('objdump', '-T', file)).join('');
  const newest = (name) =>
    [...symbols.matchAll(new RegExp(`\\(?${name}_([\\d.]+)\\)?`, 'g'))]
      .map(([, version]) => version)
      .sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))
      .at(-1);
  return { glibc: newest('GLIBC'), glibcxx: newest('GLIBCXX') };
}

// ---- staging: one folder a package ----

function write(folder, file, content) {
  fs.mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
  fs.writeFileSync(
    path.join(folder, file),
    typeof content === 'string' ? content : `${JSON.stringify(content, null, 2)}\n`,
  );
}

function copy(from, folder, file) {
  fs.mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
  fs.copyFileSync(from, path.join(folder, file));
}

/** The files that npm would pack, with a manifest for users. */
function stageMain(folder) {
  const [{ files }] = JSON.parse(run('npm', 'pack', '--dry-run', '--json', '--ignore-scripts'));
  for (const file of files) copy(path.join(ROOT, file.path), folder, file.path);
  for (const { path: file } of files) if (file.endsWith('.md')) dropLinksOutside(folder, file);
  // gypfile and binary are for node-gyp and cmake-js in a checkout. The rest is for maintainers.
  const { private: _, scripts, devDependencies, files: list, gypfile, binary, ...rest } = manifest;
  const { version } = manifest;
  write(folder, 'package.json', {
    ...rest,
    optionalDependencies: { [ADDON]: version, [LIBTORCH]: version },
  });
}

/** Turns links to files that only the repository has into their texts. */
function dropLinksOutside(folder, file) {
  const text = fs.readFileSync(path.join(folder, file), 'utf8');
  const packed = text.replaceAll(/(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)/g, (link, label, target) => {
    const isThere = /^[a-z]+:/.test(target) || fs.existsSync(path.join(folder, path.dirname(file), target));
    return isThere ? link : label;
  });
  fs.writeFileSync(path.join(folder, file), packed);
}

function platformManifest(name, description, license, fields) {
  const { version, author, engines } = manifest;
  return {
    ...{ name, version, description, license, author, engines },
    // There is no JavaScript in it. Without a type, Node looks into files to find out.
    type: 'commonjs',
    ...PLATFORM,
    ...fields,
  };
}

function stageAddon(folder, addon, libtorch, required) {
  copy(addon, folder, 'bidiseg.node');
  copy(path.join(ROOT, 'LICENSE'), folder, 'LICENSE');
  write(
    folder,
    'README.md',
    `# ${ADDON}\n\nThe native addon of bidiseg for Linux on x86-64, built for LibTorch ${libtorch.version}.\n` +
      `It needs glibc ${required.glibc} and libstdc++ with GLIBCXX_${required.glibcxx}, or newer.\n\n` +
      'npm installs this package with bidiseg. Nothing else uses it.\n',
  );
  write(
    folder,
    'package.json',
    platformManifest(ADDON, 'Native addon of bidiseg for Linux on x86-64', manifest.license, {
      exports: { '.': './bidiseg.node', './package.json': './package.json' },
      // pnpm puts packages side by side only if they depend on each other.
      optionalDependencies: { [LIBTORCH]: manifest.version },
      bidiseg: { libtorch: libtorch.version, cuda: false, ...required },
    }),
  );
}

function stageLibTorch(folder, libraries, libtorch) {
  for (const name of libraries) {
    const file = path.join(folder, 'lib', name);
    copy(path.join(libtorch.folder, 'lib', name), folder, `lib/${name}`);
    if (STRIPPED.includes(name)) strip(file);
  }
  copyLicenses(folder, libtorch);
  write(
    folder,
    'README.md',
    `# ${LIBTORCH}\n\nRun-time libraries of LibTorch ${libtorch.version}, CPU build, for bidiseg on Linux on x86-64.\n` +
      'They are those of the Python package torch. Symbol tables for debuggers are removed.\n\n' +
      '`licenses/` has the licenses of PyTorch and of what is compiled into it. It includes Intel oneMKL, under the\n' +
      "Intel Simplified Software License. `lib/libgomp.so.1` is GCC's OpenMP runtime, under the GPL 3 with the GCC\n" +
      'Runtime Library Exception.\n\nnpm installs this package with bidiseg. Nothing else uses it.\n',
  );
  write(
    folder,
    'package.json',
    platformManifest(
      LIBTORCH,
      'Run-time libraries of LibTorch for bidiseg, CPU build for Linux on x86-64',
      'SEE LICENSE IN README.md',
      {
        exports: { './package.json': './package.json' },
        bidiseg: { libtorch: libtorch.version, cuda: false },
      },
    ),
  );
}

/** Copies the license texts that pip installs beside torch. */
function copyLicenses(folder, libtorch) {
  const site = path.dirname(libtorch.folder);
  const info = fs
    .readdirSync(site)
    .find((name) => name.startsWith(`torch-${libtorch.version}`) && name.endsWith('.dist-info'));
  const licenses = info && path.join(site, info, 'licenses');
  if (!licenses || !fs.existsSync(licenses)) {
    throw new PackageError(`${site} has no license texts of torch ${libtorch.version}; use a torch from pip`);
  }
  fs.cpSync(licenses, path.join(folder, 'licenses'), { recursive: true });
}

// ---- tarballs ----

function pack(folder, file, level) {
  const entries = fs.readdirSync(folder, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .sort();
  const { bin = {} } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  for (const name of files) {
    fs.chmodSync(path.join(folder, name), Object.values(bin).includes(name) ? 0o755 : 0o644);
  }
  tar.create(
    { file, cwd: folder, prefix: 'package', portable: true, mtime: MTIME, gzip: { level }, sync: true },
    files,
  );
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function report(output, files) {
  for (const name of files) {
    const bytes = fs.readFileSync(path.join(output, name));
    const hash = createHash('sha256').update(bytes).digest('hex');
    console.log(`${megabytes(bytes.length).padStart(9)}  sha256 ${hash}  ${name}`);
  }
}

function main(work) {
  const { output, level } = options();
  const libtorch = libTorchOfBuild();
  // One build in this folder at a time. The tests build other targets there.
  run('flock', path.join(BUILD, 'lock'), 'cmake', '--build', BUILD, '--target', 'bidiseg_packaged');
  const addon = path.join(BUILD, 'packaged/bidiseg.node');
  const libraries = neededLibraries(addon, libtorch.folder);
  const required = requirements([addon, ...libraries.map((name) => path.join(libtorch.folder, 'lib', name))]);
  console.log(
    `package: LibTorch ${libtorch.version} (${libraries.join(', ')}); needs glibc ${required.glibc}, GLIBCXX_${required.glibcxx}`,
  );

  const staged = { bidiseg: '', [ADDON]: '', [LIBTORCH]: '' };
  for (const name of Object.keys(staged)) staged[name] = path.join(work, name);
  stageMain(staged.bidiseg);
  stageAddon(staged[ADDON], addon, libtorch, required);
  stageLibTorch(staged[LIBTORCH], libraries, libtorch);

  const tarballs = Object.entries(staged).map(([name, folder]) => {
    const file = `${name.replace('@', '').replace('/', '-')}-${manifest.version}.tgz`;
    pack(folder, path.join(work, file), level);
    return file;
  });
  fs.mkdirSync(output, { recursive: true });
  for (const file of tarballs) fs.copyFileSync(path.join(work, file), path.join(output, file));
  report(output, tarballs);
}

const work = fs.mkdtempSync(path.join(os.tmpdir(), 'bidiseg-package-'));
try {
  main(work);
} catch (error) {
  if (!(error instanceof PackageError)) throw error;
  console.error(`package: ${error.message}`);
  process.exitCode = 1;
} finally {
  fs.rmSync(work, { recursive: true, force: true });
}
