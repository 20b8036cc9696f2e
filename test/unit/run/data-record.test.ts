import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { ImageDataset } from '../../../lib/data/dataset.js';
import type { Datasets } from '../../../lib/pipeline/datasets.js';
import {
  changedData,
  type DataRecord,
  dataDifferences,
  readDataRecord,
  recordData,
  writeDataRecord,
} from '../../../lib/run/data-record.js';
import { temporaryFolder } from '../../helpers/folder.js';

describe('record of the data of a run', () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
    for (const name of ['a', 'b', 'c']) {
      write(`data/images/${name}.png`, `image ${name}`);
      write(`data/labels/${name}.png`, `label ${name}`);
    }
  });
  afterEach(() => folder.remove());

  function write(name: string, content: string | Buffer): void {
    mkdirSync(folder.path(name.split('/').slice(0, -1).join('/')), { recursive: true });
    writeFileSync(folder.path(name), content);
  }

  /** Files are not decoded, so that they need not be images. */
  async function datasetsIn(root: string): Promise<Datasets> {
    const images = folder.path(`${root}/images`);
    const source = await ImageDataset.fromFolder({ images, labels: folder.path(`${root}/labels`) });
    return { source, target: await ImageDataset.fromFolder({ images }), validation: null };
  }

  async function differencesIn(root: string, known: DataRecord): Promise<string[]> {
    return dataDifferences(known, await recordData(await datasetsIn(root), { known }));
  }

  it('has sizes, times and hashes of all files in their order', async () => {
    const record = await recordData(await datasetsIn('data'));
    assert.deepEqual(record.source.names, ['a', 'b', 'c']);
    const file = folder.path('data/labels/b.png');
    const hash = createHash('sha256').update('label b').digest('hex').slice(0, 16);
    assert.deepEqual(record.source.labels![1], [7, statSync(file).mtimeMs, hash]);
    assert.deepEqual([record.target.labels, record.validation], [null, null]);
    mkdirSync(folder.path('run'));
    await writeDataRecord(folder.path('run'), record);
    assert.deepEqual(await readDataRecord(folder.path('run')), record);
    assert.equal(await readDataRecord(folder.path('data')), undefined);
    write('run/data.json', '{"version":1,"source":3}');
    await assert.rejects(readDataRecord(folder.path('run')), {
      code: 'ERR_DATA',
      message: /data\.json: found no/,
    });
  });

  it('hashes the beginning and the end of a large file', async () => {
    const content = Buffer.alloc(200_000, 7);
    write('data/images/a.png', content);
    const { source } = await recordData(await datasetsIn('data'));
    const parts = [content.subarray(0, 2 ** 15), content.subarray(-(2 ** 15))];
    const hash = createHash('sha256').update(Buffer.concat(parts)).digest('hex').slice(0, 16);
    assert.equal(source.images[0]![2], hash);
    content[content.length - 1] = 8;
    write('data/images/a.png', content);
    assert.match(
      (await differencesIn('data', { version: 1, source, target: source, validation: null }))[0]!,
      /'a' altered/,
    );
  });

  it('tells what was added, removed, altered and reordered', async () => {
    const known = await recordData(await datasetsIn('data'));
    assert.deepEqual(await differencesIn('data', known), []);
    appendFileSync(folder.path('data/labels/a.png'), '!');
    writeFileSync(folder.path('data/images/b.png'), 'image B');
    write('data/images/d.png', 'new');
    write('data/labels/d.png', 'new');
    const differences = await differencesIn('data', known);
    assert.deepEqual(differences, [
      "source: label of 'a' altered",
      "source: image 'b' altered",
      "source: image 'd' added",
      "target: image 'b' altered",
      "target: image 'd' added",
    ]);
    assert.match(
      changedData('run', differences).message,
      /^run: the run began with other data \(source: label of 'a' altered, .*, 2 more differences\); put them back, or/,
    );
    const { source, target } = await datasetsIn('data');
    const fewer = await recordData({
      source: source.subset([0, 1, 2]),
      target: target.subset([2, 1]),
      validation: null,
    });
    const both = dataDifferences(await recordData({ source, target, validation: null }), fewer);
    assert.deepEqual(both, [
      "source: image 'd' removed",
      "target: image 'a' removed",
      "target: image 'd' removed",
    ]);
    const turned = await recordData({ source, target: target.subset([3, 2, 1, 0]), validation: source });
    assert.deepEqual(dataDifferences(await recordData({ source, target, validation: null }), turned), [
      'target: images in another order',
      'validation: added',
    ]);
  });

  it('accepts data that were copied or moved, with their times or without', async () => {
    const known = await recordData(await datasetsIn('data'));
    cpSync(folder.path('data'), folder.path('kept'), { recursive: true, preserveTimestamps: true });
    cpSync(folder.path('data'), folder.path('copied'), { recursive: true });
    utimesSync(folder.path('copied/images/a.png'), 1, 1);
    for (const root of ['kept', 'copied']) assert.deepEqual(await differencesIn(root, known), [], root);
    // The same size at another time: the content decides.
    writeFileSync(folder.path('copied/images/a.png'), 'image A');
    assert.deepEqual(await differencesIn('copied', known), [
      "source: image 'a' altered",
      "target: image 'a' altered",
    ]);
  });

  it('checks 25,000 files in less than two seconds', async () => {
    const count = 12_500;
    for (let i = 0; i < count; i++) {
      write(`many/images/${i}.png`, `image ${i}`.repeat(100));
      write(`many/labels/${i}.png`, `label ${i}`);
    }
    const images = folder.path('many/images');
    const source = await ImageDataset.fromFolder({ images, labels: folder.path('many/labels') });
    const datasets = { source, target: source.subset([0]), validation: null };
    // Of the process, so that other work on the machine does not count.
    const measured = async <T>(work: () => Promise<T>) => {
      const [start, cpu] = [performance.now(), process.cpuUsage()];
      const result = await work();
      const { user, system } = process.cpuUsage(cpu);
      return { result, wall: (performance.now() - start) / 1000, cpu: (user + system) / 1e6 };
    };
    const first = await measured(() => recordData(datasets));
    const again = await measured(async () =>
      dataDifferences(first.result, await recordData(datasets, { known: first.result })),
    );
    assert.deepEqual(again.result, []);
    const text = ({ wall, cpu }: { wall: number; cpu: number }) =>
      `${wall.toFixed(2)} s (CPU ${cpu.toFixed(2)} s)`;
    console.log(`      25,000 files: recorded in ${text(first)}, checked in ${text(again)}`);
    assert(again.cpu < 2 && first.cpu < 2);
    const bytes = JSON.stringify(first.result).length;
    assert(bytes < 3e6, `${bytes} bytes`);
    assert.equal(readFileSync(folder.path('many/labels/0.png'), 'utf8'), 'label 0');
  });
});
