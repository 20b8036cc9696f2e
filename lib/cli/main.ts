#!/usr/bin/env node
import { CommanderError } from 'commander';
import { oneLine } from '../support/format.js';
import { EXIT_USAGE } from './exit.js';
import { createProgram } from './program.js';

const program = createProgram();
// The reader of the help may stop early, as `head` does. Commands that run handle this themselves.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});
try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  // Help and version end in an "error" of exit code 0 that has already been printed.
  if (error.exitCode !== 0) {
    const command = program.commands.find((candidate) => candidate.name() === process.argv[2]);
    const help = command ? `bidiseg ${command.name()} --help` : 'bidiseg --help';
    const what = error.code === 'commander.help' ? 'a command is missing' : error.message;
    process.stderr.write(
      `bidiseg: ${oneLine(what.replace(/^error: /, '').replace(/\.$/, ''))}; see '${help}'\n`,
    );
    process.exitCode = EXIT_USAGE;
  }
}
