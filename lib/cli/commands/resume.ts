import type { Command } from 'commander';
import { openRunConfig } from '../network-source.js';
import {
  acceptDataOption,
  addExamples,
  addJsonOption,
  type CommonOptions,
  collectAssignment,
} from '../options.js';
import { addProcessOptions, type ProcessOptions, trainAndFollow } from '../processes.js';
import { type CommandContext, runCommand } from '../run-command.js';

interface ResumeOptions extends CommonOptions, ProcessOptions {
  set?: string[];
  acceptChangedData?: boolean;
}

export function addResumeCommand(program: Command): void {
  const command = program
    .command('resume')
    .description('resumes an interrupted run with its own copy of the config')
    .argument('<run>', 'run folder')
    .option(
      '--set <key=value>',
      'override a key that changes no result, such as checkpoint.every; repeatable',
      collectAssignment,
    )
    .addOption(acceptDataOption());
  addProcessOptions(command);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg resume runs/demo', 'keeps finished stages and continues the interrupted one'],
    [
      'bidiseg resume runs/demo --set nonFinite.policy=skip',
      'continues without a batch whose loss is not finite',
    ],
  ]);
  command.action((folder: string, options: ResumeOptions) =>
    runCommand(options, (context) => resume(folder, options, context)),
  );
}

async function resume(
  folder: string,
  { set, acceptChangedData = false, processes, processTimeout }: ResumeOptions,
  context: CommandContext,
): Promise<void> {
  const config = await openRunConfig(folder, set);
  const shared = {
    ...(processes !== undefined && { processes }),
    ...(processTimeout !== undefined && { processTimeout }),
  };
  await trainAndFollow(config, { resume: true, acceptChangedData, ...shared }, context);
}
