import { Network } from '../../models/network.js';
import { native } from '../../native/binding.js';
import type { UploadedBatchHandle } from '../../native/binding-types.js';
import { callSync, handleOf } from '../../native/native-object.js';
import type { StepBatch } from './training-step.js';

/**
 * Begins to copy a batch to the network's CUDA device, from pinned memory and beside whatever that computes. The result stands
 * for the batch in the `run()` of a step, and is to be disposed behind it.
 */
export function uploadBatch(network: Network, batch: StepBatch): UploadedBatchHandle {
  return callSync(() => native.uploadBatch(handleOf('network', network, Network), batch));
}
