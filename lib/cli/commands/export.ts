import { statSync } from 'node:fs';
import path from 'node:path';
import { type Command, Option } from 'commander';
import { bytesText } from '../../support/format.js';
import { UsageError } from '../exit.js';
import { addExamples, addJsonOption, addOverwriteOption, type CommonOptions } from '../options.js';
import { prepareOutputFile } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const FORMATS = ['onnx', 'torchscript'] as const;
type Format = (typeof FORMATS)[number];

const EXTENSIONS: Record<string, Format> = { '.onnx': 'onnx', '.pt': 'torchscript' };

interface ExportCommandOptions extends CommonOptions {
  format?: Format;
  upsample: boolean;
  overwrite?: boolean;
}

export function addExportCommand(program: Command): void {
  const command = program
    .command('export')
    .description('writes a segmenter for other programs: as an ONNX model or a TorchScript archive')
    .argument('<weights>', 'weights of a segmenter that bidiseg saved or converted')
    .argument('<out>', 'the file to write; not the input')
    .addOption(
      new Option('--format <name>', 'of the file (default: onnx for .onnx, torchscript for .pt)').choices(
        FORMATS,
      ),
    )
    .option('--no-upsample', "leave logits at the network's own resolution instead of the image's");
  addOverwriteOption(command, 'OUT if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg export m.safetensors m.onnx', 'for ONNX Runtime and whatever else reads ONNX'],
    ['bidiseg export m.safetensors m.pt', 'for torch.jit.load in Python and C++'],
  ]);
  command.addHelpText(
    'after',
    '\nThe model takes `image`, float32 [N, 3, H, W] of any N, H and W: BGR, 0 to 255, minus the mean\n' +
      '(104.00698793, 116.66876762, 122.67891434). It gives `logits`, [N, classes, H, W]. Its metadata, `bidiseg` in ONNX and\n' +
      '`bidiseg.json` in TorchScript, tells the same, and the classes.',
  );
  command.action((weights: string, output: string, options: ExportCommandOptions) =>
    runCommand(options, (context) => exportSegmenter(weights, output, options, context)),
  );
}

async function exportSegmenter(
  weights: string,
  output: string,
  { format = EXTENSIONS[path.extname(output).toLowerCase()], upsample, overwrite }: ExportCommandOptions,
  context: CommandContext,
): Promise<void> {
  const { console, signal } = context;
  if (format === undefined) {
    throw new UsageError(`${output} ends neither in .onnx nor in .pt: say what it is to be with --format`);
  }
  prepareOutputFile(output, { inputs: [weights], overwrite }, context);
  const { Segmenter } = await import('../../models/segmenter.js');
  const { exportOnnx, exportTorchScript } = await import('../../export/segmenter.js');
  using segmenter = await Segmenter.fromFile(weights, { signal });
  if (format === 'onnx') await exportOnnx(segmenter, output, { upsample, signal });
  else await exportTorchScript(segmenter, output, { upsample, signal });
  const bytes = statSync(output).size;
  console.result({ weights, output, format, upsample, bytes }, `${output}: ${format}, ${bytesText(bytes)}`);
}
