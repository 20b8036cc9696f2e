import { type Command, InvalidArgumentError, Option } from 'commander';
import { MAX_PIXELS } from '../data/image-limits.js';
import type { ImageSize } from '../data/image-size.js';
import { PRECISIONS, type Precision } from '../native/precision.js';

/** Options that every command has. */
export interface CommonOptions {
  json?: boolean;
}

export function addJsonOption(command: Command): Command {
  return command.option('--json', 'print one JSON object per line on stdout, and everything else on stderr');
}

/** Adds `--overwrite`. */
export function addOverwriteOption(
  command: Command,
  what = 'the results of an earlier command in the output folder',
): Command {
  return command.option('--overwrite', `replace ${what}; no other file is touched (default: an error)`);
}

export function deviceOption(): Option {
  return new Option(
    '--device <name>',
    "device to compute on: 'cpu', 'cuda' or 'cuda:N' (default: 'cpu')",
  ).argParser(parseDevice);
}

function parseDevice(text: string): string {
  if (!/^(cpu|cuda(:\d{1,3})?)$/.test(text))
    throw new InvalidArgumentError("Expected 'cpu', 'cuda' or 'cuda:N'.");
  return text;
}

/** Makes the option of commands that resume runs. */
export function acceptDataOption(): Option {
  return new Option(
    '--accept-changed-data',
    'resume although images or labels were added, removed or changed since the run began (default: an error that lists them)',
  );
}

/** Adds examples to a command's help: pairs of a command line and its effect. */
export function addExamples(command: Command, examples: [line: string, what: string][]): Command {
  const text = examples.map(([line, what]) => `  $ ${line}\n      ${what}`).join('\n');
  return command.addHelpText('after', `\nExamples:\n${text}`);
}

/** Parses a size in pixels such as '512x256'. */
export function parseSize(text: string): ImageSize {
  const match = /^(\d{1,5})x(\d{1,5})$/.exec(text);
  const [width, height] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || width < 1 || height < 1)
    throw new InvalidArgumentError('Expected WIDTHxHEIGHT, such as 512x256.');
  return { width, height };
}

/** Parses a number in [0, 1]. */
export function parseRatio(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 1)) {
    throw new InvalidArgumentError('Expected a number from 0 to 1.');
  }
  return value;
}

/** Parses factors from ⅛ to 8 such as '0.5,1,1.5'. */
function parseScales(text: string): number[] {
  const scales = text.split(',').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (!scales.every((scale) => scale >= 1 / 8 && scale <= 8)) {
    throw new InvalidArgumentError(
      'Expected numbers from 0.125 to 8 separated by commas, such as 0.75,1,1.25.',
    );
  }
  return scales;
}

/** Option of commands that read images from outside. */
export function maxPixelsOption(): Option {
  return new Option(
    '--max-pixels <count>',
    `maximum number of pixels of an image; larger images are an error (default: the run's limit, or ${MAX_PIXELS})`,
  ).argParser(parsePixels);
}

/** Options of a segmenter's predictions: averaging and precision. */
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
      'average the probabilities over several scales of the input, factors from 0.125 to 8 such as 0.75,1,1.25',
      parseScales,
    )
    .addOption(
      new Option(
        '--precision <name>',
        "precision of convolutions; bf16 is faster and less exact; 'bidiseg info' shows what the device supports (default: fp32)",
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

/** Parses a whole number of at least 0. */
export function parseCount(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Expected a whole number of at least 0.');
  }
  return value;
}

/** Collects `key=value` assignments. The config checks the keys. */
export function collectAssignment(value: string, previous: string[] = []): string[] {
  if (!/^[^=]+=/.test(value)) {
    throw new InvalidArgumentError('Expected KEY=VALUE, such as segmentation.steps=500.');
  }
  return [...previous, value];
}

/** Returns all assignments to config keys: first `--set`, then the options that abbreviate a key. */
export function assignments<K extends string>(
  options: { set?: string[] } & { [key in K]?: string | number },
  keys: readonly K[],
): string[] {
  const short = keys.flatMap((key) => {
    const value = options[key];
    // The JSON quotes keep YAML from reading a folder named 1e3 or null as a number or null.
    return value === undefined ? [] : [`${key}=${JSON.stringify(value)}`];
  });
  return [...(options.set ?? []), ...short];
}
