import assert from 'node:assert/strict';
import { createConfig, loadConfig } from '../../../lib/config/load.js';
import { PRESETS, type PresetName } from '../../../lib/config/presets.js';
import type { Config, PartialConfig } from '../../../lib/config/schema.js';
import { CAMVID } from '../../../lib/data/label-maps.js';
import { loadAblation } from '../../../lib/workflows/ablation/ablation-config.js';

const data: PartialConfig['data'] = {
  classes: 'cityscapes',
  source: { images: 'a', labels: 'b', labelMap: 'gta5' },
  target: { train: { images: 'c' } },
};

function preset(name: PresetName): Config {
  return createConfig({ preset: name, output: 'runs/x', data });
}

/** Lists the paths of the leaves that differ. */
function differences(one: object, other: object, path = ''): string[] {
  return Object.keys(one).flatMap((key) => {
    const [a, b] = [one[key as never] as unknown, other[key as never] as unknown];
    if (typeof a === 'object' && a !== null && b !== null && !Array.isArray(a)) {
      return differences(a, b as object, `${path}${key}.`);
    }
    return JSON.stringify(a) === JSON.stringify(b) ? [] : [path + key];
  });
}

describe('presets', () => {
  for (const name of Object.keys(PRESETS) as PresetName[]) {
    it(`${name} is valid`, () => {
      assert.equal(preset(name).output.endsWith('x'), true);
    });
  }

  it('paper and reference differ in the published code’s options and PyTorch 0.4’s, and in no other', () => {
    assert.deepEqual(differences(preset('paper'), preset('reference')).sort(), [
      'segmentation.adamForm',
      'segmentation.normalize',
      'segmentation.repeatedStep',
      'selfTraining.inclusive',
      'selfTraining.method',
      'selfTraining.order',
      'translation.adamForm',
      'translation.identityWeight',
      'translation.perceptualForm',
      'translation.scheduleEpochs',
    ]);
  });

  it('demo needs nothing but itself', () => {
    const config = createConfig({ preset: 'demo' });
    assert.equal(config.data.classes, 'street-scenes');
    assert.notEqual(config.data.embedded, null);
    assert.notEqual(config.data.target.val, null);
  });

  it('the configs of known data sets are valid', async () => {
    for (const [name, classes, labelMap, meanClasses] of [
      ['camvid-day2dusk', 'camvid', 'identity', CAMVID.names.filter((name) => name !== 'fence')],
      ['camvid-imagenet', 'camvid', 'identity', CAMVID.names.filter((name) => name !== 'fence')],
      ['gta5-to-cityscapes', 'cityscapes', 'gta5', null],
      ['synthia-to-cityscapes', 'cityscapes', 'synthia', 'synthia-16'],
    ]) {
      const { data } = await loadConfig(`configs/${name}.yaml`);
      assert.deepEqual(
        [data.classes, data.source.labelMap, data.meanClasses],
        [classes, labelMap, meanClasses],
      );
    }
  });

  it('the ablation of CamVid is valid', async () => {
    const { variants, rows, ceiling } = await loadAblation('configs/camvid-ablation.yaml');
    assert.deepEqual([variants.length, rows.length, ceiling], [21, 29, 'target labels']);
  });
});
