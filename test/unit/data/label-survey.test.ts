import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { writeImage } from '../../../lib/data/image-codec.js';
import { labelWarnings, surveyLabels } from '../../../lib/data/label-survey.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { encodePng } from '../../helpers/png.js';

const SIZE = { width: 8, height: 4 };

describe('survey of labels', () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
    for (const name of ['images', 'labels']) mkdirSync(folder.path(name));
  });
  afterEach(() => folder.remove());

  async function labeled(bitDepth: 1 | 8, ...files: number[][]): Promise<ImageDataset> {
    for (const [index, values] of files.entries()) {
      const samples = Array.from({ length: 32 }, (_, i) => values[i % values.length]!);
      await writeImage(folder.path(`images/${index}.png`), { data: new Uint8Array(3 * 32), ...SIZE });
      writeFileSync(
        folder.path(`labels/${index}.png`),
        encodePng({ ...SIZE, kind: 'grayscale', bitDepth, samples }),
      );
    }
    return ImageDataset.fromFolder({ images: folder.path('images'), labels: folder.path('labels') });
  }

  const expected = {
    name: 'data.source',
    classes: ['background', 'object'],
    ignoreIndex: 255,
    isIdentity: true,
  };
  const HINT = /; these are masks of 0 and 255 .* the label map is \{0: 0, 255: 1\}$/;

  it('counts the labels of a sample', async () => {
    const survey = await surveyLabels(await labeled(8, [0], [1], [0, 255], [1]), { count: 2 });
    assert.deepEqual([survey.files, survey.total], [2, 4]);
    assert.deepEqual([survey.pixels[0], survey.pixels[1], survey.pixels[255]], [32 + 16, 0, 16]);
    assert.match(
      labelWarnings(survey, { ...expected, isIdentity: false })[0]!,
      /^data\.source: no pixel is of 'object' in a sample of 2 of its 4 label files$/,
    );
  });

  it('warns of masks, of 8 bits and of one, and says what to do', async () => {
    const eight = labelWarnings(await surveyLabels(await labeled(8, [0, 255], [0])), expected);
    assert.equal(eight.length, 1);
    assert.match(
      eight[0]!,
      /^data\.source: no pixel is of 'object' in any of its 2 label files; these are masks/,
    );
    assert.match(eight[0]!, HINT);
    const one = labelWarnings(await surveyLabels(await labeled(1, [0, 1], [0])), expected);
    assert.match(one[0]!, HINT);
  });

  it('warns where nothing has a label, and is silent where every wanted class has', async () => {
    const nothing = await surveyLabels(await labeled(8, [255]));
    assert.deepEqual(labelWarnings(nothing, expected), [
      'data.source: no pixel has a class in any of its 1 label file, all are 255 ("no label")',
    ]);
    const all = await surveyLabels(await labeled(8, [0, 1, 255]));
    assert.deepEqual(labelWarnings(all, expected), []);
    const classes = ['background', 'object', 'other'];
    assert.equal(labelWarnings(all, { ...expected, classes }).length, 1);
    assert.deepEqual(labelWarnings(all, { ...expected, classes, wanted: [0, 1] }), []);
  });
});
