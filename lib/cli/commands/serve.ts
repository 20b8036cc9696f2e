import { once } from 'node:events';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { ImageSize } from '../../data/image-size.js';
import { PRECISIONS, type Precision } from '../../native/precision.js';
import { requirePrecision } from '../../pipeline/require-device.js';
import type { LoadedNetwork } from '../../server/served-model.js';
import type { Service } from '../../server/service.js';
import { findNetwork, type NetworkOptions, segmenterClasses } from '../network-source.js';
import { addExamples, deviceOption, parseCount, parseSize } from '../options.js';
import { type CommandContext, runCommand } from '../run-command.js';
import { addServerOptions, type HttpOptions, serverOptions } from '../server-options.js';

const PORT = 8080;

/** Default limits of pixels: when the network's input has a fixed size, and when the network gets whole images. */
const MAX_PIXELS = 2 ** 25;
const MAX_PIXELS_WITHOUT_SIZE = 2 ** 21;

interface ServeOptions extends HttpOptions, NetworkOptions {
  size?: ImageSize;
  precision: Precision;
  limit: number;
  deadline: number;
  maxQueue: number;
  maxBytes: number;
  timeout: number;
}

export function addServeCommand(program: Command): void {
  const command = program
    .command('serve')
    .description('serves a segmenter over HTTP: POST /segment, health, metrics, and a page to try it')
    .option('-w, --weights <file>', 'weights of the segmenter (safetensors written by bidiseg)')
    .option('-r, --run <folder>', 'run folder, instead of --weights; uses its newest segmenter')
    .option('--stage <name>', 'with --run: stage that trained the segmenter (default: the newest)')
    .addOption(deviceOption())
    .option(
      '--size <WxH>',
      "input size of the network in pixels (default: the run's evaluation size, or the image's own)",
      parseSize,
    )
    .addOption(
      new Option('--precision <name>', 'precision of convolutions').choices(PRECISIONS).default('fp32'),
    )
    .option('--limit <count>', 'most images that go through the network together', parsePositive, 8)
    .option('--deadline <ms>', 'time that an image waits for others, in milliseconds', parseCount, 0)
    .option('--max-queue <count>', 'most images that wait; more get status 429', parsePositive, 32)
    .option('--max-bytes <count>', 'largest body in bytes', parsePositive, 2 ** 24)
    .option(
      '--max-pixels <count>',
      `largest image in pixels (default: ${MAX_PIXELS}, or ${MAX_PIXELS_WITHOUT_SIZE} if the network gets the image's own size)`,
      parsePositive,
    )
    .option(
      '--timeout <seconds>',
      'time to receive a request, to compute the answer, and to deliver it',
      parsePositive,
      60,
    );
  addServerOptions(command, PORT);
  addExamples(command, [
    ['bidiseg serve --run runs/demo', `then open http://127.0.0.1:${PORT}/ and drop a picture`],
    [
      'bidiseg serve --weights m.safetensors --size 1024x512 --json',
      'with a weights file, at a fixed input size, and a JSON line for each request',
    ],
    [
      `curl --data-binary @street.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:${PORT}/segment?output=overlay' -o overlay.png`,
      'a request; output is labels, color, overlay or json',
    ],
    [
      'BIDISEG_TOKEN=$(cat token) bidiseg serve --weights m.safetensors --host 0.0.0.0',
      "for other machines; requests need the header 'Authorization: Bearer TOKEN'",
    ],
    ['kill -HUP PID', 'loads the weights again, without a lost request'],
  ]);
  command.action((options: ServeOptions) => runCommand(options, (context) => serve(options, context)));
}

function parsePositive(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 2 ** 32) {
    throw new InvalidArgumentError('Expected a whole number from 1 to 4294967296.');
  }
  return value;
}

async function serve(options: ServeOptions, context: CommandContext): Promise<void> {
  const { console, signal } = context;
  const { limit, deadline, maxQueue, maxBytes, precision, timeout } = options;
  const listening = await serverOptions(options);
  const { file, config, device } = await findNetwork('segmenter', options);
  await requirePrecision(device, precision, '--precision');
  const [{ Segmenter }, { giveBackLargeBlocks }, { toSize }, { startService }] = await Promise.all([
    import('../../models/segmenter.js'),
    import('../../native/device.js'),
    import('../../data/image-size.js'),
    import('../../server/service.js'),
  ]);
  giveBackLargeBlocks();
  const size = options.size ?? (config && toSize(config.sizes.evaluation)) ?? undefined;
  const service = await startService({
    ...listening,
    ...{ size, precision, limit, maxQueue, maxBytes },
    deadlineMs: deadline,
    maxPixels: options.maxPixels ?? (size ? MAX_PIXELS : MAX_PIXELS_WITHOUT_SIZE),
    timeoutMs: timeout * 1000,
    load: async (): Promise<LoadedNetwork> => {
      const network = await Segmenter.fromFile(file, { device, signal });
      return { network, classes: await segmenterClasses(config, network) };
    },
  });
  context.isServer = true;
  context.onHangup = () => void reload(service, file, context);
  console.event('listening', { url: service.url, weights: file, device, size: size ?? null });
  console.note(`Serving ${file} on ${device}: ${service.url}`);
  if (!signal.aborted) await once(signal, 'abort');
  console.note('Ending: answers what was accepted; a second signal ends at once');
  await service.close();
  console.event('result', { weights: file });
}

async function reload(service: Service, file: string, { console }: CommandContext): Promise<void> {
  try {
    await service.reload();
    console.event('reloaded', { weights: file });
    console.note(`Loaded ${file} again`);
  } catch (error) {
    const { message } = error as Error;
    console.event('reload-failed', { weights: file, message });
    console.note(`Kept the old weights, because the new ones were not loaded: ${message}`);
  }
}
