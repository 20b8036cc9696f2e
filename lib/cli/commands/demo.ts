import type { Command } from 'commander';
import {
  addExamples,
  addJsonOption,
  assignments,
  type CommonOptions,
  collectAssignment,
  deviceOption,
  parseCount,
} from '../options.js';
import { prepareRunFolder } from '../output-folder.js';
import { requireDevice } from '../require-device.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { followRun, shortPath } from '../run-view.js';

interface DemoOptions extends CommonOptions {
  output: string;
  seed?: number;
  device?: string;
  set?: string[];
}

export function addDemoCommand(program: Command): void {
  const command = program
    .command('demo')
    .description('runs all of bidirectional learning, small, on generated street scenes; needs no data')
    .option('-o, --output <folder>', 'run folder; an earlier run in it is replaced', 'runs/demo')
    .option('--seed <number>', 'seed of weights and of the order of data (default: 1)', parseCount)
    .addOption(deviceOption())
    .option('--set <key=value>', 'overrides a key of the config; may be repeated', collectAssignment);
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg demo', 'day scenes with labels, dusk scenes without: watch the segmenter get better on dusk'],
    ['bidiseg demo --seed 2 --output runs/demo-2', 'the same with other weights, beside the first'],
    ['bidiseg demo --set loop.selfTrainingRounds=1', 'one round of self-training only'],
  ]);
  command.action((options: DemoOptions) => runCommand(options, (context) => demo(options, context)));
}

async function demo(options: DemoOptions, context: CommandContext): Promise<void> {
  const [{ createConfig }, { train }] = await Promise.all([
    import('../../config/load.js'),
    import('../../run/train.js'),
  ]);
  const config = createConfig(
    { preset: 'demo', output: options.output },
    { set: assignments(options, ['seed', 'device']) },
  );
  await requireDevice(config.device);
  prepareRunFolder(config.output);
  context.outputs.push(config.output);
  await followRun(context, train(config, { overwrite: true, signal: context.signal }), {
    folder: config.output,
    resumeCommand: `bidiseg resume ${shortPath(config.output)}`,
  });
}
