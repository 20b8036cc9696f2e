// Measures SegmentationTrainer and BatchLoader: from image files to training steps, or only to batches.
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import {
  BatchLoader,
  computeTimeMs,
  ImageDataset,
  OutputDiscriminator,
  SegmentationTrainer,
  Segmenter,
} from 'bidiseg';

/** Resolution of the timer in milliseconds. Its period is part of what it measures. */
const RESOLUTION = 1;

export async function create(pipeline) {
  const {
    size: [width, height],
    batch,
    steps,
    options,
  } = pipeline;
  const size = { width, height };
  const models = options && {
    segmenter: await Segmenter.create(pipeline.segmenter),
    discriminator: await OutputDiscriminator.create(pipeline.discriminator),
  };
  let data;
  let measured;

  async function load({ folder, segmenter, discriminator }) {
    await models?.segmenter.load(segmenter);
    await models?.discriminator.load(discriminator);
    const files = { images: `${folder}/images`, labels: `${folder}/labels` };
    data = await ImageDataset.fromFolder({ ...files, classCount: 19, ignoreIndex: 255 });
  }

  function train() {
    const { ignoreIndex: _, ...training } = options;
    const trainer = new SegmentationTrainer(
      models,
      { source: data, target: data },
      { steps, sourceSize: size, training: { ...training, batchSize: batch } },
    );
    return trainer.steps();
  }

  async function* read() {
    for await (const _ of new BatchLoader(data, { batchSize: batch, size, steps, stage: 'bench', seed: 1 })) {
      yield { waitMs: 0 };
    }
  }

  async function run() {
    const delay = monitorEventLoopDelay({ resolution: RESOLUTION });
    delay.enable();
    const start = performance.now();
    const before = computeTimeMs();
    let waitMs = 0;
    for await (const event of models ? train() : read()) waitMs += event.waitMs;
    const wallMs = performance.now() - start;
    delay.disable();
    measured = {
      'images/s': ((models ? 2 : 1) * batch * steps * 1000) / wallMs,
      ...(models && {
        'ms a step': wallMs / steps,
        'waiting for data, %': (100 * waitMs) / wallMs,
        'outside LibTorch, %': 100 * (1 - (computeTimeMs() - before) / wallMs),
      }),
      'event loop delay p99, ms': delay.percentile(99) / 1e6,
    };
  }

  return {
    load,
    /** Does nothing, so that memory is measured at the first run. */
    async warmUp() {},
    async prepare() {},
    run,
    async result() {
      return {};
    },
    figures: () => measured,
  };
}
