import path from 'node:path';
import type { Command } from 'commander';
import { shellWord } from '../../support/format.js';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, addOverwriteOption, type CommonOptions } from '../options.js';
import { prepareOutputFile } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { shortPath } from '../run-view.js';

interface InitOptions extends CommonOptions {
  target?: string;
  output: string;
  overwrite?: boolean;
}

export function addInitCommand(program: Command): void {
  const command = program
    .command('init')
    .description('writes a commented config that trains on a folder of images')
    .argument('[folder]', 'folder of a data set, such as source/{images,labels} and target/images', '.')
    .option(
      '--target <folder>',
      'folder of the target domain, if it is a separate data set (default: part of the first folder)',
    )
    .option('-o, --output <file>', 'config to write', 'bidiseg.yaml');
  addOverwriteOption(command, 'the file of --output if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg init', 'writes bidiseg.yaml for the images in this folder'],
    ['bidiseg init data/gta5 --target data/cityscapes -o street.yaml', 'two data sets'],
    ['bidiseg train bidiseg.yaml', 'the next step: trains with that config'],
  ]);
  command.action((folder: string, options: InitOptions) =>
    runCommand(options, (context) => init(folder, options, context)),
  );
}

async function init(folder: string, options: InitOptions, context: CommandContext): Promise<void> {
  const { console } = context;
  const { target, output, overwrite } = options;
  if (!/\.ya?ml$/i.test(output)) {
    throw new UsageError(`Expected a file that ends in .yaml or .yml for --output but found ${output}`);
  }
  prepareOutputFile(output, { inputs: [], overwrite }, context);
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
  // The written config must run, so problems of the data are reported now.
  const config = createConfig({ ...values, data: { root: relativeTo, ...values.data } } as never);
  const warnings = await surveyDatasets(config, await openDatasets(config));
  await writeFileAtomically(output, text);
  console.result(
    { config: output, ...values, warnings },
    [
      ...findings,
      ...warnings.map((warning) => `warning: ${warning}`),
      `Wrote ${output}. Next: bidiseg train ${shellWord(shortPath(output))}`,
    ].join('\n'),
  );
}

/**
 * Returns the schema's path, relative if the schema is below the config's folder, as in node_modules. So the config can
 * be shared.
 */
function schemaPath(schema: string, folder: string): string {
  const relative = path.relative(folder, schema);
  return relative.startsWith('..') ? schema : relative;
}
