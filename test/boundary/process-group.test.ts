import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ProcessGroup } from '../../lib/index.js';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { findPython } from '../helpers/twin.js';

const FIXTURE = join(ROOT, 'test/boundary/fixtures/process-group.mjs');

type Line = Record<string, unknown>;

interface Member {
  process: ChildProcess;
  /** Next line of its output. */
  next(): Promise<Line>;
  ended: Promise<number | null>;
}

function start(command: string, args: string[]): Member {
  const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    process: child,
    next: async () => JSON.parse((await lines.next()).value as string) as Line,
    ended: new Promise((resolve) => child.on('close', resolve)),
  };
}

const twice = (text: string): [string, string] => [text, text];

describe('process groups', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  let groups = 0;

  function startGroup(what: string, size: number): Member[] {
    const file = folder.path(`store-${++groups}`);
    return Array.from({ length: size }, (_, rank) =>
      start(process.execPath, [FIXTURE, what, file, String(rank), String(size)]),
    );
  }

  async function outputs(members: Member[]): Promise<Line[]> {
    const lines = await Promise.all(members.map((member) => member.next()));
    assert.deepEqual(
      await Promise.all(members.map(({ ended }) => ended)),
      members.map(() => 0),
    );
    return lines;
  }

  for (const size of [1, 2, 3]) {
    it(`of ${size} add, average, broadcast and gather`, async () => {
      const ranks = Array.from({ length: size }, (_, rank) => rank);
      const sum = (value: (rank: number) => number) => ranks.reduce((total, rank) => total + value(rank), 0);
      for (const [rank, line] of (await outputs(startGroup('COLLECTIVES', size))).entries()) {
        assert.deepEqual(line, {
          ...{ rank, size },
          sum: [sum((r) => r + 1), sum((r) => 10 * (r + 1))],
          large: [sum((r) => r + 1)],
          counts: [sum((r) => r), 5 * size],
          mean: [Math.fround(Math.fround(sum((r) => r)) / size), 3],
          root: [size - 1 + 7],
          gathered: ranks.map((r) => [r, r ** 2]),
          // Before each of the five calls, five integers tell the others what follows.
          bytes: 16 + 4 * 8 * 2 ** 20 + 16 + 8 + 1 + 8 + 5 * 5 * 8,
        });
      }
    });
  }

  it('refuse calls that are not the same in all of them, and go on', async () => {
    const differ = (first: string, last: string, other = '') => ({
      code: 'ERR_INVALID_ARGUMENT',
      message: `Expected the same call from all processes but rank 0 calls ${first} and rank 1 calls ${last}${other}`,
    });
    const others = ', of other shapes, dtypes or devices';
    for (const line of await outputs(startGroup('DIFFERENT', 2))) {
      assert.deepEqual(line, {
        errors: {
          size: differ('add with 1 tensors of 5 values in all', 'add with 1 tensors of 400000 values in all'),
          count: differ(
            'average with 1 tensors of 3 values in all',
            'average with 0 tensors of 0 values in all',
          ),
          shape: differ(...twice('allGather with 1 tensors of 6 values in all'), others),
          dtype: differ(...twice('add with 1 tensors of 4 values in all'), others),
          root: differ(
            'broadcast from rank 0 with 1 tensors of 2 values in all',
            'broadcast from rank 1 with 1 tensors of 2 values in all',
          ),
          call: differ('average with 1 tensors of 7 values in all', 'barrier'),
        },
        sum: [2],
      });
    }
  });

  it('train as one process does on the same micro-batches, in float64', async () => {
    const weights = async (size: number) => {
      const [first, ...others] = (await outputs(startGroup('TRAINING', size))).map(
        (line) => line.weights as number[],
      );
      for (const other of others) assert.deepEqual(other, first, 'processes differ');
      return first!;
    };
    const alone = await weights(1);
    for (const size of [2, 4]) {
      const found = await weights(size);
      const norm = Math.hypot(...alone);
      const difference = Math.hypot(...found.map((value, i) => value - alone[i]!)) / norm;
      console.log(
        `    ${size} processes, three steps: relative difference of the weights ${difference.toExponential(1)}`,
      );
      assert.ok(difference < 1e-12);
    }
  });

  it('fail within seconds when a process dies', async () => {
    const [one, two] = startGroup('ADDING', 2) as [Member, Member];
    await Promise.all([one.next(), two.next()]);
    two.process.kill('SIGKILL');
    const { code, message, ms } = await one.next();
    assert.equal(code, 'ERR_PROCESS_GROUP');
    assert.match(String(message), /^Rank 0 of 2: add failed/);
    assert.ok(Number(ms) < 8000, `${ms} ms`);
    await one.ended;
  });

  it('name the process that hangs, after the timeout', async () => {
    const [one, two] = startGroup('ADDING', 2) as [Member, Member];
    await Promise.all([one.next(), two.next()]);
    two.process.kill('SIGSTOP');
    const { code, message } = await one.next();
    two.process.kill('SIGKILL');
    assert.equal(code, 'ERR_PROCESS_GROUP');
    assert.match(String(message), /^Rank 0 of 2: add failed; no sign of rank 1 /);
    await one.ended;
  });

  it('end within seconds when the folder of their file is gone', async () => {
    mkdirSync(folder.path('gone'));
    const group = await ProcessGroup.join({ file: folder.path('gone/store'), rank: 0, size: 1 });
    rmSync(folder.path('gone'), { recursive: true });
    await sleep(1500); // a heartbeat has not found the file
    const start = performance.now();
    await group[Symbol.asyncDispose]();
    assert.ok(performance.now() - start < 30_000, 'waited for the file');
  });

  it('refuse a file that is no store of theirs', async () => {
    const store = folder.path('own-store');
    (await ProcessGroup.join({ file: store, rank: 0, size: 1 })).dispose();
    const whole = readFileSync(store);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(3);
    const foreign = {
      text: Buffer.from('labels for the street'),
      'cut off': whole.subarray(0, -1),
      'a key without a value': Buffer.concat([length, Buffer.from('key')]),
      'a length beyond the end': Buffer.concat([length, Buffer.from('ke')]),
    };
    for (const [name, bytes] of Object.entries(foreign)) {
      const file = folder.path(name);
      writeFileSync(file, bytes);
      await assert.rejects(ProcessGroup.join({ file, rank: 0, size: 1 }), {
        code: 'ERR_INVALID_ARGUMENT',
        message: `Expected a new file for file but ${file} holds something else`,
      });
      assert.deepEqual(readFileSync(file), bytes);
    }
    await assert.rejects(
      ProcessGroup.join({ file: folder.path('.'), rank: 0, size: 1 }),
      /holds something else/,
    );
  });

  it('stop waiting when they are told to', async () => {
    const [one, two] = startGroup('ABORTED', 2) as [Member, Member];
    assert.deepEqual(await one.next(), { name: 'TimeoutError' });
    await Promise.all([one.ended, two.ended]);
  });

  it('meet under torchrun', async function () {
    const found = findPython();
    if ('reason' in found) {
      console.log(`    skipped: ${found.reason}`);
      this.skip();
    }
    const launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '--no-python'];
    const run = start(found.python, [...launcher, process.execPath, FIXTURE, 'COLLECTIVES']);
    const lines = [await run.next(), await run.next()];
    assert.deepEqual(lines.map(({ rank }) => rank).sort(), [0, 1]);
    assert.deepEqual(
      lines.map(({ sum }) => sum),
      [
        [3, 30],
        [3, 30],
      ],
    );
    assert.equal(await run.ended, 0);
  });
});
