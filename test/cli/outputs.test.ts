import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { contentOf } from '../helpers/folder.js';
import {
  bidiseg,
  jsonLines,
  temporaryFiles,
  temporaryFolder,
  writeTinyConfig,
  writeTinyData,
} from './command-line.js';

/** The commands that fill a folder, each with a folder of images, and all files that it writes for `names`. */
const FILLING: { command: string; options: string[]; files: (names: string[]) => string[] }[] = [
  { command: 'translate', options: [], files: (names) => names },
  {
    command: 'segment',
    options: ['--write', 'labels,color'],
    files: (names) => ['labels', 'color'].flatMap((kind) => names.map((name) => `${kind}/${name}`)),
  },
  // Everything is kept.
  {
    command: 'pseudo-label',
    options: ['--method', 'mpt', '--threshold', '0'],
    files: (names) => [...names, 'manifest.json'],
  },
];
const NAMES = ['target-0.png', 'target-1.png', 'target-2.png'];
const MANIFEST = '.bidiseg.json';

describe('command line: nothing is written over but what bidiseg made', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const run = (args: string[], cwd = folder.path) => bidiseg(args, { cwd });

  /** The command fails with one line, and every file is byte for byte as before. */
  async function refuses(args: string[], message: RegExp, cwd?: string): Promise<void> {
    const before = contentOf(folder.path);
    const { stderr, code } = await run(args, cwd);
    assert.ok(code === 1 || code === 2, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, /^bidiseg: [^\n]*\n$/);
    assert.match(stderr, message);
    assert.deepEqual(contentOf(folder.path), before);
  }

  /** The command succeeds, and no file but those that `isResult` names is touched. */
  async function writes(args: string[], isResult: (file: string) => boolean, cwd?: string): Promise<void> {
    const others = () => Object.entries(contentOf(folder.path)).filter(([file]) => !isResult(file));
    const before = others();
    const { code, stderr } = await run(args, cwd);
    assert.equal(code, 0, stderr);
    assert.deepEqual(others(), before);
  }

  const manifest = (place: string) =>
    JSON.parse(readFileSync(at(place, MANIFEST), 'utf8')) as {
      command: string;
      version: string;
      files: string[];
    };

  before(async () => {
    await writeTinyData(folder.path);
    const config = writeTinyConfig(folder.path, {
      segmentation: { steps: 1, sourceOnlySteps: 1, pseudoLabelSteps: 1 },
    });
    const { code, stderr } = await run(['train', config]);
    assert.equal(code, 0, stderr);
    cpSync(at('target'), at('photos'), { recursive: true });
    symlinkSync('photos', at('link'));
  });

  for (const { command, options, files } of FILLING) {
    const fill = (input: string, output: string, more: string[] = []) => [
      ...[command, input, '-o', output, '-r', at('run')],
      ...[...options, ...more],
    ];
    afterEach(() => {
      rmSync(at('photos/images/new'), { recursive: true, force: true });
    });
    const inOutput = /(is|lies in) the output folder .*; choose another with --output$/m;

    describe(command, () => {
      it('refuses an output folder that is, or lies around, its input', async () => {
        await refuses(fill('photos/images', 'photos/images'), inOutput);
        await refuses(fill('photos/images', at('link'), ['--overwrite']), inOutput);
        await refuses(fill('.', '.', ['--overwrite']), inOutput, at('photos/images'));
      });

      it('refuses a folder with files of somebody else', async () => {
        const strange =
          /photos\/labels: holds other files \(target-0\.png, .*\), expected a new or empty folder; choose another/;
        await refuses(fill('photos/images', 'photos/labels', ['--overwrite']), strange);
      });

      it('fills a new folder below its input, which it leaves out of the search from then on', async () => {
        const place = 'photos/images/new';
        const expected = files(NAMES).sort();
        const isResult = (file: string) => file.startsWith(`${place}/`);
        await writes(fill('photos/images', place), isResult);
        const written = () =>
          Object.keys(contentOf(at(place)))
            .filter((name) => name !== MANIFEST)
            .sort();
        assert.deepEqual(written(), expected);
        assert.deepEqual(manifest(place).files.toSorted(), expected);
        assert.equal(manifest(place).command, command);
        await refuses(
          fill('photos/images', place),
          /new: holds the results of 'bidiseg .*, or replace them with --overwrite/,
        );
        writeFileSync(at(place, 'mine.txt'), 'mine');
        const again = fill('photos/images', place, ['--overwrite']);
        if (command === 'pseudo-label') {
          // Labels stand alone in their folder.
          await refuses(again, /mine\.txt: exists and was not written by bidiseg/);
          rmSync(at(place, 'mine.txt'));
        }
        await writes(again, (file) => isResult(file) && !file.endsWith('/mine.txt'));
        assert.deepEqual(
          written().filter((name) => name !== 'mine.txt'),
          expected,
        );
        assert.equal(existsSync(at(place, 'mine.txt')), command !== 'pseudo-label');
        rmSync(at(place), { recursive: true });
      });
    });
  }

  it('leaves nothing where it fails before its first result', async () => {
    mkdirSync(at('broken'));
    writeFileSync(at('broken/a.png'), 'no image');
    await refuses(['segment', 'broken', '-o', 'new/deep/out', '-r', 'run'], /a\.png: is not a PNG/);
    assert.ok(!existsSync(at('new')));
    mkdirSync(at('empty'));
    await refuses(['translate', 'broken', '-o', 'empty', '-r', 'run'], /a\.png: is not a PNG/);
    assert.deepEqual(readdirSync(at('empty')), []);
    for (const name of ['broken', 'empty']) rmSync(at(name), { recursive: true });
  });

  it('files and patterns in the output folder: says that it must be another one', async () => {
    const images = at('photos/images');
    const message = /lies in the output folder \.; choose another with --output/;
    await refuses(['segment', '*.png', '-o', '.', '-r', at('run')], message, images);
    await refuses(['translate', 'target-0.png', '-o', '.', '-r', at('run')], message, images);
  });

  it('what a killed segment wrote is listed, and replaced on request', async () => {
    const image = readFileSync(at('photos/images/target-0.png'));
    mkdirSync(at('many'));
    for (let index = 0; index < 40; index++) writeFileSync(at('many', `${index}.png`), image);
    const args = ['segment', 'many', '-r', 'run', '-o', 'killed', '--size', '320x240', '--json'];
    const { code } = await bidiseg(args, {
      cwd: folder.path,
      signal: { name: 'SIGKILL', onceStdoutHas: '"done":3' },
    });
    assert.equal(code, null);
    const { files } = manifest('killed');
    assert.equal(files.length, 3 * 40);
    const written = Object.keys(contentOf(at('killed'))).filter((name) => name.endsWith('.png'));
    assert.ok(written.length >= 9 && written.length < files.length, `${written.length} files`);
    assert.ok(written.every((name) => files.includes(name)));
    writeFileSync(at('killed/mine.txt'), 'mine');
    await refuses(args, /killed: holds the results of 'bidiseg segment'/);
    const few = ['segment', 'many/7.png', '-r', 'run', '-o', 'killed', '--write', 'labels', '--overwrite'];
    await writes(few, (file) => file.startsWith('killed/') && file !== 'killed/mine.txt');
    assert.deepEqual(readdirSync(at('killed')).sort(), [MANIFEST, 'labels', 'mine.txt']);
    assert.deepEqual(readdirSync(at('killed/labels')), ['7.png']);
    assert.deepEqual(temporaryFiles(at('killed')), []);
  });

  it('pseudo-label lists the files that it wrote in the end', async () => {
    const { code } = await run([
      'pseudo-label',
      'photos/images',
      '-r',
      'run',
      '-o',
      'none',
      '--method',
      'mpt',
      '--threshold',
      '1',
    ]);
    assert.equal(code, 0);
    assert.deepEqual(manifest('none').files, ['manifest.json']);
    // A label by hand in its place is not ours.
    writeFileSync(at('none/target-0.png'), 'mine');
    await refuses(
      [
        'pseudo-label',
        'photos/images',
        '-r',
        'run',
        '-o',
        'none',
        '--method',
        'mpt',
        '--threshold',
        '0',
        '--overwrite',
      ],
      /none\/target-0\.png: exists and was not written by bidiseg/,
    );
  });

  it('commands that write one file', async () => {
    const weights = 'run/stages/source-only/weights.safetensors';
    const photo = 'photos/images/target-0.png';
    symlinkSync(weights, at('to-weights.safetensors'));
    const exists = /exists already; choose another file, or replace it with --overwrite$/m;
    for (const write of [
      (file: string) => ['convert', weights, file],
      (file: string) => ['export', weights, file, '--format', 'onnx'],
      (file: string) => ['report', 'run', '-o', file],
      (file: string) => ['info', 'target', '--contact-sheet', file],
    ]) {
      await refuses(write(photo), exists);
      await writes(write('made/new.png'), (file) => file === 'made/new.png');
      await writes([...write('made/new.png'), '--overwrite'], (file) => file === 'made/new.png');
      rmSync(at('made'), { recursive: true });
    }
    writeFileSync(at('mine.yaml'), 'mine');
    await refuses(['init', '.', '-o', 'mine.yaml'], exists);
    const input = /: is the input; choose another file to write$/m;
    await refuses(['convert', weights, 'to-weights.safetensors', '--overwrite'], input);
    await refuses(['export', weights, at(weights), '--format', 'onnx', '--overwrite'], input);
    await refuses(['report', 'run', '-o', 'run/config.yaml', '--overwrite'], /lies in run, which is read/);
    const sheet = ['info', 'target', '--contact-sheet', 'target/labels/new.png', '--overwrite'];
    await refuses(sheet, /lies in target\/labels, which is read; choose another file to write/);
    // Its own report is a run's to replace, whatever it is called.
    for (const own of [[], ['-o', at('run/report.html')]]) {
      await writes(['report', 'run', ...own], (file) => file === 'run/report.html');
    }
  });

  it('train: never data, weights or anything else that the new run reads', async () => {
    const other = ['train', 'config.json', '--overwrite', '--set'];
    const lies = /lies in the run folder that is to be overwritten; choose another output$/m;
    await refuses([...other, 'data.source.images=run/translated/round-1'], lies);
    await refuses([...other, 'segmenter.initialWeights=run/stages/source-only/weights.safetensors'], lies);
    await refuses(
      ['train', 'config.json', '-o', 'photos', '--overwrite'],
      /expected a run folder but found other files/,
    );
    await refuses(
      ['train', 'config.json', '-o', 'link/images'],
      /expected a run folder but found other files/,
    );
    // A run below its images is left out of the search.
    const args = ['train', 'config.json', '--set', 'loop.rounds=0', '-o', 'target/images/run'];
    await writes(args, (file) => file.startsWith('target/images/run/'));
    const { code, stderr } = await run(['resume', 'target/images/run']);
    assert.equal(code, 0, stderr);
    rmSync(at('target/images/run'), { recursive: true });
  });

  it("ablation: writes over nobody's table.md and results.json", async () => {
    const set = ['--set', 'loop.rounds=0', '--seeds', '1'];
    writeFileSync(
      at('ablation.yaml'),
      'base: config.json\noutput: abl\nseeds: [1]\nvariants: { one: null }\n',
    );
    mkdirSync(at('abl'));
    for (const name of ['table.md', 'results.json']) {
      writeFileSync(at('abl', name), 'mine');
      await refuses(
        ['ablation', 'ablation.yaml', ...set],
        new RegExp(`abl/${name}: exists and was not written by bidiseg`),
      );
      rmSync(at('abl', name));
    }
    writeFileSync(at('abl/notes.txt'), 'mine');
    for (let time = 0; time < 2; time++) {
      await writes(
        ['ablation', 'ablation.yaml', ...set],
        (file) => file.startsWith('abl/') && file !== 'abl/notes.txt',
      );
    }
    assert.deepEqual(manifest('abl').files, ['results.json', 'table.md']);
  });

  it("--set 'output=exp #2' runs there, and leaves exp alone", async () => {
    const train = ['train', 'config.json', '--set', 'loop.rounds=0'];
    await writes([...train, '--set', 'output=exp'], (file) => file.startsWith('exp/'));
    await writes([...train, '--overwrite', '--set', 'output=exp #2'], (file) => file.startsWith('exp #2/'));
    assert.ok(existsSync(at('exp #2/summary.json')));
  });

  it('the hint how to continue is a command line that a shell reads', async () => {
    const config = writeTinyConfig(folder.path, { segmentation: { sourceOnlySteps: 10_000 } });
    const { code, stderr } = await bidiseg(['train', config, '-o', "it's a run", '--json'], {
      cwd: folder.path,
      signal: { name: 'SIGINT', onceStdoutHas: '"event":"step"' },
    });
    assert.equal(code, 130);
    assert.match(stderr, /resume with: bidiseg resume 'it'\\''s a run'\n$/);
  });

  it('SIGHUP saves as SIGTERM does, also when it comes twice: code 129', async () => {
    const config = writeTinyConfig(folder.path, { segmentation: { sourceOnlySteps: 10_000 } });
    const { code, stdout, stderr } = await bidiseg(['train', config, '-o', 'hung-up', '--json'], {
      cwd: folder.path,
      signal: { name: 'SIGHUP', onceStdoutHas: '"event":"step"', times: 2 },
    });
    assert.equal(code, 129, stderr);
    const [, steps] = /M\(0\) up to step (\d+) are kept in hung-up; resume with: bidiseg resume hung-up/.exec(
      stderr,
    )!;
    assert.equal(jsonLines(stdout).at(-1)!.code, 'ERR_INTERRUPTED');
    const resumed = await bidiseg(['resume', 'hung-up', '--json'], {
      cwd: folder.path,
      signal: { name: 'SIGINT', onceStdoutHas: '"event":"step"' },
    });
    const start = jsonLines(resumed.stdout).find(({ event }) => event === 'stage-start')!;
    assert.equal(start.stepsBefore, Number(steps));
  });
});
