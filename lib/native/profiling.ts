import { native } from './binding.js';
import type { DeviceMemory, ProfileLine } from './binding-types.js';
import { call } from './native-object.js';

/**
 * @internal Records what LibTorch does while `work` runs, on the compute thread and on the device. With `file`, it also
 * writes a trace that Chrome and Perfetto show. Recording costs time, so seconds of operations are for comparison only.
 * The benchmarks use this.
 */
export async function profile(
  work: () => Promise<unknown>,
  file: string | null = null,
): Promise<ProfileLine[]> {
  await call(() => native.startProfile());
  try {
    await work();
  } catch (error) {
    await call(() => native.stopProfile(null));
    throw error;
  }
  return call(() => native.stopProfile(file));
}

/** @internal Waits until the device has done everything that this JavaScript thread has asked for. */
export async function synchronize(device: string): Promise<void> {
  await call(() => native.synchronize(device));
}

/** @internal Reports the bytes of tensors on a CUDA device, with the peak since the last report. */
export async function deviceMemory(device: string): Promise<DeviceMemory> {
  return call(() => native.deviceMemory(device));
}
