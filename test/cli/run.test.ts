import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { readImage, writeImage } from '../../lib/data/image-codec.js';
import { readLabels, writeLabels } from '../../lib/data/label-codec.js';
import { labelMap } from '../../lib/data/label-maps.js';
import { renderScene } from '../../lib/data/scenes/street-scenes.js';
import { buildInfo } from '../../lib/native/device.js';
import type { RunSummary, StageRecord } from '../../lib/pipeline/events.js';
import { contentOf } from '../helpers/folder.js';
import { writeTrainedSegmenter } from '../helpers/trained-segmenter.js';
import {
  bidiseg,
  CLASSES,
  jsonLines,
  temporaryFiles,
  temporaryFolder,
  writeTinyConfig,
  writeTinyData,
} from './command-line.js';

/** What another test beside this one may cost a process that ends. */
const BUSY_MS = 1500;
const LABELS = ['M(0)', 'F(1)', 'S′(1)', 'M0(1)', 'Ŷ1(1)', 'M1(1)'];

/** Names in a folder, without the list of results that a command leaves. */
const visible = (folder: string) =>
  readdirSync(folder)
    .filter((name) => !name.startsWith('.'))
    .sort();

describe('command line: a run and the use of its networks', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const run = (args: string[]) => bidiseg(args, { cwd: folder.path });

  /** Checks that the command fails with this one line, and with the same message as a JSON event. */
  async function fails(args: string[], message: RegExp): Promise<void> {
    const { code, stdout, stderr } = await run([...args, '--json']);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /^bidiseg: [^\n]*\n$/);
    assert.match(stderr, message);
    const last = jsonLines(stdout).at(-1)!;
    assert.equal(last.event, 'error');
    assert.equal(`bidiseg: ${last.message}\n`, stderr);
  }

  before(async () => {
    await writeTinyData(folder.path);
    const { code, stdout, stderr } = await run(['train', writeTinyConfig(folder.path)]);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    writeFileSync(at('train.txt'), stdout);
  });

  it('train ends with a table of the stages, plain when piped', () => {
    const stdout = readFileSync(at('train.txt'), 'utf8');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they must not be there
    assert.doesNotMatch(stdout, /[\u001b\r]/);
    const table = stdout.slice(stdout.indexOf('\nstage '));
    for (const label of LABELS) assert.ok(table.includes(`\n${label} `), label);
    assert.match(table, /^M0\(1\) +\d+\.\d +[+-]\d+\.\d +3 /m);
    assert.match(table, /^report {4}run\/report\.html$/m);
    assert.match(table, /^pictures {2}run\/pictures$/m);
    assert.match(table, /^summary {3}run\/summary\.json$/m);
  });

  it('train refuses a folder that holds a run, and one that holds anything else', async () => {
    await fails(
      ['train', 'config.json'],
      /holds a run already; resume it, choose another output, or overwrite it/,
    );
    mkdirSync(at('mine', 'pictures'), { recursive: true });
    await fails(
      ['train', 'config.json', '--output', 'mine'],
      /expected a run folder but found other files \(pictures\)/,
    );
    assert.ok(existsSync(at('mine', 'pictures')));
  });

  it('resume of a complete run shows its results again', async () => {
    const { code, stdout } = await run(['resume', 'run', '--json']);
    assert.equal(code, 0);
    const result = jsonLines(stdout).at(-1) as unknown as RunSummary & { event: string };
    assert.equal(result.event, 'result');
    assert.equal(result.complete, true);
    assert.deepEqual(
      result.stages.map(({ label }: StageRecord) => label),
      LABELS,
    );
  });

  it('report writes the report of a run again, to the given file', async () => {
    const { code, stdout, stderr } = await run(['report', 'run', '-o', 'shown/report.html']);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Wrote shown\/report\.html \([\d.]+ kB\)\n$/);
    const report = readFileSync(at('shown/report.html'), 'utf8');
    assert.equal(report, readFileSync(at('run/report.html'), 'utf8'));
    for (const label of ['M(0)', 'F(1)', 'Ŷ1(1)', 'M1(1)']) assert.ok(report.includes(label), label);
    const json = await run(['report', 'run', '--json']);
    const { event, report: file, sizeBytes } = jsonLines(json.stdout).at(-1)!;
    assert.deepEqual(
      [event, file, sizeBytes],
      ['result', at('run/report.html'), statSync(at('run/report.html')).size],
    );
  });

  it('segment writes class indices, colors and overlays as large as the images', async () => {
    const { code, stdout, stderr } = await run([
      'segment',
      'target/images',
      '--run',
      'run',
      '-o',
      'segmented',
    ]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^Wrote 3 segmentations to segmented in /);
    const options = { labelMap: labelMap('identity'), classCount: CLASSES.length, ignoreIndex: 255 };
    const labels = await readLabels(at('segmented', 'labels', 'target-0.png'), options);
    const colors = await readLabels(at('segmented', 'color', 'target-0.png'), options);
    assert.deepEqual(colors.data, labels.data);
    assert.deepEqual([labels.width, labels.height], [48, 32]);
    const overlay = await readImage(at('segmented', 'overlay', 'target-0.png'));
    assert.deepEqual([overlay.width, overlay.height], [48, 32]);
  });

  it('segment takes single files, another size, and a part of the outputs', async () => {
    const weights = 'run/stages/source-only/weights.safetensors';
    const { code, stdout, stderr } = await run([
      'segment',
      'target/images/target-1.png',
      '-w',
      weights,
      '-o',
      'one',
      '--size',
      '64x48',
      '--write',
      'color',
      '--json',
    ]);
    assert.equal(code, 0, stderr);
    const lines = jsonLines(stdout);
    assert.deepEqual(
      lines.map(({ event }) => event),
      ['image', 'result'],
    );
    assert.deepEqual(lines[1]!.classes, CLASSES);
    assert.deepEqual(visible(at('one')), ['color']);
    const color = await readImage(at('one', 'color', 'target-1.png'));
    assert.deepEqual([color.width, color.height], [48, 32]);
  });

  it('segment takes patterns, which keep their folders, beside files, which do not', async () => {
    const { code, stderr } = await run([
      ...['segment', '{source,target}/images/*-1.png', 'target/images/target-0.png'],
      ...['--run', 'run', '-o', 'matched', '--write', 'labels'],
    ]);
    assert.equal(code, 0, stderr);
    assert.deepEqual(
      readdirSync(at('matched/labels'), { recursive: true })
        .map(String)
        .filter((file) => file.endsWith('.png'))
        .sort(),
      ['source/images/source-1.png', 'target-0.png', 'target/images/target-1.png'],
    );
  });

  it('segment averages over the same views as evaluate, in the same precision', async () => {
    const weights = await writeTrainedSegmenter(at('unsure.safetensors'));
    mkdirSync(at('scenes/images'), { recursive: true });
    mkdirSync(at('scenes/labels'));
    const size = { width: 96, height: 64 };
    for (const index of [0, 1]) {
      const scene = renderScene({ seed: 5, index, look: 'dusk', ...size });
      await writeImage(at(`scenes/images/${index}.png`), { data: scene.image, ...size });
      await writeLabels(at(`scenes/labels/${index}.png`), { data: scene.labels, ...size });
    }
    const precision = (await buildInfo()).precisions.cpu!.at(-1)!;
    const views = ['--size', '80x56', '--flip', '--scales', '0.75,1,1.5', '--precision', precision];
    const segmented = await run([
      ...['segment', 'scenes/images', '-w', weights, '-o', 'views', '--write', 'labels'],
      ...views,
    ]);
    assert.equal(segmented.code, 0, segmented.stderr);
    const labels = ['--labels', 'scenes/labels', '--json'];
    const network = ['evaluate', '-w', weights, '--images', 'scenes/images', ...labels];
    const evaluated = await run([...network, ...views]);
    const plain = await run([...network, '--size', '80x56']);
    const scored = await run([
      'evaluate',
      '--predictions',
      'views/labels',
      '--classes',
      'cityscapes',
      ...labels,
    ]);
    const confusion = ({ stdout }: { stdout: string }) => jsonLines(stdout).at(-1)!.confusion;
    assert.deepEqual(confusion(scored), confusion(evaluated));
    assert.notDeepEqual(confusion(evaluated), confusion(plain));
  });

  it('segment and evaluate refuse a precision that the device lacks, before any image is read', async () => {
    for (const command of [['segment', 'target/images', '-o', 'precise'], ['evaluate']]) {
      await fails(
        [...command, '--run', 'run', '--precision', 'tf32'],
        /^bidiseg: --precision: expected one of fp32(, bf16)? but found tf32, which cpu does not support here; see 'bidiseg info'$/m,
      );
    }
    assert(!existsSync(at('precise')));
  });

  it('every command that reads images refuses those with more pixels than --max-pixels', async () => {
    const pixels = 48 * 32;
    const network = ['--run', 'run', '--max-pixels'];
    const commands = [
      ['segment', 'target/images', '-o', 'x', ...network],
      ['translate', 'source/images', '-o', 'x', ...network],
      ['pseudo-label', 'target/images', '-o', 'x', ...network],
      ['evaluate', ...network],
    ];
    for (const command of commands) {
      await fails([...command, `${pixels - 1}`], /-0\.png: found 48×32 pixels, expected at most 1535$/m);
    }
    const { code, stdout } = await run(['info', 'target', '--max-pixels', `${pixels - 1}`, '--json']);
    assert.equal(code, 1);
    assert.match(stdout, /found 48×32 pixels, expected at most 1535/);
  });

  it('pseudo-label takes a list, and paths below its root alone', async () => {
    mkdirSync(at('lists'));
    writeFileSync(at('lists', 'some.txt'), 'target/images/target-1.png\r\n');
    const command = ['pseudo-label', 'lists/some.txt', '-r', 'run', '-o', 'listed', '--threshold', '0'];
    await fails(command, /some\.txt, line 1: there is no file .*lists\/target\/images\/target-1\.png/);
    const { code, stderr } = await run([...command, '--method', 'mpt', '--root', '.']);
    assert.equal(code, 0, stderr);
    assert.deepEqual(visible(at('listed')), ['manifest.json', 'target-1.png']);
    await fails([...command, '--root', 'source'], /line 1: there is no file/);
    writeFileSync(at('lists', 'some.txt'), at('target/images/target-1.png'));
    await fails(
      [...command, '--root', 'source'],
      /line 1: found .*, which leads out of .*source; expected a path/,
    );
  });

  it('translate works in both directions and at sizes that are not multiples of 4', async () => {
    const there = await run(['translate', 'source/images', '--run', 'run', '-o', 'there']);
    assert.equal(there.code, 0, there.stderr);
    assert.deepEqual(visible(at('there')), visible(at('source/images')));
    const back = await run([
      'translate',
      'there',
      '--run',
      'run',
      '-o',
      'back',
      '--direction',
      'target-to-source',
      '--size',
      '37x26',
    ]);
    assert.equal(back.code, 0, back.stderr);
    const image = await readImage(at('back', 'source-0.png'));
    assert.deepEqual([image.width, image.height], [37, 26]);
  });

  it('pseudo-label with threshold 0 keeps every pixel', async () => {
    const { code, stdout, stderr } = await run([
      'pseudo-label',
      'target/images',
      '-r',
      'run',
      '-o',
      'pseudo',
      '--method',
      'mpt',
      '--threshold',
      '0',
      '--json',
    ]);
    assert.equal(code, 0, stderr);
    const result = jsonLines(stdout).at(-1)!;
    assert.equal(result.keptShare, 1);
    assert.deepEqual(visible(at('pseudo')), [
      'manifest.json',
      'target-0.png',
      'target-1.png',
      'target-2.png',
    ]);
  });

  it("pseudo-label of a run's own target images, as text", async () => {
    const { code, stdout, stderr } = await run(['pseudo-label', '--run', 'run', '-o', 'own']);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^ground +\d/m);
    assert.match(stdout, /Kept [\d.]+ % of the pixels; \d of 3 images have labels in own/);
  });

  it("evaluate repeats the run's own number, from the run and from its weights", async () => {
    const summary = JSON.parse(readFileSync(at('run', 'summary.json'), 'utf8')) as RunSummary;
    const recorded = summary.stages.find(({ label }) => label === 'M0(1)')!;
    const byRun = await run(['evaluate', '--run', 'run', '--stage', 'M0(1)', '--json']);
    assert.equal(byRun.code, 0, byRun.stderr);
    const result = jsonLines(byRun.stdout).at(-1)!;
    assert.equal(result.meanIou, recorded.miou);
    assert.deepEqual(result.iouPerClass, recorded.iouPerClass);
    const byWeights = await run([
      'evaluate',
      '-w',
      'run/stages/round-1-segmenter-0/weights.safetensors',
      '--images',
      'target/images',
      '--labels',
      'target/labels',
    ]);
    assert.equal(byWeights.code, 0, byWeights.stderr);
    assert.match(byWeights.stdout, /^sky +\d+\.\d +\d+\.\d$/m);
    assert.ok(byWeights.stdout.includes(`mIoU ${(100 * recorded.miou!).toFixed(1)} %`));
  });

  it('reports what is impossible in one clear line', async () => {
    await fails(['resume', 'run', '--set', 'seed=7'], /seed is 1 in the run to resume but 7 now/);
    writeFileSync(at('text.png'), 'no image');
    writeFileSync(at('bad.json'), JSON.stringify({ preset: 'demo', segmentation: { stepz: 3 } }));
    const weights = 'run/stages/source-only/weights.safetensors';
    await fails(['train', 'missing.yaml'], /missing\.yaml: no such file/);
    await fails(
      ['train', 'config.json', '--set', 'data.root=nowhere', '-o', 'no-run'],
      /nowhere.*: cannot be listed/,
    );
    assert.ok(!existsSync(at('no-run')));
    await fails(['train', 'bad.json'], /segmentation\.stepz: unknown key; did you mean steps\?/);
    await fails(['train', 'config.json', '--set', 'loop.rounds=many'], /loop\.rounds: expected/);
    await fails(
      ['train', 'config.json', '--stage', 'M7(9)', '--overwrite'],
      /No stage 'M7\(9\)' in this run/,
    );
    await fails(
      ['train', 'config.json', '--device', 'cuda:99'],
      /Expected one of the devices cpu.* but found cuda:99/,
    );
    await fails(
      ['train', 'config.json', '--set', 'translation.cudaGraphs=true'],
      /translation\.cudaGraphs: expected false, or a CUDA device, but device is cpu/,
    );
    await fails(['resume', 'target'], /target: expected a run folder but found no config\.yaml/);
    await fails(['segment', 'missing.png', '-r', 'run', '-o', 'x'], /No such file or folder: missing\.png/);
    await fails(['segment', 'run/stages', '-r', 'run', '-o', 'x'], /No image in the folder run\/stages/);
    await fails(
      ['segment', 'target/**/*.webp', '-r', 'run', '-o', 'x'],
      /No image matches target\/\*\*\/\*\.webp/,
    );
    await fails(
      ['segment', 'target/*/../../source/images/*.png', '-r', 'run', '-o', 'x'],
      /source-0\.png is not below the pattern's folder; remove '\.\.' from the pattern/,
    );
    await fails(['report', 'target'], /target: expected a run folder but found no config\.yaml/);
    await fails(['segment', 'text.png', '-r', 'run', '-o', 'unused'], /text\.png: is not a PNG/);
    assert(!existsSync(at('unused')), 'a folder without a single result is not left behind');
    mkdirSync(at('mine-but-empty'));
    await fails(['segment', 'text.png', '-r', 'run', '-o', 'mine-but-empty'], /text\.png/);
    assert(existsSync(at('mine-but-empty')), 'nor is the folder of somebody else removed');
    await fails(['segment', 'target', 'target', '-r', 'run', '-o', 'x'], /would both be written as/);
    await fails(['segment', 'target', '-r', 'run', '-o', 'text.png'], /text\.png: a file has that name/);
    await fails(['segment', 'target', '-w', 'text.png', '-o', 'x'], /text\.png/);
    await fails(['segment', 'target', '-w', 'missing', '-o', 'x'], /No such weights file: missing/);
    await fails(
      ['segment', 'target', '-r', 'run', '--stage', 'F(1)', '-o', 'x'],
      /no finished segmenter stage 'F\(1\)'/,
    );
    await fails(['translate', 'source', '-w', weights, '-o', 'x'], /not of a translator/);
    await fails(['evaluate', '-r', 'run', '--classes', 'a,b'], /segments 3 classes, but --classes names 2/);
    await fails(
      [
        'evaluate',
        '-r',
        'run',
        '--images',
        'target/images',
        '--labels',
        'target/labels',
        '--label-map',
        'gta5',
      ],
      /'gta5' gives classes up to 18, but there are 3 classes/,
    );
  });

  it('leaves no temporary file anywhere', () => {
    assert.deepEqual(temporaryFiles(folder.path), []);
  });
});

