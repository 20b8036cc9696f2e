import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { readImage } from '../../lib/data/image-codec.js';
import { readLabels } from '../../lib/data/label-codec.js';
import { labelMap } from '../../lib/data/label-maps.js';
import type { RunSummary } from '../../lib/pipeline/events.js';
import {
  bidiseg,
  CLASSES,
  jsonLines,
  type Result,
  temporaryFiles,
  temporaryFolder,
  writeTinyConfig,
  writeTinyData,
} from '../cli/command-line.js';
import { printAndCheck } from '../helpers/table.js';
import { DEVICE, describeOnDevice, differingShare, IS_CUDA } from './device.js';

const NAMES = ['target-0.png', 'target-1.png', 'target-2.png'];

describeOnDevice('the command line', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);

  async function succeeds(args: string[]): Promise<Result> {
    const start = performance.now();
    const result = await bidiseg(args, { cwd: folder.path });
    console.log(`    ${args[0]}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
    assert.equal(result.code, 0, result.stderr);
    // Not an error here: LibTorch's warnings about a device end up there.
    if (result.stderr !== '') console.log(result.stderr.trimEnd().replace(/^/gm, '    stderr: '));
    return result;
  }

  let trained: Promise<Result> | undefined;
  /** Trains every kind of stage once, for all tests. */
  function train(): Promise<Result> {
    trained ??= succeeds(['train', 'config.json', '--device', DEVICE]);
    return trained;
  }

  before(async () => {
    await writeTinyData(folder.path);
    writeTinyConfig(folder.path, { loop: { rounds: 1, selfTrainingRounds: 1 } });
  });

  it('info lists the device', async () => {
    const { stdout } = await succeeds(['info']);
    console.log(stdout.trimEnd().replace(/^/gm, '    '));
    assert.match(stdout, IS_CUDA ? /^devices +cpu, .*cuda:0/m : /^devices +cpu/m);
  });

  it('train runs every kind of stage on the device', async () => {
    const { stdout } = await train();
    for (const label of ['M(0)', 'F(1)', 'S′(1)', 'M0(1)', 'Ŷ1(1)', 'M1(1)']) {
      assert.ok(stdout.includes(`\n${label} `), `${label} is missing in ${stdout}`);
    }
    const summary = JSON.parse(readFileSync(at('run/summary.json'), 'utf8')) as RunSummary;
    assert.equal(summary.complete, true);
    assert.equal(summary.device, DEVICE);
    assert.deepEqual(temporaryFiles(at('run')), []);
  });

  it('segment gives the labels of the CPU', async () => {
    await train();
    const segment = (device: string, output: string) =>
      succeeds(['segment', 'target/images', '--run', 'run', '-o', output, '--device', device]);
    await segment(DEVICE, 'segmented');
    await segment('cpu', 'segmented-cpu');
    const options = { labelMap: labelMap('identity'), classCount: CLASSES.length, ignoreIndex: 255 };
    const rows = [];
    for (const name of NAMES) {
      const found = await readLabels(at('segmented/labels', name), options);
      const expected = await readLabels(at('segmented-cpu/labels', name), options);
      // Labels of a network after three steps are nearly ties.
      const error = differingShare(found.data, expected.data);
      rows.push({ item: `${name}: share of labels that differ`, error, bound: 2e-2 });
      assert.ok(existsSync(at('segmented/overlay', name)));
    }
    printAndCheck('segment', rows);
  });

  it('evaluate gives the numbers of the run and of the CPU', async () => {
    await train();
    const evaluation = async (device: string) => {
      const { stdout } = await succeeds(['evaluate', '--run', 'run', '--device', device, '--json']);
      return jsonLines(stdout).at(-1) as { meanIou: number };
    };
    const found = await evaluation(DEVICE);
    const expected = await evaluation('cpu');
    const summary = JSON.parse(readFileSync(at('run/summary.json'), 'utf8')) as RunSummary;
    const recorded = summary.stages.at(-1)!.miou!;
    printAndCheck(`mean IoU ${found.meanIou}`, [
      { item: 'against the run', error: Math.abs(found.meanIou - recorded), bound: 1e-3 },
      { item: 'against the CPU', error: Math.abs(found.meanIou - expected.meanIou), bound: 2e-2 },
    ]);
  });

  it('translate gives the images of the CPU', async () => {
    await train();
    const translate = (device: string, output: string) =>
      succeeds([
        ...['translate', 'source/images', '--run', 'run', '-o', output],
        ...['--device', device, '--size', '37x26'],
      ]);
    await translate(DEVICE, 'translated');
    await translate('cpu', 'translated-cpu');
    const found = await readImage(at('translated/source-1.png'));
    const expected = await readImage(at('translated-cpu/source-1.png'));
    assert.deepEqual([found.width, found.height], [37, 26]);
    const error = differingShare(found.data, expected.data);
    printAndCheck('translate', [{ item: 'share of bytes that differ', error, bound: 1e-2 }]);
  });

  it('pseudo-label works on the device', async () => {
    await train();
    const { stdout } = await succeeds([
      ...['pseudo-label', 'target/images', '-r', 'run', '-o', 'pseudo', '--device', DEVICE],
      ...['--method', 'mpt', '--threshold', '0', '--json'],
    ]);
    assert.equal(jsonLines(stdout).at(-1)!.keptShare, 1);
  });

  it('resume continues on the CPU what was interrupted on the device, and the reverse', async () => {
    const stopped = async (output: string, device: string) => {
      const { code, stderr } = await bidiseg(
        [
          ...['train', 'config.json', '--output', output, '--device', device, '--json'],
          ...['--set', 'translation.steps=60', '--set', 'loop.selfTrainingRounds=0'],
        ],
        {
          cwd: folder.path,
          signal: { name: 'SIGINT', onceStdoutHas: '{"event":"step","stage":"round-1/translator"' },
        },
      );
      assert.equal(code, 130, stderr);
      console.log(`    ${stderr.trimEnd()}`);
      const steps = /F\(1\) up to step (\d+) are kept/.exec(stderr);
      assert.ok(steps, stderr);
      return Number(steps[1]);
    };
    const continued = async (output: string, device: string, steps: number) => {
      const { stdout } = await succeeds(['resume', output, '--set', `device=${device}`]);
      assert.match(stdout, new RegExp(`F\\(1\\)  continues after step ${steps}$`, 'm'));
      assert.match(stdout, /^M0\(1\) +\d+\.\d /m);
    };
    await Promise.all([
      stopped('there', DEVICE).then((steps) => continued('there', 'cpu', steps)),
      stopped('back', 'cpu').then((steps) => continued('back', DEVICE, steps)),
    ]);
  });

  it('train takes graphs, a precision and a process of its own', async () => {
    const options = IS_CUDA
      ? ['--set', 'segmentation.cudaGraphs=true', '--set', 'segmentation.precision=bf16']
      : [];
    const { stdout } = await succeeds([
      ...['train', 'config.json', '--output', 'alone', '--device', DEVICE, '--processes', '1', ...options],
      ...['--set', 'loop.rounds=0', '--set', 'segmentation.sourceOnlySteps=8', '--json'],
    ]);
    const losses = jsonLines(stdout).filter(({ event }) => event === 'step');
    console.log(`    ${JSON.stringify(losses.at(-1))}`);
    assert.ok(losses.length > 0);
  });

  it('a device that does not exist is refused before anything is written', async () => {
    const { code, stderr } = await bidiseg(['train', 'config.json', '-o', 'none', '--device', 'cuda:99'], {
      cwd: folder.path,
    });
    assert.equal(code, 1);
    assert.match(stderr, /^bidiseg: Expected one of the devices cpu.* but found cuda:99[^\n]*\n$/);
    assert.ok(!existsSync(at('none')));
  });
});
