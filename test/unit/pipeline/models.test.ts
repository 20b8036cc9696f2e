import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { STREET_SCENE_CLASSES, STREET_SCENE_PALETTE } from 'bidiseg';
import { createConfig } from '../../../lib/config/load.js';
import type { Config } from '../../../lib/config/schema.js';
import { Segmenter } from '../../../lib/models/segmenter.js';
import { createSegmenter } from '../../../lib/pipeline/models.js';
import { DataError } from '../../../lib/support/errors.js';

const SHAPE = { backbone: 'resnet18', width: 1 / 16 } as const;

describe('initial weights of a run', () => {
  let folder: string;
  /** Weights of a network for 5 classes. The run's network has 10. */
  let weights: string;

  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-models-'));
    weights = path.join(folder, 'five-classes.safetensors');
    using five = await Segmenter.create({ ...SHAPE, classCount: 5, seed: 7 });
    await five.save(weights);
  });

  after(() => rm(folder, { recursive: true }));

  function configOf(segmenter: Record<string, unknown>): Config {
    return createConfig({ preset: 'demo', output: path.join(folder, 'run'), segmenter });
  }

  async function valuesOf(segmenter: Segmenter, name: string): Promise<unknown> {
    const tensor = (await segmenter.parameters()).get(name)!;
    return tensor.data();
  }

  it('take the backbone from a file with a head for other classes; the head starts at random', async () => {
    using from = await Segmenter.fromFile(weights);
    using random = await createSegmenter(configOf(SHAPE));
    using segmenter = await createSegmenter(configOf({ ...SHAPE, initialWeights: weights }));
    for (const name of ['conv1.weight', 'layer4.1.conv2.weight']) {
      assert.deepEqual(await valuesOf(segmenter, name), await valuesOf(from, name));
      assert.notDeepEqual(await valuesOf(segmenter, name), await valuesOf(random, name));
    }
    const head = 'layer5.conv2d_list.0.weight';
    assert.deepEqual(await valuesOf(segmenter, head), await valuesOf(random, head));
  });

  it('come with the names and colors of the classes', async () => {
    using segmenter = await createSegmenter(configOf(SHAPE));
    assert.deepEqual(segmenter.options.classNames, STREET_SCENE_CLASSES);
    assert.deepEqual(segmenter.options.palette, STREET_SCENE_PALETTE);
  });

  it('refuse a file of another backbone, naming it and what does not fit', async () => {
    const config = configOf({ backbone: 'resnet34', width: 1 / 16, initialWeights: weights });
    await assert.rejects(createSegmenter(config), (error: Error) => {
      assert(error instanceof DataError);
      assert.match(
        error.message,
        /five-classes\.safetensors: found the weights of a resnet18, expected those of a resnet34/,
      );
      return true;
    });
  });

  it('refuse another class count where a stage’s own weights are loaded', async () => {
    await assert.rejects(createSegmenter(configOf(SHAPE), weights), /another class count/);
  });
});
