import protobuf from 'protobufjs';

/** The messages and fields of the ONNX format (IR version 8) that a segmenter needs. */
const { root } = protobuf.parse(
  `
  syntax = "proto3";
  message ModelProto {
    int64 ir_version = 1;
    string producer_name = 2;
    string producer_version = 3;
    string doc_string = 6;
    GraphProto graph = 7;
    repeated OperatorSetIdProto opset_import = 8;
    repeated StringStringEntryProto metadata_props = 14;
  }
  message OperatorSetIdProto { string domain = 1; int64 version = 2; }
  message StringStringEntryProto { string key = 1; string value = 2; }
  message GraphProto {
    repeated NodeProto node = 1;
    string name = 2;
    repeated TensorProto initializer = 5;
    repeated ValueInfoProto input = 11;
    repeated ValueInfoProto output = 12;
  }
  message NodeProto {
    repeated string input = 1;
    repeated string output = 2;
    string name = 3;
    string op_type = 4;
    repeated AttributeProto attribute = 5;
  }
  message AttributeProto {
    enum AttributeType { UNDEFINED = 0; FLOAT = 1; INT = 2; STRING = 3; INTS = 7; }
    string name = 1;
    float f = 2;
    int64 i = 3;
    bytes s = 4;
    repeated int64 ints = 8;
    AttributeType type = 20;
  }
  message TensorProto {
    enum DataType { UNDEFINED = 0; FLOAT = 1; INT64 = 7; }
    repeated int64 dims = 1;
    DataType data_type = 2;
    string name = 8;
    bytes raw_data = 9;
  }
  message ValueInfoProto { string name = 1; TypeProto type = 2; string doc_string = 3; }
  message TypeProto {
    message Tensor { TensorProto.DataType elem_type = 1; TensorShapeProto shape = 2; }
    Tensor tensor_type = 1;
  }
  message TensorShapeProto {
    message Dimension { oneof value { int64 dim_value = 1; string dim_param = 2; } }
    repeated Dimension dim = 1;
  }`,
  { keepCase: true },
);

/** The bytes of a message given as a plain object. */
export function encode(type: string, message: Record<string, unknown>): Uint8Array {
  const found = root.lookupType(type);
  return found.encode(found.fromObject(message)).finish();
}

/** What stands in front of the bytes of a field that has a length: a message, a text or raw data. */
export function fieldPrefix(type: string, field: string, length: number): Uint8Array {
  const { id } = root.lookupType(type).fields[field]!;
  const LENGTH_DELIMITED = 2;
  return protobuf.Writer.create()
    .uint32((id << 3) | LENGTH_DELIMITED)
    .uint32(length)
    .finish();
}
