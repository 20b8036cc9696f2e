import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Case } from '../parity/upsampled-softmax-child.js';
import { ROOT } from './folder.js';
import { randomBytes, randomNormal } from './random.js';
import { type Measurement, printAndCheck } from './table.js';
import { type PlainTensor, writeTensors } from './tensor-file.js';
import type { Twin } from './twin.js';

export type Shape = [number, number, number, number];

export const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Logits of several kinds. */
const LOGITS: Record<string, (n: number, seed: number, shape: Shape) => Float32Array> = {
  normal: (n, seed) => randomNormal(n, seed, 3),
  huge: (n, seed) => randomNormal(n, seed, 1e4),
  ties: (n, seed) => randomNormal(n, seed, 1).map(Math.round),
  constant: (n) => new Float32Array(n).fill(7),
  // One class far above all others, another one at each point.
  certain: (n, seed, [, classes, h, w]) => {
    const plane = h * w;
    const winners = randomBytes(n / classes, seed, classes, 0);
    return randomNormal(n, seed, 1).map((value, i) => {
      const point = Math.floor(i / (classes * plane)) * plane + (i % plane);
      return winners[point] === Math.floor(i / plane) % classes ? value + 200 : value;
    });
  },
};

interface CompareOptions {
  device?: string;
  environment?: NodeJS.ProcessEnv;
  /** Default: all cases. */
  chosen?: Case[];
  /** Time after which the process is killed. */
  timeoutMs?: number;
}

// float16 and bfloat16 gradients are rounded to 11 and 8 bits once computed.
const GRADIENT_BOUND: Record<string, number> = { float64: 1e-12, float16: 5e-4, bfloat16: 4e-3 };

export interface CaseOptions {
  logits?: keyof typeof LOGITS;
  dtype?: string;
  memoryFormat?: Case['memoryFormat'];
  ignored?: number;
  int64?: boolean;
  pixelWeights?: boolean;
}

/** Cases of softmax and cross-entropy of upsampled logits, with their inputs. */
export class SoftmaxCases {
  readonly cases: Case[] = [];
  readonly inputs: Record<string, PlainTensor> = {};

  add(
    name: string,
    what: Case['do'],
    shape: Shape,
    size: [number, number],
    options: Case['options'] & CaseOptions = {},
  ): void {
    const {
      logits = 'normal',
      dtype = 'float32',
      memoryFormat = 'contiguous',
      ignored = 0.3,
      int64,
      pixelWeights,
      ...rest
    } = options;
    const seed = this.cases.length + 1;
    const [count, classes] = shape;
    const pixels = [count, ...size];
    this.cases.push({ name, do: what, size, dtype, memoryFormat, options: rest });
    this.inputs[`${name}/logits`] = { data: LOGITS[logits]!(product(shape), seed, shape), shape };
    if (what === 'labels') {
      const ignore = rest.ignoreIndex ?? 255;
      const drop = randomBytes(product(pixels), seed + 500, 2, ignored);
      const labels = randomBytes(product(pixels), seed + 1000, classes, 0);
      const data = int64
        ? BigInt64Array.from(labels, (label, i) => BigInt(drop[i] === 255 ? ignore : label))
        : labels.map((label, i) => (drop[i] === 255 ? ignore : label));
      this.inputs[`${name}/labels`] = { data, shape: pixels };
    }
    if (pixelWeights) {
      this.inputs[`${name}/pixelWeights`] = {
        data: randomNormal(product(pixels), seed + 2000, 1).map(Math.abs),
        shape: pixels,
      };
    }
  }

