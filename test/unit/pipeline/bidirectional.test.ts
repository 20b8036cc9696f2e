import assert from 'node:assert/strict';
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createConfig } from '../../../lib/config/load.js';
import type { Config } from '../../../lib/config/schema.js';
import { openImage } from '../../../lib/data/image-codec.js';
import { createEmbeddedDataset } from '../../../lib/data/scenes/embedded-dataset.js';
import { native } from '../../../lib/native/binding.js';
import { BidirectionalLearning, type RunOptions } from '../../../lib/pipeline/bidirectional.js';
import { openDatasets } from '../../../lib/pipeline/datasets.js';
import type { RunEvent } from '../../../lib/pipeline/events.js';
import { createDiscriminator, createSegmenter, createTranslator } from '../../../lib/pipeline/models.js';
import { gridPart } from '../../../lib/pipeline/picture-grid.js';
import { readSummary, stageWeights } from '../../../lib/run/run-files.js';
import { RunFolder } from '../../../lib/run/run-folder.js';
import { ConfigError, InvalidArgumentError } from '../../../lib/support/errors.js';
import { drain } from '../../../lib/support/generators.js';
import { TranslationTrainer } from '../../../lib/training/translation-trainer.js';
import { train } from '../../../lib/workflows/train.js';
import { TINY_RUN } from '../../helpers/tiny-run.js';

const STAGES = [
  'source-only',
  'round-1/translator',
  'round-1/translate',
  'round-1/segmenter-0',
  'round-1/pseudo-labels-1',
  'round-1/segmenter-1',
];

