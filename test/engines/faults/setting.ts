import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { readSummary } from '../../../lib/run/run-files.js';
import { temporaryFiles, writeTinyConfig, writeTinyData } from '../../cli/command-line.js';
import { type Ended, type RunningProcess, startBidiseg } from './bidiseg-process.js';

const STEPS = 9;

/** Configs with both kinds of segmenter and optimizer, two choices of pseudo-labels, dropout and image pools. */
const CONFIGS = {
  'deeplab-v2, Adam, per-class': {
    segmenter: { backbone: 'resnet18', width: 1 / 32 },
    segmentation: {
      flip: true,
      augmentation: {
        source: { scale: [0.5, 2], colorJitter: { brightness: 0.4, hue: 0.1 }, blur: 1 },
        target: { scale: [1, 1.5] },
      },
    },
    selfTraining: { method: 'per-class', portion: 0.3 },
  },
  'fcn-8s, SGD, class-balanced': {
    segmenter: { network: 'fcn-8s', width: 1 / 64 },
    segmentation: { optimizer: 'sgd', momentum: 0.9, learningRate: 1e-2 },
    selfTraining: { method: 'class-balanced', weighting: 'soft' },
  },
};

/** Config of runs in several processes. */
const DIVIDED = {
  segmenter: { backbone: 'resnet18', width: 1 / 32 },
  segmentation: {
    batchSize: 1,
    accumulation: 2,
    teacher: { distributionAlignment: true },
    targetStatistics: true,
  },
  translation: { steps: STEPS, batchSize: 2, poolSize: 3 },
  selfTraining: { method: 'per-class', weighting: 'soft' },
};

export type Variant = keyof typeof CONFIGS;

export const VARIANTS = Object.keys(CONFIGS) as Variant[];

/** Data set, config, and the uninterrupted run that others are compared with. */
export class Setting {
  readonly folder: string;
  /** Folder of the uninterrupted run. */
  readonly #whole: string;
  readonly #config: string;
  readonly #options: string[];
  #runs = 0;
  /** Stages in order, with the seconds that each takes. */
  stages: { name: string; seconds: number }[] = [];

  private constructor(folder: string, overrides: Record<string, object>, options: string[]) {
    this.folder = folder;
    this.#options = options;
    this.#whole = path.join(folder, 'whole');
    const { segmentation = {}, ...rest } = overrides;
    this.#config = writeTinyConfig(folder, {
      segmentation: {
        steps: STEPS,
        pseudoLabelSteps: STEPS,
        sourceOnlySteps: STEPS,
        batchSize: 2,
        ...segmentation,
      },
      translation: { steps: STEPS, batchSize: 1, poolSize: 3 },
      checkpoint: { every: 2 },
      ...rest,
    });
  }

  static create(variant: Variant): Promise<Setting> {
    return Setting.#create(CONFIGS[variant], []);
  }

  /** Creates a setting whose runs take two processes. One that hangs is noticed after eight seconds. */
  static createDivided(): Promise<Setting> {
    return Setting.#create(DIVIDED, ['--processes', '2', '--process-timeout', '8']);
  }

  static async #create(overrides: object, options: string[]): Promise<Setting> {
    const folder = mkdtempSync(path.join(tmpdir(), 'bidiseg-faults-'));
    const setting = new Setting(folder, overrides as Record<string, object>, options);
    await writeTinyData(setting.folder, { source: 24, target: 20 });
    const { code, stderr } = await setting.train(setting.#whole).ended;
    assert.equal(code, 0, stderr);
    const { stages } = await readSummary(setting.#whole);
    setting.stages = stages.map(({ name, seconds }) => ({ name, seconds }));
    return setting;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Returns the name of a new run folder. */
  newRun(): string {
    return path.join(this.folder, `run-${++this.#runs}`);
  }

  /** Copies the uninterrupted run with only its first `count` stages complete. */
  runOf(count: number): string {
    const run = this.newRun();
    cpSync(this.#whole, run, { recursive: true });
    for (const { name } of this.stages.slice(count)) {
      rmSync(path.join(run, 'stages', name.replace('/', '-'), 'stage.json'));
    }
    return run;
  }

  train(run: string, options: Parameters<typeof startBidiseg>[1] = {}, ...more: string[]): RunningProcess {
    const args = ['train', this.#config, '--output', run, '--json', ...this.#options, ...more];
    return startBidiseg(args, options);
  }

  resume(run: string, options: Parameters<typeof startBidiseg>[1] = {}): RunningProcess {
    return startBidiseg(['resume', run, '--json', ...this.#options], options);
  }

  /** Resumes a run to its end and checks its content. */
  async finish(run: string): Promise<Ended> {
    const ended = await this.resume(run).ended;
    assert.equal(ended.code, 0, ended.stderr);
    this.check(run);
    return ended;
  }

  /** Checks that a complete run equals the uninterrupted one bit for bit, without leftover files. */
  check(run: string): void {
    for (const part of ['stages', 'translated', 'pseudo-labels', 'pictures']) {
      const expected = filesIn(path.join(this.#whole, part));
      assert.deepEqual([...filesIn(path.join(run, part)).keys()], [...expected.keys()], `files in ${part}`);
      for (const [name, file] of expected) {
        const other = path.join(run, part, name);
        const isSame = name.endsWith('stage.json')
          ? assert.deepEqual(resultsIn(other), resultsIn(file)) === undefined
          : readFileSync(other).equals(readFileSync(file));
        assert.ok(isSame, `${other} is not what an uninterrupted run gives`);
      }
    }
    assert.deepEqual(temporaryFiles(run), []);
    assert.deepEqual(readdirSync(path.join(run, 'lock')), []);
  }
}

/** Returns the error line of a process that had to fail. Anything except one line is a failure. */
export function errorOf({ code, stderr, events }: Ended): string {
  assert.equal(code, 1, stderr);
  const lines = stderr.split('\n').filter((line) => line.startsWith('bidiseg: '));
  assert.equal(lines.length, 1, stderr);
  assert.doesNotMatch(stderr, /\n\s+at /, 'a stack trace is no message');
  const message = lines[0]!.replace('bidiseg: ', '');
  assert.deepEqual([events.at(-1)!.event, events.at(-1)!.message], ['error', message]);
  return message;
}

function filesIn(folder: string): Map<string, string> {
  if (!existsSync(folder)) return new Map();
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  return new Map(
    files
      .map((entry) => path.join(entry.parentPath, entry.name))
      .sort()
      .map((file) => [path.relative(folder, file), file]),
  );
}

/** Reads a stage's record without its times. */
function resultsIn(file: string): unknown {
  const { stage, record } = JSON.parse(readFileSync(file, 'utf8'));
  return { stage, record: { ...record, seconds: null, waitShare: null } };
}
