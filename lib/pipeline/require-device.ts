import type { Config } from '../config/schema.js';
import type { Precision } from '../native/precision.js';
import { InvalidArgumentError } from '../support/errors.js';

/** Makes sure that there is a device of this name ('cpu', 'cuda' or 'cuda:N'), before any work is spent on it. */
export async function requireDevice(device: string): Promise<void> {
  if (device === 'cpu') return;
  const { buildInfo } = await import('../native/device.js');
  const { cuda, cudaDevices } = await buildInfo();
  if (cudaDevices.includes(device === 'cuda' ? 'cuda:0' : device)) return;
  const found = ['cpu', ...cudaDevices].join(', ');
  const reason = cuda ? '' : ' (CUDA is not compiled in)';
  throw new InvalidArgumentError(
    `There is no device ${device} here${reason}, only ${found}; see 'bidiseg info'`,
  );
}

/** Makes sure of the config's device, and that it can do what the config asks of it in training. */
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

/** Makes sure that a device, which is there, has instructions for a precision; `name` is what asked for it. */
export async function requirePrecision(device: string, precision: Precision, name: string): Promise<void> {
  if (precision === 'fp32') return;
  const { buildInfo } = await import('../native/device.js');
  const { precisions } = await buildInfo();
  const found = precisions[device === 'cuda' ? 'cuda:0' : device] ?? [];
  if (found.includes(precision)) return;
  throw new InvalidArgumentError(
    `${name}: ${device} has no instructions for ${precision} here, only for ${found.join(', ')}; see 'bidiseg info'`,
  );
}
