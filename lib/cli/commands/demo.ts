import type { Command } from 'commander';
import { requireTrainingDevice } from '../../pipeline/require-device.js';
import {
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

interface DemoOptions extends CommonOptions {
  output: string;
  seed?: number;
  device?: string;
  set?: string[];
  overwrite?: boolean;
}

export function addDemoCommand(program: Command): void {
  const command = program
    .command('demo')
    .description('runs a small version of the whole training on generated street scenes; needs no data')
    .option('-o, --output <folder>', 'run folder', 'runs/demo')
    .option('--seed <number>', 'seed of the weights and the order of the data (default: 1)', parseCount)
    .addOption(deviceOption())
    .option('--set <key=value>', 'override a key of the config; repeatable', collectAssignment)
    .option(
      '--overwrite',
      'replace the run in the run folder (default: resume it if its config is the same)',
    );
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg demo', 'day scenes with labels, dusk scenes without: the segmenter learns dusk'],
    ['bidiseg demo', 'a second time: resumes an interrupted run, or shows the finished one'],
    ['bidiseg demo --seed 2 --output runs/demo-2', 'a second demo with other initial weights'],
    ['bidiseg demo --set loop.selfTrainingRounds=1', 'one round of self-training only'],
  ]);
  command.action((options: DemoOptions) => runCommand(options, (context) => demo(options, context)));
}

async function demo(options: DemoOptions, context: CommandContext): Promise<void> {
  const [{ createConfig }, { holdsRunOf }, { train }] = await Promise.all([
    import('../../config/load.js'),
    import('../../run/run-folder.js'),
    import('../../workflows/train.js'),
  ]);
  const config = createConfig(
    { preset: 'demo', output: options.output },
    { set: assignments(options, ['seed', 'device']) },
  );
  await requireTrainingDevice(config);
  prepareOutputFolder(config.output, context);
  // Resumes an earlier run of the same config. Any other is an error, unless it may be overwritten.
  const { overwrite = false } = options;
  const resume = !overwrite && (await holdsRunOf(config));
  await followRun(context, train(config, { resume, overwrite, signal: context.signal }), {
    folder: config.output,
  });
}
