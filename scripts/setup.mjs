// Prepares a fresh checkout: npm packages, LibTorch, the native addon, TypeScript. It skips everything that is in
// place, so running it again takes about a second.
//
//   node scripts/setup.mjs            do it
//   --check                           only report what is missing; changes nothing
//   --cuda                            with a CUDA build of LibTorch
//   --into DIR                        only the addon, into a folder outside the package
//
// `bidiseg setup` of an installed package calls it with --into. DIR then receives build.json, which names the addon and
// its LibTorch, the addon, and a LibTorch if none was found. build.json appears last, so an interrupted setup counts for
// nothing. Two at once work in folders of their own.
//
// It is plain Node without packages, because it runs before any are installed. Every foreseen problem ends in one
// message with its remedy and exit code 1. See docs/design/build-and-libtorch.md.
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const BUILD = 'build/cmake';
const TORCH = '2.13.0';
// Packages for the tests that compare with PyTorch and its file formats, about 85 MB besides torch. They go only into
// .libtorch/. Another Python is not changed, and tests that lack a package there are skipped with a message.
const TEST_PACKAGES = ['numpy', 'pillow', 'safetensors', 'onnx', 'onnxruntime', 'tensorboard'];
const PYTORCH_CPU_INDEX = 'https://download.pytorch.org/whl/cpu';

const OPTIONS = parseArgs({
  options: { check: { type: 'boolean' }, cuda: { type: 'boolean' }, into: { type: 'string' } },
}).values;
const INTO = OPTIONS.into && path.resolve(OPTIONS.into);
const WANTS_CUDA = OPTIONS.cuda === true;
/** Folder of the LibTorch that setup fetches, and the same before it is complete. */
const PRIVATE = INTO
  ? path.join(INTO, WANTS_CUDA ? 'libtorch-cuda' : 'libtorch')
  : path.join(ROOT, '.libtorch');
const WORK = INTO && path.join(INTO, `partial.${os.hostname()}.${process.pid}`);
const PARTIAL = WORK ? path.join(WORK, 'libtorch') : path.join(ROOT, 'build/libtorch.partial');

class SetupError extends Error {}

const at = (...parts) => path.join(ROOT, ...parts);
const say = (text) => console.log(`setup: ${text}`);

/** Runs a command to its end and returns { ok, out, err }. With `show`, its output is shown instead. */
function run(command, args, { show = false, showOut = show, env = {}, input = '' } = {}) {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    input,
    stdio: [show ? 'inherit' : 'pipe', showOut ? 'inherit' : 'pipe', show ? 'inherit' : 'pipe'],
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  return { ok: result.status === 0, out: result.stdout ?? '', err: result.stderr ?? '' };
}

