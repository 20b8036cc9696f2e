import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { bidiseg, jsonLines, temporaryFolder, writeTinyConfig, writeTinyData } from './command-line.js';

interface Row {
  run: string;
  label: string;
  weights: string;
  also: string[];
  miou?: number;
  scores: Record<string, number | null>;
  rank: number;
}

interface Result {
  images: number;
  segmenters: Row[];
  correlations?: Record<string, number | null>;
}

describe('command line: rank', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);

  async function rank(args: string[]): Promise<Result> {
    const { code, stdout, stderr } = await bidiseg(['rank', ...args, '--json'], { cwd: folder.path });
    assert.equal(code, 0, stderr);
    return jsonLines(stdout).at(-1) as unknown as Result;
  }

  async function fails(args: string[], message: RegExp): Promise<void> {
    const result = await bidiseg(['rank', ...args], { cwd: folder.path });
    assert.equal(result.code, 1, result.stderr);
    assert.match(result.stderr, /^bidiseg: [^\n]*\n$/);
    assert.match(result.stderr, message);
  }

  before(async () => {
    await writeTinyData(folder.path);
    const config = writeTinyConfig(folder.path, {
      segmentation: { validation: { share: 0.5, every: 2 } },
    });
    const { code, stderr } = await bidiseg(['train', config, '-o', 'run'], { cwd: folder.path });
    assert.equal(code, 0, stderr);
  });

  it('gives the scores that the run has in its summary, and their ranking', async () => {
    const { images, segmenters, correlations } = await rank(['run']);
    const summary = JSON.parse(readFileSync(at('run/summary.json'), 'utf8'));
    const last = segmenters.filter(({ weights }) => weights === 'last');
    assert.deepEqual(last.map(({ label }) => label).sort(), ['M(0)', 'M0(1)', 'M1(1)']);
    for (const { label, scores } of last) {
      const record = summary.stages.find((stage: Row) => stage.label === label);
      assert.deepEqual(scores, record.scores, label);
      assert.equal(typeof scores.sourceMiou, 'number');
      assert.equal(scores.images, images);
    }
    assert.equal(last.find(({ label }) => label === 'M(0)')!.scores.teacherAgreement, null);
    assert.equal(typeof last.find(({ label }) => label === 'M1(1)')!.scores.teacherAgreement, 'number');
    const ranks = segmenters.map(({ rank: place }) => place);
    assert.deepEqual(
      ranks,
      [...ranks].sort((one, other) => one - other),
    );
    assert.deepEqual(
      summary.ranking.map(({ label }: Row) => label),
      ['M(0)', 'M0(1)', 'M1(1)'],
    );
    assert.equal(correlations, undefined);
    assert(segmenters.every((segmenter) => !('miou' in segmenter)));
  });

  it('knows the average that was a teacher, and its agreement with the last weights', async () => {
    const config = writeTinyConfig(folder.path, {
      segmentation: { teacher: { threshold: 0.2, decay: 0.5 } },
      loop: { selfTrainingRounds: 0, translation: 'none' },
    });
    const { code, stderr } = await bidiseg(['train', config, '-o', 'taught'], { cwd: folder.path });
    assert.equal(code, 0, stderr);
    const again = await bidiseg(['train', config, '-o', 'taught', '--overwrite'], { cwd: folder.path });
    assert.equal(again.code, 0, again.stderr);
    const { segmenters } = await rank(['taught']);
    const summary = JSON.parse(readFileSync(at('taught/summary.json'), 'utf8'));
    const find = (weights: string, label = 'M0(1)') =>
      segmenters.find((segmenter) => segmenter.label === label && segmenter.weights === weights)!;
    const [last, average] = [find('last'), find('teacher')];
    assert.deepEqual(last.scores, summary.stages.at(-1).scores);
    assert.equal(find('last', 'M(0)').scores.teacherAgreement, null);
    assert.equal(find('teacher', 'M(0)'), undefined);
    assert(last.scores.teacherAgreement! > 0);
    assert.equal(average.scores.teacherAgreement, last.scores.teacherAgreement);
    assert.notEqual(average.scores.entropy, last.scores.entropy);
    assert.equal(average.scores.images, last.scores.images);
    const { stdout } = await bidiseg(['rank', 'taught'], { cwd: folder.path });
    assert.match(stdout, /M0\(1\) teacher/);
  });

  it('reads no target labels, and shows what the run has measured only with --compare', async () => {
    cpSync(at('run'), at('unlabeled'), { recursive: true });
    rmSync(at('target/labels'), { recursive: true });
    const { segmenters, correlations } = await rank(['unlabeled', '--compare']);
    assert(segmenters.some(({ miou }) => typeof miou === 'number'));
    assert(correlations && 'entropy' in correlations && 'meanRank' in correlations);
    const { stdout } = await bidiseg(['rank', 'unlabeled', '--compare'], { cwd: folder.path });
    assert.match(stdout, /mIoU %\n/);
    assert.match(stdout, /correlation/);
  });

  it('takes ablations, and joins equal weights', async () => {
    mkdirSync(at('ablation/runs/plain'), { recursive: true });
    for (const seed of [1, 2]) cpSync(at('run'), at(`ablation/runs/plain/seed-${seed}`), { recursive: true });
    const { images, segmenters } = await rank(['ablation', '--count', '1', '--seed', '9']);
    assert.equal(images, 1);
    for (const { run, also } of segmenters) {
      assert.equal(run, 'ablation/runs/plain/seed-1');
      assert.deepEqual(also, ['ablation/runs/plain/seed-2']);
    }
  });

  it('refuses what is no run, has no segmenter, or has other classes', async () => {
    mkdirSync(at('empty'));
    await fails(['empty'], /empty: expected the folder of a run or of an ablation/);
    await fails(['nowhere'], /nowhere: expected the folder of a run/);
    mkdirSync(at('begun'));
    const config = readFileSync(at('run/config.yaml'), 'utf8');
    writeFileSync(at('begun/config.yaml'), config);
    await fails(['begun'], /begun: no segmenter is finished yet/);
    cpSync(at('run'), at('other'), { recursive: true });
    writeFileSync(at('other/config.yaml'), config.replace(/classes:\n {4}- \S+/, 'classes:\n    - another'));
    await fails(['run', 'other'], /other: has other classes than run/);
    rmSync(at('other/stages/source-only/weights.safetensors'));
    writeFileSync(at('other/config.yaml'), config);
    await fails(['other'], /source-only\/weights\.safetensors: cannot be read/);
  });
});
