import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import * as tar from 'tar';
import { buildPackages, type Outcome, Project } from '../engines/package/project.js';
import { LocalRegistry } from '../engines/package/registry.js';
import { contentOf, ROOT, temporaryFolder } from '../helpers/folder.js';

// Packs everything as for a release, with fast compression, and installs it from a registry on the loopback in an empty
// project that has no compiler. `npm run test:package` does more of it, with the real tarballs.

const VERSION = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')).version as string;
const MAIN = `bidiseg-${VERSION}.tgz`;
const ADDON = `bidiseg-linux-x64-${VERSION}.tgz`;
const LIBTORCH = `bidiseg-libtorch-cpu-linux-x64-${VERSION}.tgz`;
const tool = (name: string, ...args: string[]) =>
  promisify(execFile)(path.join(ROOT, 'node_modules/.bin', name), args, { encoding: 'utf8' });

function assertEnds(outcome: Outcome, code = 0): Outcome {
  assert.equal(outcome.code, code, `${outcome.stdout}\n${outcome.stderr}`);
  return outcome;
}

describe('the npm packages', () => {
  const temporary = temporaryFolder();
  const output = temporary.path('tarballs');
  let registry: LocalRegistry;
  let project: Project;
  const inProject = (...parts: string[]) => path.join(project.folder, ...parts);

  before(async () => {
    assertEnds(await buildPackages(output, ['--gzip', '1']));
    registry = await LocalRegistry.start(output);
    project = new Project(temporary.path('packed'), { registry: registry.url });
  });
  after(() => {
    registry?.close();
    temporary.remove();
  });

  describe('as tarballs', () => {
    const unpacked = (file: string) => {
      const folder = temporary.path(`unpacked-${file}`);
      if (existsSync(folder)) return folder;
      mkdirSync(folder);
      tar.extract({ file: path.join(output, file), cwd: folder, sync: true });
      return folder;
    };
    const filesOf = (folder: string) => Object.keys(contentOf(path.join(folder, 'package'))).sort();

    it('are all there is in the output folder, which must be empty before', async () => {
      assert.deepEqual(Object.keys(contentOf(output)).sort(), [MAIN, LIBTORCH, ADDON].sort());
      const again = assertEnds(await buildPackages(output), 1);
      assert.match(again.stderr, /^package: \S+ is not empty; expected a new or empty folder\n$/);
      const file = assertEnds(await buildPackages(path.join(output, MAIN)), 1);
      assert.match(file.stderr, /is a file; expected a folder\n$/);
    });

    it('hold what users need and nothing of maintainers', () => {
      const folder = unpacked(MAIN);
      const files = filesOf(folder);
      const wrong = files.filter(
        (name) =>
          /\.gyp$|\.tsbuildinfo$|^test\/|^bench\/|^docs\/(api|tools)\//.test(name) ||
          (name.startsWith('scripts/') && name !== 'scripts/setup.mjs'),
      );
      assert.deepEqual(wrong, []);
      const wanted = ['README.md', 'LICENSE', 'CMakeLists.txt', 'scripts/setup.mjs', 'docs/guide/backend.md'];
      assert.deepEqual(
        wanted.filter((name) => !files.includes(name)),
        [],
      );
      assert.ok(files.some((name) => name.startsWith('examples/')));
      const maps = files.filter((name) => name.endsWith('.map'));
      assert.ok(maps.length > 50);
      for (const name of maps) {
        const map = JSON.parse(readFileSync(path.join(folder, 'package', name), 'utf8'));
        assert.equal(map.sourcesContent?.length, map.sources.length, `${name} has no sources`);
      }
      assert.deepEqual(filesOf(unpacked(ADDON)), ['LICENSE', 'README.md', 'bidiseg.node', 'package.json']);
    });

    it('pin the packages of the platform, and name no tools of maintainers', () => {
      const manifest = JSON.parse(readFileSync(path.join(unpacked(MAIN), 'package/package.json'), 'utf8'));
      assert.deepEqual(manifest.optionalDependencies, {
        '@bidiseg/linux-x64': VERSION,
        '@bidiseg/libtorch-cpu-linux-x64': VERSION,
      });
      for (const key of ['private', 'devDependencies', 'scripts', 'gypfile'])
        assert.ok(!(key in manifest), key);
      assert.ok(!('cmake-js' in manifest.dependencies));
      const addon = JSON.parse(readFileSync(path.join(unpacked(ADDON), 'package/package.json'), 'utf8'));
      assert.deepEqual([addon.os, addon.cpu, addon.libc], [['linux'], ['x64'], ['glibc']]);
      assert.match(addon.bidiseg.libtorch, /^\d+\.\d+\.\d+$/);
    });

    it('have no link that leads nowhere', () => {
      const folder = path.join(unpacked(MAIN), 'package');
      const broken = filesOf(unpacked(MAIN))
        .filter((name) => name.endsWith('.md'))
        .flatMap((name) => {
          const text = readFileSync(path.join(folder, name), 'utf8').replaceAll(/```[\s\S]*?```/g, '');
          return [...text.matchAll(/\]\(([^)\s#]+)(#[^)\s]*)?\)/g)]
            .map(([, target]) => target!)
            .filter((target) => !/^[a-z]+:/.test(target))
            .filter((target) => !existsSync(path.join(folder, path.dirname(name), target)))
            .map((target) => `${name}: ${target}`);
        });
      assert.deepEqual(broken, []);
    });

    it('please publint', async () => {
      for (const file of [MAIN, ADDON]) {
        const { stdout } = await tool('publint', 'run', path.join(output, file), '--strict');
        assert.match(stdout, /All good!/, stdout);
      }
    });

    it('have types that resolve wherever an ES module can be imported', async () => {
      const { stdout } = await tool(
        'attw',
        path.join(output, MAIN),
        '--profile',
        'esm-only',
        '--format',
        'json',
      );
      const { analysis } = JSON.parse(stdout) as {
        analysis: { types: unknown; entrypoints: Record<string, { resolutions: Record<string, object> }> };
      };
      assert.deepEqual(analysis.types, { kind: 'included' });
      const { resolutions } = analysis.entrypoints['.']!;
      for (const kind of ['node16-esm', 'bundler']) assert.ok('resolution' in resolutions[kind]!, kind);
    });
  });

  describe('installed', () => {
    const bidiseg = (args: string[], env: Record<string, string> = {}) =>
      project.run('node', [inProject('node_modules/bidiseg/dist/lib/cli/main.js'), ...args], {
        XDG_CACHE_HOME: temporary.path('cache'),
        ...env,
      });
    const addon = () => inProject('node_modules/@bidiseg/linux-x64/bidiseg.node');
    const predicts = async () => {
      assert.match(assertEnds(await project.run('node', ['first.mjs'])).stdout, /^predicted 6144$/m);
    };
    /** Messages of the loader: at most five lines, of which the last has the remedy. */
    const fails = async (env: Record<string, string> = {}) => {
      project.write('fails.mjs', "import('bidiseg').catch((error) => console.log(error.message));");
      const cache = { XDG_CACHE_HOME: temporary.path('cache') };
      const { stdout } = await project.run('node', ['fails.mjs'], { ...cache, ...env });
      const lines = stdout.trim().split('\n');
      assert.ok(lines.length <= 5, stdout);
      assert.match(lines[0]!, /^The native addon of bidiseg cannot be loaded \(linux x64, glibc 2/);
      assert.match(lines.at(-1)!, /^Remedy: /);
      return stdout;
    };
    const torch = () => {
      const cache = readFileSync(path.join(ROOT, 'build/cmake/CMakeCache.txt'), 'utf8');
      return realpathSync(/^BIDISEG_LIBTORCH:INTERNAL=(.+)$/m.exec(cache)![1]!);
    };

    it('with npm install, predict and train, without a compiler, CMake or Python', async () => {
      assertEnds(await project.run('npm', ['install', 'bidiseg']));
      await predicts();
      const example = inProject('node_modules/bidiseg/examples/training-loop.mjs');
      const { stdout } = assertEnds(await project.run('node', [example, '20']));
      assert.match(stdout, /^step 20: loss \d+\.\d+$/m);
      assert.match(stdout, /^mIoU on images it was trained on: \d+\.\d %$/m);
      const info = assertEnds(await bidiseg(['info'])).stdout;
      assert.ok(info.includes(`the package @bidiseg/linux-x64 (${addon()})`), info);
      assert.match(info, /^LibTorch +\d+\.\d+\.\d+ from the package @bidiseg\/libtorch-cpu-linux-x64$/m);
      assert.deepEqual(project.buildTools, []);
    });

    it('with npm ci, are the same files and still predict', async () => {
      const before = contentOf(inProject('node_modules/@bidiseg/linux-x64'));
      assertEnds(await project.run('npm', ['ci']));
      await predicts();
      assert.deepEqual(contentOf(inProject('node_modules/@bidiseg/linux-x64')), before);
      assert.ok(!existsSync(inProject('node_modules/bidiseg/build')));
      assert.deepEqual(project.buildTools, []);
    });

    it('take a LibTorch of the user for which the addon is built', async () => {
      const info = assertEnds(await bidiseg(['info'], { LIBTORCH: torch() })).stdout;
      assert.ok(info.includes(`from LIBTORCH (${torch()})`), info);
      project.write(
        'loaded.mjs',
        "import 'bidiseg'; import fs from 'node:fs'; console.log(fs.readFileSync('/proc/self/maps', 'utf8'));",
      );
      const { stdout } = assertEnds(await project.run('node', ['loaded.mjs'], { LIBTORCH: torch() }));
      const loaded = new Set(Array.from(stdout.matchAll(/ (\/.*libtorch_cpu\.so)$/gm), ([, file]) => file));
      assert.deepEqual([...loaded], [path.join(torch(), 'lib/libtorch_cpu.so')]);
    });

    it('name what was tried and one remedy if there is no addon', async () => {
      const away = inProject('node_modules/@bidiseg-away');
      renameSync(inProject('node_modules/@bidiseg'), away);
      try {
        const message = await fails();
        assert.match(message, /Tried a build of `bidiseg setup` in \S+: not there\./);
        assert.match(message, /Tried the package @bidiseg\/linux-x64: not installed\./);
        assert.match(message, /Remedy: run `npm install --include=optional bidiseg`/);
      } finally {
        renameSync(away, inProject('node_modules/@bidiseg'));
      }
    });

    it('refuse a LibTorch of another minor version, none, and an addon that is not there', async () => {
      const other = temporary.path('other-libtorch');
      mkdirSync(path.join(other, 'include/torch/headeronly'), { recursive: true });
      const header = (minor: number) =>
        `#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH 0\n`;
      writeFileSync(path.join(other, 'include/torch/headeronly/version.h'), header(4));
      assert.match(
        await fails({ LIBTORCH: other }),
        /is LibTorch 2\.4\.0, but the addon of \S+ is for 2\.\d+\./,
      );
      assert.match(
        await fails({ LIBTORCH: project.folder }),
        /holds no LibTorch\.\nRemedy: correct or unset LIBTORCH\./,
      );
      assert.match(
        await fails({ BIDISEG_ADDON: 'missing.node' }),
        /Remedy: correct or unset the variable BIDISEG_ADDON/,
      );
    });

    it('prefer a build of `bidiseg setup`, and say so if it is broken', async () => {
      const cache = temporary.path('built');
      const folder = path.join(cache, 'bidiseg', VERSION);
      mkdirSync(folder, { recursive: true });
      writeFileSync(path.join(folder, 'build.json'), '{"addon": "a.node", "libtorch": "mine (/there)"}');
      const env = { XDG_CACHE_HOME: cache };
      assert.match(
        await fails(env),
        /Tried bidiseg setup: .*a\.node.*\nRemedy: run `npx bidiseg setup` again\./,
      );
      // Any addon will do, and this one finds its LibTorch from anywhere.
      writeFileSync(path.join(folder, 'a.node'), readFileSync(path.join(ROOT, 'build/Release/bidiseg.node')));
      const libraries = { ...env, LD_LIBRARY_PATH: path.join(torch(), 'lib') };
      const info = assertEnds(await bidiseg(['info'], libraries)).stdout;
      assert.match(info, /^native part +bidiseg setup \(\S+a\.node\)\nLibTorch +\S+ from mine \(\/there\)$/m);
      writeFileSync(path.join(folder, 'build.json'), '{"addon": 1');
      assert.match(await fails(env), /build\.json: is not the record of a build/);
    });

    it('are built by `bidiseg setup`, whose CMake asks for no file of the tests', async () => {
      const { PATH = '' } = process.env;
      const check = assertEnds(await bidiseg(['setup', '--check'], { PATH, LIBTORCH: torch() }));
      assert.match(check.stdout, /LibTorch \S+ \(LIBTORCH\), the addon is not built yet\n$/);
      const source = inProject('node_modules/bidiseg');
      const configure = [
        ...['-S', source, '-B', temporary.path('configured'), `-DLIBTORCH=${torch()}`],
        `-DBIDISEG_ADDON_FOLDER=${temporary.path('configured')}`,
      ];
      await promisify(execFile)('cmake', configure);
      assert.ok(!existsSync(path.join(source, 'build')));
    });

    it('work beside a bundle, and tell a bundle that has swallowed them', async () => {
      project.write(
        'app.mjs',
        "import { buildInfo } from 'bidiseg';\nbuildInfo().then((i) => console.log(i.addon));\n",
      );
      const bundle = (name: string, format: string, ...more: string[]) =>
        tool(
          'esbuild',
          ...[inProject('app.mjs'), '--bundle', '--platform=node', `--format=${format}`, '--log-level=error'],
          ...[`--outfile=${inProject(name)}`, ...more],
        );
      await bundle('external.mjs', 'esm', '--external:bidiseg');
      const outside = assertEnds(await project.run('node', ['external.mjs']));
      assert.equal(outside.stdout, `${addon()}\n`);
      for (const [name, format] of [
        ['swallowed.mjs', 'esm'],
        ['swallowed.cjs', 'cjs'],
      ] as const) {
        await bundle(name, format);
        const { stderr } = assertEnds(await project.run('node', [name]), 1);
        assert.match(stderr, /BindingError: bidiseg has been bundled, .* `--external:bidiseg` for esbuild/);
      }
      rmSync(inProject('app.mjs'));
    });
  });
});
