import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Tensor } from 'bidiseg';
import { createConfig } from '../../../lib/config/load.js';
import type { Config } from '../../../lib/config/schema.js';
import type { StageRecord } from '../../../lib/pipeline/events.js';
import { planStages, type Stage } from '../../../lib/pipeline/plan.js';
import type { StageState } from '../../../lib/pipeline/stage-store.js';
import { readSummary, resumeConfig, stageWeights } from '../../../lib/run/run-files.js';
import { holdsRunOf, RunFolder, type RunFolderMode } from '../../../lib/run/run-folder.js';
import { ConfigError, DataError } from '../../../lib/support/errors.js';
import { contentOf } from '../../helpers/folder.js';

function recordOf({ name, label, round, kind }: Stage): StageRecord {
  return {
    ...{ name, label, round, kind },
    ...{ steps: 1, seconds: 2, waitShare: null, miou: 0.5, iouPerClass: null, pixelAccuracy: null },
    ...{ keptShare: null, keptImages: null, best: null },
  };
}

describe('run folder', () => {
  let parent: string;
  let output: string;
  const open: RunFolder[] = [];

  beforeEach(async () => {
    parent = await mkdtemp(path.join(tmpdir(), 'bidiseg-run-'));
    output = path.join(parent, 'run');
  });

  afterEach(async () => {
    for (const folder of open.splice(0)) await folder.close();
    await rm(parent, { recursive: true });
  });

  function config(set: string[] = []): Config {
    return createConfig({ preset: 'demo', output }, { set });
  }

  async function opened(from: Config, mode?: RunFolderMode): Promise<RunFolder> {
    const folder = await RunFolder.open(from, mode);
    open.push(folder);
    return folder;
  }

  async function closed(): Promise<void> {
    await open.pop()!.close();
  }

  /** Creates a run with its first `count` stages complete. */
  async function runOf(count: number, from = config()): Promise<Stage[]> {
    const folder = await opened(from);
    const plan = planStages(from.loop);
    for (const stage of plan.slice(0, count)) {
      await folder.begin(stage, { resume: false });
      await folder.complete(stage, recordOf(stage));
    }
    await closed();
    return plan;
  }

  async function refused(from: Config, mode: RunFolderMode, pattern: RegExp): Promise<void> {
    const content = () => (existsSync(output) ? contentOf(output) : {});
    const before = content();
    await assert.rejects(opened(from, mode), (error: Error) => {
      assert(error instanceof ConfigError, error.stack);
      assert.match(error.message, pattern);
      return true;
    });
    assert.deepEqual(content(), before, 'a refused opening changes nothing');
  }

  it('starts in a new folder and in one with data only, not in one that holds anything else', async () => {
    await mkdir(path.join(output, 'pictures'), { recursive: true });
    for (const mode of ['create', 'overwrite', 'continue'] as const) {
      await refused(config(), mode, /expected a run folder but found other files \(pictures\)/);
    }
    assert.deepEqual(
      (await readdir(output)).filter((name) => name === 'pictures'),
      ['pictures'],
    );
    await rm(path.join(output, 'pictures'), { recursive: true });
    await mkdir(path.join(output, 'data'));
    // Remains of a writer of the first config that was killed.
    await writeFile(path.join(output, `.config.yaml.${randomUUID()}.tmp`), '');
    await opened(config());
    assert.deepEqual((await readdir(output)).sort(), ['config.yaml', 'data', 'events.jsonl', 'lock']);
  });

  it('is opened only if nothing in it leads out of it, and nothing outside changes', async () => {
    const outside = path.join(parent, 'outside');
    await mkdir(path.join(outside, 'round-1'), { recursive: true });
    const precious = path.join(outside, 'round-1', `a.png.${randomUUID()}.tmp`);
    await writeFile(precious, 'mine');
    await runOf(4);
    for (const place of [
      ['translated', 'round-1'],
      ['translated'],
      ['stages'],
      ['stages', 'source-only', 'stage.json'],
      ['pseudo-labels'],
      ['pictures'],
      ['tensorboard'],
      ['events.jsonl'],
      ['config.yaml'],
      ['lock'],
      ['report.html'],
    ]) {
      const link = path.join(output, ...place);
      const kept = `${link}.kept`;
      const isThere = existsSync(link);
      if (isThere) await rename(link, kept);
      else await mkdir(path.dirname(link), { recursive: true });
      await symlink(outside, link);
      for (const mode of ['create', 'overwrite', 'resume', 'continue'] as const) {
        await assert.rejects(opened(config(), mode), (error: Error) => {
          assert(error instanceof ConfigError, error.stack);
          assert.equal(error.message.split(',')[0], `${link}: is a symbolic link`);
          return true;
        });
      }
      await rm(link);
      if (isThere) await rename(kept, link);
    }
    assert.deepEqual(await readdir(outside, { recursive: true }), [
      'round-1',
      path.relative(outside, precious),
    ]);
    assert.equal(await readFile(precious, 'utf8'), 'mine');
    execFileSync('mkfifo', [path.join(output, 'pipe')]);
    await assert.rejects(
      opened(config(), 'resume'),
      /pipe: is a pipe, socket or device, expected a file or folder of the run/,
    );
    await rm(path.join(output, 'pipe'));
    // Data may lie anywhere.
    await symlink(outside, path.join(output, 'data'));
    await opened(config(), 'resume');
    assert.equal(await readFile(precious, 'utf8'), 'mine');
  });

  it('reports whether a folder holds a run of the same config', async () => {
    assert.equal(await holdsRunOf(config()), false);
    await runOf(1);
    assert.equal(await holdsRunOf(config()), true);
    assert.equal(await holdsRunOf(config(['loop.rounds=1', 'logEvery=7'])), true);
    assert.equal(await holdsRunOf(config(['segmentation.steps=7'])), false);
  });

  it('names the version of its config, and refuses one that it does not know', async () => {
    await runOf(1);
    const file = path.join(output, 'config.yaml');
    const text = await readFile(file, 'utf8');
    assert.match(text, /^version: 2$/m);
    for (const [version, message] of [
      ['3', /config\.yaml: version: expected 2 but found 3; a newer bidiseg wrote this file$/],
      ['0', /config\.yaml: version: expected 2 but found 0$/],
      ['"1"', /config\.yaml: version: expected 2 but found "1"$/],
    ] as const) {
      await writeFile(file, text.replace('version: 2', `version: ${version}`));
      await assert.rejects(resumeConfig(output), (error: Error) => {
        assert(error instanceof ConfigError);
        assert.match(error.message, message);
        return true;
      });
    }
    // A config from before versions existed.
    await writeFile(file, text.replace('version: 2\n', ''));
    assert.deepEqual(await resumeConfig(output), config());
  });

  it('holds a config that says the same as the one it was opened with', async () => {
    const made = config(['seed=9', 'segmentation.schedule={kind: constant}']);
    await opened(made);
    assert.deepEqual(await resumeConfig(output), made);
  });

  it('continues wherever it is moved to', async () => {
    await runOf(1);
    const moved = path.join(parent, 'moved');
    await rename(output, moved);
    const resumed = await resumeConfig(moved);
    assert.equal(resumed.output, moved);
    const folder = await opened(resumed, 'resume');
    assert.equal((await folder.summary()).stages.length, 1);
  });

  it('is open in one place at a time', async () => {
    await opened(config());
    await assert.rejects(opened(config(), 'resume'), /in use by process/);
    await closed();
    await opened(config(), 'resume');
  });

  it('does not overwrite a run unless told, and then removes all of it and nothing else', async () => {
    const [stage] = await runOf(1);
    await writeFile(path.join(output, 'notes.txt'), 'mine');
    await refused(
      config(),
      'create',
      /holds a run already; resume it, choose another output, or overwrite it/,
    );
    const folder = await opened(config(['seed=3']), 'overwrite');
    assert.equal(await folder.record(stage!), undefined);
    assert.equal((await folder.summary()).stages.length, 0);
    assert.equal(await readFile(path.join(output, 'events.jsonl'), 'utf8'), '');
    assert.equal(await readFile(path.join(output, 'notes.txt'), 'utf8'), 'mine');
  });

  it('overwrites nothing that somebody put among its files', async () => {
    await runOf(2);
    for (const name of [
      'pictures/mine.png',
      'stages/source-only/model.onnx',
      'stages/notes/a.txt',
      'translated/a.png',
    ]) {
      const file = path.join(output, name);
      await mkdir(path.dirname(file), { recursive: true });
      await writeFile(file, 'mine');
      await refused(config(), 'overwrite', /run\/.*: was not written by the run; move it away before/);
      await rm(file);
    }
    await opened(config(), 'overwrite');
  });

  it("takes no config.yaml of somebody's own for a run", async () => {
    await mkdir(path.join(output, 'pictures'), { recursive: true });
    await writeFile(path.join(output, 'pictures', 'source-only.png'), 'mine');
    await writeFile(path.join(output, 'config.yaml'), 'preset: demo\noutput: .\n');
    for (const mode of ['create', 'overwrite'] as const) {
      await refused(config(), mode, /expected a run folder but found other files \(config\.yaml, pictures\)/);
    }
  });

  it('keeps what somebody put beside the weights of a stage that runs again', async () => {
    const [stage] = await runOf(1);
    const names = ['best.safetensors', 'best.json', 'teacher.safetensors', 'model.onnx'];
    const files = names.map((name) => path.join(output, 'stages', 'source-only', name));
    for (const file of files) await writeFile(file, 'x');
    const folder = await opened(config(), 'resume');
    await folder.begin(stage!, { resume: false });
    assert.deepEqual(
      names.filter((_, index) => existsSync(files[index]!)),
      ['model.onnx'],
    );
  });

  it('begins pseudo-labels without a state with an empty folder', async () => {
    const plan = await runOf(0, config(['loop={rounds: 1, selfTrainingRounds: 1}']));
    const stage = plan.find(({ kind }) => kind === 'pseudo-labels')!;
    const from = config(['loop={rounds: 1, selfTrainingRounds: 1}']);
    const folder = await opened(from, 'continue');
    await folder.begin(stage, { resume: false });
    await writeFile(path.join(folder.imagesFolder(stage), 'a.png'), 'x');
    await closed();
    // Killed before the first checkpoint.
    await (await opened(from, 'resume')).begin(stage, { resume: true });
    assert.deepEqual(await readdir(folder.imagesFolder(stage)), []);
  });

  it('takes a run that never began its first stage for none', async () => {
    await opened(config());
    await closed();
    await opened(config(['seed=3']));
  });

  it('has nothing to resume when there is no run, but can continue with a new one', async () => {
    await refused(config(), 'resume', /expected a run to resume but found no config\.yaml/);
    await opened(config(), 'continue');
  });

  it('resumes only with the config of the run, except for keys that change no result', async () => {
    await runOf(1);
    const other = ['segmentation.schedule.power=0.5'];
    await refused(
      config(other),
      'resume',
      /config\.yaml: segmentation\.schedule\.power is 0\.9 in the run to resume but 0\.5 now/,
    );
    await refused(config(['seed=3']), 'continue', /seed is 1 .* but 3 now/);
    await refused(
      config(['sizes.source=[64, 64]']),
      'resume',
      /sizes\.source is \[128,96\] .* but \[64,64\] now/,
    );
    const folder = await opened(
      config([
        ...['loop.rounds=3', 'logEvery=1', 'sampleCount=0', 'data.root=/x'],
        ...['checkpoint.every=7', 'nonFinite.policy=skip'],
      ]),
      'resume',
    );
    assert.equal((await folder.summary()).stages.length, 1);
    assert.equal((await resumeConfig(output)).loop.rounds, 3);
  });

  it('counts a stage as complete only if it depends on the same stages as now', async () => {
    const before = config(['loop={rounds: 2, selfTrainingRounds: 1}']);
    const plan = await runOf(planStages(before.loop).length, before);
    const now = config(['loop={rounds: 2, selfTrainingRounds: 2}']);
    const folder = await opened(now, 'resume');
    const stage = (name: string) => planStages(now.loop).find((other) => other.name === name)!;
    assert(await folder.record(stage('round-1/segmenter-1')));
    assert.equal(await folder.record(stage('round-1/segmenter-2')), undefined);
    // The translator's perceptual terms now come from round-1/segmenter-2.
    assert.equal(await folder.record(stage('round-2/translator')), undefined);
    assert.equal(plan.at(-1)!.name, 'round-2/segmenter-1');
  });

  it('beginning a stage empties its outputs and makes it and all later ones incomplete', async () => {
    const plan = await runOf(5);
    const folder = await opened(config(), 'resume');
    const translate = plan[2]!;
    assert.equal(translate.kind, 'translate');
    const leftover = path.join(folder.imagesFolder(translate), 'leftover.png');
    await writeFile(leftover, '');
    await folder.begin(translate, { resume: true });
    assert(!existsSync(leftover));
    const complete = await Promise.all(plan.map(async (stage) => (await folder.record(stage)) !== undefined));
    assert.deepEqual(complete.slice(0, 5), [true, true, false, false, false]);
    assert.equal((await readSummary(output)).stages.length, 2);
  });

  it('beginning a stage anew makes those of another plan incomplete too', async () => {
    const long = config(['loop={rounds: 2, selfTrainingRounds: 0}']);
    const plan = await runOf(planStages(long.loop).length, long);
    const short = await opened(config(['loop={rounds: 1, selfTrainingRounds: 0}']), 'resume');
    await short.begin(plan[1]!, { resume: false });
    await closed();
    const folder = await opened(long, 'resume');
    const complete = await Promise.all(plan.map(async (stage) => (await folder.record(stage)) !== undefined));
    assert.deepEqual(
      complete,
      plan.map((_, index) => index === 0),
    );
  });

  describe('checkpoints', () => {
    const tensors: Tensor[] = [];

    afterEach(() => {
      for (const tensor of tensors.splice(0)) tensor.dispose();
    });

    function stateAfter(step: number): StageState {
      const tensor = Tensor.from(Float32Array.of(step, 0.1));
      tensors.push(tensor);
      const more = { rate: 0.1, list: [1, 2 ** 40] };
      return { step, seconds: step / 3, tensors: new Map([['weight', tensor]]), ...more };
    }

    /** Creates a folder in which a stage has begun and saved its state after each of these steps. */
    async function savedAt(
      steps: number[],
      set: string[] = [],
    ): Promise<{ folder: RunFolder; stage: Stage }> {
      const from = config(set);
      const folder = await opened(from);
      const stage = planStages(from.loop)[0]!;
      await folder.begin(stage, { resume: false });
      for (const step of steps) await folder.save(stage, stateAfter(step));
      return { folder, stage };
    }

    async function files(): Promise<string[]> {
      const names = await readdir(path.join(output, 'stages', 'source-only'));
      return names.filter((name) => name !== 'stage.json').sort();
    }

    /** Returns the state from which the stage continues after resuming. */
    async function resumed(stage: Stage, set: string[] = []) {
      await closed();
      const folder = await opened(config(set), 'resume');
      const { state, warnings } = await folder.begin(stage, { resume: true });
      tensors.push(...(state?.tensors.values() ?? []));
      const values = state && [...((await state.tensors.get('weight')!.data()) as Float32Array)];
      return { state, values, warnings };
    }

    it('a stage continues from the newest, with all that was saved', async () => {
      const { stage } = await savedAt([100, 200]);
      const { state, values, warnings } = await resumed(stage);
      const { tensors: named, ...rest } = state!;
      assert.deepEqual(rest, { step: 200, seconds: 200 / 3, rate: 0.1, list: [1, 2 ** 40] });
      assert.deepEqual(values, [200, Math.fround(0.1)]);
      assert.deepEqual([...named.keys()], ['weight']);
      assert.deepEqual(warnings, []);
    });

    it('the config sets how many are kept, each whole and named by its checksum', async () => {
      await savedAt([1, 2, 3, 100_000_000], ['checkpoint.keep=3']);
      const names = await files();
      assert.deepEqual(
        names.map((name) => name.replace(/-[0-9a-f]{16}\./, '.')),
        [
          'checkpoint-00000002.safetensors',
          'checkpoint-00000003.safetensors',
          'checkpoint-100000000.safetensors',
        ],
      );
      for (const name of names) {
        const bytes = await readFile(path.join(output, 'stages', 'source-only', name));
        const digest = createHash('sha256').update(bytes).digest('hex');
        assert(name.includes(`-${digest.slice(0, 16)}.`), name);
      }
    });

    it('an unreadable one gives way to the one before, and then to the first step', async () => {
      const { stage } = await savedAt([1, 2]);
      const [one, two] = await files();
      const at = (name: string) => path.join(output, 'stages', 'source-only', name);
      const bytes = await readFile(at(two!));
      bytes[bytes.length - 3]! ^= 4;
      await writeFile(at(two!), bytes);
      const second = await resumed(stage);
      assert.deepEqual([second.state!.step, second.values![0]], [1, 1]);
      assert.equal(second.warnings.length, 1);
      assert(second.warnings[0]!.startsWith(`${at(two!)} was skipped: expected checksum `));
      // The next checkpoint takes the place of the unreadable one.
      await open.at(-1)!.save(stage, stateAfter(2));
      assert.deepEqual(await files(), [one, two]);
      for (const name of [one!, two!]) await writeFile(at(name), '');
      const third = await resumed(stage);
      assert.equal(third.state, null);
      assert.equal(third.warnings.length, 3);
      assert.match(
        third.warnings[2]!,
        /no readable checkpoint is left; the stage starts from its first step/,
      );
    });

    it('one of another version is refused, and stays', async () => {
      const { stage } = await savedAt([1]);
      const [name] = await files();
      const file = path.join(output, 'stages', 'source-only', name!);
      const bytes = Buffer.from(
        (await readFile(file, 'latin1')).replace('version\\":1', 'version\\":7'),
        'latin1',
      );
      const digest = createHash('sha256').update(bytes).digest('hex').slice(0, 16);
      await rm(file);
      const other = file.replace(/[0-9a-f]{16}(?=\.)/, digest);
      await writeFile(other, bytes);
      await assert.rejects(resumed(stage), (error: Error) => {
        assert(error instanceof DataError);
        assert.equal(error.message, `${other}: expected a checkpoint of version 1 but found version 7`);
        return true;
      });
      assert.deepEqual(await files(), [path.basename(other)]);
    });

    it('are gone when the stage is complete, begins anew, or is another than it was', async () => {
      const { folder, stage } = await savedAt([1]);
      await folder.complete(stage, recordOf(stage));
      assert.deepEqual(await files(), []);
      await folder.begin(stage, { resume: false });
      await folder.save(stage, stateAfter(5));
      const { state } = await folder.begin(stage, { resume: false });
      assert.equal(state, null);
      await folder.save(stage, stateAfter(6));
      const renamed = { ...stage, label: 'another' };
      assert.equal((await folder.begin(renamed, { resume: true })).state, null);
      assert.deepEqual(await files(), []);
    });

    it('opening the run again removes the remains of interrupted writers', async () => {
      const { folder, stage } = await savedAt([1]);
      const left = path.join(output, 'stages', 'source-only', `checkpoint-00000002.${randomUUID()}.tmp`);
      await writeFile(left, 'half');
      await resumed(stage);
      assert(!existsSync(left));
      // The stage is complete, but the process was killed before removing its checkpoints.
      const [name] = await files();
      const file = path.join(output, 'stages', 'source-only', name!);
      const content = await readFile(file);
      await folder.complete(stage, recordOf(stage));
      await writeFile(file, content);
      await closed();
      await opened(config(), 'resume');
      assert(!existsSync(file));
    });
  });

  it('sums up the complete stages after each', async () => {
    const plan = await runOf(2);
    const summary = await readSummary(output);
    assert.match(summary.version, /^\d+\.\d+\.\d+/);
    assert.equal(summary.seed, 1);
    assert.equal(summary.complete, false);
    assert.deepEqual(summary.stages, plan.slice(0, 2).map(recordOf));
    const short = config(['loop.rounds=0']);
    const folder = await opened(short, 'resume');
    assert.equal((await folder.summary()).complete, true);
  });

  it('says where a stage’s weights are', async () => {
    const folder = await opened(config());
    const stage = planStages(config().loop)[3]!;
    assert.equal(
      folder.weightsFile(stage),
      path.join(output, 'stages', 'round-1-segmenter-0', 'weights.safetensors'),
    );
    assert.equal(folder.weightsFile(stage), stageWeights(output, stage));
  });

  it('reports that there is no run to sum up, or that a folder cannot be created', async () => {
    await assert.rejects(readSummary(parent), DataError);
    await writeFile(output, 'a file');
    await assert.rejects(
      opened(config()),
      (error: Error) => error instanceof DataError && /cannot be created/.test(error.message),
    );
  });

  describe('event log', () => {
    async function lines(): Promise<Record<string, unknown>[]> {
      const content = await readFile(path.join(output, 'events.jsonl'), 'utf8');
      assert(content === '' || content.endsWith('\n'));
      return content
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    }

    function step(number: number, total: number, waitMs = 0) {
      return {
        ...({
          type: 'step',
          stage: 's',
          step: number,
          steps: 5,
          learningRate: number,
          stepMs: 10,
          waitMs,
        } as const),
        losses: {
          total,
          segmentation: 1,
          adversarial: 0,
          pseudoLabel: 0,
          discriminatorSource: 0,
          discriminatorTarget: 0,
          moments: 0,
          entropy: 0,
          teacher: 0,
          masked: 0,
          featureDistance: 0,
          confidentShare: 0,
        },
      };
    }

    it('has the means of every few steps, and the last step of a stage', async () => {
      const folder = await opened(config(['logEvery=2']));
      for (const [index, total] of [1, 3, 5, 8, 4].entries()) await folder.log(step(index + 1, total, index));
      const written = await lines();
      assert.deepEqual(
        written.map((line) => [
          line.step,
          (line.losses as { total: number }).total,
          line.learningRate,
          line.waitMs,
        ]),
        [
          [2, 2, 2, 0.5],
          [4, 6.5, 4, 2.5],
          [5, 4, 5, 4],
        ],
      );
      for (const { time } of written) assert.match(String(time), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    });

    it('leaves out progress, and steps of an interrupted stage from the next one’s means', async () => {
      const folder = await opened(config(['logEvery=2']));
      await folder.log({ type: 'progress', stage: 's', task: 'evaluate', done: 1, total: 2 });
      await folder.log(step(1, 100));
      const place = { kind: 'segmenter', round: 1, index: 0, count: 1, steps: 5, stepsBefore: 0 } as const;
      await folder.log({ type: 'stage-start', stage: 's', label: 'M', ...place });
      await folder.log(step(1, 1));
      await folder.log(step(2, 3));
      const [start, mean, ...rest] = await lines();
      assert.equal(start!.type, 'stage-start');
      assert.equal((mean!.losses as { total: number }).total, 2);
      assert.deepEqual(rest, []);
    });

    it('is appended to, on a new line after a truncated one', async () => {
      const folder = await opened(config());
      await folder.log({ type: 'warning', stage: 's', message: 'one' });
      await closed();
      const file = path.join(output, 'events.jsonl');
      await writeFile(file, `${await readFile(file, 'utf8')}{"time":"2020`);
      const again = await opened(config(), 'resume');
      await again.log({ type: 'warning', stage: 's', message: 'two' });
      const content = (await readFile(file, 'utf8')).split('\n');
      assert.deepEqual(
        [JSON.parse(content[0]!).message, content[1], JSON.parse(content[2]!).message],
        ['one', '{"time":"2020', 'two'],
      );
    });

    it('reports that it cannot be written', async () => {
      await opened(config());
      await closed();
      await rm(path.join(output, 'events.jsonl'));
      await mkdir(path.join(output, 'events.jsonl'));
      await assert.rejects(opened(config(), 'resume'), DataError);
    });
  });
});
