import path from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { requireTrainingDevice } from '../../pipeline/require-device.js';
import { counted, duration, percent } from '../../support/format.js';
import type { AblationEvent } from '../../workflows/ablation/ablation.js';
import type { Ablation } from '../../workflows/ablation/ablation-config.js';
import type { AblationResults } from '../../workflows/ablation/results.js';
import { EXIT_FAILURE } from '../exit.js';
import {
  acceptDataOption,
  addExamples,
  addJsonOption,
  type CommonOptions,
  collectAssignment,
  parseCount,
} from '../options.js';
import { claimFiles } from '../output-folder.js';
import type { Progress } from '../progress.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { shortPath } from '../run-view.js';
import { table } from '../table.js';

interface AblationCommandOptions extends CommonOptions {
  set?: string[];
  output?: string;
  seeds?: number[];
  variants?: string[];
  jobs: number;
  acceptChangedData?: boolean;
}

export function addAblationCommand(program: Command): void {
  const command = program
    .command('ablation')
    .description('runs variants of a config with several seeds and makes one table of their results')
    .argument('<config>', 'ablation file, YAML or JSON: base, seeds, variants, rows')
    .option('--set <key=value>', 'override a key in every variant; repeatable', collectAssignment)
    .option('-o, --output <folder>', "folder for all runs (default: the file's)")
    .option('--seeds <list>', "seeds, such as 1,2,3 (default: the file's)", parseSeeds)
    .option(
      '--variants <list>',
      'variants to run, separated by commas (default: all); complete stages of the others are reused, and the table still shows them',
      parseNames,
    )
    .option(
      '--jobs <number>',
      'number of stages that run at the same time; they share the threads',
      parseJobs,
      1,
    )
    .addOption(acceptDataOption());
  addJsonOption(command);
  addExamples(command, [
    [
      'bidiseg ablation configs/camvid-ablation.yaml',
      'every variant with every seed; shared stages run once',
    ],
    ['bidiseg ablation configs/camvid-ablation.yaml', 'a second time: resumes, or shows the table again'],
    [
      "bidiseg ablation configs/camvid-ablation.yaml --variants 'bdl,target labels'",
      'after a first run with --seeds 1: all seeds for two variants',
    ],
    ['bidiseg ablation street.yaml --seeds 1 --set segmentation.steps=50 -o /tmp/try', 'a quick look'],
  ]);
  command.action((file: string, options: AblationCommandOptions) =>
    runCommand(options, (context) => ablation(file, options, context)),
  );
}

async function ablation(
  file: string,
  options: AblationCommandOptions,
  context: CommandContext,
): Promise<void> {
  const [{ findVariant, loadAblation }, { runAblation }, { runStageProcess }] = await Promise.all([
    import('../../workflows/ablation/ablation-config.js'),
    import('../../workflows/ablation/ablation.js'),
    import('../stage-process.js'),
  ]);
  const { jobs, set, output, seeds, variants, acceptChangedData = false } = options;
  const wanted = await loadAblation(file, { output, seeds, ...(set && { set }) });
  for (const name of variants ?? []) findVariant(wanted.variants, name, '--variants');
  for (const { configs } of wanted.variants) await requireTrainingDevice(configs[0]!);
  await claimFiles(wanted.output, { command: 'ablation', files: RESULT_FILES }, context);
  // A stage saves its state before it ends, which may take long.
  context.graceMs = Number.POSITIVE_INFINITY;
  context.kept = () =>
    `finished stages are kept in ${shortPath(wanted.output)}; run the same command to resume`;
  const view = new AblationView(context);
  const events = runAblation(wanted, {
    jobs,
    variants,
    acceptChangedData,
    signal: context.signal,
    runStage: (stage, signal) =>
      runStageProcess(stage, {
        jobs,
        signal,
        onProgress: ({ done, total }) => view.showStage(stageText(stage), done, total),
      }),
  });
  let failed = 0;
  for await (const event of events) {
    view.show(event);
    if (event.type === 'failure') failed++;
    if (event.type === 'run-end') await writeResults(wanted);
  }
  const results = await writeResults(wanted);
  await showResults(wanted, results, context);
  if (failed > 0) {
    process.exitCode = EXIT_FAILURE;
    context.console.error(
      'ERR_ABLATION',
      `${counted(failed, 'run')} failed; run the same command to try again`,
    );
  }
}

/** Files that an ablation writes beside its runs. */
const RESULT_FILES = ['results.json', 'table.md'];

