import type { Config } from '../config/schema.js';
import type { Precision } from '../native/precision.js';
import { InvalidArgumentError } from '../support/errors.js';

/** Checks that a device ('cpu', 'cuda' or 'cuda:N') exists, before any work. */
export async function requireDevice(device: string): Promise<void> {
  if (device === 'cpu') return;
  const { buildInfo } = await import('../native/device.js');
  const { cuda, cudaDevices } = await buildInfo();
  if (cudaDevices.includes(device === 'cuda' ? 'cuda:0' : device)) return;
  const found = ['cpu', ...cudaDevices].join(', ');
  const reason = cuda ? '' : ' (CUDA is not compiled in)';
  throw new InvalidArgumentError(
    `Expected one of the devices ${found} but found ${device}${reason}; see 'bidiseg info'`,
  );
}

/** Checks that the config's device exists and supports what the config needs for training. */
export async function requireTrainingDevice(config: Config): Promise<void> {
  await requireDevice(config.device);
  for (const section of ['segmentation', 'translation'] as const) {
    await requirePrecision(config.device, config[section].precision, `${section}.precision`);
    if (config[section].cudaGraphs && config.device === 'cpu') {
      throw new InvalidArgumentError(
        `${section}.cudaGraphs: expected false, or a CUDA device, but device is cpu`,
      );
    }
  }
}

/** Checks that a device that exists supports a precision. `name` is the option or key that asks for it. */
export async function requirePrecision(device: string, precision: Precision, name: string): Promise<void> {
  if (precision === 'fp32') return;
  const { buildInfo } = await import('../native/device.js');
  const { precisions } = await buildInfo();
  const found = precisions[device === 'cuda' ? 'cuda:0' : device] ?? [];
  if (found.includes(precision)) return;
  throw new InvalidArgumentError(
    `${name}: expected one of ${found.join(', ')} but found ${precision}, which ${device} does not support here; see 'bidiseg info'`,
  );
}
