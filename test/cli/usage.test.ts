import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { bidiseg, jsonLines, MAIN, temporaryFolder } from './command-line.js';

const COMMANDS = [
  'demo',
  'init',
  'train',
  'resume',
  'ablation',
  'rank',
  'report',
  'watch',
  'translate',
  'pseudo-label',
  'segment',
  'serve',
  'evaluate',
  'convert',
  'export',
  'info',
  'setup',
];
const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

describe('command line: usage', () => {
  const folder = temporaryFolder();

  it('lists every command in its help', async () => {
    const { code, stdout, stderr } = await bidiseg(['--help']);
    assert.equal(code, 0);
    assert.equal(stderr, '');
    for (const command of COMMANDS) assert.match(stdout, new RegExp(`^  ${command} `, 'm'));
  });

  for (const command of COMMANDS) {
    it(`${command} --help describes its options and gives examples`, async () => {
      const { code, stdout, stderr } = await bidiseg([command, '--help']);
      assert.equal(code, 0);
      assert.equal(stderr, '');
      assert.match(stdout, new RegExp(`^Usage: bidiseg ${command} `));
      assert.match(stdout, /--json/);
      assert.match(stdout, new RegExp(`^Examples:\n {2}\\$ bidiseg ${command}`, 'm'));
    });
  }

  it('--version is that of the package', async () => {
    const { version } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8'));
    assert.deepEqual(await bidiseg(['--version']).then(({ code, stdout }) => [code, stdout]), [
      0,
      `${version}\n`,
    ]);
  });

  const mistakes: [args: string[], message: RegExp][] = [
    [['train', '--bogus'], /^bidiseg: unknown option '--bogus'; see 'bidiseg train --help'$/],
    [['traim'], /^bidiseg: unknown command 'traim' \(Did you mean train\?\); see 'bidiseg --help'$/],
    [['train'], /^bidiseg: missing required argument 'config'; see 'bidiseg train --help'$/],
    [['segment', 'a.png'], /^bidiseg: required option '-o, --output <folder>' not specified; see/],
    [
      ['segment', 'a.png', '-o', 'x', '--size', '12'],
      /'12' is invalid. Expected WIDTHxHEIGHT, such as 512x256; see/,
    ],
    [['pseudo-label', '-o', 'x', '--portion', '1.5'], /'1.5' is invalid. Expected a number from 0 to 1; see/],
    [['demo', '--set', 'seed'], /Expected KEY=VALUE, such as segmentation.steps=500; see/],
    [['rank'], /^bidiseg: missing required argument 'runs'; see 'bidiseg rank --help'$/],
    [['rank', 'x', '--count', '0'], /'0' is invalid\. Expected a whole number of at least 1; see/],
    [['report'], /^bidiseg: missing required argument 'run'; see 'bidiseg report --help'$/],
    [
      ['export', 'm.safetensors', 'm.bin'],
      /^bidiseg: Expected a file that ends in \.onnx or \.pt but found m\.bin; .* --format/,
    ],
    [
      ['export', 'm.safetensors', 'm.pt', '--size', '64x48'],
      /^bidiseg: --size is for ONNX: a TorchScript archive takes images of any size$/,
    ],
    [['export', 'm.safetensors', 'm.onnx', '--batch', '2'], /^bidiseg: --batch needs --size$/],
    [['export', 'm.onnx', 'm.onnx'], /^bidiseg: m\.onnx: is the input; choose another file to write$/],
    [
      ['segment', 'a.png', '-o', 'x', '--max-pixels', '1e8'],
      /'1e8' is invalid\. Expected a whole number from 1/,
    ],
    [['segment', 'a.png', '-o', 'x', '--scales', '1,9'], /Expected numbers from 0\.125 to 8/],
    [['evaluate', '--precision', 'half'], /'half' is invalid\. Allowed choices are fp32, tf32, bf16, fp16/],
    [['serve'], /^bidiseg: Expected either --weights FILE or --run FOLDER/],
    [['watch', 'x', '--port', '70000'], /'70000' is invalid\. Expected a port from 0 to 65535; see/],
    [['evaluate'], /^bidiseg: Expected either --weights FILE or --run FOLDER/],
    [
      ['train', 'x.yaml', '--resume', '--overwrite'],
      /^bidiseg: --resume and --overwrite cannot be combined$/,
    ],
    [
      ['train', 'x.yaml', '--accept-changed-data'],
      /^bidiseg: --accept-changed-data needs --resume or --stage$/,
    ],
  ];
  for (const [args, message] of mistakes) {
    it(`'${args.join(' ')}' is a usage error: one line, exit code 2`, async () => {
      const { code, stdout, stderr } = await bidiseg(args, { cwd: folder.path });
      assert.equal(code, 2);
      assert.equal(stdout, '');
      assert.match(stderr, /^[^\n]*\n$/);
      assert.match(stderr.trimEnd(), message);
    });
  }

  it('info shows versions and devices', async () => {
    const { code, stdout, stderr } = await bidiseg(['info']);
    assert.equal(code, 0);
    assert.equal(stderr, '');
    assert.match(stdout, /^LibTorch +\d+\.\d+\.\d+ from /m);
    assert.match(stdout, /^devices +cpu/m);
    assert.match(stdout, /^on cpu +trains in fp32/m);
  });

  it('info --json is one object', async () => {
    const { code, stdout } = await bidiseg(['info', '--json']);
    assert.equal(code, 0);
    const [info, ...others] = jsonLines(stdout) as [
      { event: string; native: { threads: number; precisions: Record<string, string[]> } },
    ];
    assert.deepEqual(others, []);
    assert.equal(info.event, 'result');
    assert.ok(info.native.threads >= 1);
    assert.equal(info.native.precisions.cpu?.[0], 'fp32');
  });

  it('a slow reader gets all output', async () => {
    // The pipe is full before the command starts. A pipe holds 64 KiB.
    const full = 'head -c 65536 /dev/zero | tr "\\0" "\\n"';
    const line = `(${full}; "$0" "$1" info --json) | (sleep 8; cat)`;
    const { stdout } = await promisify(execFile)('sh', ['-c', line, process.execPath, MAIN]);
    assert.deepEqual(
      jsonLines(stdout.trim()).map(({ event }) => event),
      ['result'],
    );
  });

  it('info works without the addon, and says so', async () => {
    // A copy of the compiled package without its build folder, and no build of `bidiseg setup`.
    const copy = path.join(folder.path, 'copy');
    mkdirSync(path.join(copy, 'dist'), { recursive: true });
    cpSync(path.join(ROOT, 'dist', 'lib'), path.join(copy, 'dist', 'lib'), { recursive: true });
    cpSync(path.join(ROOT, 'package.json'), path.join(copy, 'package.json'));
    symlinkSync(path.join(ROOT, 'node_modules'), path.join(copy, 'node_modules'));
    const main = path.join(copy, 'dist', 'lib', 'cli', 'main.js');
    const env = { XDG_CACHE_HOME: copy };

    const { code, stdout, stderr } = await bidiseg(['info'], { main, env });
    assert.equal(code, 1);
    assert.match(stdout, /^native part +not loaded$/m);
    assert.match(
      stderr,
      /^bidiseg: The native addon of bidiseg cannot be loaded [^\n]*@bidiseg\/linux-x64: not installed[^\n]*\n$/,
    );
    const json = await bidiseg(['info', '--json'], { main, env });
    assert.equal(json.code, 1);
    assert.equal(jsonLines(json.stdout)[0]!.native, null);
    rmSync(copy, { recursive: true });
  });
});
