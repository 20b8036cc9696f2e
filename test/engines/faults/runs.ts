import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import type { Random } from '../../../lib/data/random.js';
import { readTensors, writeTensors } from '../../helpers/tensor-file.js';
import type { Ended, RunningProcess } from './bidiseg-process.js';
import { each, type Fault } from './faults.js';
import { errorOf, type Setting } from './setting.js';

/**
 * Outcome: the run continued to its end, and its content equals an uninterrupted run bit for bit, see `Setting.check`.
 */
const RESUMED = 'resumed';

/** Lists the faults that a run can suffer from outside. */
export function runFaults(setting: Setting): Fault[] {
  return [
    {
      fault: 'SIGKILL at a random moment of any stage',
      tries: 30,
      outcome: RESUMED,
      attempt: (tries, random, note) => killAgainAndAgain(setting, tries, random, note),
    },
    {
      fault: 'SIGINT or SIGTERM while training',
      tries: 10,
      outcome: `state saved, exit code 130 or 143; ${RESUMED}`,
      attempt: each((random, note) => interrupt(setting, random, note)),
    },
    {
      fault: 'a second SIGINT',
      tries: 5,
      outcome: `exit at once; ${RESUMED}`,
      attempt: each((random, note) => interruptTwice(setting, random, note)),
    },
    {
      fault: 'a second process on the run folder',
      tries: 3,
      outcome: 'refused with the pid of the first, which is not disturbed',
      attempt: each((random) => openTwice(setting, random)),
    },
    {
      fault: 'disk full (a small tmpfs)',
      tries: 5,
      outcome: `one error, checkpoint intact; ${RESUMED}`,
      attempt: (tries, random, note) => fillDisk(setting, tries, random, note),
    },
    {
      fault: 'disk full (limit on the size of files)',
      tries: 3,
      outcome: `one error, checkpoint intact; ${RESUMED}`,
      attempt: each(() => limitFileSize(setting)),
    },
    {
      fault: 'run folder on a read-only disk',
      tries: 2,
      outcome: `one error, nothing changed; ${RESUMED}`,
      attempt: (tries, random, note) => makeReadOnly(setting, tries, random, note),
    },
    {
      fault: 'data set deleted while training',
      tries: 3,
      outcome: `one error, state saved; ${RESUMED}`,
      attempt: each((random) => deleteData(setting, random)),
    },
    {
      fault: 'image unreadable from the middle of a stage on',
      tries: 4,
      outcome: `one error that names it, state saved; ${RESUMED}`,
      attempt: each((random, note) => breakImage(setting, random, note)),
    },
    {
      fault: 'folder of the running stage deleted',
      tries: 3,
      outcome: `one error; ${RESUMED}`,
      attempt: each((random) => deleteStage(setting, random)),
    },
    {
      fault: 'newest checkpoint damaged (a bit, the end, all of it)',
      tries: 9,
      outcome: `the one before is taken, with a warning; ${RESUMED}`,
      attempt: each((random, note) => damageNewest(setting, random, note)),
    },
    {
      fault: 'every checkpoint damaged',
      tries: 3,
      outcome: `the stage begins again, with a warning; ${RESUMED}`,
      attempt: each((random) => damageAll(setting, random)),
    },
    {
      fault: 'loss NaN, policy `stop`',
      tries: 2,
      outcome: 'one error that names stage, step and images',
      attempt: each((_, note) => trainOnNaN(setting, note)),
    },
    {
      fault: 'loss NaN, policy `skip`',
      tries: 2,
      outcome: 'a warning for each skipped step, one error at the limit',
      attempt: each((random, note) => skipNaN(setting, random, note)),
    },
    {
      fault: 'config of the run from a newer version',
      tries: 1,
      outcome: 'refused with the reason',
      attempt: each(() => newerConfig(setting)),
    },
    {
      fault: 'run folder from before configs had a version',
      tries: 1,
      outcome: RESUMED,
      attempt: each((random) => olderConfig(setting, random)),
    },
  ];
}

const KILLS_A_RUN = 3;

/**
 * Kills runs repeatedly, each a few times before it may end, at moments spread evenly over a random stage. Each run
 * starts with another stage, so that short stages are hit too.
 */
