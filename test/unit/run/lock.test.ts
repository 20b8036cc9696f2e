import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { Lock } from '../../../lib/run/lock.js';
import { ConfigError, DataError } from '../../../lib/support/errors.js';

const LOCK_MODULE = new URL('../../../lib/run/lock.js', import.meta.url).href;

describe('the lock of a run folder', () => {
  let folder: string;
  const children: ChildProcess[] = [];

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-lock-'));
  });

  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    await rm(folder, { recursive: true });
  });

  /** Starts a process that takes the lock, prints 'taken' or 'refused', and holds the lock until its end. */
  function contender(): { child: ChildProcess; answer: Promise<string> } {
    const script = `
      const { Lock } = await import(${JSON.stringify(LOCK_MODULE)});
      process.stdin.once('data', async () => {
        const answer = await Lock.take(${JSON.stringify(folder)}).then(() => 'taken', (error) => error.code);
        process.stdout.write(answer);
      });
      process.stdout.write('ready');
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    children.push(child);
    const answer = once(child.stdout!, 'data').then(async () => {
      child.stdin!.write('go');
      const [data] = await once(child.stdout!, 'data');
      return String(data);
    });
    return { child, answer };
  }

  async function refused(expected: RegExp): Promise<void> {
    await assert.rejects(Lock.take(folder), (error: Error) => {
      assert(error instanceof ConfigError);
      assert.match(error.message, expected);
      return true;
    });
  }

  it('refuses another process while one holds it, and names that one’s pid', async () => {
    const { child, answer } = contender();
    assert.equal(await answer, 'taken');
    await refused(new RegExp(`in use by process ${child.pid} on `));
  });

  it('is taken over from a process that was killed', async () => {
    const { child, answer } = contender();
    assert.equal(await answer, 'taken');
    child.kill('SIGKILL');
    await once(child, 'exit');
    const lock = await Lock.take(folder);
    await lock.release();
    assert.deepEqual(await readdir(folder), []);
  });

  it('removes the remains of a process that was killed while it asked', async () => {
    const dead = { pid: 2 ** 22 + 1, host: hostname(), started: null };
    await writeFile(path.join(folder, 'claim.tmp'), JSON.stringify(dead));
    const lock = await Lock.take(folder);
    assert.equal((await readdir(folder)).length, 1);
    await lock.release();
  });

  it('is given to one of several that find a dead owner at the same moment', async () => {
    const dead = { pid: 2 ** 22 + 1, host: hostname(), started: null };
    await writeFile(path.join(folder, 'claim'), JSON.stringify(dead));
    const answers = await Promise.all(Array.from({ length: 6 }, () => contender().answer));
    assert.equal(answers.filter((answer) => answer === 'taken').length, 1, answers.join());
    assert.equal((await readdir(folder)).length, 1);
  });

  it('refuses a second owner in the same process, and is free again after release', async () => {
    const lock = await Lock.take(folder);
    await refused(new RegExp(`process ${process.pid} on `));
    await lock.release();
    await lock.release();
    await (await Lock.take(folder)).release();
  });

  it('is not mistaken for a living process that got the pid of the dead owner', async function () {
    if (process.platform !== 'linux') this.skip();
    await writeFile(
      path.join(folder, 'claim'),
      JSON.stringify({ pid: process.pid, host: hostname(), started: '1' }),
    );
    await (await Lock.take(folder)).release();
  });

  it('of another machine is not taken over', async () => {
    await writeFile(path.join(folder, 'claim'), JSON.stringify({ pid: 1, host: 'elsewhere', started: null }));
    await refused(/process 1 on elsewhere; .*delete .*claim/);
  });

  it('that is unreadable is not taken over', async () => {
    await writeFile(path.join(folder, 'claim'), 'what is this');
    await refused(/in use by another process/);
  });

  it('reports that its folder cannot be created', async () => {
    const inTheWay = path.join(folder, 'file');
    await writeFile(inTheWay, '');
    await assert.rejects(
      Lock.take(inTheWay),
      (error: Error) => error instanceof DataError && /cannot be locked/.test(error.message),
    );
  });
});
