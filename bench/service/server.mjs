// The server of one engine, as a child process of ../service.mjs. All engines have the server of `bidiseg serve`; only
// the object that predicts differs. Answers messages of the parent with figures of this process.
//   node server.mjs ENGINE FOLDER OPTIONS
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { CITYSCAPES, Segmenter } from 'bidiseg';
import { giveBackLargeBlocks } from '../../dist/lib/native/device.js';
import { startService } from '../../dist/lib/server/service.js';
import { onnxNetwork } from './onnx-network.mjs';

const [engine, folder, options] = process.argv.slice(2);

const ENGINES = {
  bidiseg: () => Segmenter.fromFile(`${folder}/network.safetensors`),
  'bidiseg, bf16': () => Segmenter.fromFile(`${folder}/network.safetensors`),
  'onnxruntime-node': () => onnxNetwork(`${folder}/network.onnx`),
};

// As `bidiseg serve` does.
giveBackLargeBlocks();
const service = await startService({
  host: '127.0.0.1',
  port: 0,
  precision: engine.endsWith('bf16') ? 'bf16' : 'fp32',
  deadlineMs: 0,
  maxBytes: 2 ** 24,
  maxPixels: 2 ** 22,
  timeoutMs: 120_000,
  load: async () => ({ network: await ENGINES[engine](), classes: CITYSCAPES }),
  ...JSON.parse(options),
});

// A timer of 1 ms, whose period is part of the delay.
const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();
let cpu = process.cpuUsage();

process.on('message', async (message) => {
  if (message === 'end') {
    await service.close();
    process.exit();
  }
  const { user, system } = process.cpuUsage(cpu);
  const figures = {
    cpuMs: (user + system) / 1000,
    delayP99Ms: delay.percentile(99) / 1e6,
    rss: process.memoryUsage.rss(),
  };
  cpu = process.cpuUsage();
  delay.reset();
  process.send(figures);
});
process.send({ url: service.url });
