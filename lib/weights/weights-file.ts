import { open } from 'node:fs/promises';
import { native } from '../native/binding.js';
import type { TensorHandle } from '../native/binding-types.js';
import { call } from '../native/native-object.js';
import { DataError } from '../support/errors.js';
import { requireRegularFile } from '../support/files.js';
import { shortened } from '../support/validate.js';
import { PickleEnd } from './pickle.js';
import { type PthFormat, readLegacyPth, readZipPth, type StridedTensorHeader } from './pth.js';
import { readSafetensorsHeader } from './safetensors.js';
import { decodeDescription, type WeightsDescription } from './weights-metadata.js';

/** A file of named tensors in any of the formats: safetensors, or a state dict from `torch.save`. */

export interface WeightsFile {
  file: string;
  format: 'safetensors' | PthFormat;
  /** Metadata of a safetensors file. */
  metadata: Record<string, string>;
  /** Description that bidiseg wrote into the metadata. Null for files from elsewhere. */
  description: WeightsDescription | null;
  /** Keys on the way to the state dict of a `.pth` file. */
  path: string[];
  /** Prefix that was dropped from the names, such as `module.`. */
  prefix: string;
  tensors: StridedTensorHeader[];
  /** Entries of a state dict that are not tensors. */
  others: string[];
}

/** Prefixes that DataParallel and the usual port of Caffe's ImageNet weights put in front of every name. */
const USUAL_PREFIXES = ['module.', 'Scale.'];

/**
 * Reads and checks the header of a weights file. readWeights() reads the tensors' bytes.
 *
 * @param strip prefix to drop from the names that have it. Default: `module.` and `Scale.`, if all names have them
 * @throws DataError that names the file and what is wrong with it, or when a newer bidiseg wrote it
 */
export async function openWeights(file: string, strip?: string): Promise<WeightsFile> {
  const contents = await readContents(file);
  const description = decodeDescription(file, contents.metadata);
  const prefix = strip ?? usualPrefix(contents.tensors.map(({ name }) => name));
  const tensors = contents.tensors.map((tensor) =>
    tensor.name.startsWith(prefix) ? { ...tensor, name: tensor.name.slice(prefix.length) } : tensor,
  );
  if (strip && !contents.tensors.some(({ name }) => name.startsWith(strip))) {
    throw new DataError(`${file}: no tensor's name begins with '${strip}', the prefix to drop`);
  }
  const names = new Set<string>();
  for (const { name } of tensors) {
    if (names.has(name)) throw new DataError(`${file}: without '${prefix}' two tensors are named '${name}'`);
    names.add(name);
  }
  return { file, ...contents, description, prefix, tensors };
}

type Contents = Omit<WeightsFile, 'file' | 'prefix' | 'description'>;

async function readContents(file: string): Promise<Contents> {
  try {
    const size = await requireRegularFile(file);
    const handle = await open(file, 'r');
    try {
      const start = Buffer.alloc(9);
      await handle.read(start, 0, start.length, 0);
      // A safetensors file begins with the length of a JSON object, and the object with a brace.
      const isObject = start[8] === 0x7b;
      if (!isObject && start.readUInt32LE() === 0x04034b50) {
        const bad = complaint(file, 'PyTorch file');
        return { format: 'pytorch-zip', metadata: {}, ...(await readZipPth(handle, size, bad)) };
      }
      if (!isObject && start[0] === 0x80) {
        const bad = complaint(file, 'PyTorch file');
        return { format: 'pytorch-legacy', metadata: {}, ...(await readLegacyPth(handle, size, bad)) };
      }
    } finally {
      await handle.close();
    }
  } catch (cause) {
    if (cause instanceof DataError) throw cause;
    if (cause instanceof PickleEnd) throw complaint(file, 'PyTorch file')('its pickle ends too early', cause);
    throw new DataError(`${file} cannot be read: ${(cause as Error).message}`, { cause });
  }
  if (/\.(pth|pt|ckpt|bin|pkl)$/i.test(file)) {
    throw complaint(file, 'weights file')('it begins neither like safetensors nor like a PyTorch file');
  }
  return { format: 'safetensors', path: [], others: [], ...(await readSafetensorsHeader(file)) };
}

function complaint(file: string, kind: string): (what: string, cause?: unknown) => DataError {
  return (what, cause) =>
    new DataError(`${file} is not a usable ${kind}: ${shortened(what, 1000)}`, { cause });
}

/** Returns the usual prefixes that all names begin with, possibly none or several. */
function usualPrefix(names: string[]): string {
  let prefix = '';
  for (;;) {
    const next = USUAL_PREFIXES.find((usual) => names.every((name) => name.startsWith(prefix + usual)));
    if (next === undefined || names.length === 0) return prefix;
    prefix += next;
  }
}

/** Reads tensors of a weights file, off the event loop. The caller disposes them. */
export async function readWeights(
  { file }: WeightsFile,
  tensors: StridedTensorHeader[],
  signal?: AbortSignal,
): Promise<{ name: string; tensor: TensorHandle }[]> {
  const places = tensors.map(({ dtype, shape, offset, stride }) => ({
    dtype,
    shape,
    offset,
    ...(stride && { stride }),
  }));
  const handles = await call((token) => native.readTensorFile(file, places, token), signal);
  return tensors.map(({ name }, i) => ({ name, tensor: handles[i]! }));
}
