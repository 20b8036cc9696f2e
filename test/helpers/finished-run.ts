import path from 'node:path';
import { classNames } from '../../lib/config/classes.js';
import { createConfig } from '../../lib/config/load.js';
import type { PartialConfig } from '../../lib/config/schema.js';
import { writeImage } from '../../lib/data/image-codec.js';
import type { RgbImage } from '../../lib/data/image-size.js';
import { Random } from '../../lib/data/random.js';
import type { PictureColumn, StageRecord } from '../../lib/pipeline/events.js';
import { composeGrid } from '../../lib/pipeline/picture-grid.js';
import { planStages, type Stage } from '../../lib/pipeline/plan.js';
import { RunFolder } from '../../lib/run/run-folder.js';
import { writeFileAtomically } from '../../lib/support/files.js';

export interface FinishedRun {
  folder: string;
  /** Class names of the config. */
  classes: string[];
  /** Names of the images in the pictures. */
  images: string[];
  /** Size of a picture's parts. */
  size?: { width: number; height: number };
  /** Number of finished stages, default all. The stage after them has begun. */
  count?: number;
  /** Training steps of a stage. The log has ten lines for them. */
  steps?: number;
  warning?: string;
  loop?: PartialConfig['loop'];
  segmentation?: PartialConfig['segmentation'];
  /** true: there are labeled target images to measure on. Default true. */
  measured?: boolean;
}

/** Writes the folder of a run as training leaves it, with invented numbers and pictures. */
export async function writeFinishedRun(options: FinishedRun): Promise<void> {
  const { folder, classes, images, size = { width: 16, height: 8 }, steps = 100, warning } = options;
  const measured = options.measured ?? true;
  const config = createConfig({
    preset: 'demo',
    output: folder,
    data: { classes, embedded: null, ...(!measured && { target: { val: null } }) },
    loop: { startFrom: 'initial', ...(options.loop ?? { rounds: 1, selfTrainingRounds: 1 }) },
    ...(options.segmentation && { segmentation: options.segmentation }),
  });
  const run = await RunFolder.open(config);
  try {
    const plan = planStages(config.loop);
    const count = options.count ?? plan.length;
    const place = (index: number) => ({ index, count: plan.length });
    for (const [index, stage] of plan.slice(0, count + 1).entries()) {
      const random = new Random(stage.name);
      const trains = stage.kind !== 'translate' && stage.kind !== 'pseudo-labels';
      const { name, label, kind, round } = stage;
      await run.begin(stage, { resume: false });
      const start = {
        stage: name,
        label,
        kind,
        round,
        ...place(index),
        steps: trains ? steps : 0,
        stepsBefore: 0,
      };
      await run.log({ type: 'stage-start', ...start });
      if (index === count) break;
      if (trains) await logSteps(run, stage, steps, random);
      await logPictures(run, stage, images, { size, random, measured });
      if (stage.kind === 'segmenter' && warning) {
        await run.log({ type: 'warning', stage: name, message: warning });
      }
      const record = {
        name,
        label,
        kind,
        round,
        ...(await outcome(run, stage, classNames(config), random, measured)),
      };
      await run.complete(stage, record);
      await run.log({ type: 'stage-end', stage: name, record, loaded: false });
    }
  } finally {
    await run.close();
  }
}

async function logSteps(run: RunFolder, stage: Stage, steps: number, random: Random): Promise<void> {
  const terms = {
    translator: ['total', 'ganSourceToTarget', 'cycleSource'],
    segmenter: ['total', 'segmentation', 'adversarial', 'pseudoLabel'],
    'source-only': ['total', 'segmentation', 'adversarial'],
  } as Record<string, string[]>;
  for (let line = 1; line <= 10; line++) {
    const losses = Object.fromEntries(
      terms[stage.kind]!.map((term) => [
        term,
        term === 'adversarial' && stage.kind === 'source-only' ? 0 : 2 / line + random.next(),
      ]),
    );
    const step = (line * steps) / 10;
    const event = { stage: stage.name, step, steps, learningRate: 1e-3, stepMs: 5, waitMs: 1 };
    await run.log({ type: 'step', ...event, losses: losses as never });
  }
}

