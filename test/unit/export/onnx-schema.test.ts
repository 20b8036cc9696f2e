import assert from 'node:assert/strict';
import { encode } from '../../../lib/export/onnx-schema.js';

describe('the writer of ONNX messages', () => {
  // The bytes follow from protobuf's wire format and the field numbers of onnx.proto: (number << 3) | type, then the value.
  it('writes values that are 0 or empty, which readers do not take for given', () => {
    for (const [value, bytes] of [
      [{ i: 0 }, '18 00'],
      [{ f: 0 }, '15 00 00 00 00'],
      [{ s: Buffer.from('') }, '22 00'],
      [{ ints: [0, 0] }, '40 00 40 00'],
    ] as const) {
      assert.equal(Buffer.from(encode('AttributeProto', value)).toString('hex'), bytes.replaceAll(' ', ''));
    }
    assert.equal(
      Buffer.from(encode('OperatorSetIdProto', { domain: '', version: 17 })).toString('hex'),
      '0a001011',
    );
  });
});
