import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeImage } from '../../lib/data/image-codec.js';
import { writeLabels } from '../../lib/data/label-codec.js';
import { Random } from '../../lib/data/random.js';

export const MAIN = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url));

export interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
  /** Time from the signal to the end of the process, in milliseconds. */
  afterSignalMs: number;
}

/** Runs the command line in a child process with piped output. */
export function bidiseg(
  args: string[],
  options: {
    main?: string;
    cwd?: string;
    env?: Record<string, string>;
    signal?: { name: NodeJS.Signals; onceStdoutHas: string; times?: number };
  } = {},
): Promise<Result> {
  const { main = MAIN, cwd, signal } = options;
  // One thread, because the networks are tiny. Threads that wait for each other on a busy machine would take most of
  // the time.
  const env = { ...process.env, OMP_NUM_THREADS: '1', ...options.env };
  const child = spawn(process.execPath, [main, ...args], { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const result: Result = { code: null, stdout: '', stderr: '', afterSignalMs: 0 };
  let signaled = 0;
  child.stdout.on('data', (data) => {
    result.stdout += data;
    if (signal && signaled === 0 && result.stdout.includes(signal.onceStdoutHas)) {
      signaled = performance.now();
      for (let time = 0; time < (signal.times ?? 1); time++) child.kill(signal.name);
    }
  });
  child.stderr.on('data', (data) => {
    result.stderr += data;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ ...result, code, afterSignalMs: signaled === 0 ? 0 : performance.now() - signaled });
    });
  });
}

/** Parses the JSON objects on the lines of `--json`. Throws when a line is something else. */
export function jsonLines(stdout: string): Record<string, unknown>[] {
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** Provides a folder during the tests of a `describe` block. */
export function temporaryFolder(): { readonly path: string } {
  const folder = { path: '' };
  before(() => {
    folder.path = mkdtempSync(path.join(tmpdir(), 'bidiseg-cli-'));
  });
  after(() => rmSync(folder.path, { recursive: true, force: true }));
  return folder;
}

export const CLASSES = ['ground', 'block', 'sky'];
const SIZE = { width: 48, height: 32 };

/**
 * Writes a data set that a tiny network can learn from: sky over ground with a block in front. The source domain is
 * bright, the target domain dim.
 */
export async function writeTinyData(folder: string, counts = { source: 4, target: 3 }): Promise<void> {
  await writeDomain(path.join(folder, 'source'), counts.source, 1, 'source');
  await writeDomain(path.join(folder, 'target'), counts.target, 0.5, 'target');
}

async function writeDomain(folder: string, count: number, brightness: number, name: string): Promise<void> {
  const { width, height } = SIZE;
  const colors = [
    [90, 160, 60],
    [200, 60, 40],
    [120, 180, 250],
  ] as const;
  for (const kind of ['images', 'labels']) mkdirSync(path.join(folder, kind), { recursive: true });
  for (let index = 0; index < count; index++) {
    const random = new Random(name, index);
    const horizon = 8 + random.integer(12);
    const left = random.integer(width - 16);
    const labels = new Uint8Array(width * height);
    const image = new Uint8Array(3 * width * height);
    for (let i = 0; i < labels.length; i++) {
      const [x, y] = [i % width, Math.floor(i / width)];
      const isBlock = x >= left && x < left + 16 && y >= horizon - 4 && y < horizon + 10;
      labels[i] = isBlock ? 1 : y < horizon ? 2 : 0;
      for (let channel = 0; channel < 3; channel++) {
        image[3 * i + channel] = brightness * colors[labels[i] as 0 | 1 | 2][channel as 0 | 1 | 2];
      }
    }
    await writeImage(path.join(folder, 'images', `${name}-${index}.png`), { data: image, ...SIZE });
    await writeLabels(path.join(folder, 'labels', `${name}-${index}.png`), { data: labels, ...SIZE });
  }
}

/** Writes a config for the data of `writeTinyData`. It runs every kind of stage in seconds. */
export function writeTinyConfig(folder: string, overrides: Record<string, unknown> = {}): string {
  const size = [SIZE.width, SIZE.height];
  const config = {
    preset: 'cpu-small',
    output: path.join(folder, 'run'),
    data: {
      classes: CLASSES,
      source: { images: 'source/images', labels: 'source/labels' },
      target: {
        train: { images: 'target/images' },
        val: { images: 'target/images', labels: 'target/labels' },
      },
    },
    sizes: {
      source: size,
      target: size,
      evaluation: size,
      translation: { source: size, target: size, crop: [32, 32] },
    },
    segmenter: { backbone: 'resnet18', width: 0.0625 },
    discriminator: { baseWidth: 4 },
    translator: { baseWidth: 4, discriminatorWidth: 4 },
    segmentation: { steps: 3, pseudoLabelSteps: 3, sourceOnlySteps: 3, batchSize: 2 },
    translation: { steps: 3, batchSize: 1 },
    loop: { rounds: 1, selfTrainingRounds: 1 },
    sampleCount: 1,
    scoreCount: 1,
  };
  const merged: Record<string, unknown> = { ...config };
  for (const [key, value] of Object.entries(overrides)) {
    const below = merged[key];
    merged[key] = typeof below === 'object' ? { ...below, ...(value as object) } : value;
  }
  const file = path.join(folder, 'config.json');
  writeFileSync(file, JSON.stringify(merged));
  return file;
}

/** Lists files that a writer left under a temporary name. */
export function temporaryFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => /\.tmp/.test(name));
}

/** Process ids of the children of a process, in the order of their start. */
export function childrenOf({ pid }: ChildProcess): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return children.split(' ').filter(Boolean).map(Number);
}
