import { type Command, InvalidArgumentError } from 'commander';
import { SCORE_NAMES } from '../../inference/score-ranks.js';
import { requireDevice } from '../../pipeline/require-device.js';
import { SCORE_TEXTS } from '../../pipeline/scores.js';
import { counted, percent } from '../../support/format.js';
import type { RankedSegmenter, Ranking } from '../../workflows/rank.js';
import { addExamples, addJsonOption, type CommonOptions, deviceOption, parseCount } from '../options.js';
import type { Progress } from '../progress.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { shortPath } from '../run-view.js';
import { table } from '../table.js';

interface RankCommandOptions extends CommonOptions {
  count?: number;
  seed?: number;
  device?: string;
  compare?: boolean;
}

export function addRankCommand(program: Command): void {
  const command = program
    .command('rank')
    .description('ranks the segmenters of runs and ablations on target images alone, without their labels')
    .argument('<runs...>', 'folders of runs or ablations')
    .option(
      '--count <images>',
      "number of target images of the first run, drawn by the seed (default: the run's scoreCount, or 32)",
      parseImages,
    )
    .option('--seed <seed>', "seed of the images (default: the first run's)", parseCount)
    .option(
      '--compare',
      'also show the mIoU that the runs have measured, and how each score correlates with it; the places do not change',
    )
    .addOption(deviceOption());
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg rank runs/demo', 'every segmenter of the run, the best first'],
    ['bidiseg rank runs/one runs/two', 'one table; all are scored on target images of the first run'],
    ['bidiseg rank runs/camvid-ablation --compare', 'every variant and seed, beside the mIoU in the folder'],
  ]);
  command.action((runs: string[], options: RankCommandOptions) =>
    runCommand(options, (context) => rank(runs, options, context)),
  );
}

function parseImages(text: string): number {
  const count = parseCount(text);
  if (count < 1) throw new InvalidArgumentError('Expected a whole number of at least 1.');
  return count;
}

async function rank(
  runs: string[],
  { count, seed, device = 'cpu', compare = false }: RankCommandOptions,
  { console, signal }: CommandContext,
): Promise<void> {
  await requireDevice(device);
  const [{ rankCorrelations, rankRuns }, { drain }] = await Promise.all([
    import('../../workflows/rank.js'),
    import('../../support/generators.js'),
  ]);
  let progress: Progress | undefined;
  const ranking = await drain(rankRuns(runs, { count, seed, device, signal }), (event) => {
    progress ??= console.progress('scoring', event.total);
    progress.update(event.done, event.label);
  });
  const { images, segmenters } = ranking;
  const correlations = compare ? rankCorrelations(segmenters) : null;
  console.result(
    {
      images,
      seed: ranking.seed,
      segmenters: segmenters.map(({ miou, ...segmenter }) => (compare ? { ...segmenter, miou } : segmenter)),
      ...(correlations && { correlations }),
    },
    rankingText(ranking, correlations),
  );
}

type Correlations = ReturnType<typeof import('../../workflows/rank.js').rankCorrelations>;

function rankingText({ images, seed, segmenters }: Ranking, correlations: Correlations | null): string {
  const names = SCORE_NAMES.filter((name) => segmenters.some(({ scores }) => scores[name] !== null));
  const number = (title: string) => ({ title, align: 'right' as const });
  const columns = [
    number('place'),
    { title: 'run' },
    { title: 'stage' },
    ...names.map((name) => number(SCORE_TEXTS[name].name)),
    number('mean place'),
    ...(correlations ? [number('mIoU %')] : []),
  ];
  const rows = segmenters.map((segmenter) => [
    place(segmenter.rank),
    runText(segmenter),
    segmenter.weights === 'last' ? segmenter.label : `${segmenter.label} ${segmenter.weights}`,
    ...names.map(
      (name) =>
        `${SCORE_TEXTS[name].format(segmenter.scores[name])} ${`(${place(segmenter.ranks[name])})`.padStart(5)}`,
    ),
    place(segmenter.meanRank),
    ...(correlations ? [percent(segmenter.miou)] : []),
  ]);
  const correlation = correlations && [
    '',
    'correlation',
    '',
    ...names.map((name) => correlationText(correlations[name])),
    correlationText(correlations.meanRank),
  ];
  return [
    table(columns, correlation ? [...rows, correlation] : rows),
    '',
    `${counted(images, 'unlabeled target image')}, seed ${seed}. Places are in parentheses, and 1 is best. The mean place is over the scores that all have.`,
    ...(correlations
      ? ["The correlation is Spearman's, with the measured mIoU. It is 1 where a score has the same order."]
      : []),
  ].join('\n');
}

function runText({ run, also }: RankedSegmenter): string {
  return also.length === 0 ? shortPath(run) : `${shortPath(run)} (+${also.length})`;
}

function correlationText(value: number | null): string {
  return value === null ? '–' : value.toFixed(2);
}

function place(value: number | null): string {
  return value === null ? '–' : Number.isInteger(value) ? String(value) : value.toFixed(1);
}
