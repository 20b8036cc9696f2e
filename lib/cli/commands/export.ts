import { statSync } from 'node:fs';
import path from 'node:path';
import { type Command, Option } from 'commander';
import type { ImageSize } from '../../data/image-size.js';
import { bytesText } from '../../support/format.js';
import { UsageError } from '../exit.js';
import {
  addExamples,
  addJsonOption,
  addOverwriteOption,
  type CommonOptions,
  parseCount,
  parseSize,
} from '../options.js';
import { prepareOutputFile } from '../output-folder.js';
import { type CommandContext, runCommand } from '../run-command.js';

const FORMATS = ['onnx', 'torchscript'] as const;
type Format = (typeof FORMATS)[number];

const EXTENSIONS: Record<string, Format> = { '.onnx': 'onnx', '.pt': 'torchscript' };

interface ExportCommandOptions extends CommonOptions {
  format?: Format;
  upsample: boolean;
  size?: ImageSize;
  batch?: number;
  overwrite?: boolean;
}

export function addExportCommand(program: Command): void {
  const command = program
    .command('export')
    .description('exports a segmenter for other programs, as an ONNX model or a TorchScript archive')
    .argument('<weights>', 'weights file of a segmenter that bidiseg saved or converted')
    .argument('<out>', 'file to write; not the input')
    .addOption(
      new Option(
        '--format <name>',
        'format of the file (default: onnx for .onnx, torchscript for .pt)',
      ).choices(FORMATS),
    )
    .option('--no-upsample', "return logits at the network's own resolution instead of the image's")
    .option(
      '--size <width>x<height>',
      'ONNX: take images of this size in pixels only, so that all shapes are constants (default: images of any size)',
      parseSize,
    )
    .option('--batch <count>', 'ONNX with --size: number of images, from 1 to 1024 (default: 1)', parseCount);
  addOverwriteOption(command, 'OUT if it exists');
  addJsonOption(command);
  addExamples(command, [
    ['bidiseg export m.safetensors m.onnx', 'for ONNX Runtime and other programs that read ONNX'],
    ['bidiseg export m.safetensors m.onnx --size 1024x512', 'for OpenCV 4 and others that want a fixed size'],
    ['bidiseg export m.safetensors m.pt', 'for torch.jit.load in Python and C++'],
  ]);
  command.addHelpText(
    'after',
    '\nThe input is `image`, float32 [N, 3, H, W] with any N, H and W: BGR, 0 to 255, minus the mean\n' +
      '(104.00698793, 116.66876762, 122.67891434). The output is `logits`, [N, classes, H, W]. --size fixes N, H and W. The metadata (`bidiseg` in ONNX,\n' +
      '`bidiseg.json` in TorchScript) describe input and output, and list the classes.',
  );
  command.action((weights: string, output: string, options: ExportCommandOptions) =>
    runCommand(options, (context) => exportSegmenter(weights, output, options, context)),
  );
}

async function exportSegmenter(
  weights: string,
  output: string,
  {
    format = EXTENSIONS[path.extname(output).toLowerCase()],
    upsample,
    size,
    batch,
    overwrite,
  }: ExportCommandOptions,
  context: CommandContext,
): Promise<void> {
  const { console, signal } = context;
  if (format === undefined) {
    throw new UsageError(
      `Expected a file that ends in .onnx or .pt but found ${output}; choose another name, or give --format`,
    );
  }
  if (format === 'torchscript' && size) {
    throw new UsageError('--size is for ONNX: a TorchScript archive takes images of any size');
  }
  if (batch !== undefined && !size) throw new UsageError('--batch needs --size');
  prepareOutputFile(output, { inputs: [weights], overwrite }, context);
  const { Segmenter } = await import('../../models/segmenter.js');
  const { exportOnnx, exportTorchScript } = await import('../../export/segmenter.js');
  using segmenter = await Segmenter.fromFile(weights, { signal });
  const fixed = { ...(size && { size }), ...(batch !== undefined && { batch }) };
  if (format === 'onnx') await exportOnnx(segmenter, output, { upsample, ...fixed, signal });
  else await exportTorchScript(segmenter, output, { upsample, signal });
  const bytes = statSync(output).size;
  console.result(
    { weights, output, format, upsample, ...fixed, bytes },
    `${output}: ${format}, ${bytesText(bytes)}`,
  );
}
