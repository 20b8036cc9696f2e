import assert from 'node:assert/strict';
import { type ChildResult, runFixture } from '../../helpers/child.js';

/** Way for a process to end while a native job computes, see fixtures/exits.mjs. */
export interface ProcessEnd {
  title: string;
  mode: string;
  /** Signal to send when the process reports that it computes. */
  signal?: NodeJS.Signals;
  check: (result: ChildResult) => void;
}

/** Way for worker threads to live and end, see fixtures/workers.mjs. */
export interface WorkerEnd {
  title: string;
  mode: string;
  /** Number of tries of `npm run test:faults`. */
  tries: number;
  /** true: the fixture itself repeats it, as often as its second argument says. */
  repeats?: boolean;
  exitCode?: number;
}

const ended =
  (code: number | null, signal: NodeJS.Signals | null, stderr: RegExp, stdout = /(?:)/) =>
  (result: ChildResult) => {
    assert.deepEqual({ code: result.code, signal: result.signal }, { code, signal }, result.stderr);
    assert.match(result.stderr, stderr);
    assert.match(result.stdout, stdout);
  };

const NOTHING = /^$/;
const THROWN = /^file:.*\n[\s\S]*Error: on purpose\n[\s\S]*Node\.js v/;
const REJECTED = /Error: on purpose\n[\s\S]*Node\.js v/;

export const PROCESS_ENDS: ProcessEnd[] = [
  { title: 'the natural end waits for the job', mode: 'natural', check: ended(0, null, NOTHING, /done/) },
  { title: 'objects alone do not hold the end up', mode: 'idle', check: ended(0, null, NOTHING) },
  { title: 'process.exit() gives its code', mode: 'exit', check: ended(3, null, NOTHING) },
  {
    title: 'process.exitCode set in an exit handler counts',
    mode: 'exit-in-handler',
    check: ended(3, null, NOTHING),
  },
  {
    title: 'an uncaught exception gives code 1 and its own message',
    mode: 'throw',
    check: ended(1, null, THROWN),
  },
  {
    title: 'an unhandled rejection gives code 1 and its own message',
    mode: 'reject',
    check: ended(1, null, REJECTED),
  },
  ...(['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((signal) => ({
    title: `${signal} ends it as that signal does by default`,
    mode: 'signal',
    signal,
    check: ended(null, signal, NOTHING),
  })),
];

export const WORKER_ENDS: WorkerEnd[] = [
  {
    title: 'loads in a worker first, and in the main thread after it has ended',
    mode: 'first-in-worker',
    tries: 20,
  },
  { title: 'trains in four workers and in the main thread at once', mode: 'several-at-once', tries: 20 },
  { title: 'worker.terminate() while a job computes', mode: 'terminate', tries: 100, repeats: true },
  { title: "a worker's process.exit() while a job computes", mode: 'worker-exit', tries: 50, repeats: true },
  {
    title: "a worker's uncaught exception while a job computes",
    mode: 'worker-throw',
    tries: 50,
    repeats: true,
  },
  {
    title: 'process.exit() of the main thread while workers compute',
    mode: 'main-exit',
    tries: 50,
    exitCode: 3,
  },
];

/** Ends `times` processes in this way, at the same time. */
export async function tryProcessEnd(
  { mode, signal, check }: ProcessEnd,
  times: number,
  device = 'cpu',
): Promise<void> {
  const one = async () => {
    let isBusy = false;
    const result = await runFixture('exits.mjs', [mode], {
      env: { TEST_DEVICE: device },
      onOutput: (child, stdout) => {
        if (isBusy || !stdout.includes('busy\n')) return;
        isBusy = true;
        if (signal) child.kill(signal);
      },
    });
    assert.ok(!result.stdout.includes('finished'), 'the job was over too soon to show anything');
    assert.ok(isBusy, `it never computed: ${result.stderr}`);
    check(result);
  };
  await Promise.all(Array.from({ length: times }, one));
}

/** Runs worker threads that end in this way, one after the other. */
export async function tryWorkerEnd(
  { mode, repeats, exitCode = 0 }: WorkerEnd,
  times: number,
  device = 'cpu',
): Promise<void> {
  for (let i = 0; i < (repeats ? 1 : times); i++) {
    const { code, signal, stdout, stderr } = await runFixture('workers.mjs', [mode, String(times)], {
      timeoutMs: 300_000 + 5_000 * times,
      env: { TEST_DEVICE: device },
    });
    assert.deepEqual({ code, signal, stderr }, { code: exitCode, signal: null, stderr: '' });
    if (exitCode === 0) assert.match(stdout, /^end\n$/m);
  }
}
