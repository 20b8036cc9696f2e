import type { Network } from 'bidiseg';
import { randomSource } from './random.js';
import { type PlainTensor, writeTensors } from './tensor-file.js';

/**
 * Replaces initial zeros and ones by random values: biases, and the affine parts and running statistics of batch
 * normalization. So a test notices if one of them is ignored. The last normalization of a residual block gets small
 * weights. Otherwise activations would triple from block to block in evaluation mode.
 */
export async function randomizeNormsAndBiases(network: Network, file: string): Promise<void> {
  const next = randomSource(7);
  const parameters = await network.parameters();
  const buffers = await network.buffers();
  const lastNorm = parameters.has('layer1.0.bn3.weight') ? /\.bn3\.weight$/ : /\.bn2\.weight$/;
  const isNorm = (name: string) => buffers.has(name.replace(/[^.]*$/, 'running_mean'));
  const changed: Record<string, PlainTensor> = {};
  for (const [name, tensor] of [...parameters, ...buffers]) {
    const { shape } = tensor;
    tensor.dispose();
    if (shape.length !== 1) continue;
    const positive = name.endsWith('weight') || name.endsWith('running_var');
    const scale = lastNorm.test(name) ? 0.2 : isNorm(name) ? 1 : 0.1;
    const values = { length: shape[0]! };
    changed[name] = {
      data: Float32Array.from(values, () => scale * (positive ? 0.5 + next() : next() - 0.5)),
      shape,
    };
  }
  writeTensors(file, changed);
  await network.load(file, { strict: false });
}
