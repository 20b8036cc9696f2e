import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../helpers/folder.js';

/** Runs a program in the checkout's folder. Returns its status and its output. */
function run(command: string, args: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: ROOT, encoding: 'utf8' });
  return { status, output: `${stdout ?? ''}${stderr ?? ''}${error ?? ''}` };
}

/**
 * Builds a target of CMakeLists.txt, runs it and returns its output. Skips the test if the addon was not built with
 * CMake here.
 */
function buildAndRun(context: Mocha.Context, target: string): string {
  const build = join(ROOT, 'build/cmake');
  if (!existsSync(join(build, 'CMakeCache.txt'))) {
    console.log('    skipped: build/cmake is not there; the addon was built some other way');
    context.skip();
  }
  // The test of the packages builds in the same folder, and may run at the same time.
  const built = run('flock', [join(build, 'lock'), 'cmake', '--build', build, '--target', target]);
  assert.equal(built.status, 0, built.output);
  const { status, output } = run(join(build, target), []);
  assert.equal(status, 0, output);
  return output.trimEnd();
}

describe('CPU kernels', () => {
  it('compile for aarch64', function () {
    const compiler = 'aarch64-linux-gnu-g++';
    if (run(compiler, ['--version']).status !== 0) {
      console.log(`    skipped: there is no ${compiler} on the PATH`);
      this.skip();
    }
    const source = 'native/kernels/cpu/cell_sweep_portable.cc';
    const flags = ['-std=c++20', '-O2', '-Wall', '-Wextra', '-Werror', '-Inative', '-fsyntax-only'];
    const { status, output } = run(compiler, [...flags, source]);
    assert.equal(status, 0, output);
  });
});

describe('normalization on the CPU', () => {
  it('agrees with LibTorch in fp64, and has the same bits with any number of threads', function () {
    console.log(buildAndRun(this, 'bidiseg_cpu_normalization_test'));
  });
});

describe('matrix products on the CPU', () => {
  it('agree with LibTorch in fp64, and have the same bits with any number of threads', function () {
    console.log(buildAndRun(this, 'bidiseg_cpu_products_test'));
  });
});

describe('CUDA kernels', () => {
  it('compile', function () {
    const { status, output } = run('scripts/check-cuda-compiles.sh', [
      'native/kernels/cuda/upsampled_softmax.cu',
    ]);
    console.log(`    ${output.trim()}`);
    assert.equal(status, 0);
    if (output.includes('skipped')) this.skip();
  });

  it('agree with LibTorch in fp64 where their text runs on the CPU', function () {
    console.log(buildAndRun(this, 'bidiseg_cuda_kernels_test'));
  });
});

describe('heap of large blocks', () => {
  it('keeps blocks apart in several threads, uses freed ones again and gives everything back', function () {
    buildAndRun(this, 'bidiseg_block_heap_test');
  });
});