async function killAgainAndAgain(
  setting: Setting,
  tries: number,
  random: Random,
  note: (line: string) => void,
): Promise<number> {
  const { stages } = setting;
  let killed = 0;
  for (let first = 0; killed < tries; first = (first + 1) % stages.length) {
    const run = setting.runOf(first);
    const kills = Math.min(KILLS_A_RUN, tries - killed);
    const targets = Array.from({ length: kills }, () => first + random.integer(stages.length - first)).sort();
    for (const target of targets) {
      const { name, seconds } = stages[target]!;
      // One kill in ten comes before anything has begun.
      const moment =
        random.next() < 0.1
          ? { delayMs: random.range(0, 500), after: 'the start of the process' }
          : { delayMs: random.range(0, 1000 * seconds), after: name };
      const ended = await killAt(setting, run, moment);
      if (ended.signal !== 'SIGKILL') {
        assert.equal(ended.code, 0, ended.stderr);
        break; // it was quicker than usual
      }
      killed++;
      const { event = 'nothing', stage = '', step = '' } = ended.events.at(-1) ?? {};
      note(
        `${Math.round(moment.delayMs)} ms after ${moment.after}, last heard: ${[event, stage, step].join(' ')}`,
      );
    }
    await setting.finish(run);
    rmSync(run, { recursive: true });
  }
  return killed;
}

/** Resumes a run and kills it some time after a stage or a later one has begun, or after its start. */
function killAt(setting: Setting, run: string, moment: { delayMs: number; after: string }): Promise<Ended> {
  const order = setting.stages.map(({ name }) => name);
  let timer: NodeJS.Timeout | undefined;
  const { child, ended } = setting.resume(run, {
    onEvent: ({ event, stage }) => {
      if (event === 'stage-start' && order.indexOf(stage!) >= order.indexOf(moment.after)) arm();
    },
  });
  const arm = () => {
    timer ??= setTimeout(() => child.kill('SIGKILL'), moment.delayMs);
  };
  if (!order.includes(moment.after)) arm();
  return ended.finally(() => clearTimeout(timer));
}

const TRAINING = ['source-only', 'round-1/translator', 'round-1/segmenter-0', 'round-1/segmenter-1'];

/** Draws one of the stages that train. */
function anyTraining(random: Random): string {
  return TRAINING[random.integer(TRAINING.length)]!;
}

/** Creates a run in which only the stages before this one are complete. */
function runBefore(setting: Setting, stage: string): string {
  return setting.runOf(setting.stages.findIndex(({ name }) => name === stage));
}

/** Resumes a run, and acts when its newest checkpoint in `stage` is at `step` or later. */
function atStep(
  setting: Setting,
  run: string,
  place: { stage: string; step: number },
  act: (process: RunningProcess['child']) => void,
): Promise<Ended> {
  let hasActed = false;
  return setting.resume(run, {
    onEvent: ({ event, stage, step }, child) => {
      if (hasActed || event !== 'checkpoint' || stage !== place.stage || step! < place.step) return;
      hasActed = true;
      act(child);
    },
  }).ended;
}

function stageFolder(run: string, stage: string): string {
  return path.join(run, 'stages', stage.replace('/', '-'));
}

/** Lists the checkpoints of a stage, newest first. */
function checkpoints(run: string, stage: string): string[] {
  const folder = stageFolder(run, stage);
  const names = readdirSync(folder).filter((name) => /^checkpoint-.*\.safetensors$/.test(name));
  return names
    .sort()
    .reverse()
    .map((name) => path.join(folder, name));
}

