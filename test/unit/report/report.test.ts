import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { appendFile, mkdtemp, readFile, rename, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { type DefaultTreeAdapterTypes, defaultTreeAdapter, parse } from 'parse5';
import sharp from 'sharp';
import { readImage } from '../../../lib/data/image-codec.js';
import { Random } from '../../../lib/data/random.js';
import { composeGrid, gridPart } from '../../../lib/pipeline/picture-grid.js';
import { planStages } from '../../../lib/pipeline/plan.js';
import { writeReport } from '../../../lib/report/write-report.js';
import { readHistory } from '../../../lib/run/history.js';
import { readSummary, resumeConfig } from '../../../lib/run/run-files.js';
import { RunFolder } from '../../../lib/run/run-folder.js';
import { ConfigError, DataError } from '../../../lib/support/errors.js';
import { type FinishedRun, writeFinishedRun } from '../../helpers/finished-run.js';
import { ROOT } from '../../helpers/folder.js';

type Element = DefaultTreeAdapterTypes.Element;

/** HTML document as a browser parses it. */
class Page {
  readonly elements: Element[] = [];
  /** Violations of the HTML standard. */
  readonly errors: string[] = [];

  constructor(readonly source: string) {
    const document = parse(source, {
      onParseError: ({ code, startLine, startCol }) =>
        this.errors.push(`${code} at ${startLine}:${startCol}`),
    });
    const visit = (node: DefaultTreeAdapterTypes.ParentNode) => {
      for (const child of node.childNodes) {
        if (!defaultTreeAdapter.isElementNode(child)) continue;
        this.elements.push(child);
        visit(child);
      }
    };
    visit(document);
  }

  all(tag: string, attribute?: string, value?: string): Element[] {
    return this.elements.filter(
      (element) =>
        element.tagName === tag && (attribute === undefined || attributeOf(element, attribute) === value),
    );
  }

  section(id: string): Element {
    const [section] = this.all('section', 'id', id);
    assert(section, `no section ${id}`);
    return section;
  }
}

function attributeOf(element: Element, name: string): string | undefined {
  return element.attrs.find((attribute) => attribute.name === name)?.value;
}

function descendants(element: Element, tag: string): Element[] {
  return element.childNodes.flatMap((child) =>
    defaultTreeAdapter.isElementNode(child)
      ? [...(child.tagName === tag ? [child] : []), ...descendants(child, tag)]
      : [],
  );
}

function textOf(node: DefaultTreeAdapterTypes.ChildNode): string {
  if (defaultTreeAdapter.isTextNode(node)) return node.value;
  return defaultTreeAdapter.isElementNode(node) ? node.childNodes.map(textOf).join('') : '';
}

/** Returns the texts of a table's cells. */
function cellsOf(table: Element): string[][] {
  return descendants(table, 'tr').map((row) =>
    row.childNodes
      .filter((cell) => defaultTreeAdapter.isElementNode(cell))
      .map((cell) => textOf(cell).trim()),
  );
}

describe('report', () => {
  let parent: string;
  const at = (name: string) => path.join(parent, name);

  before(async () => {
    parent = await mkdtemp(path.join(tmpdir(), 'bidiseg-report-'));
  });
  after(() => rm(parent, { recursive: true }));

  async function pageOf(folder: string): Promise<Page> {
    return new Page(await readFile(await writeReport(folder), 'utf8'));
  }

  /** Checks for valid HTML that loads nothing and runs nothing. */
  function assertSelfContained(page: Page): void {
    assert.deepEqual(page.errors, []);
    for (const { tagName, attrs } of page.elements) {
      assert(!['script', 'link', 'iframe', 'object', 'embed', 'base', 'form'].includes(tagName), tagName);
      for (const { name, value } of attrs) {
        assert(!name.startsWith('on'), `${tagName} ${name}`);
        assert(!['srcset', 'action', 'poster', 'background'].includes(name), `${tagName} ${name}`);
        if (name === 'src') assert.match(value, /^data:image\/webp;base64,[\w+/]+=*$/);
        if (name === 'href') assert.match(value, /^#[\w-]+$/);
        if (name === 'style') assert.doesNotMatch(value, /url|import|expression/);
      }
    }
    for (const style of page.all('style')) assert.doesNotMatch(textOf(style), /@import|url\(/);
  }

  describe('of a whole run', () => {
    const classes = ['road', 'sky', 'car'];
    const images = ['street-1', 'street-2'];
    let page: Page;

    before(async () => {
      await writeFinishedRun({ folder: at('whole'), classes, images });
      page = await pageOf(at('whole'));
    });

    it('is one well-formed file that needs nothing beside it', () => {
      assertSelfContained(page);
      assert(page.source.length < 200_000, `${page.source.length} bytes`);
    });

    it('has every section, and a link to each', () => {
      const ids = [
        ...['results', 'scores', 'shares', 'classes', 'pictures', 'translation'],
        ...['confusion', 'pseudo-labels', 'losses', 'run'],
      ];
      assert.deepEqual(
        page.all('section').map((section) => attributeOf(section, 'id')),
        ids,
      );
      const [nav] = page.all('nav');
      assert.deepEqual(
        descendants(nav!, 'a').map((link) => attributeOf(link, 'href')),
        ids.map((id) => `#${id}`),
      );
    });

    it('shows the mIoU of every segmenter, and its gain over source only in points', async () => {
      const { stages } = await readSummary(at('whole'));
      const miou = (label: string) => 100 * stages.find((stage) => stage.label === label)!.miou!;
      const [table] = descendants(page.section('results'), 'table');
      const [, ...rows] = cellsOf(table!);
      assert.deepEqual(
        rows.map(([label]) => label),
        ['M(0)', 'M0(1)', 'M1(1)'],
      );
      for (const row of rows) {
        const [label, , , shown, gain] = row;
        assert.equal(shown, miou(label!).toFixed(1));
        const expected = miou(label!) - miou('M(0)');
        if (label === 'M(0)') assert.equal(gain, '–');
        else assert.equal(gain, (expected < 0 ? '' : '+') + expected.toFixed(1).replace('-', '−'));
      }
      const [header] = page.all('header');
      assert(textOf(header!).includes(`${miou('M1(1)').toFixed(1)}%`));
    });

    it('shows the scores without labels, each with its place', async () => {
      const { stages, ranking } = await readSummary(at('whole'));
      const [head, ...rows] = cellsOf(descendants(page.section('scores'), 'table')[0]!);
      const names = ['entropy %', 'density', 'views %', 'classes', 'teacher %'];
      assert.deepEqual(head, ['Stage', ...names, 'Mean place', 'Place', 'mIoU %']);
      for (const [label, entropy, entropyPlace, density, , , , divergence, , teacher, , , rank] of rows) {
        const { scores } = stages.find((stage) => stage.label === label)!;
        const { ranks, rank: overall } = ranking!.find((entry) => entry.label === label)!;
        assert.equal(entropy, (100 * scores!.entropy).toFixed(1));
        assert.equal(Number(entropyPlace), ranks.entropy);
        assert.equal(density, scores!.neighborhoodDensity.toFixed(2));
        assert.equal(divergence, scores!.classDivergence!.toFixed(3));
        assert.equal(teacher === '–', label !== 'M1(1)');
        assert.equal(Number(rank), overall);
      }
    });

    it('shows how often each class is predicted, beside the labels of the source', async () => {
      const { stages, classes } = await readSummary(at('whole'));
      const scored = stages.filter(({ scores }) => scores);
      const [head, ...rows] = cellsOf(descendants(page.section('shares'), 'table')[0]!);
      assert.deepEqual(head, ['Class', 'Source %', ...scored.map(({ label }) => label)]);
      const all = [scored[0]!.scores!.sourceShares!, ...scored.map(({ scores }) => scores!.classShares)];
      assert.deepEqual(
        rows,
        classes.map((name, index) => [name, ...all.map((shares) => (100 * shares[index]!).toFixed(1))]),
      );
    });

    it('shows IoU per class, and – for an absent class', async () => {
      const { stages } = await readSummary(at('whole'));
      const iou = stages.find(({ label }) => label === 'M0(1)')!.iouPerClass!;
      const [head, ...rows] = cellsOf(descendants(page.section('classes'), 'table')[0]!);
      const column = head!.indexOf('M0(1)');
      assert.deepEqual(
        rows.slice(0, 3).map((row) => [row[0], row[column]]),
        [
          ['road', '–'],
          ['sky', (100 * iou.sky!).toFixed(1)],
          ['car', (100 * iou.car!).toFixed(1)],
        ],
      );
    });

    it('shows the confusion of the first and the last segmenter, each true class as 100 %', async () => {
      const history = await readHistory(at('whole'));
      const tables = descendants(page.section('confusion'), 'table');
      for (const [index, name] of ['source-only', 'round-1/segmenter-1'].entries()) {
        const { confusion } = history.get(name)!.evaluation!;
        const shown = cellsOf(tables[index]!)
          .slice(1)
          .map((row) => row.slice(1));
        const expected = confusion.map((row) => {
          const pixels = row.reduce((sum, count) => sum + count, 0);
          return row.map((count) =>
            (100 * count) / pixels >= 0.5 ? ((100 * count) / pixels).toFixed(0) : '',
          );
        });
        assert.deepEqual(shown, expected);
      }
    });

    it('shows the kept share of each class', () => {
      const rows = cellsOf(descendants(page.section('pseudo-labels'), 'table')[0]!);
      // A class that is never predicted has no statistics.
      assert.deepEqual(rows[1], ['road', '0.0', '–', '–', '', '–']);
      assert.deepEqual(rows[2], ['sky', '33.3', '0.63', '0.75', '', '50']);
      assert.match(textOf(page.section('pseudo-labels')), /50\.0 % kept, 3 of 4 images/);
    });

    it('has a curve for every term and stage, but for terms that a stage does not use', () => {
      const curves = page
        .section('losses')
        .childNodes.flatMap((child) =>
          defaultTreeAdapter.isElementNode(child) ? descendants(child, 'figure') : [],
        )
        .map((figure) => [
          textOf(descendants(figure, 'figcaption')[0]!),
          descendants(figure, 'title').map(textOf).join(),
        ]);
      assert.deepEqual(curves, [
        ['Total', 'M(0),M0(1),M1(1)'],
        ['Segmentation', 'M(0),M0(1),M1(1)'],
        ['Adversarial', 'M0(1),M1(1)'],
        ['Pseudo label', 'M0(1),M1(1)'],
        ['Total', 'F(1)'],
        ['GAN source to target', 'F(1)'],
        ['Cycle source', 'F(1)'],
      ]);
    });

    it('shows T, before, after, pseudo-labels and truth of each image, and translations there and back', () => {
      const titles = (id: string) =>
        descendants(page.section(id), 'img').map((image) => attributeOf(image, 'alt'));
      const row = (name: string) =>
        ['T', 'M(0) before', 'M1(1) after', 'Ŷ1(1) kept pseudo-labels', 'truth'].map(
          (what) => `${name}: ${what}`,
        );
      assert.deepEqual(titles('pictures').slice(0, 10), [...row('street-1'), ...row('street-2')]);
      const there = (name: string, titles: string[]) => titles.map((title) => `${name}: ${title}`);
      assert.deepEqual(titles('translation'), [
        ...images.flatMap((name) => there(name, ['S', 'S′ = F(S)', 'F⁻¹(S′)'])),
        ...images.flatMap((name) => there(name, ['T', 'T′ = F⁻¹(T)', 'F(T′)'])),
      ]);
    });

    it('shows label maps without loss, each where it belongs', async () => {
      const [image] = page.all('img', 'alt', 'street-2: truth');
      const source = attributeOf(image!, 'src')!;
      const shown = await sharp(Buffer.from(source.split(',')[1]!, 'base64'))
        .raw()
        .toBuffer();
      const picture = await readImage(path.join(at('whole'), 'pictures', 'round-1-segmenter-1.png'));
      // The third part of the second row. Parts have 16×8 pixels with gaps of 4.
      const left = 2 * (16 + 4);
      const top = 8 + 4;
      const pixel = picture.data.subarray(
        3 * (top * picture.width + left),
        3 * (top * picture.width + left) + 3,
      );
      assert.deepEqual([...shown.subarray(0, 3)], [...pixel]);
      assert.equal(shown.length, 16 * 8 * 3);
    });

    it('is the same wherever the run is moved to', async () => {
      await writeFinishedRun({ folder: at('to-move'), classes, images });
      const before = (await pageOf(at('to-move'))).source;
      await rename(at('to-move'), at('moved-run'));
      const after = (await pageOf(at('moved-run'))).source;
      const withoutNames = (source: string) => source.replace(/to-move|moved-run|^output: .*$/gm, '');
      assert.equal(withoutNames(after), withoutNames(before));
    });

    it('needs no addon', async () => {
      const script = `
        import { writeReport } from './dist/lib/report/write-report.js';
        await writeReport(${JSON.stringify(at('whole'))});
        console.log(process.report.getReport().sharedObjects.filter((file) => /(bidiseg|torch)[^/]*$/.test(file)).join());`;
      const args = ['--input-type=module', '-e', script];
      const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: ROOT });
      assert.equal(stdout, '\n');
    });
  });

  it('shows class names, file names and messages as text, whatever they contain', async () => {
    const classes = [
      '<script>alert(1)</script>',
      `"><img src=x onerror='alert(2)'>`,
      '</style></td>&amp; & co',
    ];
    const images = [`"><svg onload=alert(3)>`, `' onmouseover='alert(4)`];
    const warning = '<iframe src="https://example.org"></iframe>';
    const folder = at('<b>run & "co"');
    await writeFinishedRun({ folder, classes, images, warning });
    const page = await pageOf(folder);
    assertSelfContained(page);
    assert.equal(textOf(page.all('h1')[0]!), '<b>run & "co"');
    const rows = cellsOf(descendants(page.section('classes'), 'table')[0]!);
    assert.deepEqual(
      rows.slice(1, 4).map(([name]) => name),
      classes,
    );
    assert(page.all('ul', 'class', 'warnings').some((list) => textOf(list).includes(warning)));
    assert.equal(attributeOf(page.all('img')[0]!, 'alt'), `${images[0]}: T`);
  });

  it('of a run in progress shows the results so far', async () => {
    await writeFinishedRun({ folder: at('begun'), classes: ['a', 'b'], images: [], count: 1 });
    const page = await pageOf(at('begun'));
    assertSelfContained(page);
    assert.match(textOf(page.all('header')[0]!), /1 of 6 stages/);
    const rows = cellsOf(descendants(page.section('run'), 'table')[0]!);
    assert.deepEqual(
      rows.slice(1).map(([label, , , time]) => [label, time]),
      [
        ['M(0)', '1 min 1 s'],
        ['F(1)', 'not finished'],
      ],
    );
    assert.equal(page.all('img').length, 0);

    await writeFinishedRun({ folder: at('nothing'), classes: ['a', 'b'], images: [], count: 0 });
    const empty = await pageOf(at('nothing'));
    assertSelfContained(empty);
    assert.match(textOf(empty.all('header')[0]!), /No segmenter is finished yet/);
  });

  it('of a run without labeled target images says so, and shows the rest', async () => {
    await writeFinishedRun({ folder: at('blind'), classes: ['a', 'b'], images: ['x'], measured: false });
    const page = await pageOf(at('blind'));
    assertSelfContained(page);
    assert.match(textOf(page.all('header')[0]!), /no labeled target images, so nothing was measured/);
    assert.deepEqual(
      page.all('section').map((section) => attributeOf(section, 'id')),
      ['results', 'pictures', 'translation', 'pseudo-labels', 'losses', 'run'],
    );
    const rows = cellsOf(descendants(page.section('results'), 'table')[0]!);
    assert.deepEqual(
      rows.slice(1).map(([label, , , miou, gain]) => [label, miou, gain]),
      ['M(0)', 'M0(1)', 'M1(1)'].map((label) => [label, '–', '–']),
    );
    assert.equal(page.all('img', 'alt', 'x: truth').length, 0);
    assert.equal(page.all('img', 'alt', 'x: M1(1) after').length, 1);
  });

  const trainedOn = async (name: string, options: Pick<FinishedRun, 'segmentation' | 'loop'>) => {
    await writeFinishedRun({ folder: at(name), classes: ['a', 'b'], images: ['x'], ...options });
    const page = await pageOf(at(name));
    return cellsOf(descendants(page.section('results'), 'table')[0]!).map((cells) => cells[1]);
  };

  it('mentions target images only for stages that learn from them', async () => {
    const source = 'source images as S′(1)';
    const labeled = `${source}, target images with Ŷ1(1)`;
    const [, ...aligned] = await trainedOn('aligned', { segmentation: { alignment: 'mean' } });
    assert.deepEqual(aligned, ['source images', `${source}, target images`, labeled]);
    const [, ...unaligned] = await trainedOn('unaligned', { segmentation: { alignment: 'none' } });
    assert.deepEqual(unaligned, ['source images', source, labeled]);
  });

  it('says where a stage starts, and that it trains on source images as they were', async () => {
    const [, ...stages] = await trainedOn('continued', {
      loop: { rounds: 2, selfTrainingRounds: 1, selfTrainingRoundsLast: 0, startFrom: 'previous' },
      segmentation: { originalShare: 0.5 },
    });
    assert.deepEqual(stages, [
      'source images',
      'source images as S′(1) and as they were, target images',
      'source images as S′(1) and as they were, target images with Ŷ1(1); starts from M0(1)',
      'source images as S′(2) and as they were, target images; starts from M1(1)',
    ]);
    const headings = descendants((await pageOf(at('continued'))).section('translation'), 'h3').map(textOf);
    assert.deepEqual(headings, ['F(1)', 'F(2); starts from F(1)']);
  });

  it('omits missing pictures, and names a broken one', async () => {
    const folder = at('thinned');
    await writeFinishedRun({ folder, classes: ['a', 'b'], images: ['x'] });
    const file = path.join(folder, 'pictures', 'source-only.png');
    await rm(file);
    const page = await pageOf(folder);
    assert.equal(page.all('img', 'alt', 'x: M(0) before').length, 0);
    assert.equal(page.all('img', 'alt', 'x: M1(1) after').length, 1);
    await appendFile(file, 'no picture');
    await assert.rejects(
      writeReport(folder),
      (error: Error) => error instanceof DataError && error.message.startsWith(`${file}: is not a PNG`),
    );
    // A report of a foreign run folder must not show files outside the folder.
    await rm(file);
    await symlink(path.join(folder, 'pictures', 'round-1-segmenter-1.png'), file);
    await assert.rejects(
      writeReport(folder),
      (error: Error) =>
        error instanceof ConfigError && error.message.startsWith(`${file}: is a symbolic link`),
    );
  });

  it('of a folder without a run is an error', async () => {
    await assert.rejects(writeReport(parent), ConfigError);
  });

  it('finds the parts of a picture where they were put', () => {
    const random = new Random('parts');
    const size = { width: 5, height: 3 };
    const part = () => ({ ...size, data: Uint8Array.from({ length: 45 }, () => random.integer(256)) });
    const rows = [
      [part(), part(), part()],
      [part(), part(), part()],
    ];
    const picture = composeGrid(rows);
    for (const [row, parts] of rows.entries()) {
      for (const [column, { data }] of parts.entries()) {
        const area = gridPart(picture, { rows: 2, columns: 3 }, { row, column });
        assert.deepEqual({ width: area.width, height: area.height }, size);
        for (let y = 0; y < area.height; y++) {
          const start = 3 * ((area.y + y) * picture.width + area.x);
          assert.deepEqual(picture.data.subarray(start, start + 15), data.subarray(15 * y, 15 * y + 15));
        }
      }
    }
  });
});

describe('history of a run', () => {
  it('of a stage that continued from an earlier step has each step once, from the last attempt', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-history-'));
    try {
      await writeFinishedRun({ folder, classes: ['a', 'b'], images: ['x'], count: 1 });
      const config = await resumeConfig(folder, { set: ['logEvery=1'] });
      const stage = planStages(config.loop)[1]!;
      const run = await RunFolder.open(config, 'resume');
      const losses = (value: number) => ({ total: value }) as never;
      const step = (number: number, value: number) =>
        run.log({
          ...{ type: 'step', stage: stage.name, step: number, steps: 4, losses: losses(value) },
          ...{ learningRate: 1, stepMs: 1, waitMs: 1 },
        });
      const start = () =>
        run.log({
          ...{ type: 'stage-start', stage: stage.name, label: stage.label, kind: stage.kind, round: 1 },
          ...{ index: 1, count: 6, steps: 4, stepsBefore: 0 },
        });
      try {
        await start();
        await run.log({ type: 'warning', stage: stage.name, message: 'of the first attempt' });
        for (const number of [1, 2, 3]) await step(number, number);
        // The stage continued from a checkpoint after the first step.
        await start();
        for (const number of [2, 3, 4]) await step(number, 10 * number);
      } finally {
        await run.close();
      }
      await appendFile(path.join(folder, 'events.jsonl'), '{"type":"step","stage":"round-1/tr');
      const { losses: curves, warnings } = (await readHistory(folder)).get(stage.name)!;
      assert.deepEqual(curves.get('total'), [
        { step: 1, value: 1 },
        { step: 2, value: 20 },
        { step: 3, value: 30 },
        { step: 4, value: 40 },
      ]);
      assert.deepEqual(warnings, []);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
