import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { DataError, exportOnnx, exportTorchScript, Segmenter } from 'bidiseg';
import { createConfig } from '../../../lib/config/load.js';
import { createSegmenter } from '../../../lib/pipeline/models.js';
import { openWeights } from '../../../lib/weights/weights-file.js';
import { bidiseg } from '../../cli/command-line.js';
import { temporaryFolder } from '../../helpers/folder.js';
import { pickle, SIX, zip } from '../../helpers/pth-file.js';
import { encodeHeader } from '../../helpers/tensor-file.js';

const SHAPE = { backbone: 'resnet18', width: 1 / 16, classCount: 3 } as const;

describe('files that are no weights', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  /** Files by what the message calls them. */
  const files: [content: Buffer, message: RegExp][] = [
    [Buffer.alloc(0), /found an empty file, expected safetensors or a state dict of torch\.save$/],
    [
      Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 17\n`),
      /found a Git LFS pointer .*; run git lfs pull in its repository$/,
    ],
    [
      Buffer.from('<!DOCTYPE html>\n<html><head></head></html>'),
      /found an HTML page.*; download the file itself$/,
    ],
    [Buffer.from('\ufeff  <html lang="en">'), /found an HTML page/],
    [Buffer.from('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), /found XML/],
    [Buffer.from('{"weight_map": {"conv1.weight": "model-1.safetensors"}}'), /found JSON/],
    [Buffer.from('[1, 2, 3]'), /found JSON/],
    [Buffer.from('conv1: 7×7\n'), /found text/],
    [Buffer.from('Not Found'), /found text/],
    [gzipSync(Buffer.from('weights')), /found a gzip file.*; unpack it first$/],
    [
      Buffer.concat([Buffer.alloc(257, 'a'), Buffer.from('ustar\0'), Buffer.alloc(249)]),
      /found a tar archive/,
    ],
    [Buffer.from('\x93NUMPY\x01\x00v\x00{', 'latin1'), /found NumPy's \.npy/],
    [Buffer.from('\x89HDF\r\n\x1a\n\0\0', 'latin1'), /found an HDF5 file/],
    [zip([{ name: 'arr_0.npy', data: SIX }]), /it is NumPy's \.npz$/],
    [
      zip([{ name: 'word/document.xml', data: SIX }]),
      /it is a zip file, but not one that torch\.save wrote$/,
    ],
    [
      zip([
        { name: 'm/data.pkl', data: SIX },
        { name: 'm/code/m.py', data: SIX },
      ]),
      /it is a TorchScript archive/,
    ],
    [
      pickle.whole(pickle.dict(pickle.text('w'), pickle.list())),
      /it is a pickle, but .* not the magic number of torch\.save/,
    ],
    [Buffer.from([0x80, 4, 0x95]), /its pickle ends too early/],
    [Buffer.from('PK'), /found text/],
    [
      Buffer.from([0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 7, 0, 1]),
      /found a file that begins like neither of these/,
    ],
  ];

  it('are refused by what they are, whatever they are called', async () => {
    for (const [content, message] of files) {
      for (const name of ['x.pth', 'x.safetensors', 'x']) {
        const file = folder.path(name);
        writeFileSync(file, content);
        await assert.rejects(
          () => openWeights(file),
          (error: Error) => {
            assert.ok(error instanceof DataError && error.message.startsWith(file), error.stack);
            assert.match(error.message, message);
            assert.ok(!error.message.includes('\n'));
            return true;
          },
        );
      }
    }
  });

  it('are refused where they are our own exports, by every command that takes weights', async () => {
    using segmenter = await Segmenter.create(SHAPE);
    const [onnx, script] = [folder.path('m.onnx'), folder.path('m.pt')];
    await exportOnnx(segmenter, onnx);
    await exportTorchScript(segmenter, script);
    const renamed = folder.path('weights.safetensors');
    for (const [file, message] of [
      [onnx, /found an ONNX model, .*; use the weights that it was exported from/],
      [script, /it is a TorchScript archive; use the weights that it was exported from, or .*state_dict/],
    ] as const) {
      copyFileSync(file, renamed);
      for (const name of [file, renamed]) {
        await assert.rejects(() => openWeights(name), message);
        await assert.rejects(() => Segmenter.fromFile(name), message);
        await assert.rejects(() => segmenter.load(name, { strict: false }), message);
        const { backbone, width } = SHAPE;
        const given = { backbone, width, initialWeights: name };
        const config = createConfig({ preset: 'demo', output: folder.path('run'), segmenter: given });
        await assert.rejects(() => createSegmenter(config), message);
      }
      const image = folder.path('image.png');
      const { writeImage } = await import('../../../lib/data/image-codec.js');
      await writeImage(image, { data: new Uint8Array(3), width: 1, height: 1 });
      for (const args of [
        ['info', file],
        ['convert', file, folder.path('out')],
        ['segment', image, '--weights', file, '-o', folder.path('out')],
        ['translate', image, '--weights', file, '-o', folder.path('out')],
        ['export', file, folder.path('again.onnx')],
      ]) {
        const { code, stderr } = await bidiseg(args);
        assert.equal(code, 1, args.join(' '));
        assert.match(stderr.trim(), message);
      }
    }
  });

  it('are not confused with weights that begin oddly', async () => {
    const file = folder.path('odd');
    // A header of 123 bytes begins with the brace that JSON begins with too.
    const text = '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}';
    writeFileSync(file, Buffer.concat([encodeHeader(text.padEnd(0x7b)), Buffer.alloc(4)]));
    assert.deepEqual(
      (await openWeights(file)).tensors.map(({ name, shape }) => ({ name, shape })),
      [{ name: 'a', shape: [] }],
    );
    // Cut off within its header or its tensors, it is still a safetensors file.
    const whole = readFileSync(file);
    for (const length of [12, 60, whole.length - 1]) {
      writeFileSync(file, whole.subarray(0, length));
      await assert.rejects(() => openWeights(file), /is not a usable safetensors file: .*the file has/);
    }
  });
});
