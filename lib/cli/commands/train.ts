import type { Command } from 'commander';
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
import { addProcessOptions, type ProcessOptions, trainAndFollow } from '../processes.js';
import { type CommandContext, runCommand } from '../run-command.js';

interface TrainOptions extends CommonOptions, ProcessOptions {
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
  addProcessOptions(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg train street.yaml', 'source-only training, then every round of translation and segmentation'],
    ['bidiseg train street.yaml --set loop.rounds=1 --set segmentation.steps=20000', 'a shorter run'],
    ['bidiseg train street.yaml --stage source-only', 'the baseline alone'],
    ['bidiseg train street.yaml --resume', 'resume after an interruption; finished stages do not run again'],
    ['bidiseg train street.yaml --processes 4', 'the same run in four processes of this machine'],
  ]);
  command.action((file: string, options: TrainOptions) =>
    runCommand(options, (context) => train(file, options, context)),
  );
}

async function train(file: string, options: TrainOptions, context: CommandContext): Promise<void> {
  const { stage, resume = false, overwrite = false, acceptChangedData = false } = options;
  const { processes, processTimeout } = options;
  if (resume && overwrite) throw new UsageError('--resume and --overwrite cannot be combined');
  if (acceptChangedData && !resume && stage === undefined) {
    throw new UsageError('--accept-changed-data needs --resume or --stage');
  }
  const { loadConfig } = await import('../../config/load.js');
  const config = await loadConfig(file, { set: assignments(options, ['output', 'seed', 'device']) });
  const run = { resume, overwrite, acceptChangedData, ...(stage !== undefined && { only: stage }) };
  const shared = {
    ...(processes !== undefined && { processes }),
    ...(processTimeout !== undefined && { processTimeout }),
  };
  await trainAndFollow(config, { ...run, ...shared }, context);
}
