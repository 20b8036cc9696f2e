import type { Command } from 'commander';
import { requireTrainingDevice } from '../../pipeline/require-device.js';
import { openRunConfig } from '../network-source.js';
import {
  acceptDataOption,
  addExamples,
  addJsonOption,
  type CommonOptions,
  collectAssignment,
} from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { followRun } from '../run-view.js';

interface ResumeOptions extends CommonOptions {
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
  { set, acceptChangedData = false }: ResumeOptions,
  context: CommandContext,
): Promise<void> {
  const { train } = await import('../../workflows/train.js');
  const config = await openRunConfig(folder, set);
  await requireTrainingDevice(config);
  prepareOutputFolder(folder, context);
  await followRun(context, train(config, { resume: true, acceptChangedData, signal: context.signal }), {
    folder,
  });
}
