import type { Command } from 'commander';
import { requireTrainingDevice } from '../../pipeline/require-device.js';
import { UsageError } from '../exit.js';
import {
  acceptDataOption,
  addExamples,
  addJsonOption,
  assignments,
  type CommonOptions,
  collectAssignment,
  deviceOption,
  parseCount,
} from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { followRun } from '../run-view.js';

interface TrainOptions extends CommonOptions {
  stage?: string;
  set?: string[];
  acceptChangedData?: boolean;
  output?: string;
  seed?: number;
  device?: string;
  overwrite?: boolean;
  resume?: boolean;
}

export function addTrainCommand(program: Command): void {
  const command = program
    .command('train')
    .description('trains the whole loop of bidirectional learning, or one stage of it, from a config file')
    .argument('<config>', 'config file, YAML or JSON')
    .option(
      '--stage <name>',
      "run only this stage: a name, a label such as 'M0(1)', or a kind (default: all stages)",
    )
    .option('--set <key=value>', 'override a key of the config; repeatable', collectAssignment)
    .option('-o, --output <folder>', "run folder (default: the config's)")
    .option('--seed <number>', 'short for --set seed=NUMBER', parseCount)
    .addOption(deviceOption())
    .option('--resume', 'resume the run in the output folder')
    .addOption(acceptDataOption())
    .option('--overwrite', 'replace the run in the output folder');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg train street.yaml', 'source-only training, then every round of translation and segmentation'],
    ['bidiseg train street.yaml --set loop.rounds=1 --set segmentation.steps=20000', 'a shorter run'],
    ['bidiseg train street.yaml --stage source-only', 'the baseline alone'],
    ['bidiseg train street.yaml --resume', 'resume after an interruption; finished stages do not run again'],
  ]);
  command.action((file: string, options: TrainOptions) =>
    runCommand(options, (context) => train(file, options, context)),
  );
}

async function train(file: string, options: TrainOptions, context: CommandContext): Promise<void> {
  const { stage, resume = false, overwrite = false, acceptChangedData = false } = options;
  if (resume && overwrite) throw new UsageError('--resume and --overwrite cannot be combined');
  if (acceptChangedData && !resume && stage === undefined) {
    throw new UsageError('--accept-changed-data needs --resume or --stage');
  }
  const [{ loadConfig }, run] = await Promise.all([
    import('../../config/load.js'),
    import('../../workflows/train.js'),
  ]);
  const config = await loadConfig(file, { set: assignments(options, ['output', 'seed', 'device']) });
  await requireTrainingDevice(config);
  prepareOutputFolder(config.output, context);
  const events = run.train(config, {
    resume,
    overwrite,
    acceptChangedData,
    signal: context.signal,
    ...(stage !== undefined && { only: stage }),
  });
  await followRun(context, events, {
    folder: config.output,
  });
}