async function interrupt(setting: Setting, random: Random, note: (line: string) => void): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  const [signal, code] = random.next() < 0.5 ? (['SIGINT', 130] as const) : (['SIGTERM', 143] as const);
  const { seconds } = setting.stages.find(({ name }) => name === stage)!;
  const delayMs = random.range(0.2, 0.8) * 1000 * seconds;
  const ended = await setting.resume(run, {
    onEvent: ({ event }, child) => {
      if (event === 'stage-start') setTimeout(() => child.kill(signal), delayMs);
    },
  }).ended;
  assert.equal(ended.code, code, ended.stderr);
  const last = ended.events.findLast(({ event }) => event === 'checkpoint' || event === 'stage-start')!;
  const saved = last.step ?? 0;
  note(`${signal} ${Math.round(delayMs)} ms after ${stage}, saved: ${saved} steps of ${last.stage}`);
  assert.match(ended.stderr, saved > 0 ? new RegExp(`up to step ${saved} are kept`) : /interrupted; /);
  const { events } = await setting.finish(run);
  const start = events.find(({ event, stage: name }) => event === 'stage-start' && name === last.stage);
  assert.equal(start!.stepsBefore, saved);
}

async function interruptTwice(setting: Setting, random: Random, note: (line: string) => void): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  let second = 0;
  const ended = await atStep(setting, run, { stage, step: 2 }, (child) => {
    child.kill('SIGINT');
    setTimeout(
      () => {
        second = performance.now();
        child.kill('SIGINT');
      },
      random.range(1, 10),
    );
  });
  // The process ended by the second signal itself, or had already saved its state.
  assert.ok(ended.signal === 'SIGINT' || ended.code === 130, ended.stderr);
  if (ended.signal === 'SIGINT') assert.ok(performance.now() - second < 500);
  note(`ended by ${ended.signal ?? 'itself'}`);
  await setting.finish(run);
}

async function openTwice(setting: Setting, random: Random): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  let refusal: Promise<Ended> | undefined;
  let pid = 0;
  const first = await atStep(setting, run, { stage, step: 2 }, (child) => {
    pid = child.pid!;
    child.kill('SIGSTOP'); // so that it cannot end before the other has looked
    refusal = setting.resume(run).ended.finally(() => child.kill('SIGCONT'));
  });
  assert.match(errorOf(await refusal!), new RegExp(`in use by process ${pid} on `));
  assert.equal(first.code, 0, first.stderr);
  setting.check(run);
}

/** Mounts a small disk for `work` and unmounts it. Returns false if mounting is not allowed. */
async function withDisk(
  setting: Setting,
  size: string,
  note: (line: string) => void,
  work: (disk: string, remount: (options: string) => void) => Promise<void>,
): Promise<boolean> {
  const disk = path.join(setting.folder, 'disk');
  mkdirSync(disk, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', disk], { stdio: 'pipe' });
  } catch (error) {
    note(`not tried: no disk can be mounted here (${(error as Error).message.split('\n').at(1)})`);
    return false;
  }
  try {
    const remount = (options: string) => execFileSync('mount', ['-o', `remount,${options}`, disk]);
    await work(disk, remount);
  } finally {
    execFileSync('umount', [disk]);
  }
  return true;
}

async function fillDisk(
  setting: Setting,
  tries: number,
  random: Random,
  note: (line: string) => void,
): Promise<number> {
  for (let i = 0; i < tries; i++) {
    const { name } = setting.stages[random.integer(setting.stages.length)]!;
    // Less space than three checkpoints need, or than the images of a stage need. The run ends there, or in the next
    // stage.
    const free = random.integer(TRAINING.includes(name) ? 800_000 : 100_000);
    const wasTried = await withDisk(setting, '20m', note, async (disk) => {
      const run = path.join(disk, 'run');
      const filler = path.join(disk, 'filler');
      cpSync(runBefore(setting, name), run, { recursive: true });
      const { bavail, bsize } = statfsSync(disk);
      writeFileSync(filler, new Uint8Array(Math.max(0, bavail * bsize - free)));
      const message = errorOf(await setting.resume(run).ended);
      note(`${free} bytes before ${name}: ${message}`);
      assert.match(message, /no space left on device/i);
      assert.doesNotMatch(message, /\.tmp/);
      rmSync(filler);
      await setting.finish(run);
    });
    if (!wasTried) return i;
  }
  return tries;
}

