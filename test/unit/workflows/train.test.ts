import assert from 'node:assert/strict';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { createConfig } from '../../../lib/config/load.js';
import type { Config } from '../../../lib/config/schema.js';
import { writeLabels } from '../../../lib/data/label-codec.js';
import type { RunEvent } from '../../../lib/pipeline/events.js';
import { stageWeights } from '../../../lib/run/run-files.js';
import { drain } from '../../../lib/support/generators.js';
import { type TrainOptions, train } from '../../../lib/workflows/train.js';
import { writeTinyConfig, writeTinyData } from '../../cli/command-line.js';
import { temporaryFolder } from '../../helpers/folder.js';

describe('training as a workflow', () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(async () => {
    folder = temporaryFolder();
    await writeTinyData(folder.path(''));
  });
  afterEach(() => folder.remove());

  function configOf(output: string, set: string[] = [], data: object = {}): Config {
    const values = JSON.parse(readFileSync(writeTinyConfig(folder.path('')), 'utf8'));
    const merged = { ...values, data: { root: folder.path(''), ...values.data, ...data } };
    return createConfig({ ...merged, output: folder.path(output) }, { set: ['sampleCount=0', ...set] });
  }

  async function run(config: Config, options: TrainOptions = {}): Promise<RunEvent[]> {
    const events: RunEvent[] = [];
    await drain(train(config, options), (event) => {
      events.push(event);
    });
    return events;
  }

  function warnings(events: readonly RunEvent[], stage = 'data'): string[] {
    return events.flatMap((event) =>
      event.type === 'warning' && event.stage === stage ? [event.message] : [],
    );
  }

  const ALONE = ['loop.rounds=0'];

  it('never reads labels of the target, and says so', async () => {
    const lines = [0, 1, 2].map((i) => `target/images/target-${i}.png`);
    writeFileSync(folder.path('plain.txt'), lines.join('\n'));
    writeFileSync(
      folder.path('labeled.txt'),
      lines.map((line) => `${line} ${line.replace('images', 'labels')}`).join('\n'),
    );
    const target = (list: string) => ({
      target: { train: { list }, val: { images: 'target/images', labels: 'target/labels' } },
    });
    const events = await run(configOf('labeled', [], target('labeled.txt')));
    assert.deepEqual(warnings(events), [
      'data.target.train.list: labeled.txt names labels, which are not read; the target is unlabeled',
    ]);
    assert.deepEqual(warnings(await run(configOf('plain', [], target('plain.txt')))), []);
    const trained = events.flatMap((event) =>
      event.type === 'stage-end' && event.record.steps > 0 ? [event.stage] : [],
    );
    assert.equal(trained.length, 4);
    for (const name of trained) {
      const [one, other] = ['labeled', 'plain'].map((output) =>
        readFileSync(stageWeights(folder.path(output), { name })),
      );
      assert(one!.equals(other!), name);
    }
  });

  it('warns of classes without labels at the start, after an epoch and after the first evaluation', async () => {
    const [width, height] = [48, 32];
    for (const domain of ['source', 'target']) {
      for (const name of readdirSync(folder.path(`${domain}/labels`))) {
        const data = Uint8Array.from({ length: width * height }, (_, i) => (i % 3 === 0 ? 255 : 0));
        await writeLabels(folder.path(`${domain}/labels/${name}`), { data, width, height });
      }
    }
    const config = configOf('masks', [...ALONE, 'data.meanClasses=[ground, block]']);
    const events = await run(config);
    const [source, validation, ...rest] = warnings(events);
    assert.match(
      source!,
      /^data\.source: no pixel is of 'block' in any of its 4 label files; these are masks/,
    );
    assert.match(validation!, /^data\.target\.val: no pixel is of 'block' in any of its 3 label files;/);
    assert.deepEqual(rest, []);
    assert.deepEqual(warnings(events, 'source-only'), [
      "no pixel of 'block' was in an epoch of the 4 source images",
      "no pixel of the validation labels is of 'block'",
    ]);
    const report = readFileSync(folder.path('masks/report.html'), 'utf8');
    assert.match(report, /<li><b>data<\/b> data\.source: no pixel is of/);
    // An epoch of four images is over after two steps of two.
    const order = events.flatMap(({ type }) =>
      ['step', 'warning', 'evaluation'].includes(type) ? [type] : [],
    );
    assert.deepEqual(order, [
      ...['warning', 'warning', 'step', 'step', 'warning', 'step', 'evaluation', 'warning'],
    ]);
  });

  it('looks at the second epoch for classes without labels where the first was cut off', async () => {
    const [width, height] = [48, 32];
    for (const name of readdirSync(folder.path('source/labels'))) {
      await writeLabels(folder.path(`source/labels/${name}`), {
        data: new Uint8Array(width * height),
        width,
        height,
      });
    }
    const config = configOf('run', [...ALONE, 'segmentation.sourceOnlySteps=5', 'data.target.val=null']);
    for await (const event of train(config)) if (event.type === 'step') break;
    const steps: (number | string)[] = [];
    for (const event of await run(config, { resume: true })) {
      if (event.type === 'step') steps.push(event.step);
      if (event.type === 'warning' && event.stage === 'source-only') steps.push(event.message);
    }
    const message = "no pixel of 'block', 'sky' was in an epoch of the 4 source images";
    assert.deepEqual(steps, [2, 3, 4, message, 5]);
  });

  it('has no mean IoU where the truth has no pixel that counts', async () => {
    const [width, height] = [48, 32];
    for (const name of readdirSync(folder.path('target/labels'))) {
      const data = new Uint8Array(width * height).fill(255);
      await writeLabels(folder.path(`target/labels/${name}`), { data, width, height });
    }
    const events = await run(configOf('nothing', ALONE));
    const end = events.find((event) => event.type === 'stage-end');
    assert(end?.type === 'stage-end');
    assert.deepEqual([end.record.miou, end.record.pixelAccuracy], [null, null]);
    assert.deepEqual(warnings(events, 'source-only'), [
      'the validation labels have no pixel that counts, so there is no mIoU',
    ]);
    assert.match(
      warnings(events)[0]!,
      /^data\.target\.val: no pixel has a class in any of its 3 label files/,
    );
    const report = readFileSync(folder.path('nothing/report.html'), 'utf8');
    assert.match(report, /have no pixel that counts, so nothing was measured/);
    assert(!/>0\.0<small>%/.test(report));
  });

  it('does not continue with other data unless it is told to', async () => {
    const config = configOf('run', ALONE);
    await run(config);
    const record = readFileSync(folder.path('run/data.json'), 'utf8');
    assert.deepEqual(warnings(await run(config, { resume: true })), []);

    const away = ['images', 'labels'].map((kind) => [`source/${kind}/source-3.png`, `${kind}.png`]);
    for (const [from, to] of away) renameSync(folder.path(from!), folder.path(to!));
    appendFileSync(folder.path('target/images/target-0.png'), '!');
    const refusal = {
      code: 'ERR_DATA',
      message:
        /run: the run began with other data \(source: image 'source-3' removed, target: image 'target-0' altered, validation: image 'target-0' altered\); put them back, or continue with --accept-changed-data/,
    };
    await assert.rejects(run(config, { resume: true }), refusal);
    await assert.rejects(run(config, { only: 'source-only', overwrite: true }), refusal);
    assert.equal(readFileSync(folder.path('run/data.json'), 'utf8'), record);

    writeFileSync(folder.path('run/class-counts.json'), '{}');
    const [warning] = warnings(await run(config, { resume: true, acceptChangedData: true }));
    assert.match(
      warning!,
      /^the run continues with other data than it began with \(source: image 'source-3' removed/,
    );
    assert(!existsSync(folder.path('run/class-counts.json')));
    assert.match(readFileSync(folder.path('run/report.html'), 'utf8'), /the run continues with other data/);
    assert.deepEqual(warnings(await run(config, { resume: true })), []);
  });

  it('continues with data that were copied to another root, and keeps the root when it refuses', async () => {
    const config = configOf('run', ALONE);
    await run(config);
    for (const name of ['source', 'target'])
      cpSync(folder.path(name), folder.path(`moved/${name}`), { recursive: true });
    const moved = { ...config, data: { ...config.data, root: folder.path('moved') } };
    assert.deepEqual(warnings(await run(moved, { resume: true })), []);
    appendFileSync(folder.path('source/images/source-0.png'), '!');
    await assert.rejects(run(config, { resume: true }), /image 'source-0' altered/);
    assert.match(readFileSync(folder.path('run/config.yaml'), 'utf8'), /root: .*\/moved\n/);
  });

  it('takes other data where there is no result yet, and tells of another config first', async () => {
    const config = configOf('run', ALONE);
    cpSync(folder.path('source/images'), folder.path('whole'), { recursive: true });
    for (const name of readdirSync(folder.path('whole'))) {
      writeFileSync(folder.path(`source/images/${name}`), 'no image');
    }
    await assert.rejects(run(config), /source-\d\.png: is not a PNG/);
    cpSync(folder.path('whole'), folder.path('source/images'), { recursive: true });
    assert.deepEqual(warnings(await run(config, { resume: true })), []);
    const other = configOf('run', [...ALONE, 'data.source.part=[0, 0.5]']);
    await assert.rejects(run(other, { resume: true }), {
      code: 'ERR_CONFIG',
      message: /data\.source\.part is null in the run to resume but \[0,0\.5\] now/,
    });
  });

  it('says that a run of before has no record of its data', async () => {
    const config = configOf('run', ALONE);
    await run(config);
    rmSync(folder.path('run/data.json'));
    const [warning] = warnings(await run(config, { resume: true }));
    assert.match(warning!, /^the run has no record of its data yet/);
    assert.deepEqual(warnings(await run(config, { resume: true })), []);
  });

  it('finds out before there is a run folder what config and data decide', async () => {
    const refuses = async (set: string[], error: object, data: object = {}) => {
      await assert.rejects(run(configOf('none', set, data)), error);
      assert(!existsSync(folder.path('none')), set.join(' '));
    };
    await refuses(['translation.pairing=paired', 'translator.depth=4'], {
      code: 'ERR_CONFIG',
      message:
        /^translation\.pairing: paired needs source and target images of the same names but found none, only such as 'source-0' in the source and 'target-0' in the target$/,
    });
    await refuses(['segmentation.validation={share: 0.9}'], {
      code: 'ERR_CONFIG',
      message: /^segmentation\.validation\.share: 0\.9 of 4 source images leaves no image to train on$/,
    });
    await refuses([`segmenter.initialWeights=${folder.path('config.json')}`], {
      code: 'ERR_DATA',
      message: /config\.json/,
    });
    // Generated images are only made in the run folder, which must not be there for a wrong name.
    for (const key of ['copyPaste', 'featureDistance']) {
      const error = { code: 'ERR_CONFIG', message: /^segmentation\.\w+\.classes: There is no class 'zebra'/ };
      const made = { embedded: { size: [64, 32], sourceCount: 2, targetCount: 2, validationCount: 1 } };
      await refuses([`segmentation.${key}={classes: [zebra]}`], error, made);
    }
    await refuses(['device=cuda:99'], {
      code: 'ERR_INVALID_ARGUMENT',
      message: /Expected one of the devices .* but found cuda:99/,
    });
    writeFileSync(folder.path('source/labels/source-2.png'), 'no label');
    await refuses([], { code: 'ERR_DATA', message: /source-2\.png/ });
    cpSync(folder.path('source/labels/source-1.png'), folder.path('source/labels/source-2.png'));
    cpSync(folder.path('target/images/target-0.png'), folder.path('target/images/target-1.confidence.png'));
    const target = { target: { train: { images: 'target/images' }, val: null } };
    const soft = ['selfTraining.weighting=soft'];
    await refuses(
      soft,
      { code: 'ERR_DATA', message: /expected no image named as another's weights/ },
      target,
    );
    const long = 'x'.repeat(245);
    renameSync(
      folder.path('target/images/target-1.confidence.png'),
      folder.path(`target/images/${long}.png`),
    );
    await refuses(
      soft,
      {
        code: 'ERR_DATA',
        message: /NAME\.confidence\.png has 260 bytes, expected at most 255; rename the image$/,
      },
      target,
    );
    // Where nothing is written under such a name, it is as good as another.
    await run(configOf('hard', ALONE, target));
  });

  it('keeps frames apart that are numbered anew in each sequence, through all stages', async () => {
    for (const domain of ['source', 'target']) {
      for (const kind of ['images', 'labels']) {
        const files = readdirSync(folder.path(`${domain}/${kind}`));
        for (const [index, file] of files.entries()) {
          const place = folder.path(`${domain}/${kind}/seq${index % 2}`);
          mkdirSync(place, { recursive: true });
          renameSync(folder.path(`${domain}/${kind}/${file}`), path.join(place, `${index >> 1}.png`));
        }
      }
    }
    const names = (place: string) =>
      readdirSync(folder.path(place), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.png'))
        .sort();
    await run(
      configOf('run', ['selfTraining={method: mpt, threshold: 0, weighting: soft}', 'sampleCount=1']),
    );
    const source = ['seq0/0.png', 'seq0/1.png', 'seq1/0.png', 'seq1/1.png'];
    assert.deepEqual(names('run/translated/round-1'), source);
    const target = ['seq0/0', 'seq0/1', 'seq1/0'].flatMap((name) => [
      `${name}.confidence.png`,
      `${name}.png`,
    ]);
    assert.deepEqual(names('run/pseudo-labels/round-1-pseudo-labels-1'), target);
  });
});
