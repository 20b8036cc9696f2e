import type { Config } from '../config/schema.js';
import { InvalidArgumentError } from '../errors.js';

/** Makes sure that there is a device of this name ('cpu', 'cuda' or 'cuda:N'), before any work is spent on it. */
export async function requireDevice(device: string): Promise<void> {
  if (device === 'cpu') return;
  const { buildInfo } = await import('../device.js');
  const { cuda, cudaDevices } = await buildInfo();
  if (cudaDevices.includes(device === 'cuda' ? 'cuda:0' : device)) return;
  const found = ['cpu', ...cudaDevices].join(', ');
  const reason = cuda ? '' : ' (CUDA is not compiled in)';
  throw new InvalidArgumentError(
    `There is no device ${device} here${reason}, only ${found}; see 'bidiseg info'`,
  );
}

/** Makes sure of the config's device, and that it computes in the precisions in which the config trains. */
export async function requireTrainingDevice(config: Config): Promise<void> {
  await requireDevice(config.device);
  const { buildInfo } = await import('../device.js');
  const { precisions } = await buildInfo();
  const found = precisions[config.device === 'cuda' ? 'cuda:0' : config.device] ?? [];
  for (const section of ['segmentation', 'translation'] as const) {
    const { precision } = config[section];
    if (found.includes(precision)) continue;
    throw new InvalidArgumentError(
      `${section}.precision: ${config.device} has no instructions for ${precision} here, only for ${found.join(', ')}; ` +
        `see 'bidiseg info'`,
    );
  }
}