describe('command line: the demo', () => {
  const folder = temporaryFolder();
  const small = {
    'data.embedded.sourceCount': 3,
    'data.embedded.targetCount': 2,
    'data.embedded.validationCount': 2,
    'segmentation.sourceOnlySteps': 1,
    'segmentation.batchSize': 1,
    'loop.rounds': 0,
  };
  const sets = Object.entries(small).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
  const demo = (args: string[]) => bidiseg(['demo', ...sets, ...args], { cwd: folder.path });

  it('makes its data, trains and shows the result; a second time it only shows it', async () => {
    const first = await demo([]);
    assert.equal(first.code, 0, first.stderr);
    assert.match(first.stdout, /^M\(0\) +\d+\.\d +– +1 /m);
    assert.match(first.stdout, /^summary {3}runs\/demo\/summary\.json$/m);
    assert.ok(existsSync(path.join(folder.path, 'runs/demo/data/dataset.json')));
    const second = await demo([]);
    assert.match(second.stdout, /^M\(0\) {2}already complete$/m);
  });

  it('replaces a run of another config only when told', async () => {
    const before = contentOf(folder.path);
    const refused = await demo(['--seed', '2']);
    assert.equal(refused.code, 1);
    assert.match(
      refused.stderr,
      /runs\/demo: holds a run already; resume it, choose another output, or overwrite/,
    );
    assert.deepEqual(contentOf(folder.path), before);
    const { code, stdout, stderr } = await demo(['--seed', '2', '--overwrite']);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /seed 2/);
    assert.doesNotMatch(stdout, /already complete/);
  });
});