describe('bidirectional learning', () => {
  let parent: string;
  let data: string;
  /** Folder of an uninterrupted run. */
  let whole: string;
  let wholeEvents: RunEvent[];

  before(async () => {
    parent = await mkdtemp(path.join(tmpdir(), 'bidiseg-loop-'));
    data = path.join(parent, 'data');
    const counts = { sourceCount: 4, targetCount: 3, validationCount: 2 };
    await createEmbeddedDataset(data, { seed: 1, size: { width: 64, height: 32 }, ...counts });
    whole = path.join(parent, 'whole');
    wholeEvents = (await collect(configOf(whole))).events;
  });

  after(() => rm(parent, { recursive: true }));

  afterEach(async () => {
    assert.deepEqual(await readdir(path.join(whole, 'lock')), []);
  });

  function configOf(output: string, set: string[] = []): Config {
    const own = { data: { root: data, embedded: { size: [64, 32] as [number, number], sourceCount: 4 } } };
    return createConfig({ preset: 'demo', output, ...own }, { set: [...TINY_RUN, ...set] });
  }

  async function collect(
    config: Config,
    options: RunOptions = {},
    see: (event: RunEvent) => void = () => {},
  ) {
    const events: RunEvent[] = [];
    const summary = await drain(train(config, options), (event) => {
      events.push(event);
      see(event);
    });
    return { events, summary };
  }

  function weights(folder: string, name: string): Promise<Buffer> {
    return readFile(stageWeights(folder, { name }));
  }

  function finished(events: readonly RunEvent[], loaded: boolean): string[] {
    return events.flatMap((event) =>
      event.type === 'stage-end' && event.loaded === loaded ? [event.stage] : [],
    );
  }

  it('goes through the stages of Algorithm 1, with events for each', async () => {
    assert.deepEqual(finished(wholeEvents, false), STAGES);
    const steps = wholeEvents.filter((event) => event.type === 'step');
    assert.deepEqual(
      steps.map(({ stage, step, steps: all }) => `${stage} ${step}/${all}`),
      [
        ...['source-only 1/3', 'source-only 2/3', 'source-only 3/3'],
        ...['round-1/translator 1/2', 'round-1/translator 2/2'],
        ...['round-1/segmenter-0 1/3', 'round-1/segmenter-0 2/3', 'round-1/segmenter-0 3/3'],
        ...['round-1/segmenter-1 1/3', 'round-1/segmenter-1 2/3', 'round-1/segmenter-1 3/3'],
      ],
    );
    for (const { losses, stepMs, waitMs } of steps) {
      assert(Object.values(losses).every(Number.isFinite));
      assert(stepMs > 0 && waitMs >= 0);
    }
    assert.equal(wholeEvents[0]!.type, 'run-start');
    assert.equal(wholeEvents.at(-1)!.type, 'run-end');
  });

  it('follows the schedules', () => {
    const rates = wholeEvents.flatMap((event) =>
      event.type === 'step' && ['source-only', 'round-1/translator'].includes(event.stage)
        ? [event.learningRate]
        : [],
    );
    const { segmentation, translation } = configOf(whole);
    const poly = [0, 1, 2].map((step) => segmentation.learningRate * (1 - step / 3) ** 0.9);
    assert.deepEqual(rates, [...poly, translation.learningRate, translation.learningRate]);
  });

  it('uses each loss where the algorithm has it', () => {
    for (const event of wholeEvents) {
      if (event.type !== 'step' || !('segmentation' in event.losses)) continue;
      const { adversarial, pseudoLabel, discriminatorSource } = event.losses;
      assert.equal(adversarial !== 0, event.stage !== 'source-only', `adversarial in ${event.stage}`);
      assert.equal(
        discriminatorSource !== 0,
        event.stage !== 'source-only',
        `discriminator in ${event.stage}`,
      );
      assert.equal(
        pseudoLabel !== 0,
        event.stage === 'round-1/segmenter-1',
        `pseudo-labels in ${event.stage}`,
      );
    }
  });

  it('leaves everything in the run folder', async () => {
    const summary = await readSummary(whole);
    assert.equal(summary.complete, true);
    assert.deepEqual(
      summary.stages.map(({ name }) => name),
      STAGES,
    );
    const byName = Object.fromEntries(summary.stages.map((stage) => [stage.name, stage]));
    for (const name of ['source-only', 'round-1/segmenter-0', 'round-1/segmenter-1']) {
      const { miou, iouPerClass, pixelAccuracy, steps, seconds, waitShare } = byName[name]!;
      assert(miou! >= 0 && miou! <= 1 && pixelAccuracy! > 0);
      assert.deepEqual(Object.keys(iouPerClass!), summary.classes);
      assert(steps === 3 && seconds > 0 && waitShare! >= 0 && waitShare! <= 1);
    }
    assert.equal(byName['round-1/translator']!.miou, null);
    assert(byName['round-1/pseudo-labels-1']!.keptShare! > 0);
    assert.equal((await readdir(path.join(whole, 'translated', 'round-1'))).length, 4);
    assert.deepEqual((await readdir(path.join(whole, 'pictures'))).sort(), [
      'round-1-pseudo-labels-1.png',
      'round-1-segmenter-0.png',
      'round-1-segmenter-1.png',
      'round-1-translator-source.png',
      'round-1-translator-target.png',
      'source-only.png',
    ]);
    assert.match(await readFile(path.join(whole, 'report.html'), 'utf8'), /^<!doctype html>/);
    assert.equal((await readdir(path.join(whole, 'tensorboard'))).length, 5);
    const log = (await readFile(path.join(whole, 'events.jsonl'), 'utf8')).trim().split('\n');
    assert.deepEqual(
      log.map((line) => JSON.parse(line).type).filter((type) => type === 'step').length,
      wholeEvents.filter(({ type }) => type === 'step').length,
    );
  });

  it('reports the confusion matrix of each evaluation, and the content of its pictures', async () => {
    const events = <Type extends RunEvent['type']>(type: Type) =>
      wholeEvents.filter((event): event is Extract<RunEvent, { type: Type }> => event.type === type);
    const { stages } = await readSummary(whole);
    const evaluations = events('evaluation');
    assert.deepEqual(
      evaluations.map(({ stage }) => stage),
      ['source-only', 'round-1/segmenter-0', 'round-1/segmenter-1'],
    );
    for (const { stage, images, confusion } of evaluations) {
      assert.equal(images, 2);
      const pixels = confusion.flat().reduce((sum, count) => sum + count, 0);
      assert.equal(pixels, 2 * 64 * 32);
      const right = confusion.reduce((sum, row, truth) => sum + row[truth]!, 0);
      const record = stages.find(({ name }) => name === stage)!;
      assert.equal(right / pixels, record.pixelAccuracy);
    }
    const shown = events('picture').map(({ stage, domain, columns }) => [stage, domain, columns.join()]);
    const translations = 'image,translated,reconstructed';
    assert.deepEqual(shown, [
      ['source-only', 'target', 'image,prediction,truth'],
      ['round-1/translator', 'source', translations],
      ['round-1/translator', 'target', translations],
      ['round-1/segmenter-0', 'target', 'image,prediction,truth'],
      ['round-1/pseudo-labels-1', 'target', 'image,pseudo-label'],
      ['round-1/segmenter-1', 'target', 'image,prediction,truth'],
    ]);
    for (const { file, columns, rows } of events('picture')) {
      const { width, height } = await openImage(file);
      const part = gridPart(
        { width, height },
        { rows: rows.length, columns: columns.length },
        { row: 0, column: 0 },
      );
      assert.deepEqual([part.width, part.height, rows.length], [64, 32, 2]);
    }
  });

  it('disposes every native object', () => {
    const live = Object.values(native.liveObjects()).reduce((sum, count) => sum + count, 0);
    assert.equal(live, 0, JSON.stringify(native.liveObjects()));
  });

  it('starts each network from the same weights every time', async () => {
    const config = configOf(whole);
    using segmenter = await createSegmenter(config);
    const discriminator = async () => (await createDiscriminator(config, segmenter))!;
    for (const create of [createSegmenter, discriminator, createTranslator]) {
      const saved: Buffer[] = [];
      for (const file of [path.join(parent, 'one.safetensors'), path.join(parent, 'other.safetensors')]) {
        using network = await create(config);
        await network.save(file);
        saved.push(await readFile(file));
      }
      assert(saved[0]!.equals(saved[1]!), create.name);
    }
  });

  for (const [stage, left] of [
    ['round-1/translator', ['source-only']],
    ['round-1/segmenter-1', STAGES.slice(0, 5)],
  ] as const) {
    it(`interrupted in ${stage} and resumed, gives bit for bit the same result`, async () => {
      const output = path.join(parent, `interrupted-${stage.replace('/', '-')}`);
      const controller = new AbortController();
      const reason = new Error('enough');
      await assert.rejects(
        collect(configOf(output), { signal: controller.signal }, (event) => {
          if (event.type === 'step' && event.stage === stage) controller.abort(reason);
        }),
        (error) => error === reason,
      );
      assert.deepEqual(
        (await readSummary(output)).stages.map(({ name }) => name),
        left,
      );
      const { events, summary } = await collect(configOf(output), { resume: true });
      assert.deepEqual(finished(events, true), left);
      assert.deepEqual(finished(events, false), STAGES.slice(left.length));
      assert.equal(summary.complete, true);
      for (const name of ['round-1/translator', 'round-1/segmenter-1']) {
        assert((await weights(output, name)).equals(await weights(whole, name)), `weights of ${name}`);
      }
    });
  }

  it('loop.startFrom=previous starts from M0, also in a run that began without it, and resumes bit for bit', async () => {
    const name = 'round-1/segmenter-1';
    const previous = ['loop.startFrom=previous', 'checkpoint.every=1'];
    const copyOf = async (folder: string) => {
      const copy = path.join(parent, folder);
      await cp(whole, copy, { recursive: true });
      return copy;
    };
    const output = await copyOf('previous');
    const { events } = await collect(configOf(output, previous), { resume: true });
    assert.deepEqual(finished(events, false), [name]);
    assert(!(await weights(output, name)).equals(await weights(whole, name)));

    // The same stage with M0's weights as the initial ones of the config.
    const initial = await copyOf('from-m0');
    const m0 = stageWeights(whole, { name: 'round-1/segmenter-0' });
    const edited = configOf(initial, [`segmenter.initialWeights=${m0}`]);
    await writeFile(
      path.join(initial, 'config.yaml'),
      (await readFile(path.join(initial, 'config.yaml'), 'utf8')).replace(
        'initialWeights: null',
        `initialWeights: ${m0}`,
      ),
    );
    await collect(edited, { only: name, overwrite: true });
    assert((await weights(initial, name)).equals(await weights(output, name)));

    const cut = await copyOf('previous-cut');
    const controller = new AbortController();
    const interrupted = collect(
      configOf(cut, previous),
      { resume: true, signal: controller.signal },
      (event) => {
        if (event.type === 'step' && event.step === 2) controller.abort(new Error('enough'));
      },
    );
    await assert.rejects(interrupted, /enough/);
    const rest = await collect(configOf(cut, previous), { resume: true });
    const start = rest.events.find((event) => event.type === 'stage-start');
    assert.equal(start?.type === 'stage-start' && start.stepsBefore, 2);
    assert((await weights(cut, name)).equals(await weights(output, name)));
  });

  it('loop.startFrom=previous continues F in later rounds, and resumes bit for bit', async () => {
    const set = [
      'loop={rounds: 2, selfTrainingRounds: 0, startFrom: previous}',
      'translation={steps: 3, continuedSteps: 2}',
      'checkpoint.every=1',
    ];
    const name = 'round-2/translator';
    const output = path.join(parent, 'continued');
    const config = configOf(output, set);
    const { events } = await collect(config);
    const steps = events.flatMap((event) =>
      event.type === 'step' && event.stage.endsWith('translator') ? [`${event.step}/${event.steps}`] : [],
    );
    assert.deepEqual(steps, ['1/3', '2/3', '3/3', '1/2', '2/2']);

    // The same training by hand.
    const fromStage = (stage: string) => stageWeights(output, { name: stage });
    using translator = await createTranslator(config, fromStage('round-1/translator'));
    using segmenter = await createSegmenter(config, fromStage('round-1/segmenter-0'));
    const size = { width: 64, height: 32 };
    await new TranslationTrainer({ translator, segmenter }, await openDatasets(config), {
      stage: name,
      seed: config.seed,
      sourceSize: size,
      crop: { width: 32, height: 32 },
      training: { ...config.translation, steps: 2 },
    }).run();
    const expected = path.join(parent, 'continued.safetensors');
    await translator.save(expected);
    assert((await readFile(expected)).equals(await weights(output, name)));

    const cut = path.join(parent, 'continued-cut');
    const controller = new AbortController();
    const interrupted = collect(configOf(cut, set), { signal: controller.signal }, (event) => {
      if (event.type === 'step' && event.stage === name) controller.abort(new Error('enough'));
    });
    await assert.rejects(interrupted, /enough/);
    const rest = await collect(configOf(cut, set), { resume: true });
    const start = rest.events.find((event) => event.type === 'stage-start');
    assert.deepEqual(start?.type === 'stage-start' && [start.stage, start.stepsBefore], [name, 1]);
    assert((await weights(cut, name)).equals(await weights(output, name)));
  });

  it('stops when the consumer stops listening', async () => {
    const output = path.join(parent, 'left');
    for await (const event of train(configOf(output))) if (event.type === 'step') break;
    assert.deepEqual((await readSummary(output)).stages, []);
    assert.deepEqual(await readdir(path.join(output, 'lock')), []);
    const live = Object.values(native.liveObjects()).reduce((sum, count) => sum + count, 0);
    assert.equal(live, 0);
  });

  describe('one stage alone', () => {
    it('runs in a new folder, and then the stages that depend on it', async () => {
      const output = path.join(parent, 'single');
      const first = await collect(configOf(output), { only: 'source-only' });
      assert.deepEqual(finished(first.events, false), ['source-only']);
      assert.equal(first.summary.complete, false);
      await assert.rejects(collect(configOf(output), { only: 'segmenter' }), (error: Error) => {
        assert(error instanceof ConfigError);
        assert.match(error.message, /round-1\/segmenter-0 needs the output of round-1\/translate/);
        return true;
      });
      await collect(configOf(output), { only: 'F(1)' });
      assert(
        (await weights(output, 'round-1/translator')).equals(await weights(whole, 'round-1/translator')),
      );
    });

    it('runs again only on request, and then invalidates the stages that depend on it', async () => {
      const output = path.join(parent, 'again');
      await cp(whole, output, { recursive: true });
      const only = 'round-1/segmenter-0';
      await assert.rejects(
        collect(configOf(output), { only }),
        /round-1\/segmenter-0 is complete in .*overwrite it/,
      );
      await collect(configOf(output), { only, overwrite: true });
      const { stages } = await readSummary(output);
      assert.deepEqual(
        stages.map(({ name }) => name),
        STAGES.slice(0, 4),
      );
    });

    it('that does not exist is reported before anything is written', async () => {
      const output = path.join(parent, 'nothing');
      await assert.rejects(collect(configOf(output), { only: 'M7(1)' }), InvalidArgumentError);
      await assert.rejects(readdir(output), /ENOENT/);
    });
  });

  it('continues without pseudo-labels when nothing is confident enough', async () => {
    const output = path.join(parent, 'unsure');
    const { events } = await collect(
      configOf(output, ['selfTraining={method: mpt, threshold: 1, inclusive: false}']),
    );
    // A segmenter of so few steps may also lose classes, which is another warning.
    const warnings = events.flatMap((event) =>
      event.type === 'warning' && !/hardly predicts classes/.test(event.message) ? [event] : [],
    );
    assert.deepEqual(
      warnings.map(({ stage }) => stage),
      ['round-1/segmenter-1'],
    );
    assert.match(warnings[0]!.message, /no target image has a pseudo-label/);
  });

  it('gives listeners the same events as its iterator', async () => {
    const config = configOf(path.join(parent, 'listened'), ['loop.rounds=0']);
    const store = await RunFolder.open(config);
    try {
      const learning = new BidirectionalLearning(config, await openDatasets(config), store);
      const all: string[] = [];
      const steps: number[] = [];
      learning.on('event', (event) => all.push(event.type));
      learning.on('step', (event) => steps.push(event.step));
      const summary = await learning.run();
      assert.deepEqual(steps, [1, 2, 3]);
      assert.equal(all.at(-1), 'run-end');
      assert.equal(summary.complete, true);
    } finally {
      await store.close();
    }
  });
});
