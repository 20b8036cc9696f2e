import { native } from '../native/binding.js';
import type { StateEntry } from '../native/binding-types.js';
import { call, callSync } from '../native/native-object.js';
import { DataError } from '../support/errors.js';
import { writeAtomically } from '../support/files.js';
import { castWeights } from '../weights/weights-dtype.js';
import { type OnnxGraph, type OnnxValue, OPSET } from './onnx-graph.js';
import { encode, fieldPrefix } from './onnx-schema.js';

export interface OnnxModel {
  graph: OnnxGraph;
  input: OnnxValue;
  output: OnnxValue;
  metadata: Record<string, string>;
}

/** IR version that came with OPSET. */
const IR_VERSION = 8;
/** Largest file that readers of protobuf accept. */
const MAX_FILE_BYTES = 2 ** 31 - 1;
const FLOAT_BYTES = 4;

/**
 * Writes a model with its weights as float32, whole or not at all. Weights go directly from their memory to the file,
 * one after the other.
 *
 * @param entries all weights that the graph uses. Their tensors may be replaced by float32 ones
 * @returns the size of the file in bytes
 * @throws DataError that names the file when it cannot be written or would exceed the limit of ONNX files
 */
export async function writeOnnx(
  file: string,
  model: OnnxModel,
  entries: Pick<StateEntry, 'name' | 'tensor'>[],
  signal?: AbortSignal,
): Promise<number> {
  const { head, pieces, bytes } = layOut(file, model);
  await castWeights(file, entries, 'float32', signal);
  const weights = new Map(entries.map(({ name, tensor }) => [name, tensor]));
  const prefixes = pieces.map(({ prefix }) => callSync(() => native.createTensor(prefix, [prefix.length])));
  try {
    const tensors = pieces.flatMap(({ weight }, i) => [prefixes[i]!, weights.get(weight)!]);
    await writeAtomically(file, (temporary) =>
      call((token) => native.writeTensorFile(temporary, head, tensors, token), signal),
    );
  } finally {
    for (const prefix of prefixes) prefix.dispose();
  }
  return bytes;
}

interface Layout {
  /** Model without its weights. */
  head: Uint8Array;
  /** Each weight and the bytes before its values. */
  pieces: { prefix: Uint8Array; weight: string }[];
  /** Size of the whole file. */
  bytes: number;
}

/** Plans the file. Protobuf writes lengths before contents, so all lengths are computed first. */
export function layOut(file: string, model: OnnxModel): Layout {
  const { graph } = model;
  const pieces: Layout['pieces'] = [];
  let weightsBytes = 0;
  for (const name of graph.weights) {
    const shape = graph.shapeOf(name);
    const bytes = shape.reduce((product, extent) => product * extent, FLOAT_BYTES);
    const tensor = Buffer.concat([
      encode('TensorProto', { dims: shape, data_type: 'FLOAT', name }),
      fieldPrefix('TensorProto', 'raw_data', bytes),
    ]);
    const prefix = Buffer.concat([fieldPrefix('GraphProto', 'initializer', tensor.length + bytes), tensor]);
    pieces.push({ prefix, weight: name });
    weightsBytes += prefix.length + bytes;
  }
  const graphHead = encodeGraph(model);
  const head = Buffer.concat([
    encodeModel(model),
    fieldPrefix('ModelProto', 'graph', graphHead.length + weightsBytes),
    graphHead,
  ]);
  const bytes = head.length + weightsBytes;
  if (bytes > MAX_FILE_BYTES) {
    throw new DataError(
      `${file} cannot be written: ONNX files have at most 2 GiB, and this network takes ${(bytes / 2 ** 30).toFixed(1)} GiB; export it as TorchScript`,
    );
  }
  return { head, pieces, bytes };
}

function encodeModel({ metadata }: OnnxModel): Uint8Array {
  return encode('ModelProto', {
    ir_version: IR_VERSION,
    producer_name: 'bidiseg',
    opset_import: [{ domain: '', version: OPSET }],
    metadata_props: Object.entries(metadata).map(([key, value]) => ({ key, value })),
  });
}

/** Encodes all of the graph except its weights. */
function encodeGraph({ graph, input, output }: OnnxModel): Uint8Array {
  const value = ({ name, shape, description }: OnnxValue) => ({
    name,
    doc_string: description,
    type: {
      tensor_type: {
        elem_type: 'FLOAT',
        shape: {
          dim: shape.map((extent) =>
            typeof extent === 'number' ? { dim_value: extent } : { dim_param: extent },
          ),
        },
      },
    },
  });
  return encode('GraphProto', {
    name: 'segmenter',
    node: graph.nodes.map(({ op, name, inputs, attributes }) => ({
      op_type: op,
      name,
      input: inputs,
      output: [name],
      attribute: Object.entries(attributes).map(([key, given]) => ({ name: key, ...attribute(given) })),
    })),
    initializer: graph.constants.map(({ name, type, shape, bytes }) => ({
      name,
      data_type: type,
      dims: shape,
      raw_data: bytes,
    })),
    input: [value(input)],
    output: [value(output)],
  });
}

function attribute(value: number | readonly number[] | string): Record<string, unknown> {
  if (typeof value === 'string') return { type: 'STRING', s: Buffer.from(value) };
  if (typeof value !== 'number') return { type: 'INTS', ints: value };
  return Number.isInteger(value) ? { type: 'INT', i: value } : { type: 'FLOAT', f: value };
}
