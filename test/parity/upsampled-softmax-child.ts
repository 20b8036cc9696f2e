// Computes the cases of upsampled-softmax.test.ts with the instruction set that ATEN_CPU_CAPABILITY names, with several
// numbers of threads. Fails if these give other bits. Prints the names of the cases that succeeded.
// Usage: node … CASES INPUTS RESULTS DEVICE
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import {
  classProbabilities,
  type Dtype,
  ganLoss,
  maskedCrossEntropy,
  pseudoLabels,
  setThreadCount,
  Tensor,
} from 'bidiseg';
import { type PlainTensor, readTensors, writeTensors } from '../helpers/tensor-file.js';

/** Case that is computed here, and in fp64 in the twin. */
export interface Case {
  name: string;
  do: 'labels' | 'online' | 'pseudo' | 'probabilities';
  size: [height: number, width: number];
  dtype: string;
  memoryFormat: 'contiguous' | 'channels-last';
  options: {
    normalize?: 'valid' | 'all';
    ignoreIndex?: number;
    alignCorners?: boolean;
    classWeights?: number[];
    threshold?: number | number[];
    inclusive?: boolean;
    order?: 'logits' | 'probabilities';
  };
}

const [casesFile, inputsFile, resultsFile, device] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
];
const cases = JSON.parse(readFileSync(casesFile, 'utf8')) as Case[];
const inputs = readTensors(inputsFile);

async function plain(tensor: Tensor): Promise<PlainTensor> {
  const half = tensor.dtype === 'float16' || tensor.dtype === 'bfloat16';
  const dtype = half ? 'float32' : tensor.dtype;
  const data = await (await tensor.to({ dtype, device: 'cpu' })).data();
  return { data: data as PlainTensor['data'], shape: tensor.shape };
}

async function compute({
  name,
  do: what,
  size,
  dtype,
  memoryFormat,
  options,
}: Case): Promise<Record<string, PlainTensor>> {
  const input = async (key: string) => {
    const found = inputs[`${name}/${key}`];
    return found && Tensor.from(found.data, found.shape).to({ device });
  };
  const [height, width] = size;
  const logits = await (
    await (await input('logits'))!.to({ dtype: dtype as Dtype, memoryFormat })
  ).requireGrad();
  const pixelWeights = await input('pixelWeights');
  const weighted = { ...options, ...(pixelWeights && { pixelWeights }) };
  const result: Record<string, Tensor> = {};
  if (what === 'pseudo') {
    const found = await pseudoLabels(logits, { ...options, height, width, confidence: true });
    result.labels = found.labels;
    result.confidence = found.confidence!;
  } else {
    if (what === 'labels') {
      result.loss = await maskedCrossEntropy(logits, (await input('labels'))!, weighted);
    } else if (what === 'online') {
      const online = { threshold: 0, ...weighted, height, width, prediction: true };
      const found = await maskedCrossEntropy(logits, null, online);
      result.loss = found.loss;
      result.labels = found.labels!;
      result.confidence = found.confidence!;
    } else {
      result.probabilities = await classProbabilities(logits, height, width);
      result.loss = await ganLoss(result.probabilities, true);
    }
    await result.loss.backward();
    result.gradient = (await logits.gradient())!;
  }
  const tensors: Record<string, PlainTensor> = {};
  for (const [key, tensor] of Object.entries(result)) tensors[`${name}/${key}`] = await plain(tensor);
  return tensors;
}

const results: Record<string, PlainTensor> = {};

async function computeRepeatedly(each: Case): Promise<void> {
  await setThreadCount(1);
  const first = await compute(each);
  for (const threads of [1, 2, 3]) {
    await setThreadCount(threads);
    const again = await compute(each);
    for (const key of Object.keys(first)) {
      // This loss is LibTorch's mean, which does depend on the number of threads.
      if (each.do === 'probabilities' && key.endsWith('/loss')) continue;
      assert.deepEqual(again[key], first[key], `${key}: ${threads} threads give other bits`);
    }
  }
  Object.assign(results, first);
}

const computed: string[] = [];
for (const each of cases) {
  try {
    await computeRepeatedly(each);
    computed.push(each.name);
  } catch (error) {
    console.error(`${each.name}: ${error}`);
    process.exitCode = 1;
  }
}
writeTensors(resultsFile, results);
console.log(JSON.stringify(computed));
