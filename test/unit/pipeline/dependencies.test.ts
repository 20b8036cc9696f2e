import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { createConfig } from '../../../lib/config/load.js';
import { createEmbeddedDataset } from '../../../lib/data/scenes/embedded-dataset.js';
import { stageFingerprints } from '../../../lib/pipeline/dependencies.js';
import { planStages } from '../../../lib/pipeline/plan.js';
import { readHistory } from '../../../lib/run/history.js';
import { readSummary } from '../../../lib/run/run-files.js';
import { RunFolder } from '../../../lib/run/run-folder.js';
import { drain } from '../../../lib/support/generators.js';
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

/** Assignments, and the first stage whose output they change. Earlier stages must not depend on them. */
const CHANGES: [set: string[], first: string | null][] = [
  [['loop.rounds=2', 'logEvery=7', 'checkpoint.every=2', 'output=elsewhere'], null],
  // Fingerprints use complete configs. A run from before a key existed gets the key's default.
  [['segmentation={accumulation: 1, cudaGraphs: false}', 'translation.cudaGraphs=false'], null],
  [['seed=2'], 'source-only'],
  [['segmenter.width=0.125'], 'source-only'],
  [['segmentation.sourceOnlySteps=2'], 'source-only'],
  [['segmentation.learningRate=0.01'], 'source-only'],
  [['segmentation.accumulation=2'], 'source-only'],
  [['segmentation.rareClassSampling={}'], 'source-only'],
  [['segmentation.classBalance=median-frequency'], 'source-only'],
  [['dtype=float64'], 'source-only'],
  [['segmentation.copyPaste={classes: [road]}'], 'source-only'],
  [['segmentation.augmentation.source.blur=1'], 'source-only'],
  [['sizes.evaluation=[32, 32]'], 'source-only'],
  [
    ['translation={steps: 3, perceptualWeight: 1}', 'translator.baseWidth=3', 'sizes.translation.crop=null'],
    'round-1/translator',
  ],
  [
    [
      'discriminator.baseWidth=3',
      'sizes.target=[48, 32]',
      'segmentation={steps: 2, adversarialWeight: 0.5}',
      'segmentation={discriminatorLearningRate: 0.001, discriminatorBetas: [0.8, 0.9]}',
      'segmentation.augmentation.target.blur=1',
    ],
    'round-1/segmenter-0',
  ],
  [
    [
      'segmentation={alignment: mean, momentWeight: 3, entropyWeight: 0.1}',
      'segmentation.teacher={decay: 0.5, threshold: 0.1}',
    ],
    'round-1/segmenter-0',
  ],
  [
    [
      'selfTraining={method: mpt, threshold: 0.2, portion: 0.1, weighting: soft, order: logits, inclusive: false}',
    ],
    'round-1/pseudo-labels-1',
  ],
  [['segmentation={pseudoLabelSteps: 2, pseudoLabelWeight: 3}'], 'round-1/segmenter-1'],
  [['segmentation.originalShare=0.5'], 'round-1/segmenter-0'],
  [['loop.startFrom=previous'], 'round-1/segmenter-1'],
  // In one round, no translator and no M0 continues.
  [['translation.continuedSteps=1', 'segmentation.continuedSteps=1'], null],
  // Without labeled target images, their share is of no effect.
  [['segmentation.labeledTargetShare=0.5'], null],
  [['data.target.labeled={images: target/train/images, labels: target/val/labels}'], 'source-only'],
];

