import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { ROOT } from '../../helpers/folder.js';

/** Programs of a build. In a project they only note that they were called. */
const BUILD_TOOLS = 'cc c++ gcc g++ clang clang++ make ninja cmake cmake-js node-gyp python python3'.split(
  ' ',
);

/** Makes a network, saves it, and predicts with the file on a picture, as in the README. */
export const FIRST_PREDICTION = `
import { readImage, Segmenter, writeImage, writeLabels } from 'bidiseg';
const [width, height] = [96, 64];
const data = new Uint8Array(width * height * 3).map((_, i) => (i * 37) % 256);
await writeImage('street.png', { data, width, height });
const made = await Segmenter.create({ backbone: 'resnet18', width: 1 / 16, classCount: 5 });
await made.save('segmenter.safetensors');
made.dispose();

const segmenter = await Segmenter.fromFile('segmenter.safetensors');
const image = await readImage('street.png');
const { labels } = await segmenter.predict(image.data, { count: 1, width, height });
await writeLabels('labels.png', { data: labels, width, height });
segmenter.dispose();
console.log('predicted', labels.length);
`;

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
  seconds: number;
}

export interface ProjectOptions {
  registry: string;
  /** Node.js to use. Default: this one. */
  node?: string;
}

/** An empty project in a folder of its own. Its PATH has Node.js, npm and a shell, and no compiler. */
export class Project {
  readonly folder: string;
  readonly #bin: string;
  readonly #registry: string;

  constructor(folder: string, { registry, node = process.execPath }: ProjectOptions) {
    this.folder = path.join(folder, 'project');
    this.#bin = path.join(folder, 'bin');
    this.#registry = registry;
    for (const made of [this.folder, this.#bin]) mkdirSync(made, { recursive: true });
    symlinkSync(realpathSync(node), path.join(this.#bin, 'node'));
    symlinkSync(npm(), path.join(this.#bin, 'npm'));
    symlinkSync('/bin/sh', path.join(this.#bin, 'sh'));
    for (const tool of BUILD_TOOLS) {
      const note = `#!/bin/sh\necho ${tool} >> '${this.#buildLog}'\nexit 1\n`;
      writeFileSync(path.join(this.#bin, tool), note, { mode: 0o755 });
    }
    writeFileSync(this.#buildLog, '');
    this.write('package.json', '{"name": "project", "version": "1.0.0", "type": "module"}\n');
    this.write('first.mjs', FIRST_PREDICTION);
  }

  get #buildLog(): string {
    return path.join(this.#bin, 'called.log');
  }

  write(file: string, text: string): void {
    writeFileSync(path.join(this.folder, file), text);
  }

  /** Build tools that were called, in order. */
  get buildTools(): string[] {
    return readFileSync(this.#buildLog, 'utf8').split('\n').filter(Boolean);
  }

  /** Runs a program of the project's PATH in the project's folder. */
  run(program: string, args: string[], env: Record<string, string> = {}): Promise<Outcome> {
    return runToEnd(path.join(this.#bin, program), args, {
      cwd: this.folder,
      env: {
        PATH: this.#bin,
        HOME: path.dirname(this.folder),
        npm_config_registry: this.#registry,
        npm_config_cache: path.join(path.dirname(this.folder), 'npm-cache'),
        npm_config_audit: 'false',
        npm_config_fund: 'false',
        npm_config_update_notifier: 'false',
        OMP_NUM_THREADS: '1',
        ...env,
      },
    });
  }
}

/** Runs a program to its end. The event loop stays free for a registry in this process. */
export function runToEnd(
  program: string,
  args: string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const start = performance.now();
  const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (data) => {
      output[name] += data;
    });
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ code, ...output, seconds: (performance.now() - start) / 1000 });
    });
  });
}

/** npm's program, beside this Node.js or on the PATH. */
export function npm(): string {
  const folders = [path.dirname(process.execPath), ...(process.env.PATH ?? '').split(path.delimiter)];
  for (const folder of folders) {
    try {
      return realpathSync(path.join(folder, 'npm'));
    } catch {}
  }
  throw new Error('this test needs npm on the PATH');
}

/** Builds the npm packages of this checkout into a folder. */
export function buildPackages(output: string, args: string[] = []): Promise<Outcome> {
  const script = path.join(ROOT, 'scripts/package.mjs');
  return runToEnd(process.execPath, [script, '--output', output, ...args]);
}
