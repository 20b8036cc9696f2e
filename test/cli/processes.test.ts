import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Segmenter } from 'bidiseg';
import type { RunSummary } from '../../lib/pipeline/events.js';
import {
  bidiseg,
  childrenOf,
  temporaryFiles,
  temporaryFolder,
  writeTinyConfig,
  writeTinyData,
} from './command-line.js';

const MAIN = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url));

/**
 * Everything that processes share: accumulation, batch statistics, pools, class counts, held-out images, soft labels.
 * In float64, rounding is too small to change a byte of an image, so that results must be equal.
 */
const OVERRIDES = {
  dtype: 'float64',
  segmentation: {
    ...{ steps: 4, pseudoLabelSteps: 4, sourceOnlySteps: 4, batchSize: 1, accumulation: 4 },
    ...{
      rareClassSampling: {},
      targetStatistics: true,
      teacher: { distributionAlignment: true, masking: {} },
    },
    validation: { share: 0.2, every: 2 },
  },
  translation: { steps: 4, batchSize: 4, poolSize: 5 },
  selfTraining: { weighting: 'soft' },
  checkpoint: { every: 1 },
};

describe('command line: several processes', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const run = (args: string[]) => bidiseg(args, { cwd: folder.path });

  before(async () => {
    await writeTinyData(folder.path, { source: 6, target: 5 });
    await writeTinyData(at('other'), { source: 4, target: 5 });
    writeTinyConfig(folder.path, OVERRIDES);
  });

  /** Starts a command, kills one of its processes once `event` is in the log of the run, and waits for the end. */
  async function cutOff(args: string[], event: string, rank: number) {
    const child = spawn(process.execPath, [MAIN, ...args], {
      cwd: folder.path,
      env: { ...process.env, OMP_NUM_THREADS: '1' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
    const log = at('divided', 'events.jsonl');
    while (!(existsSync(log) && readFileSync(log, 'utf8').includes(event))) {
      assert.equal(child.exitCode, null, stderr);
      await sleep(50);
    }
    process.kill(childrenOf(child)[rank]!, 'SIGKILL');
    return { code: await ended, stderr };
  }

  it('give the result of one, cut off twice and continued by fewer each time', async () => {
    const alone = await run(['train', 'config.json', '--output', 'alone']);
    assert.equal(alone.code, 0, alone.stderr);

    const train = ['train', 'config.json', '--output', 'divided', '--processes', '4'];
    const first = await cutOff(train, '"stage":"round-1/translator","step":2', 2);
    assert.equal(first.code, 1);
    assert.match(first.stderr, /F\(1\) up to step [234] are kept in divided; resume with/);
    assert.match(first.stderr, /^bidiseg: rank 2 was ended by SIGKILL; the other processes were stopped$/m);

    const resume = ['resume', 'divided', '--processes', '2'];
    const second = await cutOff(resume, '"stage":"round-1/segmenter-1","step":1', 0);
    assert.equal(second.code, 1);
    const rest = await run(['resume', 'divided']);
    assert.equal(rest.code, 0, rest.stderr);

    await compare(at('alone'), at('divided'));
    assert.deepEqual(temporaryFiles(at('divided')), []);
  });

  it('draw the same labeled target images as one', async () => {
    const part = (from: number, to: number) =>
      `{images: target/images, labels: target/labels, part: [${from}, ${to}]}`;
    const set = ['loop.rounds=0', `data.target.val=${part(0, 0.6)}`, 'segmentation.labeledTargetShare=0.5'];
    const few = [...set, `data.target.labeled=${part(0.6, 1)}`];
    const trained = async (output: string, assignments: string[], more: string[] = []) => {
      const settings = assignments.flatMap((assignment) => ['--set', assignment]);
      const { code, stderr } = await run(['train', 'config.json', '--output', output, ...settings, ...more]);
      assert.equal(code, 0, stderr);
      return parametersOf(at(output, 'stages/source-only/weights.safetensors'));
    };
    const alone = await trained('few-alone', few);
    const divided = await trained('few-divided', few, ['--processes', '2']);
    const without = await trained('few-without', set);
    const difference = (other: number[]) =>
      Math.max(...alone.map((value, index) => Math.abs(value - other[index]!)));
    assert(difference(divided) < 1e-9, String(difference(divided)));
    assert(difference(without) > 2e-3, String(difference(without)));
  });

  it('are refused when they cannot divide the steps, with the numbers that can', async () => {
    const { code, stderr } = await run([
      ...['train', 'config.json', '--output', 'refused', '--processes', '3'],
    ]);
    assert.equal(code, 1);
    assert.equal(
      stderr,
      'bidiseg: segmentation.accumulation: 4 cannot be divided among 3 processes; start 1 or 2 or 4, or set it to a multiple of 3 such as 6\n',
    );
    assert.ok(!existsSync(at('refused')));
  });

  it('say once what is wrong for all', async () => {
    const { code, stderr } = await run([
      ...['train', 'config.json', '--output', 'wrong', '--processes', '2'],
      ...['--set', 'data.source.images=nowhere'],
    ]);
    assert.equal(code, 1);
    assert.match(stderr, /^bidiseg: [^\n]*nowhere[^\n]*\n$/);
  });

  it('stop at a signal and keep the state', async () => {
    const { code, stderr } = await bidiseg(
      ['train', 'config.json', '--output', 'stopped', '--processes', '2', '--json'],
      {
        cwd: folder.path,
        signal: { name: 'SIGTERM', onceStdoutHas: '"event":"stage-start","stage":"round-1/translator"' },
      },
    );
    assert.equal(code, 143);
    assert.match(stderr, /^bidiseg: interrupted; finished stages \(M\(0\)\).* are kept in stopped; resume/m);
  });

  it('that see different configs are an error that names one', async () => {
    const errors = await Promise.all(
      ['1', '2'].map((seed, rank) => {
        const args = ['train', 'config.json', '--output', 'differing', '--seed', seed];
        return asRank(rank, args);
      }),
    );
    assert.match(errors[0]!, /^bidiseg: Rank 1 has another config than rank 0/);
    assert.equal(errors[1], '');
  });

  it('that see different data are an error that names one', async () => {
    const errors = await Promise.all(
      ['.', 'other'].map((root, rank) => {
        const args = ['train', 'config.json', '--output', 'data', '--set', `data.root=${at(root)}`];
        return asRank(rank, args);
      }),
    );
    assert.equal(
      errors[0],
      'bidiseg: Rank 1 sees 4 source, 5 target and 5 validation images, expected 6 source, 5 target and 5 validation images as in rank 0\n',
    );
  });

  /** Runs a command as one of two processes. Returns what it prints on stderr. */
  function asRank(rank: number, args: string[]): Promise<string> {
    const env = {
      ...{ ...process.env, OMP_NUM_THREADS: '1', GLOO_SOCKET_IFNAME: 'lo' },
      ...{ RANK: String(rank), WORLD_SIZE: '2', LOCAL_RANK: String(rank), LOCAL_WORLD_SIZE: '2' },
      BIDISEG_MEETING_FILE: at(`meeting-${args[3]}`),
    };
    const child = spawn(process.execPath, [MAIN, ...args], { cwd: folder.path, env, stdio: 'pipe' });
    let stderr = '';
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    return new Promise((resolve) => child.on('close', () => resolve(stderr)));
  }
});

async function parametersOf(file: string): Promise<number[]> {
  using segmenter = await Segmenter.fromFile(file);
  const values: number[] = [];
  for (const tensor of (await segmenter.parameters()).values()) {
    for (const value of await tensor.data()) values.push(Number(value));
    tensor.dispose();
  }
  return values;
}

/** Compares the results of two runs: images byte by byte, and numbers but for the rounding of float64. */
async function compare(one: string, other: string): Promise<void> {
  for (const place of ['translated/round-1', 'pseudo-labels/round-1-pseudo-labels-1']) {
    const images = (run: string) =>
      readdirSync(path.join(run, place)).filter((name) => name.endsWith('.png'));
    assert.deepEqual(images(other), images(one));
    assert.ok(images(one).length > 0);
    for (const name of images(one)) {
      const bytes = (run: string) => readFileSync(path.join(run, place, name));
      assert.ok(bytes(other).equals(bytes(one)), `${place}/${name}`);
    }
  }
  const read = (run: string, name: string) => JSON.parse(readFileSync(path.join(run, name), 'utf8'));
  assert.deepEqual(read(other, 'class-counts.json'), read(one, 'class-counts.json'));
  const stages = (run: string) => (read(run, 'summary.json') as RunSummary).stages;
  for (const [index, { label, miou, best, scores }] of stages(one).entries()) {
    const found = stages(other)[index]!;
    assert.deepEqual([found.label, found.miou, found.best?.miou], [label, miou, best?.miou]);
    if (!scores) continue;
    for (const name of ['entropy', 'neighborhoodDensity', 'viewAgreement', 'teacherAgreement'] as const) {
      assert.ok(Math.abs((found.scores?.[name] ?? 0) - (scores[name] ?? 0)) < 1e-9, `${label}: ${name}`);
    }
    assert.deepEqual([found.scores?.images, found.scores?.pixels], [scores.images, scores.pixels]);
  }
  const weights = (run: string) =>
    parametersOf(path.join(run, 'stages/round-1-segmenter-1/weights.safetensors'));
  const [expected, found] = await Promise.all([weights(one), weights(other)]);
  const apart = Math.max(...expected.map((value, index) => Math.abs(value - found[index]!)));
  assert.ok(apart < 1e-9, `weights: ${apart}`);
}
