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
    .description('shows a run as one HTML file: results, pictures, losses; of a run that goes on, so far')
    .argument('<run>', 'run folder')
    .option('-o, --output <file>', "where to write it (default: the run folder's report.html)");
  addOverwriteOption(command, 'the file of --output if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg report runs/demo', 'runs/demo/report.html, as at the end of every run'],
    [
      'bidiseg report runs/street -o street.html',
      'a file that can be sent around: it needs nothing beside it',
    ],
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
    // A new file does no harm to the run; one of its own files is an input.
    prepareOutputFile(file, { inputs: existsSync(file) ? [run] : [], overwrite }, context);
  }
  await writeReport(run, file);
  const { size: sizeBytes } = await stat(file);
  context.console.result(
    { report: path.resolve(file), sizeBytes },
    `Wrote ${shortPath(file)} (${bytesText(sizeBytes)})`,
  );
}
