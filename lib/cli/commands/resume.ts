import type { Command } from 'commander';
import { openRunConfig } from '../network-source.js';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
import { requireDevice } from '../require-device.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { followRun, shortPath } from '../run-view.js';

export function addResumeCommand(program: Command): void {
  const command = program
    .command('resume')
    .description('goes on with an interrupted run, from its own copy of the config')
    .argument('<run>', 'run folder');
  addJsonOption(command);
  addExamples(command, [['bidiseg resume runs/demo', 'finished stages are kept, the others run']]);
  command.action((folder: string, options: CommonOptions) =>
    runCommand(options, (context) => resume(folder, context)),
  );
}

async function resume(folder: string, context: CommandContext): Promise<void> {
  const { train } = await import('../../run/train.js');
  const config = await openRunConfig(folder);
  await requireDevice(config.device);
  prepareOutputFolder(folder);
  context.outputs.push(folder);
  await followRun(context, train(config, { resume: true, signal: context.signal }), {
    folder,
    resumeCommand: `bidiseg resume ${shortPath(folder)}`,
  });
}