async function limitFileSize(setting: Setting): Promise<void> {
  const stage = 'round-1/translator';
  const run = runBefore(setting, stage);
  // In blocks of 512 bytes. The translators with their moments need several times as many.
  const under = ['sh', '-c', 'ulimit -f 400; exec "$@"', 'sh'];
  const message = errorOf(await setting.resume(run, { under }).ended);
  assert.match(message, /checkpoint-00000002 cannot be written: File too large/);
  const { events } = await setting.finish(run);
  assert.deepEqual(
    events.filter(({ event }) => event === 'warning'),
    [],
  );
}

async function makeReadOnly(
  setting: Setting,
  tries: number,
  random: Random,
  note: (line: string) => void,
): Promise<number> {
  for (let i = 0; i < tries; i++) {
    const wasTried = await withDisk(setting, '100m', note, async (disk, remount) => {
      const run = path.join(disk, 'run');
      const stage = anyTraining(random);
      cpSync(runBefore(setting, stage), run, { recursive: true });
      await atStep(setting, run, { stage, step: 2 }, (child) => child.kill('SIGKILL'));
      remount('ro');
      assert.match(errorOf(await setting.resume(run).ended), /read-only/);
      remount('rw');
      await setting.finish(run);
    });
    if (!wasTried) return i;
  }
  return tries;
}

async function deleteData(setting: Setting, random: Random): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  const [data, away] = ['source', 'away'].map((name) => path.join(setting.folder, name)) as [string, string];
  let ended: Ended;
  try {
    ended = await atStep(setting, run, { stage, step: 2 }, () => renameSync(data, away));
    assert.match(errorOf(await setting.resume(run).ended), /source\/images: cannot be listed: ENOENT/);
  } finally {
    renameSync(away, data);
  }
  // The images decoded ahead may be enough for this stage. Then the next one fails.
  assert.match(errorOf(ended), /source.*(cannot be read|cannot be listed): ENOENT/);
  await setting.finish(run);
}

async function breakImage(setting: Setting, random: Random, note: (line: string) => void): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  // All images that the stage reads, because one decoded ahead is not read again.
  const isTranslated = stage.startsWith('round-1/segmenter');
  const folder = path.join(
    isTranslated ? run : setting.folder,
    isTranslated ? 'translated/round-1' : 'source/images',
  );
  const copy = path.join(setting.folder, 'before');
  cpSync(folder, copy, { recursive: true });
  let ended: Ended;
  try {
    ended = await atStep(setting, run, { stage, step: 2 }, () => {
      for (const name of readdirSync(folder)) truncateSync(path.join(folder, name), 100);
    });
  } finally {
    for (const name of readdirSync(copy)) copyFileSync(path.join(copy, name), path.join(folder, name));
    rmSync(copy, { recursive: true });
  }
  const message = errorOf(ended);
  note(`${stage}: ${message}`);
  assert.match(message, /\/source-\d+\.png: cannot be decoded/);
  await setting.finish(run);
}

async function deleteStage(setting: Setting, random: Random): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  const folder = stageFolder(run, stage);
  const ended = await atStep(setting, run, { stage, step: 2 }, () => rmSync(folder, { recursive: true }));
  assert.match(errorOf(ended), /cannot be opened: No such file or directory|cannot be written: ENOENT/);
  await setting.finish(run);
}

/** Kills a run in a stage with several checkpoints. */
async function runWithCheckpoints(setting: Setting, random: Random): Promise<{ run: string; stage: string }> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  await atStep(setting, run, { stage, step: 6 }, (child) => child.kill('SIGKILL'));
  return { run, stage };
}

async function damageNewest(setting: Setting, random: Random, note: (line: string) => void): Promise<void> {
  const { run, stage } = await runWithCheckpoints(setting, random);
  const [newest, second] = checkpoints(run, stage);
  note(`${stage}: ${damage(newest!, random)}`);
  const { events } = await setting.finish(run);
  const step = Number(/checkpoint-(\d+)/.exec(second!)![1]);
  const ofStage = events.filter((event) => event.stage === stage);
  assert.equal(ofStage[0]!.stepsBefore, step);
  assert.equal(ofStage[1]!.event, 'warning');
  assert.match(String(ofStage[1]!.message), /was skipped: expected checksum \w+ but found \w+/);
  assert.ok(String(ofStage[1]!.message).startsWith(newest!));
}

