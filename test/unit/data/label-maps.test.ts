import assert from 'node:assert/strict';
import { CAMVID, CITYSCAPES, classIndices, labelMap, UNKNOWN_ID } from '../../../lib/data/label-maps.js';

describe('label maps', () => {
  // The data sets' own numbering: name → label id in Cityscapes and GTA5, and in SYNTHIA.
  const published: [name: string, cityscapes: number, synthia: number][] = [
    ['road', 7, 3],
    ['sidewalk', 8, 4],
    ['building', 11, 2],
    ['wall', 12, 21],
    ['fence', 13, 5],
    ['pole', 17, 7],
    ['traffic light', 19, 15],
    ['traffic sign', 20, 9],
    ['vegetation', 21, 6],
    ['terrain', 22, 16],
    ['sky', 23, 1],
    ['person', 24, 10],
    ['rider', 25, 17],
    ['car', 26, 8],
    ['truck', 27, 18],
    ['bus', 28, 19],
    ['train', 31, 20],
    ['motorcycle', 32, 12],
    ['bicycle', 33, 11],
  ];

  it('takes the ids of Cityscapes, GTA5 and SYNTHIA to the classes of the same names, all else to ignore', () => {
    for (const [name, column] of [
      ['cityscapes', 1],
      ['gta5', 1],
      ['synthia', 2],
    ] as const) {
      const table = labelMap(name).table(19, 255);
      const expected = new Uint16Array(65536).fill(255);
      for (const row of published) expected[row[column]] = CITYSCAPES.names.indexOf(row[0]);
      assert.deepEqual(table, expected, name);
    }
    assert.equal(labelMap('synthia').idsFrom, 'first-channel');
    assert.equal(labelMap('gta5').idsFrom, 'one-channel');
  });

  it('keeps class indices under the identity and knows nothing else', () => {
    const table = labelMap('identity').table(11, 200);
    for (let id = 0; id < 65536; id++) {
      assert.equal(table[id], id < 11 || id === 200 ? id : UNKNOWN_ID);
    }
  });

  it('takes an object, in which other ids are unknown', () => {
    const table = labelMap({ 300: 1, 4: 0 }).table(2, 255);
    const known = [...table.entries()].filter(([, value]) => value !== UNKNOWN_ID);
    assert.deepEqual(known, [
      [4, 0],
      [255, 255],
      [300, 1],
    ]);
  });

  it('takes CamVid’s 11 classes, and its id 11 for none', () => {
    const table = labelMap('camvid').table(11, 255);
    assert.deepEqual([...table.subarray(0, 13)], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255, 255]);
  });

  it('takes an object that leads some ids to the ignore index', () => {
    const map = labelMap({ 0: 0, 1: 1, 7: 200, 8: 255 });
    assert.deepEqual([...map.table(256, 200).subarray(6, 9)], [UNKNOWN_ID, 200, 255]);
    assert.throws(() => map.table(2, 200), /gives classes up to 255, but there are 2 classes/);
    assert.throws(() => map.table(2, 255), /gives classes up to 200, but there are 2 classes/);
    const table = labelMap({ 0: 0, 1: 1, 7: 255 }).table(2, 255);
    assert.deepEqual([...table.subarray(0, 8)], [0, 1, ...new Array(5).fill(UNKNOWN_ID), 255]);
  });

  it('takes a table of colors, in which other colors are unknown and the ignore index is none', () => {
    const map = labelMap({ '64 128 64': 1, '0, 0, 0': 255, '255,255,255': 0 });
    assert.deepEqual([map.idsFrom, map.classCount], ['color', 256]);
    const table = map.table(2, 255);
    assert.equal(table.length, 2 ** 24);
    assert.deepEqual([table[0x408040], table[0], table[0xffffff], table[255]], [1, 255, 0, UNKNOWN_ID]);
    const code = { code: 'ERR_INVALID_ARGUMENT', message: /colors 'R G B'/ };
    for (const wrong of [
      { '1 2': 0 },
      { '1 2 256': 0 },
      { '#010203': 0 },
      { 7: 0, '1 2 3': 1 },
      { '1 2 3': 0, '1,2,3': 1 },
    ]) {
      assert.throws(() => labelMap(wrong as Record<string, number>), code);
    }
  });

  it('finds classes by name, and SYNTHIA’s parts of them by theirs', () => {
    const { names } = CITYSCAPES;
    assert.deepEqual(classIndices(['sky', 'road'], names), [10, 0]);
    // As published: 0–8, 10–13, 15, 17, 18; and without 3, 4, 5.
    const sixteen = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18];
    assert.deepEqual(classIndices('synthia-16', names), sixteen);
    assert.deepEqual(
      classIndices('synthia-13', names),
      sixteen.filter((index) => ![3, 4, 5].includes(index)),
    );
    const own = sixteen.map((index) => names[index]!);
    assert.deepEqual(classIndices('synthia-16', own), [...own.keys()]);
    assert.throws(() => classIndices('synthia-16', CAMVID.names), {
      code: 'ERR_INVALID_ARGUMENT',
      message: /^There is no class 'sidewalk'; expected some of sky, building,/,
    });
  });

  it('refuses unknown names, empty objects, ids and classes out of range, and too few classes', () => {
    const code = { code: 'ERR_INVALID_ARGUMENT' };
    assert.throws(() => labelMap('kitti' as 'gta5'), { ...code, message: /'synthia'.*"kitti"/ });
    assert.throws(() => labelMap({}), code);
    assert.throws(() => labelMap({ 70000: 1 }), code);
    assert.throws(() => labelMap({ 1: 256 }), code);
    assert.throws(() => labelMap({ road: 1 } as Record<number, number>), code);
    assert.throws(() => labelMap('gta5').table(11, 255), {
      ...code,
      message: /'gta5' gives classes up to 18, but there are 11 classes/,
    });
  });

  it('has a color for every class', () => {
    for (const { names, palette } of [CITYSCAPES, CAMVID]) assert.equal(palette.length, names.length * 3);
    assert.deepEqual([...CITYSCAPES.palette.subarray(0, 6)], [128, 64, 128, 244, 35, 232]);
  });
});