  /**
   * Computes the cases in a child process, compares its results with the twin's in float64, and checks the errors. A
   * case that fails leaves the others alone.
   */
  async compare(
    twin: Twin,
    path: (name: string) => string,
    { device = 'cpu', environment = {}, chosen = this.cases, timeoutMs = 300_000 }: CompareOptions = {},
  ): Promise<void> {
    const [casesFile, inputsFile, resultsFile] = ['cases', 'inputs', 'results'].map(path) as [
      string,
      string,
      string,
    ];
    writeFileSync(casesFile, JSON.stringify(chosen));
    writeTensors(inputsFile, this.inputs);
    const program = join(ROOT, 'dist/test/parity/upsampled-softmax-child.js');
    const child = spawnSync(process.execPath, [program, casesFile, inputsFile, resultsFile, device], {
      env: { ...process.env, ...environment },
      encoding: 'utf8',
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    });
    const failure = `${child.error ?? child.signal ?? ''} ${child.stderr.slice(0, 4000)}`;
    assert.ok(child.stdout !== '', `the process ended with ${child.status}: ${failure}`);
    const computed = new Set(JSON.parse(child.stdout.trimEnd().split('\n').at(-1)!) as string[]);
    const done = chosen.filter(({ name }) => computed.has(name));
    if (done.length > 0) {
      const request = { do: 'upsampledSoftmax', inputs: inputsFile, results: resultsFile, cases: done };
      this.#check(done, await twin.ask<Record<string, number>[]>(request));
    }
    assert.equal(child.status, 0, failure);
  }

  #check(chosen: Case[], errors: Record<string, number>[]): void {
    const rows: Measurement[] = [];
    for (const [i, { name, dtype, do: what }] of chosen.entries()) {
      const double = dtype === 'float64';
      // A float cannot hold an upsampled logit more exactly than this, and e^z turns it into a relative error. Errors
      // of a loss with given labels average out. Errors may not average out for predictions, or for confident logits.
      const largest = (this.inputs[`${name}/logits`]!.data as Float32Array).reduce(
        (m, z) => Math.max(m, Math.abs(z)),
        0,
      );
      const rounding = what === 'labels' ? 0 : largest * 2 ** -24;
      const bounds: Record<string, number> = {
        loss: double ? 1e-13 : 1e-6 + rounding,
        gradient: GRADIENT_BOUND[dtype] ?? 1e-5 + rounding,
        probabilities: double ? 1e-12 : 1e-6 + rounding,
        confidence: double ? 1e-12 : 1e-6 + rounding,
        labels: 0,
      };
      for (const [item, error] of Object.entries(errors[i]!)) {
        rows.push({ item: `${name}: ${item}`, error, bound: bounds[item]! });
      }
    }
    printAndCheck('softmax of upsampled logits: errors', rows);
  }
}

