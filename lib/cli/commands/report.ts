import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { realPath } from '../../support/files.js';
import { bytesText } from '../../support/format.js';
import { openRunConfig } from '../network-source.js';
import { addExamples, addJsonOption, addOverwriteOption, type CommonOptions } from '../options.js';
import { prepareOutputFile } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { shortPath } from '../run-view.js';

interface ReportOptions extends CommonOptions {
  output?: string;
  overwrite?: boolean;
}

export function addReportCommand(program: Command): void {
  const command = program
    .command('report')
    .description('writes one HTML file with the results, pictures and losses of a run, finished or not')
    .argument('<run>', 'run folder')
    .option('-o, --output <file>', "file to write (default: the run folder's report.html)");
  addOverwriteOption(command, 'the file of --output if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg report runs/demo', 'writes runs/demo/report.html, as at the end of every run'],
    ['bidiseg report runs/street -o street.html', 'one file to share; it needs no other files'],
  ]);
  command.action((run: string, options: ReportOptions) =>
    runCommand(options, (context) => report(run, options, context)),
  );
}

async function report(
  run: string,
  { output, overwrite }: ReportOptions,
  context: CommandContext,
): Promise<void> {
  await openRunConfig(run);
  const [{ writeReport }, { stat }] = await Promise.all([
    import('../../report/write-report.js'),
    import('node:fs/promises'),
  ]);
  const own = path.join(run, 'report.html');
  const file = output ?? own;
  if (realPath(file) !== realPath(own)) {
    // A new file in the run folder is harmless. The run's own files are inputs.
    prepareOutputFile(file, { inputs: existsSync(file) ? [run] : [], overwrite }, context);
  }
  await writeReport(run, file);
  const { size: sizeBytes } = await stat(file);
  context.console.result(
    { report: path.resolve(file), sizeBytes },
    `Wrote ${shortPath(file)} (${bytesText(sizeBytes)})`,
  );
}
