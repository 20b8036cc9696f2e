import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, type CommonOptions } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { shortPath } from '../run-view.js';

interface InitOptions extends CommonOptions {
  target?: string;
  output: string;
}

export function addInitCommand(program: Command): void {
  const command = program
    .command('init')
    .description('looks at a folder of images and writes a commented config that trains on them')
    .argument('[folder]', 'folder of a data set, such as source/{images,labels} and target/images', '.')
    .option('--target <folder>', 'folder of the target domain, if it is a data set of its own')
    .option('-o, --output <file>', 'the config to write', 'bidiseg.yaml');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg init', 'writes bidiseg.yaml for the images in this folder'],
    ['bidiseg init data/gta5 --target data/cityscapes -o street.yaml', 'two data sets'],
    ['bidiseg train bidiseg.yaml', 'what comes next'],
  ]);
  command.action((folder: string, options: InitOptions) =>
    runCommand(options, (context) => init(folder, options, context)),
  );
}

async function init(folder: string, options: InitOptions, { console }: CommandContext): Promise<void> {
  const { target, output } = options;
  if (!/\.ya?ml$/i.test(output)) {
    throw new UsageError(`Expected a file that ends in .yaml or .yml for --output but found ${output}`);
  }
  if (existsSync(output)) {
    throw new UsageError(`${output} exists already; choose another file with --output, or remove it`);
  }
  const [
    { initialConfig },
    { createConfig },
    { openDatasets, surveyDatasets },
    { writeFileAtomically },
    { packageRoot },
  ] = await Promise.all([
    import('../../workflows/initial-config.js'),
    import('../../config/load.js'),
    import('../../pipeline/datasets.js'),
    import('../../support/files.js'),
    import('../../support/package.js'),
  ]);
  const relativeTo = path.dirname(path.resolve(output));
  const { text, values, findings } = await initialConfig(folder, {
    target,
    output: path.join('runs', path.parse(output).name),
    relativeTo,
    schema: schemaPath(path.join(packageRoot(), 'docs', 'config.schema.json'), relativeTo),
  });
  // What the command writes is to run: whatever is wrong with the data is said now.
  const config = createConfig({ ...values, data: { root: relativeTo, ...values.data } } as never);
  const warnings = await surveyDatasets(config, await openDatasets(config));
  await writeFileAtomically(output, text);
  console.result(
    { config: output, ...values, warnings },
    [
      ...findings,
      ...warnings.map((warning) => `warning: ${warning}`),
      `Wrote ${output}. Next: bidiseg train ${shortPath(output)}`,
    ].join('\n'),
  );
}

/** Relative where the schema is below the config's folder, as in node_modules, so that the config can be shared. */
function schemaPath(schema: string, folder: string): string {
  const relative = path.relative(folder, schema);
  return relative.startsWith('..') ? schema : relative;
}
