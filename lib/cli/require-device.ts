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