/** Returns the cases of the parity tests: every option, and shapes at which code for vectors may go wrong. */
export function parityCases(): SoftmaxCases {
  const all = new SoftmaxCases();
  // Cells of 7 to 9 pixels, as at full size, with a rest that fills no vector.
  const grid: Shape = [2, 19, 13, 17];
  const full: [number, number] = [97, 131];
  all.add('labels', 'labels', grid, full);
  all.add('all pixels', 'labels', grid, full, { normalize: 'all' });
  all.add('nothing ignored', 'labels', grid, full, { ignored: 0 });
  all.add('most ignored', 'labels', grid, full, { ignored: 0.97 });
  all.add('all ignored', 'labels', grid, full, { ignored: 1 });
  all.add('corners not aligned', 'labels', grid, full, { alignCorners: false });
  all.add('factor 8 exactly', 'labels', [1, 19, 9, 17], [72, 136], { alignCorners: false });
  all.add('no upsampling', 'labels', [2, 7, 21, 37], [21, 37]);
  all.add('rows only', 'labels', [1, 7, 9, 37], [65, 37]);
  all.add('columns only', 'labels', [1, 7, 21, 9], [21, 65]);
  all.add('hardly any upsampling', 'labels', [1, 5, 40, 50], [41, 51]);
  all.add('factor 1.5', 'labels', [1, 5, 20, 30], [31, 47], { alignCorners: false });
  all.add('factor 40', 'labels', [1, 5, 3, 4], [81, 121]);
  all.add('one pixel', 'labels', [1, 3, 1, 1], [1, 1], { ignored: 0 });
  all.add('one grid point', 'labels', [2, 3, 1, 1], [5, 7]);
  all.add('one row', 'labels', [1, 3, 1, 9], [1, 70]);
  all.add('one column', 'labels', [1, 3, 9, 1], [70, 1]);
  all.add('2 classes', 'labels', [1, 2, 5, 7], [33, 49]);
  all.add('40 classes', 'labels', [1, 40, 5, 7], [33, 49]);
  all.add('256 classes', 'labels', [1, 256, 5, 7], [33, 49], { int64: true, ignoreIndex: -1 });
  all.add('int64 labels', 'labels', grid, full, { int64: true, ignoreIndex: -100 });
  all.add('ignore index 3', 'labels', grid, full, { ignoreIndex: 3 });
  all.add('class weights', 'labels', [1, 5, 9, 9], [65, 65], { classWeights: [1, 0, 0.25, 3, 2] });
  all.add('pixel weights', 'labels', [1, 5, 9, 9], [65, 65], { pixelWeights: true });
  all.add('all weights, all pixels', 'labels', [2, 5, 9, 9], [65, 65], {
    classWeights: [1, 0, 0.25, 3, 2],
    pixelWeights: true,
    normalize: 'all',
  });
  all.add('logits ±1e4', 'labels', grid, full, { logits: 'huge' });
  all.add('equal logits', 'labels', grid, full, { logits: 'constant' });
  all.add('ties', 'labels', grid, full, { logits: 'ties' });
  all.add('certain', 'labels', grid, full, { logits: 'certain' });
  all.add('channels last', 'labels', grid, full, { memoryFormat: 'channels-last' });
  all.add('bfloat16, channels last', 'labels', grid, full, {
    memoryFormat: 'channels-last',
    dtype: 'bfloat16',
  });
  all.add('float64', 'labels', grid, full, { dtype: 'float64' });
  all.add('float64 ±1e4', 'labels', grid, full, { dtype: 'float64', logits: 'huge' });
  all.add('float16', 'labels', grid, full, { dtype: 'float16' });
  all.add('bfloat16', 'labels', grid, full, { dtype: 'bfloat16' });
  all.add('on-line', 'online', grid, full, { threshold: 0.6 });
  all.add('on-line, per class', 'online', [1, 3, 9, 9], [65, 65], {
    threshold: [0.5, 0.7, 0.9],
    inclusive: true,
    classWeights: [1, 2, 3],
    normalize: 'all',
  });
  all.add('on-line, nothing kept', 'online', grid, full, { threshold: 1 });
  all.add('on-line, certain', 'online', grid, full, { threshold: 0.9, logits: 'certain' });
  all.add('on-line, ties', 'online', [1, 4, 21, 37], [21, 37], { threshold: 0, logits: 'ties' });
  all.add('on-line, float64', 'online', grid, full, { threshold: 0.6, dtype: 'float64' });
  for (const order of ['logits', 'probabilities'] as const) {
    all.add(`pseudo-labels, ${order}`, 'pseudo', grid, full, { threshold: 0.5, order });
    all.add(`pseudo-labels, ${order}, ±1e4`, 'pseudo', grid, full, { threshold: 0.5, order, logits: 'huge' });
    all.add(`pseudo-labels, ${order}, ties`, 'pseudo', [1, 4, 21, 37], [21, 37], {
      threshold: 0,
      order,
      logits: 'ties',
    });
    all.add(`pseudo-labels, ${order}, smaller`, 'pseudo', [1, 6, 21, 37], [10, 11], {
      threshold: 0.3,
      order,
    });
  }
  for (const [name, options] of [
    ['probabilities', {}],
    ['probabilities ±1e4', { logits: 'huge' }],
    ['probabilities, certain', { logits: 'certain' }],
    ['probabilities, float64', { dtype: 'float64' }],
  ] as const) {
    all.add(name, 'probabilities', grid, full, options);
  }
  all.add('probabilities, no upsampling', 'probabilities', [2, 7, 21, 37], [21, 37]);
  return all;
}
