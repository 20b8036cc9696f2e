import protobuf from 'protobufjs/light.js';

const int64 = (id: number) => ({ type: 'int64', id });
const string = (id: number) => ({ type: 'string', id });
const bytes = (id: number) => ({ type: 'bytes', id });
const repeated = (type: string, id: number) => ({ rule: 'repeated', type, id });

/** The part of onnx.proto (IR version 8) that a segmenter needs, with its names and field numbers. */
const schema = protobuf.Root.fromJSON({
  nested: {
    ModelProto: {
      fields: {
        ir_version: int64(1),
        producer_name: string(2),
        graph: { type: 'GraphProto', id: 7 },
        opset_import: repeated('OperatorSetIdProto', 8),
        metadata_props: repeated('StringStringEntryProto', 14),
      },
    },
    OperatorSetIdProto: { fields: { domain: string(1), version: int64(2) } },
    StringStringEntryProto: { fields: { key: string(1), value: string(2) } },
    GraphProto: {
      fields: {
        node: repeated('NodeProto', 1),
        name: string(2),
        initializer: repeated('TensorProto', 5),
        input: repeated('ValueInfoProto', 11),
        output: repeated('ValueInfoProto', 12),
      },
    },
    NodeProto: {
      fields: {
        input: repeated('string', 1),
        output: repeated('string', 2),
        name: string(3),
        op_type: string(4),
        attribute: repeated('AttributeProto', 5),
      },
    },
    AttributeProto: {
      fields: {
        name: string(1),
        f: { type: 'float', id: 2 },
        i: int64(3),
        s: bytes(4),
        ints: repeated('int64', 8),
        type: { type: 'AttributeType', id: 20 },
      },
    },
    AttributeType: { values: { UNDEFINED: 0, FLOAT: 1, INT: 2, STRING: 3, INTS: 7 } },
    TensorProto: {
      fields: {
        dims: repeated('int64', 1),
        data_type: { type: 'DataType', id: 2 },
        name: string(8),
        raw_data: bytes(9),
      },
    },
    DataType: { values: { UNDEFINED: 0, FLOAT: 1, INT64: 7 } },
    ValueInfoProto: {
      fields: { name: string(1), type: { type: 'TypeProto', id: 2 }, doc_string: string(3) },
    },
    TypeProto: {
      fields: { tensor_type: { type: 'Tensor', id: 1 } },
      nested: {
        Tensor: {
          fields: { elem_type: { type: 'DataType', id: 1 }, shape: { type: 'TensorShapeProto', id: 2 } },
        },
      },
    },
    TensorShapeProto: {
      fields: { dim: repeated('Dimension', 1) },
      nested: {
        Dimension: {
          oneofs: { value: { oneof: ['dim_value', 'dim_param'] } },
          fields: { dim_value: int64(1), dim_param: string(2) },
        },
      },
    },
  },
});

/** Encodes a message given as a plain object. */
export function encode(type: string, message: Record<string, unknown>): Uint8Array {
  const found = schema.lookupType(type);
  return found.encode(found.fromObject(message)).finish();
}

/** Encodes the bytes before a field that has a length: a message, a text or raw data. */
export function fieldPrefix(type: string, field: string, length: number): Uint8Array {
  const { id } = schema.lookupType(type).fields[field]!;
  const LENGTH_DELIMITED = 2;
  return protobuf.Writer.create()
    .uint32((id << 3) | LENGTH_DELIMITED)
    .uint32(length)
    .finish();
}