describe('what a stage depends on', () => {
  let parent: string;
  let data: string;

  before(async () => {
    parent = await mkdtemp(path.join(tmpdir(), 'bidiseg-dependencies-'));
    data = path.join(parent, 'data');
    const counts = { sourceCount: 4, targetCount: 3, validationCount: 2 };
    await createEmbeddedDataset(data, { seed: 1, size: { width: 64, height: 32 }, ...counts });
    await drain(train(configOf('whole')));
  });

  after(() => rm(parent, { recursive: true }));

  const configOf = (name: string, set: string[] = []) =>
    createConfig(
      { preset: 'demo', output: path.join(parent, name), data: { root: data } },
      { set: [...TINY_RUN, ...set] },
    );

  function fingerprints(set: string[] = []) {
    const config = configOf('whole', set);
    return stageFingerprints(config, planStages(config.loop));
  }

  for (const [set, first] of CHANGES) {
    it(`${set.join(', ')}: ${first ? `from ${first} on` : 'nothing'}`, () => {
      const [before, after] = [fingerprints(), fingerprints(set)];
      const changed = STAGES.filter((name) => before.get(name) !== after.get(name));
      const place = first === null ? STAGES.length : STAGES.indexOf(first);
      // Keys that only segmenters use change no translation.
      const later = STAGES.slice(place).filter(
        (name) => first !== 'round-1/segmenter-0' || name !== 'round-1/translate',
      );
      assert.deepEqual(changed, later);
    });
  }

  it('F without perceptual terms does not depend on M', () => {
    const alone = 'translation={perceptualWeight: 0, perceptualReconstructionWeight: 0}';
    const name = 'round-1/translator';
    assert.equal(
      fingerprints([alone]).get(name),
      fingerprints([alone, 'segmentation.learningRate=0.1']).get(name),
    );
    assert.notEqual(fingerprints().get(name), fingerprints([alone]).get(name));
  });

  it('F that continues depends on the F before it, also without M', () => {
    const alone = 'translation={perceptualWeight: 0, perceptualReconstructionWeight: 0}';
    const second = (set: string[], name = 'round-2/translator') =>
      fingerprints(['loop={rounds: 2, startFrom: previous}', 'translation.continuedSteps=1', ...set]).get(
        name,
      );
    assert.notEqual(second(['loop.startFrom=initial']), second([]));
    assert.notEqual(second(['translation.continuedSteps=2']), second([]));
    assert.notEqual(second([alone, 'translation.steps=3']), second([alone]));
    assert.equal(second([alone, 'segmentation.learningRate=0.1']), second([alone]));
    assert.equal(
      second(['translation.continuedSteps=2'], 'round-1/translator'),
      second([], 'round-1/translator'),
    );
  });

  for (const [index, [set, first]] of CHANGES.entries()) {
    if (first === null || first === 'source-only') continue;
    it(`${first} and what precedes it, trained: ${set[0]}, …`, async () => {
      const name = `changed-${index}`;
      await drain(train(configOf(name, set)));
      const before = STAGES.slice(0, STAGES.indexOf(first));
      for (const stage of before) {
        for (const [file, bytes] of await outputs('whole', stage)) {
          assert(bytes.equals((await outputs(name, stage)).get(file)!), `${stage}: ${file}`);
        }
      }
      const one = [...(await outputs('whole', first)).values()];
      const other = [...(await outputs(name, first)).values()];
      assert(
        one.some((bytes, place) => !bytes.equals(other[place] ?? Buffer.alloc(0))),
        'and is different itself',
      );
    });
  }

  it('M0 that learns nothing from the target does not depend on its augmentation', async () => {
    const none = 'segmentation.alignment=none';
    const scale = 'segmentation.augmentation.target={scale: [0.5, 2]}';
    const [before, after] = [fingerprints([none]), fingerprints([none, scale])];
    const changed = STAGES.filter((name) => before.get(name) !== after.get(name));
    assert.deepEqual(changed, STAGES.slice(STAGES.indexOf('round-1/segmenter-1')));
    await drain(train(configOf('unaligned', [none])));
    await drain(train(configOf('unaligned-scaled', [none, scale])));
    const weights = async (run: string, stage: string) => [...(await outputs(run, stage)).values()];
    const same = async (stage: string) =>
      isDeepStrictEqual(await weights('unaligned', stage), await weights('unaligned-scaled', stage));
    assert(await same('round-1/segmenter-0'));
    assert(!(await same('round-1/segmenter-1')));
  });

  it('a run that takes over stages has all of their outputs', async () => {
    const config = configOf('adopted');
    const folder = await RunFolder.open(config);
    try {
      for (const stage of planStages(config.loop)) await folder.adopt(stage, path.join(parent, 'whole'));
    } finally {
      await folder.close();
    }
    const list = async (name: string) => {
      const files = await readdir(path.join(parent, name), { recursive: true, withFileTypes: true });
      const paths = files
        .filter((file) => file.isFile())
        .map((file) => path.relative(path.join(parent, name), path.join(file.parentPath, file.name)));
      return paths.filter((file) => file !== 'report.html').sort();
    };
    assert.deepEqual(await list('adopted'), await list('whole'));
    assert.deepEqual(await readSummary(config.output), await readSummary(path.join(parent, 'whole')));
    const [one, other] = await Promise.all(
      ['adopted', 'whole'].map((name) => readHistory(path.join(parent, name))),
    );
    assert.deepEqual([...one!.keys()], [...other!.keys()]);
    for (const [stage, { losses, evaluation, pictures }] of one!) {
      const same = other!.get(stage)!;
      assert.deepEqual([losses, evaluation], [same.losses, same.evaluation]);
      assert.equal(pictures.length, same.pictures.length);
      for (const { file } of pictures) assert((await stat(file)).size > 0);
    }
    // The run continues as if it had run the stages itself, and the other run does not change.
    const { stages } = await drain(train(configOf('adopted'), { resume: true }));
    assert.equal(stages.length, STAGES.length);
    const untouched = await outputs('whole', 'source-only');
    await drain(train(configOf('adopted'), { only: 'source-only', overwrite: true }));
    assert.deepEqual(await outputs('whole', 'source-only'), untouched);
  });

  /** Reads the outputs of a stage: weights, translated images or pseudo-labels. */
  async function outputs(run: string, stage: string): Promise<Map<string, Buffer>> {
    const flat = stage.replace('/', '-');
    const folders = [
      `stages/${flat}`,
      `pseudo-labels/${flat}`,
      ...(stage.endsWith('translate') ? ['translated/round-1'] : []),
    ];
    const files = new Map<string, Buffer>();
    for (const folder of folders) {
      const place = path.join(parent, run, folder);
      for (const name of await readdir(place).catch(() => [])) {
        if (!name.endsWith('.json')) files.set(name, await readFile(path.join(place, name)));
      }
    }
    return files;
  }
});