describe('command line: being stopped', () => {
  const folder = temporaryFolder();
  const scratch = temporaryFolder();

  it('SIGINT during training: code 130 within two seconds, complete stages are kept, and resume continues', async () => {
    await writeTinyData(folder.path);
    const config = writeTinyConfig(folder.path, {
      translation: { steps: 40 },
      loop: { rounds: 1, selfTrainingRounds: 0 },
    });
    const { code, stdout, stderr, afterSignalMs } = await bidiseg(['train', config, '--json'], {
      cwd: folder.path,
      signal: { name: 'SIGINT', onceStdoutHas: '{"event":"step","stage":"round-1/translator"' },
    });
    assert.equal(code, 130);
    assert.ok(afterSignalMs < 2000 + BUSY_MS, `${afterSignalMs} ms`);
    const last = stderr.trimEnd().split('\n').at(-1)!;
    assert.match(
      last,
      /^bidiseg: interrupted; finished stages \(M\(0\)\) and F\(1\) up to step \d+ are kept in run; resume with: bidiseg resume run$/,
    );
    const message = last.replace('bidiseg: ', '');
    assert.deepEqual(jsonLines(stdout).at(-1), { event: 'error', code: 'ERR_INTERRUPTED', message });
    assert.deepEqual(temporaryFiles(folder.path), []);

    const resumed = await bidiseg(['resume', 'run'], { cwd: folder.path });
    assert.equal(resumed.code, 0, resumed.stderr);
    assert.match(resumed.stdout, /^M\(0\) {2}already complete$/m);
    const [, steps] = /up to step (\d+) are kept/.exec(message)!;
    assert.match(resumed.stdout, new RegExp(`F\\(1\\)  continues after step ${steps}$`, 'm'));
    assert.match(resumed.stdout, /^M0\(1\) +\d+\.\d /m);
  });

  it('an error after the first stage says what is kept, and resume continues once its cause is gone', async () => {
    const folder = scratch.path;
    await writeTinyData(folder);
    const at = (name: string) => path.join(folder, name);
    cpSync(at('target'), at('val'), { recursive: true });
    const config = writeTinyConfig(folder, {
      data: {
        target: { train: { images: 'target/images' }, val: { images: 'val/images', labels: 'val/labels' } },
      },
      loop: { rounds: 1, selfTrainingRounds: 0 },
      scoreCount: 0,
    });
    const images = readdirSync(at('target/images')).map((name) => at(`target/images/${name}`));
    const whole = images.map((file) => readFileSync(file));
    images.forEach((file, index) => {
      writeFileSync(
        file,
        Buffer.concat([whole[index]!.subarray(0, 80), Buffer.alloc(whole[index]!.length - 80)]),
      );
    });
    const { code, stderr } = await bidiseg(['train', config], { cwd: folder });
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^bidiseg: \S*target-\d\.png: .*; finished stages \(M\(0\)\) are kept in run; resume with: bidiseg resume run\n$/,
    );
    images.forEach((file, index) => {
      writeFileSync(file, whole[index]!);
    });
    const resumed = await bidiseg(['resume', 'run', '--accept-changed-data'], { cwd: folder });
    assert.equal(resumed.code, 0, resumed.stderr);
    assert.match(resumed.stdout, /^M\(0\) {2}already complete$/m);
  });

  it('SIGTERM during segmentation: code 143 and whole images only', async () => {
    const images = Array.from({ length: 40 }, (_, i) => `in/${i}/same-${i}.png`);
    const image = { data: new Uint8Array(3 * 320 * 240).fill(100), width: 320, height: 240 };
    const { writeImage } = await import('../../lib/data/image-codec.js');
    for (const file of images) {
      mkdirSync(path.join(folder.path, path.dirname(file)), { recursive: true });
      await writeImage(path.join(folder.path, file), image);
    }
    const { code, stderr, afterSignalMs } = await bidiseg(
      ['segment', 'in', '-r', 'run', '-o', 'out', '--size', '320x240', '--json'],
      { cwd: folder.path, signal: { name: 'SIGTERM', onceStdoutHas: '"done":2' } },
    );
    assert.equal(code, 143);
    assert.ok(afterSignalMs < 2000 + BUSY_MS, `${afterSignalMs} ms`);
    assert.match(stderr, /^bidiseg: interrupted; \d+ of 40 images finished in out\n$/);
    assert.deepEqual(temporaryFiles(folder.path), []);
  });
});