async function logPictures(
  run: RunFolder,
  stage: Stage,
  images: string[],
  { size, random, measured }: { size: { width: number; height: number }; random: Random; measured: boolean },
): Promise<void> {
  const COLUMNS: Record<Stage['kind'], PictureColumn[]> = {
    'source-only': ['image', 'prediction', 'truth'],
    segmenter: ['image', 'prediction', 'truth'],
    translator: ['image', 'translated', 'reconstructed'],
    translate: [],
    'pseudo-labels': ['image', 'pseudo-label'],
  };
  const columns = COLUMNS[stage.kind].filter((column) => measured || column !== 'truth');
  if (columns.length === 0 || images.length === 0) return;
  const part = (): RgbImage => {
    const color = [random.integer(256), random.integer(256), random.integer(256)];
    const data = Uint8Array.from({ length: size.width * size.height * 3 }, (_, i) => color[i % 3]!);
    return { ...size, data };
  };
  for (const domain of stage.kind === 'translator'
    ? (['source', 'target'] as const)
    : (['target'] as const)) {
    const file = run.pictureFile(stage, stage.kind === 'translator' ? domain : undefined);
    await writeImage(file, composeGrid(images.map(() => columns.map(part))));
    await run.log({ type: 'picture', stage: stage.name, file, domain, columns, rows: images });
  }
}

type Outcome = Omit<StageRecord, 'name' | 'label' | 'kind' | 'round'>;

async function outcome(
  run: RunFolder,
  stage: Stage,
  classes: string[],
  random: Random,
  measured: boolean,
): Promise<Outcome> {
  const none = { miou: null, iouPerClass: null, pixelAccuracy: null, keptShare: null, keptImages: null };
  const base = { ...none, best: null, steps: 100, seconds: 61, waitShare: 0.01 };
  if (stage.kind === 'pseudo-labels') {
    const manifest = {
      choice: {},
      size: { width: 8, height: 4 },
      images: 4,
      keptImages: 3,
      keptShare: 0.5,
      classes: classes.map((name, index) => ({
        class: name,
        predicted: 100 * index,
        kept: 50 * index,
        keptShare: index === 0 ? 0 : 0.5,
        threshold: 0.75,
        medianConfidence: 0.625,
      })),
    };
    const file = path.join(run.imagesFolder(stage), 'manifest.json');
    await writeFileAtomically(file, JSON.stringify(manifest));
    return { ...base, keptShare: 0.5, keptImages: 3 };
  }
  if (stage.kind === 'translate' || stage.kind === 'translator' || !measured) return base;
  const confusion = classes.map((_, truth) =>
    classes.map((_, predicted) => (truth === predicted ? 300 : random.integer(100))),
  );
  await run.log({ type: 'evaluation', stage: stage.name, images: 4, confusion });
  const ious = classes.map((_, index) => (index === 0 ? null : random.next()));
  const known = ious.filter((iou) => iou !== null);
  const isTaught = stage.kind === 'segmenter' && stage.pseudoLabelsFrom !== null;
  return {
    ...base,
    scores: {
      ...{ images: 4, pixels: 200, entropy: random.next(), neighborhoodDensity: 5 * random.next() },
      viewAgreement: random.next(),
      classShares: classes.map((_, index) => index / 20),
      sourceShares: classes.map(() => 1 / classes.length),
      classDivergence: random.next(),
      teacherAgreement: isTaught ? random.next() : null,
      sourceMiou: null,
    },
    miou: known.reduce((sum, iou) => sum + iou, 0) / known.length,
    iouPerClass: Object.fromEntries(classes.map((name, index) => [name, ious[index]!])),
    pixelAccuracy: 0.8,
  };
}
