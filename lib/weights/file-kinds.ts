/** Names files that are not weights by their first bytes. */

/** Number of a file's first bytes that are looked at. */
export const START_BYTES = 512;

interface Kind {
  is(start: Buffer, text: string): boolean;
  what: string;
  /** Advice to the user. */
  remedy?: string;
}

const begins =
  (...bytes: number[]) =>
  (start: Buffer) =>
    bytes.every((byte, i) => start[i] === byte);

const UNPACK = { remedy: 'unpack it first' };

const KINDS: Kind[] = [
  {
    is: (_, text) => text.startsWith('version https://git-lfs.github.com/spec/'),
    what: 'a Git LFS pointer in place of the file',
    remedy: 'run git lfs pull in its repository',
  },
  {
    is: (_, text) => /^\s*<(!doctype html|html|head|body|script)\b/i.test(text),
    what: 'an HTML page',
    remedy: 'download the file itself',
  },
  { is: (_, text) => /^\s*<\?xml\b/i.test(text), what: 'XML' },
  { is: (_, text) => text.startsWith('%PDF-'), what: 'a PDF' },
  { is: begins(0x1f, 0x8b), what: 'a gzip file', ...UNPACK },
  { is: begins(0x42, 0x5a, 0x68), what: 'a bzip2 file', ...UNPACK },
  { is: begins(0xfd, 0x37, 0x7a, 0x58, 0x5a), what: 'an xz file', ...UNPACK },
  { is: begins(0x28, 0xb5, 0x2f, 0xfd), what: 'a Zstandard file', ...UNPACK },
  { is: begins(0x37, 0x7a, 0xbc, 0xaf, 0x27, 0x1c), what: 'a 7z archive', ...UNPACK },
  { is: begins(0x52, 0x61, 0x72, 0x21), what: 'a RAR archive', ...UNPACK },
  { is: (start) => start.toString('latin1', 257, 262) === 'ustar', what: 'a tar archive', ...UNPACK },
  { is: begins(0x89, 0x48, 0x44, 0x46), what: 'an HDF5 file, such as those of Keras' },
  { is: begins(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59), what: "NumPy's .npy" },
  { is: begins(0x89, 0x50, 0x4e, 0x47), what: 'a PNG image' },
  { is: begins(0xff, 0xd8, 0xff), what: 'a JPEG image' },
  { is: isOnnx, what: 'an ONNX model', remedy: 'use the weights that it was exported from' },
  { is: (_, text) => /^\s*[{[]/.test(text) && isText(text), what: 'JSON' },
  { is: (_, text) => isText(text), what: 'text' },
];

/** Names a file that is neither safetensors nor from `torch.save`, with advice for some. */
export function fileKind(start: Buffer): { what: string; remedy?: string } {
  if (start.length === 0) return { what: 'an empty file' };
  const text = start.toString('latin1').replace(/^\xef\xbb\xbf/, '');
  return KINDS.find(({ is }) => is(start, text)) ?? { what: 'a file that begins like neither of these' };
}

/** Tells whether the first field of a protocol buffer is ONNX's ir_version and the second another one of a model. */
function isOnnx(start: Buffer): boolean {
  const [tag, version, next] = start;
  const fields = [0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42]; // producer_name to opset_import
  return tag === 0x08 && version! > 0 && version! < 32 && fields.includes(next!);
}

/** Tells whether all characters are printable. Bytes above 127 are, because UTF-8 has them. */
function isText(text: string): boolean {
  return /^[\t\n\r\x20-\x7e\x80-\xff]+$/.test(text) && /[\x20-\x7e]/.test(text);
}
