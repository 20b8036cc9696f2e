import { type Command, InvalidArgumentError, Option } from 'commander';
import { MAX_PIXELS } from '../data/image-limits.js';
import type { ImageSize } from '../data/image-size.js';
import { PRECISIONS, type Precision } from '../native/precision.js';

/** The options every command has. */
export interface CommonOptions {
  json?: boolean;
}

export function addJsonOption(command: Command): Command {
  return command.option(
    '--json',
    'for machines: one JSON object a line on stdout, everything else on stderr',
  );
}

export function deviceOption(): Option {
  return new Option(
    '--device <name>',
    "where to compute: 'cpu', 'cuda' or 'cuda:N' (default: 'cpu')",
  ).argParser(parseDevice);
}

function parseDevice(text: string): string {
  if (!/^(cpu|cuda(:\d{1,3})?)$/.test(text))
    throw new InvalidArgumentError("Expected 'cpu', 'cuda' or 'cuda:N'.");
  return text;
}

/** Where runs continue. */
export function acceptDataOption(): Option {
  return new Option(
    '--accept-changed-data',
    'continue although images or labels were added, removed or altered since the run began (default: an error that lists them)',
  );
}

/** Examples under a command's help: pairs of a command line and what it does. */
export function addExamples(command: Command, examples: [line: string, what: string][]): Command {
  const text = examples.map(([line, what]) => `  $ ${line}\n      ${what}`).join('\n');
  return command.addHelpText('after', `\nExamples:\n${text}`);
}

/** '512x256' as a size in pixels. */
export function parseSize(text: string): ImageSize {
  const match = /^(\d{1,5})x(\d{1,5})$/.exec(text);
  const [width, height] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || width < 1 || height < 1)
    throw new InvalidArgumentError('Expected WIDTHxHEIGHT, such as 512x256.');
  return { width, height };
}

/** A number in [0, 1]. */
export function parseRatio(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 1)) {
    throw new InvalidArgumentError('Expected a number from 0 to 1.');
  }
  return value;
}

/** '0.5,1,1.5' as factors from ⅛ to 8. */
function parseScales(text: string): number[] {
  const scales = text.split(',').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (!scales.every((scale) => scale >= 1 / 8 && scale <= 8)) {
    throw new InvalidArgumentError(
      'Expected numbers from 0.125 to 8 with commas between, such as 0.75,1,1.25.',
    );
  }
  return scales;
}

/** Where images from outside are read. */
export function maxPixelsOption(): Option {
  return new Option(
    '--max-pixels <count>',
    `refuse images of more pixels than this (default: the run's limit, or ${MAX_PIXELS})`,
  ).argParser(parsePixels);
}

/** How a segmenter predicts: what is averaged, and in which precision. */
export interface PredictionOptions {
  flip?: boolean;
  scales?: number[];
  precision?: Precision;
}

export function addPredictionOptions(command: Command): Command {
  return command
    .option('--flip', 'average the probabilities with those of the mirrored image')
    .option(
      '--scales <factors>',
      'average the probabilities over these multiples of the input size, such as 0.75,1,1.25',
      parseScales,
    )
    .addOption(
      new Option(
        '--precision <name>',
        "what convolutions compute in, where the device can (see 'bidiseg info'): bf16 is quicker and less exact (default: fp32)",
      ).choices(PRECISIONS),
    );
}

function parsePixels(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 2 ** 32) {
    throw new InvalidArgumentError('Expected a whole number from 1 to 4294967296.');
  }
  return value;
}

/** A whole number of at least 0. */
export function parseCount(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Expected a whole number of at least 0.');
  }
  return value;
}

/** A `key=value` assignment for the config; which keys exist is for the config to say. */
export function collectAssignment(value: string, previous: string[] = []): string[] {
  if (!/^[^=]+=/.test(value)) {
    throw new InvalidArgumentError('Expected KEY=VALUE, such as segmentation.steps=500.');
  }
  return [...previous, value];
}

/** All assignments to config keys: those of `--set`, then the options that are short for one. */
export function assignments<K extends string>(
  options: { set?: string[] } & { [key in K]?: string | number },
  keys: readonly K[],
): string[] {
  const short = keys.flatMap((key) => {
    const value = options[key];
    // JSON's quotes keep YAML from reading a folder named 1e3 or null as something else.
    return value === undefined ? [] : [`${key}=${JSON.stringify(value)}`];
  });
  return [...(options.set ?? []), ...short];
}
