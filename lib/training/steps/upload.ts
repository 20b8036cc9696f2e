import { Network } from '../../models/network.js';
import { native } from '../../native/binding.js';
import type { UploadedBatchHandle } from '../../native/binding-types.js';
import { callSync, handleOf } from '../../native/native-object.js';
import type { StepBatch } from './training-step.js';

/**
 * Begins to copy a batch to the network's CUDA device, from pinned memory, while the device computes. The result
 * replaces the batch in the `run()` of a step. Dispose it after that step. See
 * docs/design/kernels-and-speed.md#uploading-the-next-batch.
 */
export function uploadBatch(network: Network, batch: StepBatch): UploadedBatchHandle {
  return callSync(() => native.uploadBatch(handleOf('network', network, Network), batch));
}