async function damageAll(setting: Setting, random: Random): Promise<void> {
  const { run, stage } = await runWithCheckpoints(setting, random);
  for (const file of checkpoints(run, stage)) damage(file, random);
  const { events } = await setting.finish(run);
  const ofStage = events.filter((event) => event.stage === stage);
  assert.equal(ofStage[0]!.stepsBefore, 0);
  const warnings = ofStage.filter(({ event }) => event === 'warning').map(({ message }) => String(message));
  assert.match(warnings.at(-1)!, /no readable checkpoint is left; the stage starts from its first step/);
}

/** Flips a bit of a file, truncates it or empties it. Returns a description. */
function damage(file: string, random: Random): string {
  const bytes = readFileSync(file);
  const at = random.integer(bytes.length);
  const kind = random.integer(3);
  if (kind === 0) {
    bytes[at]! ^= 1 << random.integer(8);
    writeFileSync(file, bytes);
    return `a bit of byte ${at} of ${bytes.length}`;
  }
  truncateSync(file, kind === 1 ? at : 0);
  return kind === 1 ? `cut off after ${at} of ${bytes.length} bytes` : 'emptied';
}

/** Writes weights with which no loss is finite. */
function brokenWeights(setting: Setting): string {
  const file = path.join(setting.folder, 'broken.safetensors');
  const tensors = readTensors(path.join(setting.runOf(1), 'stages/source-only/weights.safetensors'));
  const [first] = Object.values(tensors);
  (first!.data as Float32Array).fill(Number.NaN);
  writeTensors(file, tensors);
  return file;
}

const PLACE = /^Stage source-only, step (\d+), images source-\d+, source-\d+: The segmentation loss is -?nan/;

async function trainOnNaN(setting: Setting, note: (line: string) => void): Promise<void> {
  const set = `segmenter.initialWeights=${brokenWeights(setting)}`;
  const message = errorOf(await setting.train(setting.newRun(), {}, '--set', set).ended);
  note(message);
  assert.equal(PLACE.exec(message)![1], '1');
  assert.match(message, /; the step was not applied$/);
}

async function skipNaN(setting: Setting, random: Random, note: (line: string) => void): Promise<void> {
  const limit = 1 + random.integer(3);
  const sets = [
    `segmenter.initialWeights=${brokenWeights(setting)}`,
    `nonFinite={policy: skip, limit: ${limit}}`,
  ];
  const ended = await setting.train(setting.newRun(), {}, ...sets.flatMap((set) => ['--set', set])).ended;
  const message = errorOf(ended);
  note(message);
  const warnings = ended.events.filter(({ event }) => event === 'warning');
  assert.deepEqual(
    warnings.map((warning) => PLACE.exec(String(warning.message))![1]),
    Array.from({ length: limit }, (_, i) => String(i + 1)),
  );
  assert.equal(PLACE.exec(message)![1], String(limit + 1));
  assert.ok(message.endsWith(`It is number ${limit + 1} in a row, and nonFinite.limit allows ${limit}`));
}

async function newerConfig(setting: Setting): Promise<void> {
  const run = setting.runOf(2);
  const file = path.join(run, 'config.yaml');
  writeFileSync(file, readFileSync(file, 'utf8').replace('version: 2', 'version: 9'));
  const message = errorOf(await setting.resume(run).ended);
  assert.match(message, /config\.yaml: version: expected 2 but found 9; a newer bidiseg wrote this file/);
}

/** Removes from a run folder everything that only a newer bidiseg writes. */
async function olderConfig(setting: Setting, random: Random): Promise<void> {
  const stage = anyTraining(random);
  const run = runBefore(setting, stage);
  const file = path.join(run, 'config.yaml');
  const older = readFileSync(file, 'utf8')
    .replace('version: 2\n', '')
    .replace(/checkpoint:\n( +.*\n)+/, '')
    .replace(/nonFinite:\n( +.*\n)+/, '');
  assert.doesNotMatch(older, /version|checkpoint|nonFinite/);
  writeFileSync(file, older);
  // In old versions, an interrupted stage left a folder without a checkpoint.
  await setting.finish(run);
}
