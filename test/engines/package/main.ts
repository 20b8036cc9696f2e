/**
 * Runs `npm run test:package [-- NODE …]`. Builds the packages twice as for a release, compares their bytes, and installs
 * them like a user: with this Node.js and with each major version of Node.js given (from the npm package `node`), and in
 * a root folder that has little more than Node.js and the C library.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { contentOf, ROOT, temporaryFolder } from '../../helpers/folder.js';
import { buildPackages, FIRST_PREDICTION, npm, type Outcome, Project, runToEnd } from './project.js';
import { LocalRegistry } from './registry.js';

const temporary = temporaryFolder();
const output = temporary.path('tarballs');
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

function assertEnds(what: string, outcome: Outcome): Outcome {
  assert.equal(outcome.code, 0, `${what}: ${outcome.stdout}\n${outcome.stderr}`);
  console.log(`  ${what}: ${outcome.seconds.toFixed(1)} s`);
  return outcome;
}

async function buildTwice(): Promise<void> {
  console.log('packages, built twice');
  const { stdout } = assertEnds('build', await buildPackages(output));
  const again = temporary.path('again');
  assertEnds('build again', await buildPackages(again));
  assert.deepEqual(contentOf(again), contentOf(output), 'the second build has other bytes');
  console.log(stdout.replaceAll(/^/gm, '  ').trimEnd());
}

/** Number of bytes of all files in a folder. */
function sizeOf(folder: string): number {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return files.reduce((sum, { parentPath, name }) => sum + statSync(path.join(parentPath, name)).size, 0);
}

/** Finds a version of Node.js, installed with npm. */
function nodeOf(major: string): string {
  const folder = temporary.path(`node-${major}`);
  mkdirSync(folder);
  execFileSync(npm(), ['install', '--no-audit', '--no-fund', '--prefix', folder, `node@${major}`], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return path.join(folder, 'node_modules/node/bin/node');
}

async function installWith(name: string, node: string, registry: string): Promise<void> {
  const version = execFileSync(node, ['--version'], { encoding: 'utf8' }).trim();
  console.log(`\nNode.js ${version}`);
  const project = new Project(temporary.path(`project-${name}`), { registry, node });
  const inProject = (name: string) => path.join(project.folder, name);
  const start = performance.now();
  assertEnds('npm install bidiseg', await project.run('npm', ['install', 'bidiseg']));
  assertEnds('first prediction', await project.run('node', ['first.mjs']));
  const seconds = (performance.now() - start) / 1000;
  console.log(`  from npm install to the first prediction: ${seconds.toFixed(1)} s`);
  const sizes = ['bidiseg', '@bidiseg/linux-x64', '@bidiseg/libtorch-cpu-linux-x64'].map(
    (name) => `${name} ${megabytes(sizeOf(inProject(`node_modules/${name}`)))}`,
  );
  console.log(
    `  on disk: ${sizes.join(', ')}; all of node_modules ${megabytes(sizeOf(inProject('node_modules')))}`,
  );
  const example = inProject('node_modules/bidiseg/examples/training-loop.mjs');
  assertEnds('training example', await project.run('node', [example, '20']));
  const before = contentOf(inProject('node_modules/@bidiseg'));
  for (let time = 0; time < 2; time++) {
    assertEnds('npm ci', await project.run('npm', ['ci']));
    assertEnds('prediction', await project.run('node', ['first.mjs']));
  }
  assert.deepEqual(contentOf(inProject('node_modules/@bidiseg')), before);
  assert.deepEqual(project.buildTools, [], 'build tools were called');
}

async function installTarballs(registry: string): Promise<void> {
  console.log('\nthe tarballs, by their files');
  const project = new Project(temporary.path('from-files'), { registry });
  const files = readdirSync(output).map((name) => path.join(output, name));
  assertEnds('npm install DIR/*.tgz', await project.run('npm', ['install', ...files]));
  assertEnds('prediction', await project.run('node', ['first.mjs']));
}

/** Lists the system's libraries that programs need. */
function librariesOf(...programs: string[]): string[] {
  const found = programs.flatMap((program) => {
    const list = execFileSync('ldd', [program], { encoding: 'utf8' });
    return [...list.matchAll(/(?:=> |^\s*)(\/(?:usr\/)?lib\S*)/gm)].map(([, file]) => file!);
  });
  return [...new Set(found)];
}

/** Installs and predicts in a root folder with Node.js, npm, a shell and the libraries that these need. */
async function installInBareRoot(registry: string): Promise<void> {
  console.log('\na bare root folder');
  const root = temporary.path('root');
  const place = (from: string, to = from) => {
    mkdirSync(path.dirname(path.join(root, to)), { recursive: true });
    copyFileSync(realpathSync(from), path.join(root, to));
  };
  const cache = readFileSync(path.join(ROOT, 'build/cmake/CMakeCache.txt'), 'utf8');
  const torch = /^BIDISEG_LIBTORCH:INTERNAL=(.+)$/m.exec(cache)![1]!;
  const vips = path.join(ROOT, 'node_modules/@img/sharp-libvips-linux-x64/lib');
  const programs = [
    ...[process.execPath, '/bin/sh', path.join(torch, 'lib/libtorch_cpu.so')],
    ...readdirSync(vips).flatMap((name) => (/\.so/.test(name) ? [path.join(vips, name)] : [])),
  ];
  for (const library of librariesOf(...programs)) place(library);
  place(process.execPath, '/bin/node');
  place('/bin/sh', '/bin/sh');
  cpSync(path.dirname(path.dirname(npm())), path.join(root, 'npm'), { recursive: true, dereference: true });
  for (const name of ['dev', 'proc', 'tmp', 'app']) mkdirSync(path.join(root, name));
  writeFileSync(path.join(root, 'app/package.json'), '{"name": "app", "version": "1.0.0", "type": "module"}');
  writeFileSync(path.join(root, 'app/first.mjs'), FIRST_PREDICTION);
  const script = [
    'set -e; cd /app',
    `node /npm/bin/npm-cli.js install --no-audit --no-fund --cache /tmp/npm --registry ${registry} bidiseg`,
    'node first.mjs',
    'node node_modules/bidiseg/dist/lib/cli/main.js info',
  ].join('\n');
  const devices =
    'for name in null urandom; do : > "$0/dev/$name"; mount --bind /dev/$name "$0/dev/$name"; done';
  const enter = `set -e; ${devices}; mount -t proc proc "$0/proc"; exec chroot "$0" /bin/sh -c "$1"`;
  const { code, stdout, stderr, seconds } = await runToEnd(
    'unshare',
    ['--map-root-user', '--mount', '--pid', '--fork', 'sh', '-c', enter, root, script],
    { env: { PATH: '/bin:/usr/bin:/usr/sbin:/sbin', HOME: '/tmp' } },
  );
  if (/^unshare: /.test(stderr)) {
    console.log(`  not tried, because this machine allows no namespaces: ${stderr.trim()}`);
    return;
  }
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  assert.match(stdout, /^predicted 6144$/m);
  console.log(`  install, prediction and info: ${seconds.toFixed(1)} s`);
  console.log(stdout.trim().replaceAll(/^/gm, '  | '));
}

try {
  await buildTwice();
  const registry = await LocalRegistry.start(output);
  await installWith('current', process.execPath, registry.url);
  for (const major of process.argv.slice(2)) await installWith(major, nodeOf(major), registry.url);
  await installTarballs(registry.url);
  await installInBareRoot(registry.url);
  registry.close();
} finally {
  temporary.remove();
}
