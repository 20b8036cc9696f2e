import type { Command } from 'commander';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { prepareOutputFolder } from '../output-folder.js';
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
  const [{ resumeConfig }, { train }] = await Promise.all([
    import('../../run/run-folder.js'),
    import('../../run/train.js'),
  ]);
  const config = await resumeConfig(folder);
  prepareOutputFolder(folder);
  context.outputs.push(folder);
  await followRun(context, train(config, { resume: true, signal: context.signal }), {
    folder,
    resumeCommand: `bidiseg resume ${shortPath(folder)}`,
  });
}