function onPath(name) {
  if (name.includes('/')) return existsSync(name);
  return (process.env.PATH ?? '').split(path.delimiter).some((folder) => {
    try {
      accessSync(path.join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Compares dotted version a with b, as far as b goes. Returns -1, 0 or 1. */
function compareVersions(a, b) {
  const left = a.split('.').map(Number);
  for (const [i, right] of b.split('.').map(Number).entries()) {
    if ((left[i] ?? 0) !== right) return Math.sign((left[i] ?? 0) - right);
  }
  return 0;
}

// ---- checks: they change nothing ----

function checkNode() {
  const wanted = JSON.parse(readFileSync(at('package.json'), 'utf8')).engines.node.replace('>=', '');
  if (compareVersions(process.versions.node, wanted) < 0) {
    throw new SetupError(`Node.js ${wanted} or newer is needed; this is ${process.versions.node}.`);
  }
}

function checkBuildTools() {
  const version = /cmake version (\d+\.\d+)/.exec(run('cmake', ['--version']).out)?.[1];
  if (!version || compareVersions(version, '3.20') < 0) {
    const found = version ? `this one is ${version}` : 'none was found on the PATH';
    throw new SetupError(
      `CMake 3.20 or newer is needed; ${found}. Install it, for example: apt install cmake`,
    );
  }
  if (!onPath('ninja') && !onPath('make')) {
    throw new SetupError(
      'neither ninja nor make was found on the PATH. Install one, for example: apt install make',
    );
  }
}

function compiler() {
  return process.env.CXX?.split(' ')[0] || ['c++', 'g++', 'clang++'].find(onPath);
}

function checkCompiler() {
  const cxx = compiler();
  if (!cxx || !onPath(cxx)) {
    const looked = cxx
      ? `CXX is ${cxx}, which is not there`
      : 'no c++, g++ or clang++ on the PATH, and CXX is not set';
    throw new SetupError(`a C++ compiler is needed: ${looked}. Install one, for example: apt install g++`);
  }
  const trial = '#include <concepts>\n#include <span>\nstatic_assert(std::integral<int>);\n';
  if (!run(cxx, ['-std=c++20', '-fsyntax-only', '-x', 'c++', '-'], { input: trial }).ok) {
    throw new SetupError(
      `the C++ compiler ${cxx} cannot compile a small C++20 program. Install a newer one (GCC 11, Clang 14 or later), ` +
        'or name another with the variable CXX.',
    );
  }
}

/** Asks native/cmake/LibTorch.cmake, which knows where LibTorch may be and which versions are supported. */
function findLibTorch() {
  const script = [
    `-DBIDISEG_PRIVATE_LIBTORCH=${PRIVATE}`,
    `-DBIDISEG_NEEDS_CUDA=${WANTS_CUDA ? 'ON' : 'OFF'}`,
  ];
  const { out, err, ok } = run('cmake', [...script, '-P', 'native/cmake/LibTorch.cmake']);
  if (!ok) throw new SetupError(`the search for LibTorch failed: ${err.trim().replace(/\s+/g, ' ')}`);
  const get = (name) => new RegExp(`^-- LIBTORCH_${name}=(.*)$`, 'm').exec(out)?.[1]?.trim() ?? '';
  const found = {
    folder: get('FOLDER'),
    version: get('VERSION'),
    origin: get('ORIGIN'),
    rejected: get('REJECTED'),
  };
  if (!found.folder && get('EXPLICIT') === 'TRUE') {
    throw new SetupError(
      `${found.rejected} Correct the variable, or unset it: then torch ${TORCH} is looked for elsewhere, or installed in ${nameOf(PRIVATE)}.`,
    );
  }
  return found;
}

const nameOf = (folder) => (folder.startsWith(`${ROOT}/`) ? `${path.relative(ROOT, folder)}/` : `${folder}/`);

function checkCuda() {
  if (WANTS_CUDA && !onPath(process.env.CUDACXX ?? 'nvcc')) {
    throw new SetupError(
      "--cuda needs NVIDIA's compiler, and no nvcc was found on the PATH. Install the CUDA toolkit, or name its nvcc " +
        'with the variable CUDACXX.',
    );
  }
}

/** Finds the Python that can fetch LibTorch. */
function findPython() {
  const remedy = `Install it (for example: apt install python3 python3-venv), or set LIBTORCH to a LibTorch ${TORCH} folder.`;
  const python = [process.env.PYTHON, 'python3', 'python'].find(
    (name) => name && run(name, ['-c', 'import sys; sys.exit(sys.version_info < (3, 10))']).ok,
  );
  if (!python)
    throw new SetupError(`no LibTorch is here, and no Python 3.10 or newer to fetch it with. ${remedy}`);
  if (!run(python, ['-c', 'import venv, ensurepip']).ok) {
    throw new SetupError(
      `no LibTorch is here, and ${python} lacks venv, which is needed to fetch it. ${remedy}`,
    );
  }
  return python;
}

/**
 * Tests whether node_modules holds the packages of package-lock.json. npm writes its own list last, so an interrupted
 * installation does not count. Packages for other platforms are optional.
 */
function packagesInPlace() {
  try {
    const wanted = JSON.parse(readFileSync(at('package-lock.json'), 'utf8')).packages;
    const installed = JSON.parse(readFileSync(at('node_modules/.package-lock.json'), 'utf8')).packages;
    return Object.entries(wanted).every(([folder, { version, optional }]) => {
      if (folder === '') return true;
      return installed[folder] ? installed[folder].version === version : optional;
    });
  } catch {
    return false;
  }
}

/** Lists the TEST_PACKAGES that .libtorch/ lacks. An earlier release may have made it with fewer. */
function missingTestPackages(libtorch) {
  if (libtorch.origin !== '.libtorch') return [];
  const sitePackages = path.dirname(libtorch.folder);
  const moduleOf = (name) => (name === 'pillow' ? 'PIL' : name);
  return TEST_PACKAGES.filter((name) => !existsSync(path.join(sitePackages, moduleOf(name))));
}

/** Tests whether BUILD was fully configured here and for this LibTorch. */
function configured(libtorch) {
  try {
    const cache = readFileSync(at(BUILD, 'CMakeCache.txt'), 'utf8');
    return (
      cache.includes(`\nCMAKE_HOME_DIRECTORY:INTERNAL=${ROOT}\n`) &&
      cache.includes(`\nBIDISEG_LIBTORCH:INTERNAL=${libtorch.folder}\n`) &&
      ['build.ninja', 'Makefile'].some((file) => existsSync(at(BUILD, file)))
    );
  } catch {
    return false;
  }
}

// ---- actions ----

function installPackages() {
  say('installing the npm packages of package-lock.json (npm ci) ...');
  if (!run('npm', ['ci', '--no-audit', '--no-fund'], { show: true }).ok) {
    throw new SetupError(
      'npm ci failed; see its message above. It needs the npm registry: check the network, and behind a proxy ' +
        'the settings https_proxy and `npm config get registry`.',
    );
  }
}

function installLibTorch(python, rejected) {
  // An installed package takes the CPU build unless told otherwise: its addon gets CUDA only with --cuda.
  const gpu = WANTS_CUDA || (!INTO && run('nvidia-smi', ['-L']).ok);
  const size = (cuda) => (cuda ? 'several GB to download' : 'about 220 MB to download, 1 GB on disk');
  if (rejected) say(`not used: ${rejected}`);
  say(`no LibTorch found; installing torch ${TORCH} with pip in ${nameOf(PRIVATE)} (${size(gpu)}) ...`);

  // Made under another name first, so that an existing one is complete.
  const partial = PARTIAL;
  rmSync(partial, { recursive: true, force: true });
  const venv = run(python, ['-m', 'venv', partial]);
  if (!venv.ok) {
    throw new SetupError(
      `\`${python} -m venv\` failed: ${lastLine(venv.err || venv.out)}. For example: apt install python3-venv`,
    );
  }

  const install = (...args) => pipInstall(path.join(partial, 'bin/python'), ...args);
  // On Linux, the usual index has torch for CUDA. The CPU build is on PyTorch's own index, or on an index that pip is
  // configured for.
  let pip = install(gpu ? `torch==${TORCH}` : `torch==${TORCH}+cpu`);
  const missing = () => !pip.ok && /No matching distribution/.test(pip.err) && !isOffline(pip);
  if (!gpu && missing()) {
    say(`pip's usual sources have no CPU build; trying ${PYTORCH_CPU_INDEX} ...`);
    pip = install(`torch==${TORCH}+cpu`, '--extra-index-url', PYTORCH_CPU_INDEX);
    if (!pip.ok) {
      say(`no CPU build there either; taking the index's usual build (${size(true)}) ...`);
      pip = install(`torch==${TORCH}`);
    }
  }
  if (!pip.ok) {
    rmSync(partial, { recursive: true, force: true });
    throw new SetupError(
      `pip could not install torch ${TORCH}: ${pipProblem(pip)}. Check the network and pip's settings (\`pip config list\`, ` +
        'https_proxy), or set LIBTORCH to a LibTorch folder, or PYTHON to a Python that has torch.',
    );
  }
  if (!INTO) rmSync(PRIVATE, { recursive: true, force: true });
  try {
    renameSync(partial, PRIVATE);
  } catch (error) {
    // Another setup was faster.
    if (!INTO || !existsSync(PRIVATE)) throw error;
  }
}

/** Installs the packages for the tests. A failure does not stop setup, because only tests need them. */
function installTestPackages(packages) {
  say(`installing ${packages.join(', ')} with pip in .libtorch/, for the tests ...`);
  const pip = pipInstall(at('.libtorch/bin/python'), ...packages);
  if (!pip.ok) say(`pip could not install them: ${pipProblem(pip)}. Tests that need them will be skipped.`);
}

function pipInstall(python, ...args) {
  return run(python, ['-m', 'pip', 'install', ...args], {
    showOut: true,
    // One retry only. Without a network, pip would retry for minutes.
    env: {
      PIP_RETRIES: process.env.PIP_RETRIES ?? '1',
      PIP_DISABLE_PIP_VERSION_CHECK: '1',
      PIP_NO_INPUT: '1',
    },
  });
}

const isOffline = (pip) => /connection broken/i.test(pip.err);
const pipProblem = (pip) => (isOffline(pip) ? 'its package index could not be reached' : lastLine(pip.err));
const lastLine = (text) => text.trim().split('\n').pop().replace(/\.$/, '');

function buildAddon(libtorch) {
  if (!configured(libtorch)) {
    say('configuring and building the native addon (a few minutes the first time) ...');
    rmSync(at(BUILD, 'CMakeCache.txt'), { force: true });
  } else {
    say('building what changed ...');
  }
  const cmakeJs = createRequire(at('package.json')).resolve('cmake-js/bin/cmake-js');
  // cmake-js itself knows only the compilers' usual names.
  const named =
    onPath('g++') || onPath('clang++') ? [] : ['--cc', process.env.CC ?? 'cc', '--cxx', compiler()];
  const build = run(process.execPath, [cmakeJs, 'build', '--out', BUILD, '--log-level', 'warn', ...named], {
    show: true,
    env: parallelism(),
  });
  if (!build.ok) throw new SetupError("building the native addon failed; see the compiler's message above.");
}

function parallelism() {
  // A file that includes LibTorch's headers takes up to 2 GB to compile.
  const jobs = Math.max(1, Math.min(os.cpus().length, Math.floor(os.totalmem() / 2 ** 31)));
  return { CMAKE_BUILD_PARALLEL_LEVEL: process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(jobs) };
}

function buildTypeScript() {
  if (!run(at('node_modules/.bin/tsc'), ['-b'], { show: true }).ok) {
    throw new SetupError("compiling the TypeScript failed; see the compiler's message above.");
  }
  // tsc keeps the output of deleted sources. mocha would run it, and npm would pack it.
  for (const folder of ['lib', 'test']) {
    for (const file of readdirSync(at('dist', folder), { recursive: true })) {
      const source = file.replace(/(\.d\.ts|\.js|\.js\.map)$/, '.ts');
      if (source !== file && !existsSync(at(folder, source))) rmSync(at('dist', folder, file));
    }
  }
}

// ---- an installed package: only the addon, in INTO ----

function setUpInstalled(check) {
  checkNode();
  checkBuildTools();
  let libtorch = findLibTorch();
  const inPlace = isBuilt(libtorch);
  if (!inPlace) {
    checkCompiler();
    checkCuda();
  }
  const python = libtorch.folder ? '' : findPython();
  const torch = libtorch.folder ? `LibTorch ${libtorch.version} (${libtorch.origin})` : 'no LibTorch yet';
  say(`Node ${process.versions.node}, ${torch}, the addon ${inPlace ? 'is in place' : 'is not built yet'}`);
  if (check) return;
  if (!inPlace) {
    removeInterrupted();
    mkdirSync(WORK, { recursive: true });
    try {
      if (!libtorch.folder) {
        installLibTorch(python, libtorch.rejected);
        libtorch = findLibTorch();
      }
      buildInto(libtorch);
    } finally {
      rmSync(WORK, { recursive: true, force: true });
    }
  }
  say(`ready: ${INTO}`);
}

function recordOf(libtorch) {
  return {
    libtorch: `${libtorch.origin} (${libtorch.folder})`,
    version: libtorch.version,
    cuda: WANTS_CUDA,
  };
}

/** Tests whether build.json names an addon for this LibTorch that is there. */
function isBuilt(libtorch) {
  try {
    const { addon, ...record } = JSON.parse(readFileSync(path.join(INTO, 'build.json'), 'utf8'));
    return (
      JSON.stringify(record) === JSON.stringify(recordOf(libtorch)) && existsSync(path.join(INTO, addon))
    );
  } catch {
    return false;
  }
}

/** Removes what setups on this machine left that have ended. */
function removeInterrupted() {
  const entries = existsSync(INTO) ? readdirSync(INTO) : [];
  for (const name of entries) {
    const [, host, id] = /^partial\.(.+)\.(\d+)$/.exec(name) ?? [];
    if (host === os.hostname() && !isRunning(Number(id)))
      rmSync(path.join(INTO, name), { recursive: true, force: true });
  }
}

function isRunning(id) {
  try {
    process.kill(id, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Builds the addon with CMake alone. cmake-js is for checkouts. */
function buildInto(libtorch) {
  say('building the native addon (a few minutes) ...');
  const folder = path.join(WORK, 'build');
  const configure = [
    ...['-S', ROOT, '-B', folder, ...(onPath('ninja') ? ['-G', 'Ninja'] : [])],
    ...['-DCMAKE_BUILD_TYPE=Release', `-DLIBTORCH=${libtorch.folder}`, `-DBIDISEG_ADDON_FOLDER=${WORK}`],
  ];
  const steps = [configure, ['--build', folder, '--target', 'bidiseg']];
  for (const args of steps) {
    if (!run('cmake', args, { show: true, env: parallelism() }).ok) {
      throw new SetupError("building the native addon failed; see the compiler's message above.");
    }
  }
  const addon = `bidiseg-${process.pid}-${Date.now()}.node`;
  renameSync(path.join(WORK, 'bidiseg.node'), path.join(INTO, addon));
  const record = path.join(WORK, 'build.json');
  writeFileSync(record, `${JSON.stringify({ addon, ...recordOf(libtorch) }, null, 2)}\n`);
  renameSync(record, path.join(INTO, 'build.json'));
}

// ---- a checkout ----

function setUpCheckout(check) {
  checkNode();
  checkBuildTools();
  checkCuda();
  let libtorch = findLibTorch();
  const python = libtorch.folder ? '' : findPython();
  if (check || !configured(libtorch)) checkCompiler();
  // The tests of this script have neither a lock file nor TypeScript sources.
  const packagesMissing = existsSync(at('package-lock.json')) && !packagesInPlace();
  const hasSources = existsSync(at('tsconfig.json'));

  const torch = libtorch.folder ? `LibTorch ${libtorch.version} (${libtorch.origin})` : 'no LibTorch yet';
  const packages = packagesMissing ? 'missing or outdated' : 'in place';
  say(`Node ${process.versions.node}, ${torch}, npm packages ${packages}`);
  const lacking = missingTestPackages(libtorch);
  if (check && lacking.length > 0)
    say(`.libtorch/ lacks Python packages for the tests: ${lacking.join(', ')}`);
  if (check) return;

  if (packagesMissing) installPackages();
  if (!libtorch.folder) {
    installLibTorch(python, libtorch.rejected);
    libtorch = findLibTorch();
  }
  const testPackages = missingTestPackages(libtorch);
  if (testPackages.length > 0) installTestPackages(testPackages);
  buildAddon(libtorch);
  if (hasSources) buildTypeScript();
  say('ready');
}

try {
  const setUp = INTO ? setUpInstalled : setUpCheckout;
  setUp(OPTIONS.check === true);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`setup: ${error.message.trim()}`);
  process.exitCode = 1;
}
