import assert from 'node:assert/strict';
import { cp, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { createConfig } from '../../../lib/config/load.js';
import { countClasses } from '../../../lib/data/class-counts.js';
import { matchHistograms } from '../../../lib/data/histogram-matching.js';
import { readImage } from '../../../lib/data/image-codec.js';
import { createEmbeddedDataset } from '../../../lib/data/scenes/embedded-dataset.js';
import { evaluate } from '../../../lib/inference/evaluate.js';
import { drawReference } from '../../../lib/inference/translate-dataset.js';
import { Translator } from '../../../lib/models/translator.js';
import { openDatasets } from '../../../lib/pipeline/datasets.js';
import type { RunEvent } from '../../../lib/pipeline/events.js';
import { createSegmenter } from '../../../lib/pipeline/models.js';
import { readSummary, stageWeights } from '../../../lib/run/run-files.js';
import { drain } from '../../../lib/support/generators.js';
import { ALIGNMENTS } from '../../../lib/training/segmentation-options.js';
import { PairedTranslationStep } from '../../../lib/training/steps/paired-translation-step.js';
import type { StepBatch } from '../../../lib/training/steps/training-step.js';
import { TranslationTrainer } from '../../../lib/training/translation-trainer.js';
import { train } from '../../../lib/workflows/train.js';
import { TINY_RUN } from '../../helpers/tiny-run.js';

describe('switches of the loop', () => {
  let parent: string;
  let data: string;

  before(async () => {
    parent = await mkdtemp(path.join(tmpdir(), 'bidiseg-switches-'));
    data = path.join(parent, 'data');
    const counts = { sourceCount: 4, targetCount: 3, validationCount: 2 };
    await createEmbeddedDataset(data, { seed: 1, size: { width: 64, height: 32 }, ...counts });
  });

  after(() => rm(parent, { recursive: true }));

  const configOf = (name: string, set: string[]) =>
    createConfig(
      { preset: 'demo', output: path.join(parent, name), data: { root: data } },
      { set: [...TINY_RUN, ...set] },
    );

  /** Runs a config. With `stopIn`, interrupts it once at the first step or image of that stage. */
  async function run(name: string, set: string[], stopIn?: string): Promise<RunEvent[]> {
    const config = configOf(name, set);
    const events: RunEvent[] = [];
    if (stopIn !== undefined) {
      for await (const event of train(config)) {
        const counts = event.type === 'step' || (event.type === 'progress' && event.task === 'translate');
        if (counts && event.stage === stopIn) break;
      }
    }
    await drain(train(config, { resume: stopIn !== undefined }), (event) => events.push(event));
    return events;
  }

  const labels = async (name: string) =>
    (await readSummary(path.join(parent, name))).stages.map(({ label }) => label);
  const weights = (name: string, stage: string) =>
    readFile(stageWeights(path.join(parent, name), { name: stage }));
  const report = (name: string) => readFile(path.join(parent, name, 'report.html'), 'utf8');

  async function sameResults(one: string, other: string, stages: readonly string[]): Promise<void> {
    for (const stage of stages) {
      assert((await weights(one, stage)).equals(await weights(other, stage)), `weights of ${stage}`);
    }
  }

  it('translation none: segmenters train on the source images themselves', async () => {
    const events = await run('none', ['loop.translation=none']);
    assert.deepEqual(await labels('none'), ['M(0)', 'M0(1)', 'Ŷ1(1)', 'M1(1)']);
    assert(
      events.some(
        (event) => event.type === 'step' && 'adversarial' in event.losses && event.losses.adversarial > 0,
      ),
    );
    assert.match(
      await report('none'),
      /M0\(1\)<\/th>\s*<td class="wide muted">source images, target images</,
    );
    await assert.rejects(readdir(path.join(parent, 'none', 'translated')), /ENOENT/);
  });

  it('accumulation: a step takes the images of several batches, and resumes with the same ones', async () => {
    const set = ['loop={rounds: 1, translation: none, selfTrainingRounds: 0}', 'segmentation.accumulation=2'];
    const stages = ['source-only', 'round-1/segmenter-0'];
    await run('accumulated', set, 'round-1/segmenter-0');
    await run('accumulated-whole', set);
    await sameResults('accumulated', 'accumulated-whole', stages);
    await run('single', [set[0]!]);
    for (const stage of stages) {
      assert(!(await weights('single', stage)).equals(await weights('accumulated', stage)), stage);
    }
  });

  it('histogram matching: each source image to a target image drawn by the seed', async () => {
    const set = ['loop.translation=histogram-matching'];
    await run('matching', set, 'round-1/translate');
    assert.deepEqual(await labels('matching'), ['M(0)', 'S′(1)', 'M0(1)', 'Ŷ1(1)', 'M1(1)']);
    const config = configOf('matching', set);
    const { source, target } = await openDatasets(config);
    const size = { width: 64, height: 32 };
    for (let index = 0; index < source.length; index++) {
      const { name, image } = source.entry(index);
      const drawing = { seed: config.seed, stage: 'round-1/translate', targetSize: size };
      const expected = matchHistograms(
        await readImage(image, size),
        await drawReference(target, name, drawing),
      );
      const file = path.join(parent, 'matching', 'translated', 'round-1', `${name}.png`);
      assert.deepEqual((await readImage(file)).data, expected.data);
    }
    const html = await report('matching');
    assert.match(html, /after histogram matching/);
    assert.match(html, /source images as S′\(1\), target images/);
    await run('matching-whole', set);
    await sameResults('matching', 'matching-whole', ['round-1/segmenter-0', 'round-1/segmenter-1']);
  });

  it('without perceptual terms F does not use M', async () => {
    const set = [
      'loop={selfTrainingRounds: 0}',
      'translation={perceptualWeight: 0, perceptualReconstructionWeight: 0}',
    ];
    await run('sequential', set);
    await run('sequential-other', [...set, 'segmentation.learningRate=0.1']);
    const one = await weights('sequential', 'source-only');
    assert(!one.equals(await weights('sequential-other', 'source-only')));
    await sameResults('sequential', 'sequential-other', ['round-1/translator']);
  });

  for (const alignment of ALIGNMENTS) {
    it(`alignment ${alignment}: has its terms and no others`, async () => {
      const set = [`segmentation.alignment=${alignment}`, 'loop={translation: none, selfTrainingRounds: 0}'];
      const events = await run(`alignment ${alignment}`, set);
      const steps = events.flatMap((event) =>
        event.type === 'step' && event.stage === 'round-1/segmenter-0' ? [event] : [],
      );
      assert.equal(steps.length, 3);
      for (const { losses } of steps) {
        assert('moments' in losses);
        const judged = alignment.endsWith('discriminator');
        assert.equal(losses.adversarial > 0, judged);
        assert.equal(losses.discriminatorTarget > 0, judged);
        assert.equal(losses.moments > 0, alignment === 'mean' || alignment === 'correlation');
        const { entropy, teacher, masked, featureDistance, confidentShare } = losses;
        assert.deepEqual([entropy, teacher, masked, featureDistance, confidentShare], [0, 0, 0, 0, 0]);
      }
    });
  }

  it('a warm-up gives each step its share of the learning rate', async () => {
    const set = ['loop.rounds=0', 'segmentation.schedule={kind: constant}'];
    const rates = async (name: string, ...more: string[]) =>
      (await run(name, [...set, ...more])).flatMap((event) =>
        event.type === 'step' && event.stage === 'source-only' ? [event.learningRate] : [],
      );
    const plain = await rates('without warm-up');
    const warm = await rates('with warm-up', 'segmentation.warmUpSteps=2');
    assert.ok(plain.length > 2 && plain.every((rate) => rate > 0));
    assert.deepEqual(
      warm,
      plain.map((rate, step) => (step === 0 ? rate / 2 : rate)),
    );
  });

  it('alignment none: target images have no effect on M', async () => {
    const set = ['segmentation.alignment=none', 'loop={translation: none, selfTrainingRounds: 0}'];
    const others = 'data.target.train.images=target/val/images';
    const first = ['round-1/segmenter-0'];
    await run('without', set);
    await run('without, others', [...set, others]);
    await sameResults('without', 'without, others', first);
    await run('with entropies', [...set, 'segmentation.entropyWeight=0.1']);
    await run('with entropies, others', [...set, others, 'segmentation.entropyWeight=0.1']);
    await assert.rejects(sameResults('with entropies', 'with entropies, others', first), /weights of/);
  });

  it('a teacher with ClassMix and masked images, an anchor, entropies and soft class-balanced pseudo-labels resume bit for bit', async () => {
    const set = [
      'segmentation.alignment=feature-discriminator',
      'segmentation.teacher={threshold: 0.2, distributionAlignment: true, masking: {ratio: 0.5, source: true}}',
      'segmentation.augmentation.target.colorJitter.contrast=0.5',
      'segmentation.featureDistance={classes: [sky, road], minimumShare: 0.2}',
      'segmentation.entropyWeight=0.01',
      'selfTraining={method: class-balanced, weighting: soft}',
      'loop={translation: none, selfTrainingRounds: 1}',
    ];
    const events = await run('teacher', set, 'round-1/segmenter-1');
    const steps = events.flatMap((event) => (event.type === 'step' ? [event] : []));
    assert(steps.length > 0);
    for (const { losses } of steps) {
      assert('teacher' in losses && losses.teacher > 0 && losses.confidentShare > 0 && losses.entropy > 0);
      assert(losses.pseudoLabel > 0 && losses.masked > 0 && losses.featureDistance > 0);
    }
    await run('teacher-whole', set);
    await sameResults('teacher', 'teacher-whole', ['round-1/segmenter-0', 'round-1/segmenter-1']);
    const average = (name: string) =>
      readFile(path.join(parent, name, 'stages', 'round-1-segmenter-1', 'teacher.safetensors'));
    assert((await average('teacher')).equals(await average('teacher-whole')));
  });

  it('paired translation: F alone is trained, on images of the same name, and resumes', async () => {
    const set = [
      'loop={selfTrainingRounds: 0}',
      'translation={pairing: paired, steps: 4}',
      'translator={depth: 5}',
      'data.target.train.images=source/images',
    ];
    const events = await run('paired', set, 'round-1/translator');
    assert.deepEqual(await labels('paired'), ['M(0)', 'F(1)', 'S′(1)', 'M0(1)', 'Ŷ1(1)', 'M1(1)']);
    const [step] = events.filter((event) => event.type === 'step' && event.stage === 'round-1/translator');
    assert(step?.type === 'step' && 'l1' in step.losses && step.losses.l1 > 0);
    const pictures = events.flatMap((event) => (event.type === 'picture' ? [event] : []));
    const shown = pictures.filter(({ stage }) => stage === 'round-1/translator');
    assert.deepEqual(
      shown.map(({ domain, columns }) => [domain, columns]),
      [['source', ['image', 'translated']]],
    );
    await run('paired-whole', set);
    await sameResults('paired', 'paired-whole', ['round-1/translator', 'round-1/segmenter-0']);
    await assert.rejects(
      run('unpaired', [...set, 'data.target.train.images=target/train/images']),
      /source and target images of the same names/,
    );
  });

  it('paired translation: the two images of a pair are drawn and cut alike', async () => {
    const { source } = await openDatasets(configOf('pairs', []));
    using translator = await Translator.create({ pairing: 'paired', depth: 5, baseWidth: 2 });
    const trainer = new TranslationTrainer(
      { translator },
      { source, target: source.subset([2, 0, 1]) },
      {
        sourceSize: { width: 64, height: 32 },
        crop: { width: 32, height: 32 },
        training: { steps: 4, batchSize: 2, flip: true },
      },
    );
    const { run: original } = PairedTranslationStep.prototype;
    const seen: Uint8Array[] = [];
    PairedTranslationStep.prototype.run = function (batch) {
      assert.deepEqual(batch.target, batch.source);
      seen.push((batch.source as StepBatch).images);
      return original.call(this, batch);
    };
    try {
      await trainer.run();
    } finally {
      PairedTranslationStep.prototype.run = original;
    }
    assert.equal(new Set(seen.map((images) => Buffer.from(images).toString('hex'))).size, 4);
  });

  it('statistics of the target: other running statistics, the same weights; M(0) keeps its own', async () => {
    const set = ['loop.translation=none', 'loop.selfTrainingRounds=0'];
    const adapted = [...set, 'segmentation.targetStatistics=true', 'segmentation.batchSize=2'];
    await run('own-statistics-2', [...set, 'segmentation.batchSize=2']);
    await run('statistics', adapted, 'round-1/segmenter-0');
    await sameResults('statistics', 'own-statistics-2', ['source-only']);
    const config = configOf('statistics', adapted);
    const stateOf = async (name: string) => {
      const stage = { name: 'round-1/segmenter-0' };
      using segmenter = await createSegmenter(config, stageWeights(path.join(parent, name), stage));
      const values = new Map<string, number[]>();
      for (const [key, tensor] of [...(await segmenter.parameters()), ...(await segmenter.buffers())]) {
        values.set(key, Array.from((await tensor.data()) as ArrayLike<number | bigint>, Number));
      }
      return values;
    };
    const [own, ofTarget] = [await stateOf('own-statistics-2'), await stateOf('statistics')];
    for (const [key, values] of own) {
      const isStatistic = /running_(mean|var)$/.test(key);
      if (!key.endsWith('num_batches_tracked')) {
        assert.equal(isDeepStrictEqual(values, ofTarget.get(key)), !isStatistic, key);
      }
    }
    // The statistics now come from the three target images alone.
    const { target } = await openDatasets(config);
    using segmenter = await createSegmenter(
      config,
      stageWeights(path.join(parent, 'statistics'), { name: 'round-1/segmenter-0' }),
    );
    const size = { width: config.sizes.target[0], height: config.sizes.target[1] };
    for (const [index, images] of [[0, 1], [2]].entries()) {
      const data = await Promise.all(images.map(async (image) => (await target.readImage(image, size)).data));
      const momentum = 1 / (index + 1);
      await segmenter.updateStatistics(Buffer.concat(data), { count: images.length, ...size, momentum });
    }
    for (const [key, tensor] of await segmenter.buffers()) {
      if (key.endsWith('num_batches_tracked')) continue;
      assert.deepEqual(Array.from((await tensor.data()) as Float32Array), ofTarget.get(key), key);
    }
  });

  it('rare class sampling counts once a run, resumes, and draws other images', async () => {
    const set = ['segmentation.rareClassSampling={temperature: 0.1}', 'loop.translation=none'];
    const events = await run('rare', set, 'round-1/segmenter-0');
    const counted = (all: readonly RunEvent[]) =>
      all.filter((event) => event.type === 'progress' && event.task === 'class-counts').length;
    assert.equal(counted(events), 0);
    assert.equal(counted(await run('rare-whole', set)), 4);
    await sameResults('rare', 'rare-whole', ['source-only', 'round-1/segmenter-0', 'round-1/segmenter-1']);
    assert(!(await weights('rare', 'source-only')).equals(await weights('none', 'source-only')));

    const { source } = await openDatasets(configOf('rare', set));
    const kept = JSON.parse(await readFile(path.join(parent, 'rare', 'class-counts.json'), 'utf8'));
    assert.deepEqual(await drain(countClasses(source, 10)), { counts: kept.counts, pixels: kept.pixels });
    assert.deepEqual(kept.pixels, [2048, 2048, 2048, 2048]);
    for (const counts of kept.counts)
      assert.equal(
        counts.reduce((sum: number, count: number) => sum + count, 0),
        2048,
      );
  });

  it('class balance counts the classes, and changes the training', async () => {
    const set = ['segmentation.classBalance=median-frequency', 'loop.rounds=0'];
    await run('balanced', set);
    await readFile(path.join(parent, 'balanced', 'class-counts.json'));
    assert(!(await weights('balanced', 'source-only')).equals(await weights('none', 'source-only')));
  });

  it('class counts are computed again if they are missing or belong to other images', async () => {
    const set = ['segmentation.rareClassSampling={}', 'loop.rounds=0'];
    await run('counts', set);
    const file = path.join(parent, 'counts', 'class-counts.json');
    const before = await readFile(file);
    for (const spoil of [() => rm(file), () => cp(path.join(parent, 'counts', 'config.yaml'), file)]) {
      await spoil();
      await drain(train(configOf('counts', set), { only: 'M(0)', overwrite: true }));
      assert((await readFile(file)).equals(before));
    }
  });

  it('augmentation resumes bit for bit', async () => {
    const set = [
      'segmentation.augmentation.source={scale: [0.5, 2], crop: [48, 32], colorJitter: {brightness: 0.4, hue: 0.2}, blur: 1}',
      'segmentation.augmentation.target={scale: [1, 2]}',
      'loop.translation=none',
    ];
    await run('augmented', set, 'round-1/segmenter-1');
    await run('augmented-whole', set);
    await sameResults('augmented', 'augmented-whole', ['source-only', 'round-1/segmenter-1']);
    assert(!(await weights('augmented', 'source-only')).equals(await weights('none', 'source-only')));
  });

  it('a part of the labeled target images trains the upper bound, and the rest measures it', async () => {
    const target = 'images: target/val/images, labels: target/val/labels';
    const set = [
      'loop.rounds=0',
      `data.source={${target}, part: [0, 0.5]}`,
      `data.target.val={${target}, part: [0.5, 1]}`,
    ];
    const events = await run('ceiling', set);
    const config = configOf('ceiling', set);
    const { source, validation } = await openDatasets(config);
    assert.deepEqual([source.length, validation!.length], [1, 1]);
    assert.notEqual(source.entry(0).name, validation!.entry(0).name);
    const [evaluation] = events.filter((event) => event.type === 'evaluation');
    assert.equal(evaluation!.images, 1);
    const nothing = configOf('nothing', ['data.target.train.part=[0, 0.1]']);
    await assert.rejects(openDatasets(nothing), {
      message: 'data.target.train.part: expected a part with at least one image but found [0, 0.1] of 3',
    });
  });

  it('a few labeled target images train beside the source, by their share, and resume bit for bit', async () => {
    const images = 'images: target/val/images, labels: target/val/labels';
    const none = 'loop.translation=none';
    const rest = `data.target.val={${images}, part: [0.5, 1]}`;
    const few = `data.target.labeled={${images}, part: [0, 0.5]}`;
    const share = (value: number) => `segmentation.labeledTargetShare=${value}`;
    const stages = ['source-only', 'round-1/segmenter-1'];
    const labeled = [none, rest, few, share(0.5)];
    await run('labeled', labeled, 'round-1/segmenter-1');
    await run('labeled-whole', labeled);
    await sameResults('labeled', 'labeled-whole', stages);
    assert.match(await report('labeled'), /source images and labeled target images/);
    await run('labeled-never', [none, rest, few, share(0)]);
    await run('unlabeled', [none, rest]);
    await sameResults('labeled-never', 'unlabeled', stages);
    for (const stage of stages) {
      assert(!(await weights('labeled', stage)).equals(await weights('unlabeled', stage)), stage);
    }
    // With a share of 1, the one labeled image is all that M sees.
    await run('labeled-only', ['loop.rounds=0', rest, few, share(1)]);
    await run('as-source', ['loop.rounds=0', rest, `data.source={${images}, part: [0, 0.5]}`]);
    await sameResults('labeled-only', 'as-source', ['source-only']);
  });

  it('source images train as they were beside translated ones, by their share, and resume bit for bit', async () => {
    const [round, stage] = ['loop.selfTrainingRounds=0', 'round-1/segmenter-0'];
    const matched = [
      round,
      'loop.translation=histogram-matching',
      'segmentation.copyPaste={classes: [car, road]}',
    ];
    const share = (value: number) => `segmentation.originalShare=${value}`;
    await run('both', [...matched, share(0.5)], stage);
    await run('both-whole', [...matched, share(0.5)]);
    await sameResults('both', 'both-whole', ['source-only', stage]);
    await run('translated', matched);
    await run('original', [...matched, share(1)]);
    await run('untranslated', [...matched, 'loop.translation=none']);
    await sameResults('original', 'untranslated', ['source-only', stage]);
    for (const other of ['translated', 'original']) {
      assert(!(await weights('both', stage)).equals(await weights(other, stage)), other);
    }
  });

  it('an image that is trained on and measured on is an error that names it', async () => {
    const images = 'images: target/val/images, labels: target/val/labels';
    const config = (part: string) =>
      configOf('mixed', [`data.target.val={${images}}`, `data.target.labeled={${images}, part: ${part}}`]);
    await assert.rejects(drain(train(config('[0.5, 1]'))), {
      name: 'ConfigError',
      message: `data.target.labeled: ${path.join(data, 'target/val/images/dusk-00001.png')} is also in data.target.val, expected no image that is both trained on and measured on`,
    });
    // By another path it is still the same image.
    await symlink(path.join(data, 'target/val'), path.join(data, 'linked'));
    const linked = `data.target.labeled={${images.replaceAll('target/val', 'linked')}}`;
    await assert.rejects(openDatasets(configOf('mixed', [`data.target.val={${images}}`, linked])), {
      name: 'ConfigError',
      message: /is also in data\.target\.val/,
    });
    await rm(path.join(data, 'linked'));
  });

  it('other labels of the labeled target images are other data', async () => {
    const images = 'images: few/images, labels: few/labels';
    await cp(path.join(data, 'target/val'), path.join(data, 'few'), { recursive: true });
    const set = ['loop.rounds=0', 'data.target.val=null', `data.target.labeled={${images}}`];
    await run('few', set);
    const [one, other] = await readdir(path.join(data, 'few/labels'));
    await cp(path.join(data, 'few/labels', one!), path.join(data, 'few/labels', other!));
    const altered = /labeled: label of 'dusk-0000\d' altered/;
    await assert.rejects(drain(train(configOf('few', set), { resume: true })), altered);
    const without = configOf('few', ['loop.rounds=0', 'data.target.val=null']);
    await assert.rejects(drain(train(without, { resume: true })), /data\.target\.labeled/);
    await rm(path.join(data, 'few'), { recursive: true });
  });

  it('validation on held-out source images keeps the best weights, and changes nothing about the last', async () => {
    const set = ['loop.translation=none', 'segmentation.rareClassSampling={}'];
    const validated = [...set, 'segmentation.validation={share: 0.25, every: 1}'];
    const stages = ['source-only', 'round-1/segmenter-1'];
    await run('validated', validated, 'round-1/segmenter-1');
    await run('validated-whole', validated);
    await run('fewer', [...set, 'data.source.part=[0, 0.75]']);
    await sameResults('validated', 'validated-whole', stages);
    await sameResults('validated', 'fewer', stages);

    const config = configOf('validated', validated);
    const { source } = await openDatasets(config);
    const heldOut = source.subset([3]);
    const size = { width: 64, height: 32 };
    const measure = async (file: string) => {
      using segmenter = await createSegmenter(config, file);
      return (await evaluate(segmenter, heldOut, { classCount: 10, size, outputSize: size })).meanIou!;
    };
    for (const stage of stages) {
      const file = (name: string) =>
        path.join(path.dirname(stageWeights(name, { name: stage })), 'best.safetensors');
      const [one, other] = ['validated', 'validated-whole'].map((name) => file(path.join(parent, name)));
      assert((await readFile(one!)).equals(await readFile(other!)), `best weights of ${stage}`);
      const { stages: records } = await readSummary(path.join(parent, 'validated'));
      const { best } = records.find(({ name }) => name === stage)!;
      assert(best !== null && best.step >= 1 && best.step <= 3);
      assert.equal(await measure(one!), best.miou);
      assert((await measure(stageWeights(path.join(parent, 'validated'), { name: stage }))) <= best.miou);
    }
    const none = configOf('none-left', ['segmentation.validation={share: 0.9}', 'loop.rounds=0']);
    await assert.rejects(drain(train(none)), {
      code: 'ERR_CONFIG',
      message: /validation\.share: 0\.9 of 4 source images leaves no image to train on/,
    });
  });
});
