import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { DataError, type LoadReport, type Network, Segmenter, Translator } from 'bidiseg';
import { writeSafetensors } from '../../lib/weights/safetensors.js';
import { openWeights, readWeights } from '../../lib/weights/weights-file.js';
import { bidiseg, jsonLines } from '../cli/command-line.js';
import { temporaryFolder } from '../helpers/folder.js';
import { snapshot } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

const FORMATS = [
  { name: 'zip', zip: true, protocol: 2 },
  { name: 'legacy', zip: false, protocol: 2 },
  { name: 'zip, protocol 4', zip: true, protocol: 4 },
  { name: 'legacy, protocol 5', zip: false, protocol: 5 },
];
const CASES = [
  ...['plain', 'nested', 'module.', 'Scale.', 'dtypes', 'strided', 'shared', 'odd'],
  ...['beside', 'lacking', 'attributes'],
];

/** Small networks, as the twin and this package describe them. */
const DEEPLAB = { backbone: 'resnet18', width: 1 / 16, classCount: 5 } as const;
const TWIN_DEEPLAB = { kind: 'deeplab-v2', options: DEEPLAB };

interface Comparison {
  count: number;
  different: string[];
}

describe('parity with PyTorch: checkpoints', () => {
  const twin = useTwin();
  const folder = temporaryFolder();
  let files = 0;
  const newFile = (extension: string) => folder.path(`${++files}.${extension}`);
  after(folder.remove);

  async function convert(...args: string[]): Promise<Record<string, unknown>> {
    const { code, stdout, stderr } = await bidiseg(['convert', '--json', ...args]);
    assert.equal(code, 0, stderr);
    return jsonLines(stdout).at(-1)!;
  }

  /** Saves a twin's state dict with PyTorch. */
  async function saved(network: object, changes: object = {}): Promise<string> {
    const file = newFile('pth');
    await twin().ask({ do: 'saveNetwork', network, file, ...changes });
    return file;
  }

  /** Finds the names of tensors that differ between PyTorch's file and the network. */
  async function differences(network: Network, spec: object, pth: string, prefix = ''): Promise<string[]> {
    const safetensors = newFile('safetensors');
    await network.save(safetensors);
    return twin().ask({ do: 'compareNetwork', network: spec, pth, safetensors, prefix });
  }

  it('converts what torch.save writes, bit for bit', async () => {
    let tensors = 0;
    for (const { name, zip, protocol } of FORMATS) {
      for (const testCase of CASES) {
        const [input, output] = [newFile('pth'), newFile('safetensors')];
        await twin().ask({ do: 'saveCase', case: testCase, file: input, zip, protocol });
        // Converts as the command does, but without a process for each file.
        const weights = await openWeights(input);
        const entries = await readWeights(weights, weights.tensors);
        await writeSafetensors(output, entries, {});
        for (const { tensor } of entries) tensor.dispose();
        const { count, different } = await twin().ask<Comparison>({
          do: 'compareCase',
          case: testCase,
          file: output,
        });
        assert.deepEqual(different, [], `${testCase}, ${name}`);
        assert.equal(entries.length, count);
        assert.equal(weights.format, zip ? 'pytorch-zip' : 'pytorch-legacy');
        tensors += count;
      }
    }
    console.log(`    ${tensors} tensors of ${FORMATS.length * CASES.length} files are equal in every bit`);
  });

  it('converts between dtypes as PyTorch does', async () => {
    const input = newFile('pth');
    await twin().ask({ do: 'saveCase', case: 'dtypes', file: input, zip: true, protocol: 2 });
    for (const dtype of ['float32', 'bfloat16', 'float16']) {
      const output = newFile('safetensors');
      await convert(input, output, '--raw', '--dtype', dtype);
      const { different } = await twin().ask<Comparison>({
        do: 'compareCase',
        case: 'dtypes',
        file: output,
        dtype,
      });
      assert.deepEqual(different, [], dtype);
    }
  });

  it('reports removed prefixes and omitted entries', async () => {
    const results: Record<string, Record<string, unknown>> = {};
    for (const testCase of ['nested', 'Scale.', 'odd']) {
      const input = newFile('pth');
      await twin().ask({ do: 'saveCase', case: testCase, file: input, zip: true, protocol: 2 });
      results[testCase] = await convert(input, newFile('safetensors'), '--raw');
    }
    assert.deepEqual(results.nested!.path, ['state_dict']);
    assert.equal(results['Scale.']!.prefix, 'module.Scale.');
    assert.deepEqual(results.nested!.skipped, [
      { name: 'epoch', reason: 'a number' },
      { name: 'best', reason: 'a number' },
      { name: 'optimizer', reason: 'a dict' },
      { name: 'loss', reason: 'a tensor beside the state dict' },
    ]);
    assert.deepEqual((results.odd!.skipped as { name: string }[]).map(({ name }) => name).sort(), [
      'bytes',
      'device',
      'none',
      'number',
      'real',
      'size',
      'small',
      'text',
      'tuple',
    ]);
  });

  it('loads state dicts of every network', async () => {
    using segmenter = await Segmenter.create(DEEPLAB);
    using fcn = await Segmenter.create({ network: 'fcn-8s', width: 1 / 32, classCount: 4 });
    using translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    const cases: [Network, object][] = [
      [segmenter, TWIN_DEEPLAB],
      [fcn, { kind: 'fcn-8s', options: { width: 1 / 32, classCount: 4 } }],
      [translator.toTarget, { kind: 'resnet-generator', options: { blocks: 6, baseWidth: 4 } }],
      [translator.sourceDiscriminator, { kind: 'patch-discriminator', options: { baseWidth: 4 } }],
    ];
    for (const [network, spec] of cases) {
      for (const zip of [true, false]) {
        const file = await saved(spec, { zip, seed: files });
        const report = await network.load(file);
        assert.deepEqual(await differences(network, spec, file), []);
        assert.ok(report.loaded.length > 0);
        const { format: _format, loaded: _loaded, ...rest } = report;
        assert.deepEqual(rest, {
          prefix: '',
          renamed: [],
          converted: [],
          missing: [],
          extra: [],
          reshaped: [],
          skipped: [],
        });
      }
    }
  });

  it('drops module. and Scale., and does without num_batches_tracked', async () => {
    using segmenter = await Segmenter.create(DEEPLAB);
    for (const prefix of [
      'module.',
      'Scale.',
      'module.Scale.',
      'model.',
      '_orig_mod.module.',
      'student.net.',
    ]) {
      const file = await saved(TWIN_DEEPLAB, { prefix, seed: 3 + files, without: ['num_batches_tracked'] });
      const report = await segmenter.load(file);
      assert.equal(report.prefix, prefix);
      assert.ok(report.missing.length > 0);
      assert.ok(report.missing.every((name) => name.endsWith('num_batches_tracked')));
      assert.deepEqual(await differences(segmenter, TWIN_DEEPLAB, file, prefix), []);
    }
    const other = await saved(TWIN_DEEPLAB, { prefix: 'ema.' });
    await assert.rejects(() => segmenter.load(other), /missing conv1\.weight/);
    assert.equal((await segmenter.load(other, { strip: 'ema.' })).prefix, 'ema.');
    await assert.rejects(
      () => segmenter.load(other, { strip: 'Net.' }),
      /no tensor's name begins with 'Net\.'/,
    );
  });

  it('tolerates the statistics that InstanceNorm never uses', async () => {
    const spec = { kind: 'resnet-generator', options: { blocks: 6, baseWidth: 4 } };
    using translator = await Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4 });
    const statistics = {
      'model.2.running_mean': [4],
      'model.2.running_var': [4],
      'model.2.num_batches_tracked': [],
    };
    const report = await translator.toTarget.load(await saved(spec, { with: statistics }));
    assert.deepEqual(report.extra.sort(), Object.keys(statistics).sort());
    const norm = { ...statistics, 'model.2.weight': [4] };
    const file = await saved(spec, { with: norm });
    await assert.rejects(() => translator.toTarget.load(file), /unexpected model\.2/);
  });

  it('is strict, or reports exactly which tensors did not change', async () => {
    using segmenter = await Segmenter.create(DEEPLAB);
    const refused = async (file: string, message: RegExp): Promise<LoadReport> => {
      const before = await snapshot(segmenter);
      await assert.rejects(
        () => segmenter.load(file),
        (error: Error) => {
          assert.ok(error instanceof DataError && error.message.includes(file));
          assert.match(error.message, message);
          return true;
        },
      );
      assert.deepEqual(await snapshot(segmenter), before, 'a refused file changed the network');
      return segmenter.load(file, { strict: false });
    };

    const otherClasses = { kind: 'deeplab-v2', options: { ...DEEPLAB, classCount: 7 } };
    const head = [0, 1, 2, 3].flatMap((i) => [
      `layer5.conv2d_list.${i}.weight`,
      `layer5.conv2d_list.${i}.bias`,
    ]);
    const before = await snapshot(segmenter);
    const imageNet = await saved(otherClasses, { prefix: 'Scale.' });
    const skipped = await refused(imageNet, /layer5.*another class count/);
    const reason = 'the head for another class count';
    assert.deepEqual(
      skipped.skipped,
      head.map((name) => ({ name, reason })),
    );
    assert.deepEqual([skipped.missing, skipped.extra, skipped.reshaped], [[], [], []]);
    const after = await snapshot(segmenter);
    for (const [name, values] of after) {
      const kept = name.startsWith('layer5.') || name.endsWith('num_batches_tracked');
      assert.equal(isDeepStrictEqual(values, before.get(name)), kept, name);
    }

    const changes = { without: ['bn1.bias'], with: { 'conv1.weight': [2, 2], 'fc.weight': [3] } };
    const report = await refused(await saved(TWIN_DEEPLAB, changes), /missing bn1\.bias; .* and \d+ more/);
    assert.ok(report.missing.includes('bn1.bias'));
    assert.deepEqual(report.extra, ['fc.weight']);
    assert.deepEqual(report.reshaped, [{ name: 'conv1.weight', found: [2, 2], expected: [4, 3, 7, 7] }]);

    const stranger = await saved({ kind: 'patch-discriminator', options: { baseWidth: 4 } });
    await assert.rejects(
      () => segmenter.load(stranger, { strict: false }),
      /none of its 10 tensors fits the network: found the weights of patch-discriminator, expected those of deeplab-v2/,
    );
    await assert.rejects(
      () => Segmenter.fromFile(stranger),
      /does not say which network it belongs to.*bidiseg convert FILE OUT\.safetensors/,
    );
  });

  it('converts into files that say which network they belong to', async () => {
    const pth = await saved(TWIN_DEEPLAB, { prefix: 'module.', without: ['num_batches_tracked'] });
    const output = newFile('safetensors');
    await convert(pth, output, '--branches', '2');
    using segmenter = await Segmenter.fromFile(output);
    const { backbone, width, classCount, branches } = segmenter.options;
    assert.deepEqual({ backbone, width, classCount, branches }, { ...DEEPLAB, branches: 2 });
    assert.deepEqual(await differences(segmenter, TWIN_DEEPLAB, pth, 'module.'), []);

    const info = async (file: string) => {
      const { code, stdout, stderr } = await bidiseg(['info', file, '--json']);
      assert.equal(code, 0, stderr);
      const { network, tensors, parameters, format } = jsonLines(stdout)[0]!;
      return { network, tensors, parameters, format };
    };
    const options = { ...DEEPLAB, branches: 4 };
    const counts = { tensors: (await segmenter.parameters()).size, parameters: segmenter.parameterCount };
    const ofPth = await info(pth);
    assert.deepEqual(ofPth.network, { architecture: 'deeplab-v2', options, guessed: true });
    assert.equal(ofPth.parameters, counts.parameters);
    assert.equal(ofPth.format, 'pytorch-zip');
    const network = { architecture: 'deeplab-v2', options: { ...options, branches: 2 }, guessed: false };
    assert.deepEqual((await info(output)).network, network);
    assert.equal((await info(output)).parameters, counts.parameters);
  });

  it('refuses a conversion that would lose values, or its own input', async () => {
    const input = await saved(TWIN_DEEPLAB);
    const failure = async (...args: string[]) => {
      const { code, stderr } = await bidiseg(['convert', ...args]);
      return `${code} ${stderr.trim()}`;
    };
    assert.match(await failure(input, input), /^2 bidiseg: .*: is the input; choose another file to write$/);
    assert.match(
      await failure(input, path.join(await saved(TWIN_DEEPLAB), 'x.st')),
      /^1 bidiseg: Cannot write into .*a file has that name/,
    );
    assert.match(
      await failure(folder.path('nowhere.pth'), newFile('st')),
      /^1 bidiseg: .*nowhere\.pth: cannot be read/,
    );
    assert.match(await failure(input, newFile('st'), '--strip', 'x.'), /^1 bidiseg: .*begins with 'x\.'/);
    const large = newFile('pth');
    await twin().ask({ do: 'saveCase', case: 'large', file: large, zip: true, protocol: 2 });
    const output = newFile('safetensors');
    assert.match(
      await failure(large, output, '--raw', '--dtype', 'float16'),
      /^1 bidiseg: .*'x' has the value 70000, too large for float16/,
    );
    assert.ok(!existsSync(output));
  });
});
