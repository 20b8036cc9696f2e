import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

// Runs the setup command in a copy of the few files it needs ("root"). PATH holds only what a test puts there: the real
// cmake and C++ compiler, and stand-ins for the rest. Nothing is downloaded, and nothing outside the temporary folder
// changes.

const CHECKOUT = path.resolve(import.meta.dirname, '../../../..');
const COPIED = ['package.json', 'scripts/setup.mjs', 'native/cmake/LibTorch.cmake'];

const FAKE_PYTHON = `
const fs = require('node:fs');
const path = require('node:path');
const args = process.argv.slice(2).join(' ');
const has = (text) => args.includes(text);
const { FAKE_TORCH, FAKE_LACKS, FAKE_PIP, FAKE_LOG } = process.env;
if (has('find_spec')) console.log(FAKE_TORCH ?? '');
else if (has('version_info')) process.exit(FAKE_LACKS === 'version' ? 1 : 0);
else if (has('ensurepip')) process.exit(FAKE_LACKS === 'venv' ? 1 : 0);
else if (has('-m venv')) {
  fs.mkdirSync(path.join(process.argv[4], 'bin'), { recursive: true });
  fs.symlinkSync(__filename, path.join(process.argv[4], 'bin/python'));
} else if (has('-m pip')) {
  fs.appendFileSync(FAKE_LOG, args + '\\n');
  const fail = (text) => { console.error(text); process.exit(1); };
  if (FAKE_PIP === 'offline') {
    fail("WARNING: Retrying after connection broken by 'NewConnectionError'\\nERROR: No matching distribution found for torch==2.13.0+cpu");
  }
  if (FAKE_PIP === 'public' && !has('--extra-index-url')) fail('ERROR: No matching distribution found for torch==2.13.0+cpu');
  const site = path.join(path.dirname(process.argv[1]), '../lib/python3.11/site-packages');
  if (has('torch')) fs.cpSync(process.env.FAKE_WHEEL, path.join(site, 'torch'), { recursive: true });
  else if (FAKE_PIP === 'torch only') fail('ERROR: No matching distribution found for onnxruntime');
  else for (const name of process.argv.slice(5)) fs.mkdirSync(path.join(site, name === 'pillow' ? 'PIL' : name));
}
`;

