import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import type { Random } from '../../../lib/data/random.js';
import { childrenOf } from '../../cli/command-line.js';
import type { Ended, RunningProcess } from './bidiseg-process.js';
import type { Fault } from './faults.js';
import type { Setting } from './setting.js';

const FAULTS_A_RUN = 5;

/** Lists the faults that one of several processes can suffer. Every run is resumed with as many and ends as if undisturbed. */
export function processFaults(setting: Setting): Fault[] {
  const fault = (what: string, tries: number, outcome: string, act: Act, check: Check): Fault => ({
    fault: what,
    tries,
    outcome: `${outcome}; resumed`,
    attempt: (count, random, note) => disturb(setting, { tries: count, random, note }, act, check),
  });
  return [
    fault(
      'one of two processes killed at a random moment',
      30,
      'all end, the error names it',
      (child, rank) => process.kill(childrenOf(child)[rank]!, 'SIGKILL'),
      ({ code, stderr }, rank) => {
        assert.ok(code === 1 || code === 137, `${code}: ${stderr}`);
        if (rank > 0) assert.match(stderr, /rank 1 was ended by SIGKILL/);
      },
    ),
    fault(
      'one of two processes hangs (SIGSTOP)',
      10,
      'all end after the timeout, the error names it',
      (child, rank) => process.kill(childrenOf(child)[rank]!, 'SIGSTOP'),
      ({ code, stderr }, rank) => {
        assert.equal(code, 1, stderr);
        assert.match(stderr, rank === 0 ? /interrupted|no sign of rank 0|gone/ : /no sign of rank 1/);
      },
    ),
    fault(
      'SIGTERM to one process or to all',
      10,
      'state saved, all end',
      (child, rank) => (rank === 0 ? child.kill('SIGTERM') : process.kill(childrenOf(child)[1]!, 'SIGTERM')),
      ({ code, stderr }) => assert.ok([1, 143].includes(code!), `${code}: ${stderr}`),
    ),
  ];
}

type Act = (child: RunningProcess['child'], rank: number) => void;
type Check = (ended: Ended, rank: number) => void;

async function disturb(
  setting: Setting,
  { tries, random, note }: { tries: number; random: Random; note: (line: string) => void },
  act: Act,
  check: Check,
): Promise<number> {
  const { stages } = setting;
  let tried = 0;
  for (let first = 0; tried < tries; first = (first + 1) % stages.length) {
    const run = setting.runOf(first);
    const count = Math.min(FAULTS_A_RUN, tries - tried);
    const targets = Array.from({ length: count }, () => first + random.integer(stages.length - first)).sort();
    for (const target of targets) {
      const { name, seconds } = stages[target]!;
      const rank = random.integer(2);
      const delayMs = random.range(0, 1000 * seconds);
      const { ended, acted } = await actAt(setting, run, { stage: target, delayMs }, (child) =>
        act(child, rank),
      );
      if (!acted || ended.code === 0) {
        assert.equal(ended.code, 0, ended.stderr);
        break; // it was quicker than usual
      }
      check(ended, rank);
      tried++;
      note(`rank ${rank}, ${Math.round(delayMs)} ms after ${name}`);
    }
    await setting.finish(run);
    rmSync(run, { recursive: true });
  }
  return tried;
}

/** Resumes a run and acts some time after a stage or a later one has begun. */
async function actAt(
  setting: Setting,
  run: string,
  moment: { stage: number; delayMs: number },
  act: (child: RunningProcess['child']) => void,
): Promise<{ ended: Ended; acted: boolean }> {
  const order = setting.stages.map(({ name }) => name);
  let timer: NodeJS.Timeout | undefined;
  let acted = false;
  const { child, ended } = setting.resume(run, {
    onEvent: ({ event, stage }) => {
      if (event !== 'stage-start' || order.indexOf(stage!) < moment.stage) return;
      timer ??= setTimeout(() => {
        acted = child.exitCode === null && childrenOf(child).length === 2;
        if (acted) act(child);
      }, moment.delayMs);
    },
  });
  const end = await ended.finally(() => clearTimeout(timer));
  return { ended: end, acted };
}
