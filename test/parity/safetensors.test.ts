import assert from 'node:assert/strict';
import { rmSync, statSync } from 'node:fs';
import { Segmenter, type SegmenterOptions } from 'bidiseg';
import { writeSafetensors } from '../../lib/weights/safetensors.js';
import { openWeights, readWeights } from '../../lib/weights/weights-file.js';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { temporaryFolder } from '../helpers/folder.js';
import { type Measurement, printAndCheck } from '../helpers/table.js';
import { useTwin } from '../helpers/twin.js';

/** Cases of test/parity/checkpoints.py: every dtype, strided and shared tensors, scalars, empty tensors and odd names. */
const CASES = ['plain', 'dtypes', 'strided', 'shared', 'odd'];

const SMALL: SegmenterOptions = { backbone: 'resnet18', width: 1 / 16, classCount: 5 };

interface Comparison {
  count: number;
  different: string[];
  metadata: Record<string, string>;
}

describe("safetensors with Python's own package", () => {
  const twin = useTwin('safetensors');
  const folder = temporaryFolder();
  after(folder.remove);

  /** Makes the row for tensors that differ in name, dtype, shape or any bit. None may differ. */
  const rowOf = (item: string, { count, different }: Comparison): Measurement => ({
    item: `${item}: ${different.length} of ${count} tensors differ${different.length > 0 ? ` (${different})` : ''}`,
    error: different.length,
    bound: 0,
  });

  /** Reads a file and writes its content, as `bidiseg convert` does. */
  async function copy(input: string, output: string): Promise<void> {
    const weights = await openWeights(input);
    const entries = await readWeights(weights, weights.tensors);
    await writeSafetensors(output, entries, { ...weights.metadata, copied: 'yes' });
    for (const { tensor } of entries) tensor.dispose();
  }

  it('is read by it and reads it, bit for bit', async () => {
    const rows: Measurement[] = [];
    for (const testCase of CASES) {
      const [theirs, pth, ours] = [folder.path('theirs'), folder.path('pth'), folder.path('ours')];
      await twin().ask({ do: 'writePackaged', case: testCase, file: theirs, metadata: { ü: 'x' } });
      await twin().ask({ do: 'saveCase', case: testCase, file: pth, zip: true, protocol: 2 });
      for (const [what, input, metadata] of [
        ['its own file', theirs, { ü: 'x', copied: 'yes' }],
        ['torch.save', pth, { copied: 'yes' }],
      ] as const) {
        await copy(input, ours);
        const found = await twin().ask<Comparison>({ do: 'comparePackaged', case: testCase, file: ours });
        rows.push(rowOf(`${testCase}, from ${what}`, found));
        assert.deepEqual(found.metadata, metadata);
      }
    }
    printAndCheck('copied by bidiseg, read by the package', rows);
  });

  it('leaves out tensors of the dtypes that it does not have', async () => {
    const file = folder.path('odd-dtype');
    for (const name of await twin().ask<string[]>({ do: 'oddDtypes', file })) {
      const { tensors, skipped } = await openWeights(`${file}-${name}`);
      assert.deepEqual(
        tensors.map((tensor) => tensor.name),
        ['weight'],
        name,
      );
      assert.deepEqual(
        skipped.map((tensor) => tensor.name),
        ['odd.weight'],
        name,
      );
      assert.match(skipped[0]!.reason, /^[A-Z0-9_]+, a type that bidiseg does not have$/);
      await copy(`${file}-${name}`, `${file}-copy`);
      const request = { do: 'comparePackaged', case: 'one weight', file: `${file}-copy` };
      assert.deepEqual((await twin().ask<Comparison>(request)).different, [], name);
    }
  });

  it('exchanges the published network, 528 or 632 tensors, and the twin takes it strictly', async () => {
    const [theirs, ours] = [folder.path('full-theirs'), folder.path('full-ours')];
    const rows: Measurement[] = [];
    for (const branches of [4, 2] as const) {
      const network = { kind: 'deeplab-v2', options: { branches } };
      using segmenter = await Segmenter.create({ classCount: 19, branches });
      for (const [count, without] of [
        [528, ['num_batches_tracked']],
        [632, []],
      ] as const) {
        const seed = count + branches;
        const saved = await twin().ask<number>({ do: 'saveState', network, file: theirs, seed, without });
        assert.equal(saved, count);
        const report = await segmenter.load(theirs);
        assert.equal(report.loaded.length, count);
        assert.equal(report.missing.length, 632 - count);
        assert.deepEqual([report.extra, report.reshaped, report.skipped], [[], [], []]);
        await segmenter.save(ours, { step: 250_000 });
        const found = await twin().ask<Comparison>({ do: 'compareState', network, file: ours, seed });
        assert.equal(found.count, 632);
        // Tensors that the file lacked differ from the twin's.
        const different = found.different.filter((name) => !without.some((end) => name.endsWith(end)));
        rows.push(rowOf(`ResNet-101, ${branches} branches, from ${count}`, { ...found, different }));
      }
    }
    printAndCheck('read from the package, saved, loaded by the twin', rows);
    rmSync(theirs);
    rmSync(ours);
  });

  it('stores weights as float16 and bfloat16, rounded as PyTorch rounds', async () => {
    const network = { kind: 'deeplab-v2', options: SMALL };
    const [theirs, full] = [folder.path('theirs'), folder.path('float32')];
    await twin().ask({ do: 'saveState', network, file: theirs, seed: 3 });
    using segmenter = await Segmenter.create(SMALL);
    await segmenter.load(theirs);
    await segmenter.save(full);
    const rows: Measurement[] = [];
    for (const dtype of ['float16', 'bfloat16'] as const) {
      const [saved, converted] = [folder.path(`saved-${dtype}`), folder.path(`converted-${dtype}`)];
      await segmenter.save(saved, { dtype });
      const { code, stderr } = await bidiseg(['convert', full, converted, '--dtype', dtype]);
      assert.equal(code, 0, stderr);
      for (const [what, file] of [
        ['save()', saved],
        ['bidiseg convert', converted],
      ] as const) {
        const request = { do: 'compareState', network, file, seed: 3, dtype };
        rows.push(rowOf(`${dtype} by ${what}`, await twin().ask<Comparison>(request)));
        assert.ok(statSync(file).size < 0.6 * statSync(full).size);
        // Reading them back does not round again.
        using read = await Segmenter.fromFile(file);
        await read.save(file, { dtype });
        rows.push(rowOf(`${dtype} by ${what}, read back`, await twin().ask<Comparison>(request)));
      }
    }
    printAndCheck('half precision', rows);
  });

  it('stores network, classes, step and format version in its metadata', async () => {
    const classNames = ['road', 'Straße', 'sky', 'pole', 'car'];
    using segmenter = await Segmenter.create({ ...SMALL, classNames });
    const [file, half] = [folder.path('described'), folder.path('described-half')];
    await segmenter.save(file, { step: 1200 });
    const converted = await bidiseg(['convert', file, half, '--dtype', 'bfloat16', '--branches', '2']);
    assert.equal(converted.code, 0, converted.stderr);
    for (const [path, branches] of [
      [file, 4],
      [half, 2],
    ] as const) {
      const metadata = await twin().ask<Record<string, string>>({ do: 'packagedMetadata', file: path });
      assert.equal(metadata.format, 'pt');
      assert.deepEqual(JSON.parse(metadata.bidiseg!), {
        version: 1,
        architecture: 'deeplab-v2',
        options: { ...SMALL, branches },
        classes: classNames,
        step: 1200,
      });
      using read = await Segmenter.fromFile(path);
      assert.deepEqual(read.options.classNames, classNames);
      const info = jsonLines((await bidiseg(['info', path, '--json'])).stdout)[0]!;
      assert.deepEqual([info.classes, info.step], [classNames, 1200]);
    }
  });
});
