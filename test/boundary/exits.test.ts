import assert from 'node:assert/strict';
import { type ChildResult, runFixture } from '../helpers/child.js';

const REPEATS = 3;
const LIMIT_MS = 5000;

/** Runs the fixture several times at once; `signal` is sent when it says that it computes. */
async function repeat(
  mode: string,
  check: (result: ChildResult) => void,
  signal?: NodeJS.Signals,
): Promise<void> {
  const one = async () => {
    let busyAt = 0;
    const result = await runFixture('exits.mjs', [mode], {
      onOutput: (child, stdout) => {
        if (busyAt > 0 || !stdout.includes('busy\n')) return;
        busyAt = performance.now();
        if (signal) child.kill(signal);
      },
    });
    const took = performance.now() - busyAt;
    assert.ok(!result.stdout.includes('finished'), 'the job was over too soon to show anything');
    assert.ok(busyAt > 0, `it never computed: ${result.stderr}`);
    check(result);
    assert.ok(took < LIMIT_MS, `it took ${took.toFixed(0)} ms to end`);
  };
  await Promise.all(Array.from({ length: REPEATS }, one));
}

const ended = (result: ChildResult, code: number | null, signal: NodeJS.Signals | null, stderr: RegExp) => {
  assert.deepEqual({ code: result.code, signal: result.signal }, { code, signal }, result.stderr);
  assert.match(result.stderr, stderr);
};

describe('the end of a process while a native job computes', () => {
  it('waits for the job at the natural end', () =>
    repeat('natural', (result) => {
      ended(result, 0, null, /^$/);
      assert.match(result.stdout, /done/);
    }));

  it('is not held up by objects alone', () => repeat('idle', (result) => ended(result, 0, null, /^$/)));

  it('process.exit() gives its code', () => repeat('exit', (result) => ended(result, 3, null, /^$/)));

  it('process.exitCode set in an exit handler counts', () =>
    repeat('exit-in-handler', (result) => ended(result, 3, null, /^$/)));

  it('an uncaught exception gives code 1 and its own message', () =>
    repeat('throw', (result) =>
      ended(result, 1, null, /^file:.*\n[\s\S]*Error: on purpose\n[\s\S]*Node\.js v/),
    ));

  it('an unhandled rejection gives code 1 and its own message', () =>
    repeat('reject', (result) => ended(result, 1, null, /Error: on purpose\n[\s\S]*Node\.js v/)));

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`${signal} ends it as that signal does by default`, () =>
      repeat('signal', (result) => ended(result, null, signal, /^$/), signal));
  }
});