/** Writes `table.md` and `results.json` with the results so far. */
async function writeResults(wanted: Ablation): Promise<AblationResults> {
  const [
    { ablationResults },
    { ablationMarkdown },
    { writeFileAtomically },
    { readJson, toJson },
    { packageVersion },
  ] = await Promise.all([
    import('../../workflows/ablation/results.js'),
    import('../../workflows/ablation/table.js'),
    import('../../support/files.js'),
    import('../../run/run-files.js'),
    import('../../support/package.js'),
  ]);
  const results = await ablationResults(wanted, packageVersion(), (folder) =>
    readJson(path.join(folder, 'summary.json')),
  );
  await writeFileAtomically(path.join(wanted.output, 'results.json'), toJson(results));
  await writeFileAtomically(path.join(wanted.output, 'table.md'), ablationMarkdown(results));
  return results;
}

async function showResults(
  wanted: Ablation,
  results: AblationResults,
  { console }: CommandContext,
): Promise<void> {
  const { ablationTable, tableNotes } = await import('../../workflows/ablation/table.js');
  const { titles, lines } = ablationTable(results);
  const columns = titles.map((title, index) => ({
    title,
    align: index < 2 ? ('left' as const) : ('right' as const),
  }));
  const place = (name: string) => path.join(shortPath(wanted.output), name);
  console.result(
    { folder: wanted.output, ...results },
    [
      '',
      table(columns, lines),
      '',
      ...tableNotes(results),
      '',
      `table    ${place('table.md')}`,
      `results  ${place('results.json')}`,
    ].join('\n'),
  );
}

class AblationView {
  readonly #context: CommandContext;
  #progress: Progress | undefined;
  #done = 0;
  #total = 0;
  /** Progress of each running stage, in words. */
  readonly #running = new Map<string, string>();

  constructor(context: CommandContext) {
    this.#context = context;
  }

  show(event: AblationEvent): void {
    const { console } = this.#context;
    const { type, ...data } = event;
    console.event(type, data);
    switch (event.type) {
      case 'ablation-start':
        this.#done = event.done;
        this.#total = event.different;
        console.note(
          `${counted(event.runs, 'run')} of ${counted(event.stages, 'stage')}: ` +
            `${event.different} different, ${event.done} of these done`,
        );
        this.#draw();
        break;
      case 'stage-end': {
        this.#running.delete(stageText(event));
        if (event.from !== null) break;
        this.#done++;
        const { miou, seconds } = event.record;
        const result = miou === null ? '' : `mIoU ${percent(miou)} %  `;
        this.#note(`[${this.#done}/${this.#total}] ${stageText(event)}  ${result}${duration(seconds)}`);
        break;
      }
      case 'failure':
        this.#running.delete(stageText(event));
        this.#note(`${stageText(event)}  failed: ${event.message}`);
        break;
      case 'warning':
        this.#note(`${shortPath(event.folder)}  warning: ${event.message}`);
        break;
      case 'run-end':
        this.#note(`${event.variant}, seed ${event.seed}  complete: ${shortPath(event.folder)}/report.html`);
    }
  }

  /** Shows the progress of a running stage. */
  showStage(stage: string, done: number, total: number): void {
    this.#running.set(stage, `${stage} ${done}/${total}`);
    this.#progress?.update(this.#done, [...this.#running.values()].join(', '));
  }

  #note(line: string): void {
    this.#context.console.note(line);
    this.#draw();
  }

  /** Redraws the progress display, which a line for people removes. */
  #draw(): void {
    this.#progress = this.#context.console.progress('stages', this.#total);
    this.#progress.update(this.#done, [...this.#running.values()].join(', '));
  }
}

function stageText({
  variant,
  seed,
  stage,
}: {
  variant: string;
  seed: number;
  stage: { label: string };
}): string {
  return `${variant}, seed ${seed}: ${stage.label}`;
}

function parseSeeds(text: string): number[] {
  const seeds = text.split(',').map((part) => parseCount(part.trim()));
  if (new Set(seeds).size < seeds.length)
    throw new InvalidArgumentError('Expected different seeds, such as 1,2,3.');
  return seeds;
}

function parseNames(text: string): string[] {
  return text.split(',').map((name) => name.trim());
}

function parseJobs(text: string): number {
  const jobs = parseCount(text);
  if (jobs < 1) throw new InvalidArgumentError('Expected a whole number of at least 1.');
  return jobs;
}