describe('scripts/setup.mjs', () => {
  let folder: string;
  let root: string;
  let bin: string;

  function truePathOf(...names: string[]): string {
    for (const name of names) {
      for (const directory of (process.env.PATH ?? '').split(path.delimiter)) {
        if (fs.existsSync(path.join(directory, name))) return path.join(directory, name);
      }
    }
    throw new Error(`this test needs ${names.join(' or ')} on the PATH`);
  }

  function program(name: string, text: string): void {
    fs.writeFileSync(path.join(bin, name), text, { mode: 0o755 });
  }

  function without(...names: string[]): void {
    for (const name of names) fs.rmSync(path.join(bin, name));
  }

  function libTorch(name: string, version: string): string {
    const [major, minor, patch] = version.split('.');
    const torch = path.join(folder, name);
    fs.mkdirSync(path.join(torch, 'include/torch/headeronly'), { recursive: true });
    fs.mkdirSync(path.join(torch, 'lib'));
    fs.writeFileSync(path.join(torch, 'lib/libtorch_cpu.so'), '');
    fs.writeFileSync(
      path.join(torch, 'include/torch/headeronly/version.h'),
      `#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH ${patch}\n`,
    );
    return torch;
  }

  function setup(env: Record<string, string> = {}, { check = true, node = [] as string[] } = {}) {
    const args = [...node, path.join(root, 'scripts/setup.mjs'), ...(check ? ['--check'] : [])];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      env: { PATH: bin, HOME: folder, FAKE_LOG: path.join(folder, 'pip.log'), ...env },
      encoding: 'utf8',
    });
    return { status, stdout, stderr };
  }

  function assertFails(result: ReturnType<typeof setup>, ...parts: RegExp[]): void {
    assert.match(result.stderr, /^setup: .+\n$/, 'one message on one line');
    for (const part of parts) assert.match(result.stderr, part);
    assert.equal(result.status, 1);
  }

  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bidiseg-setup-'));
    root = path.join(folder, 'root');
    bin = path.join(folder, 'bin');
    fs.mkdirSync(bin);
    for (const file of COPIED) {
      fs.mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
      fs.copyFileSync(path.join(CHECKOUT, file), path.join(root, file));
    }
    program('cmake', `#!/bin/sh\nexec '${truePathOf('cmake')}' "$@"\n`);
    program('c++', `#!/bin/sh\nexec '${truePathOf('c++', 'g++', 'clang++')}' "$@"\n`);
    program('make', '#!/bin/sh\n');
    program('python3', `#!${process.execPath}\n${FAKE_PYTHON}`);
  });

  afterEach(() => fs.rmSync(folder, { recursive: true }));

  it('is content with a machine that has everything, and changes nothing when it only checks', () => {
    const before = fs.readdirSync(root, { recursive: true });
    const result = setup({ LIBTORCH: libTorch('libtorch', '2.13.0') });
    assert.equal(result.stderr, '');
    assert.match(result.stdout, /LibTorch 2\.13\.0 \(LIBTORCH\)/);
    assert.equal(result.status, 0);
    assert.deepEqual(fs.readdirSync(root, { recursive: true }), before);
  });

  describe('ends in one message where the machine lacks', () => {
    it('a new enough Node', () => {
      const preload = path.join(folder, 'old-node.cjs');
      fs.writeFileSync(preload, "Object.defineProperty(process.versions, 'node', { value: '18.20.0' });");
      const old = setup({}, { node: ['--require', preload] });
      assertFails(old, /Node\.js 20\.19 or newer is needed; this is 18\.20\.0/);
    });

    it('cmake', () => {
      without('cmake');
      assertFails(setup(), /CMake 3\.20 or newer is needed/, /apt install cmake/);
    });

    it('a new enough cmake', () => {
      program('cmake', '#!/bin/sh\necho cmake version 3.16.3\n');
      assertFails(setup(), /this one is 3\.16/);
    });

    it('a C++ compiler', () => {
      without('c++');
      assertFails(setup(), /a C\+\+ compiler is needed/, /apt install g\+\+/);
      assertFails(setup({ CXX: 'no-such-compiler' }), /CXX is no-such-compiler/);
    });

    it('a compiler that knows C++20', () => {
      program('c++', '#!/bin/sh\nexit 1\n');
      assertFails(setup(), /cannot compile a small C\+\+20 program/);
    });

    it('make and ninja', () => {
      without('make');
      assertFails(setup(), /neither ninja nor make/);
    });

    it('LibTorch and Python', () => {
      without('python3');
      assertFails(setup(), /no Python 3\.10 or newer/, /LIBTORCH/);
    });

    it('LibTorch and a new enough Python', () => {
      assertFails(setup({ FAKE_LACKS: 'version' }), /no Python 3\.10 or newer/);
    });

    it('LibTorch and the venv module of Python', () => {
      assertFails(setup({ FAKE_LACKS: 'venv' }), /lacks venv/, /apt install python3 python3-venv/);
    });
  });

  describe('LibTorch', () => {
    it('that LIBTORCH names is refused when its version is wrong, with the versions that will do', () => {
      const result = setup({ LIBTORCH: libTorch('old', '2.4.1') });
      assertFails(
        result,
        /LIBTORCH \(.*old\) is LibTorch 2\.4\.1, but bidiseg needs >= 2\.11 and < 2\.14/,
        /unset/,
      );
      assertFails(setup({ LIBTORCH: libTorch('new', '2.14.0') }), /is LibTorch 2\.14\.0/);
    });

    it('that LIBTORCH names is refused when it is none', () => {
      assertFails(setup({ LIBTORCH: folder }), /holds no LibTorch/);
      assertFails(setup({ LIBTORCH: path.join(folder, 'missing') }), /missing\) holds no LibTorch/);
    });

    it('of the Python that PYTHON names is refused when its version is wrong', () => {
      const result = setup({ PYTHON: 'python3', FAKE_TORCH: libTorch('old', '2.4.1') });
      assertFails(result, /PYTHON=python3 .* is LibTorch 2\.4\.1/);
    });

    it('is looked for elsewhere when PYTHON has none, and when the one on the PATH is of a wrong version', () => {
      assert.match(setup({ PYTHON: 'python3' }).stdout, /no LibTorch yet/);
      assert.match(setup({ FAKE_TORCH: libTorch('old', '2.4.1') }).stdout, /no LibTorch yet/);
    });

    it('is taken from the Python on the PATH', () => {
      const result = setup({ FAKE_TORCH: libTorch('torch', '2.11.0') });
      assert.match(result.stdout, /LibTorch 2\.11\.0 \(python3 on the PATH\)/);
    });
  });

  describe('without LibTorch', () => {
    const pipCalls = () => fs.readFileSync(path.join(folder, 'pip.log'), 'utf8').trim().split('\n');

    beforeEach(() => {
      const cmakeJs = path.join(root, 'node_modules/cmake-js/bin/cmake-js');
      fs.mkdirSync(path.dirname(cmakeJs), { recursive: true });
      fs.writeFileSync(cmakeJs, '');
      fs.writeFileSync(path.join(root, 'node_modules/cmake-js/package.json'), '{"type": "commonjs"}');
    });

    function install(env: Record<string, string>) {
      return setup({ FAKE_WHEEL: libTorch('wheel', '2.13.0'), ...env }, { check: false });
    }

    it('says what it will download, then installs the CPU build once', () => {
      const env = { FAKE_WHEEL: libTorch('wheel', '2.13.0') };
      const left = path.join(root, 'build/libtorch.partial/left-by-an-interrupted-run');
      fs.mkdirSync(left, { recursive: true });
      const first = setup(env, { check: false });
      assert.equal(first.stderr, '');
      assert.match(
        first.stdout,
        /installing torch 2\.13\.0 with pip in \.libtorch\/ \(about \d+ MB to download/,
      );
      assert.match(first.stdout, /setup: ready\n$/);
      assert.match(pipCalls()[0] ?? '', /install torch==2\.13\.0\+cpu/);
      assert.match(pipCalls()[1] ?? '', /install numpy pillow safetensors onnx onnxruntime tensorboard$/);
      assert.deepEqual(fs.readdirSync(path.join(root, 'build')), []);

      const second = setup(env, { check: false });
      assert.match(second.stdout, /LibTorch 2\.13\.0 \(\.libtorch\)/);
      assert.equal(pipCalls().length, 2);
    });

    it("takes the CPU build from PyTorch's index where the usual one has none", () => {
      assert.equal(install({ FAKE_PIP: 'public' }).status, 0);
      assert.match(pipCalls()[1] ?? '', /--extra-index-url https:\/\/download\.pytorch\.org\/whl\/cpu$/);
    });

    it('takes the usual build where there is an NVIDIA GPU', () => {
      program('nvidia-smi', '#!/bin/sh\n');
      assert.match(install({}).stdout, /several GB/);
      assert.match(pipCalls()[0] ?? '', /install torch==2\.13\.0$/);
    });

    it("adds what a .libtorch/ of an earlier release lacks, and continues if it can't", () => {
      const env = { FAKE_WHEEL: libTorch('wheel', '2.13.0') };
      setup(env, { check: false });
      const site = path.join(root, '.libtorch/lib/python3.11/site-packages');
      const remove = () => fs.rmSync(path.join(site, 'onnxruntime'), { recursive: true });

      remove();
      const look = setup(env);
      assert.match(look.stdout, /lacks Python packages for the tests: onnxruntime\n/);
      const mended = setup(env, { check: false });
      assert.match(mended.stdout, /installing onnxruntime with pip/);
      assert.match(pipCalls().at(-1) ?? '', /install onnxruntime$/);

      remove();
      const failed = setup({ ...env, FAKE_PIP: 'torch only' }, { check: false });
      assert.match(
        failed.stdout,
        /could not install them: .*onnxruntime\. Tests that need them will be skipped/,
      );
      assert.match(failed.stdout, /setup: ready\n$/);
      assert.equal(failed.status, 0);
    });

    it('ends in one message without a network, and leaves nothing half-made', () => {
      assertFails(
        install({ FAKE_PIP: 'offline' }),
        /pip could not install torch 2\.13\.0: its package index could not be reached/,
        /network/,
        /LIBTORCH/,
      );
      assert.equal(pipCalls().length, 1);
      assert.equal(fs.existsSync(path.join(root, '.libtorch')), false);
      assert.deepEqual(fs.readdirSync(path.join(root, 'build')), []);
    });
  });

  describe('into a folder outside of an installed package', () => {
    const into = () => path.join(folder, 'cache/0.2.0');
    const built = () => JSON.parse(fs.readFileSync(path.join(into(), 'build.json'), 'utf8'));
    const calls = (name: string) => {
      const file = path.join(folder, `${name}.log`);
      return fs.existsSync(file) ? fs.readFileSync(file, 'utf8').trim().split('\n') : [];
    };
    const command = (...args: string[]) => [path.join(root, 'scripts/setup.mjs'), '--into', into(), ...args];
    const environment = (env: Record<string, string> = {}) => {
      const wheel = path.join(folder, 'wheel');
      return {
        ...{ PATH: bin, HOME: folder, FAKE_LOG: path.join(folder, 'pip.log') },
        FAKE_WHEEL: fs.existsSync(wheel) ? wheel : libTorch('wheel', '2.13.0'),
        ...env,
      };
    };
    const setUp = (args: string[] = [], env: Record<string, string> = {}) =>
      spawnSync(process.execPath, command(...args), { env: environment(env), encoding: 'utf8' });

    beforeEach(() => {
      // Notes a build and makes an empty addon. The search for LibTorch is CMake's own.
      program(
        'cmake',
        `#!/bin/sh
case "$1" in
  -S)
    echo "$@" >> '${path.join(folder, 'cmake.log')}'
    for arg in "$@"; do case "$arg" in -DBIDISEG_ADDON_FOLDER=*) : > "\${arg#*=}/bidiseg.node" ;; esac; done
    [ -z "$FAKE_BUILD" ] || /bin/sleep 60 ;;
  --build) ;;
  *) exec '${truePathOf('cmake')}' "$@" ;;
esac
`,
      );
    });

    it('fetches LibTorch and builds once, without packages for tests, and leaves the package as it is', () => {
      const before = fs.readdirSync(root, { recursive: true });
      const first = setUp();
      assert.equal(first.stderr, '');
      assert.match(first.stdout, /no LibTorch yet, the addon is not built yet\n/);
      assert.match(first.stdout, /setup: ready: \S+cache\/0\.2\.0\n$/);
      assert.deepEqual(calls('pip').length, 1);
      const { addon, ...record } = built();
      const torch = path.join(into(), 'libtorch/lib/python3.11/site-packages/torch');
      assert.deepEqual(record, { libtorch: `libtorch (${torch})`, version: '2.13.0', cuda: false });
      assert.deepEqual(fs.readdirSync(into()).sort(), [addon, 'build.json', 'libtorch'].sort());

      assert.match(setUp().stdout, /the addon is in place\nsetup: ready/);
      assert.equal(calls('cmake').length, 1);
      assert.deepEqual(fs.readdirSync(root, { recursive: true }), before);
    });

    it('builds again for another LibTorch', () => {
      setUp([], { LIBTORCH: libTorch('one', '2.13.0') });
      const other = libTorch('other', '2.12.0');
      assert.match(
        setUp([], { LIBTORCH: other }).stdout,
        /LibTorch 2\.12\.0 \(LIBTORCH\), the addon is not built/,
      );
      assert.equal(built().libtorch, `LIBTORCH (${other})`);
      assert.ok(fs.existsSync(path.join(into(), built().addon)));
      assert.deepEqual(calls('pip'), []);
    });

    it('begins anew after an interruption, and removes only what an ended setup left', async () => {
      const libtorch = libTorch('libtorch', '2.13.0');
      const child = spawn(process.execPath, command(), {
        env: environment({ LIBTORCH: libtorch, FAKE_BUILD: 'hangs' }),
        stdio: 'ignore',
        detached: true,
      });
      while (calls('cmake').length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
      process.kill(-child.pid!, 'SIGKILL');
      await once(child, 'exit');
      const left = `partial.${os.hostname()}.${child.pid}`;
      assert.deepEqual(fs.readdirSync(into()), [left]);
      const others = [`partial.${os.hostname()}.${process.pid}`, `partial.another-machine.${child.pid}`];
      for (const name of others) fs.mkdirSync(path.join(into(), name));

      assert.equal(setUp([], { LIBTORCH: libtorch }).status, 0);
      const expected = [...others, 'build.json', built().addon];
      assert.deepEqual(fs.readdirSync(into()).sort(), expected.sort());
    });

    it('works twice at once', async () => {
      const env = environment();
      const children = [1, 2].map(() => spawn(process.execPath, command(), { env, stdio: 'ignore' }));
      const codes = await Promise.all(children.map((child) => once(child, 'exit').then(([code]) => code)));
      assert.deepEqual(codes, [0, 0]);
      assert.ok(fs.existsSync(path.join(into(), built().addon)));
      assert.ok(fs.existsSync(path.join(into(), 'libtorch/lib/python3.11/site-packages/torch')));
      assert.deepEqual(
        fs.readdirSync(into()).filter((name) => name.startsWith('partial')),
        [],
      );
    });

    it('with --cuda needs nvcc and a CUDA build of LibTorch, which it fetches', () => {
      assertFails(setUp(['--cuda']), /--cuda needs NVIDIA's compiler, and no nvcc was found/, /CUDACXX/);
      program('nvcc', '#!/bin/sh\n');
      const cpu = libTorch('cpu', '2.13.0');
      assertFails(
        setUp(['--cuda'], { LIBTORCH: cpu }),
        /cpu\) is a CPU build of LibTorch, but a CUDA build is wanted/,
      );

      const wheel = environment().FAKE_WHEEL;
      fs.writeFileSync(path.join(wheel, 'lib/libtorch_cuda.so'), '');
      const result = setUp(['--cuda'], { FAKE_TORCH: cpu });
      assert.equal(result.stderr, '');
      assert.match(calls('pip')[0]!, /install torch==2\.13\.0$/);
      assert.ok(fs.existsSync(path.join(into(), 'libtorch-cuda')));
      assert.equal(built().cuda, true);
    });
  });
});
