import { Command } from 'commander';
import { packageVersion } from '../support/package.js';
import { addAblationCommand } from './commands/ablation.js';
import { addConvertCommand } from './commands/convert.js';
import { addDemoCommand } from './commands/demo.js';
import { addEvaluateCommand } from './commands/evaluate.js';
import { addExportCommand } from './commands/export.js';
import { addInfoCommand } from './commands/info.js';
import { addInitCommand } from './commands/init.js';
import { addPseudoLabelCommand } from './commands/pseudo-label.js';
import { addRankCommand } from './commands/rank.js';
import { addReportCommand } from './commands/report.js';
import { addResumeCommand } from './commands/resume.js';
import { addSegmentCommand } from './commands/segment.js';
import { addServeCommand } from './commands/serve.js';
import { addSetupCommand } from './commands/setup.js';
import { addTrainCommand } from './commands/train.js';
import { addTranslateCommand } from './commands/translate.js';
import { addWatchCommand } from './commands/watch.js';

/** Creates the whole command line. Parsing throws a `CommanderError` when commander itself would end the process. */
export function createProgram(): Command {
  const program = new Command('bidiseg')
    .description(
      'Trains semantic segmentation for a domain that has no labels, from labeled images of another domain.',
    )
    .version(packageVersion())
    .exitOverride()
    // main.ts prints the error in one line. Commander would print the whole help before it.
    .configureOutput({ outputError: () => {} })
    .helpCommand(false)
    .addHelpText(
      'after',
      "\nStart with 'bidiseg demo', which needs no data. Every command has --help with examples.",
    );

  addDemoCommand(program);
  addInitCommand(program);
  addTrainCommand(program);
  addResumeCommand(program);
  addAblationCommand(program);
  addRankCommand(program);
  addReportCommand(program);
  addWatchCommand(program);
  addTranslateCommand(program);
  addPseudoLabelCommand(program);
  addSegmentCommand(program);
  addServeCommand(program);
  addEvaluateCommand(program);
  addConvertCommand(program);
  addExportCommand(program);
  addInfoCommand(program);
  addSetupCommand(program);
  return program;
}
