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
import { followRun, shortPath } from '../run-view.js';

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
    .description('runs all of bidirectional learning, small, on generated street scenes; needs no data')
    .option('-o, --output <folder>', 'run folder', 'runs/demo')
    .option('--seed <number>', 'seed of weights and of the order of data (default: 1)', parseCount)
    .addOption(deviceOption())
    .option('--set <key=value>', 'overrides a key of the config; may be repeated', collectAssignment)
    .option('--overwrite', 'train again although the run folder holds the same run');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg demo', 'day scenes with labels, dusk scenes without: watch the segmenter get better on dusk'],
    ['bidiseg demo', 'a second time: goes on where an interrupted run stopped, or shows the finished one'],
    ['bidiseg demo --seed 2 --output runs/demo-2', 'the same with other weights, beside the first'],
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
  // The demo's own earlier run of the same config is gone on with; that of another config is replaced.
  const resume = !options.overwrite && (await holdsRunOf(config));
  await followRun(context, train(config, { resume, overwrite: !resume, signal: context.signal }), {
    folder: config.output,
    resumeCommand: `bidiseg resume ${shortPath(config.output)}`,
  });
}
