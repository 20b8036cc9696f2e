import { open } from 'node:fs/promises';
import { native } from '../native/binding.js';
import type { TensorHandle } from '../native/binding-types.js';
import { call } from '../native/native-object.js';
import { DataError } from '../support/errors.js';
import { requireRegularFile } from '../support/files.js';
import { shortened } from '../support/validate.js';
import { fileKind, START_BYTES } from './file-kinds.js';
import { PickleEnd } from './pickle.js';
import { type Fits, type PthFormat, readLegacyPth, readZipPth, type StridedTensorHeader } from './pth.js';
import { readSafetensorsHeader, type Skipped } from './safetensors.js';
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
  /** Entries that are left out: tensors of types that bidiseg does not have, and entries that are not tensors. */
  skipped: Skipped[];
}

/**
 * Prefixes that other code puts in front of every name: DataParallel (`module.`), the usual port of Caffe's ImageNet
 * weights (`Scale.`), torch.compile, and modules that hold the network as a member.
 */
const USUAL_PREFIXES = ['module.', 'Scale.', '_orig_mod.', 'model.', 'net.', 'student.'];

export interface OpenOptions {
  /** Prefix to drop from the names that have it. Default: the usual prefixes, if all names have them. */
  strip?: string | undefined;
  /** Decides between several state dicts. It is given names without a prefix. */
  fits?: Fits;
}

/**
 * Reads and checks the header of a weights file. readWeights() reads the tensors' bytes.
 *
 * @throws DataError that names the file and what is wrong with it, or when a newer bidiseg wrote it
 */
export async function openWeights(file: string, { strip, fits }: OpenOptions = {}): Promise<WeightsFile> {
  const contents = await readContents(
    file,
    fits &&
      ((tensors) => fits(withoutPrefix(tensors, strip ?? usualPrefix(tensors.map(({ name }) => name))))),
  );
  const description = decodeDescription(file, contents.metadata);
  const prefix = strip ?? usualPrefix(contents.tensors.map(({ name }) => name));
  const tensors = withoutPrefix(contents.tensors, prefix);
  const skipped = withoutPrefix(contents.skipped, prefix);
  if (strip && !contents.tensors.some(({ name }) => name.startsWith(strip))) {
    throw new DataError(`${file}: no tensor's name begins with '${strip}', the prefix to drop`);
  }
  const names = new Set<string>();
  for (const { name } of tensors) {
    if (names.has(name)) throw new DataError(`${file}: without '${prefix}' two tensors are named '${name}'`);
    names.add(name);
  }
  return { file, ...contents, description, prefix, tensors, skipped };
}

type Contents = Omit<WeightsFile, 'file' | 'prefix' | 'description'>;

async function readContents(file: string, fits?: Fits): Promise<Contents> {
  try {
    const size = await requireRegularFile(file);
    const handle = await open(file, 'r');
    try {
      const buffer = Buffer.alloc(START_BYTES);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
      const start = buffer.subarray(0, bytesRead);
      // A safetensors file begins with the length of a JSON object, and the object with a brace.
      const isSafetensors = start[8] === 0x7b && start.readUInt32LE(4) === 0;
      if (!isSafetensors) {
        const bad = complaint(file, 'PyTorch file');
        if (bytesRead >= 4 && start.readUInt32LE() === 0x04034b50) {
          return { format: 'pytorch-zip', metadata: {}, ...(await readZipPth(handle, size, bad, fits)) };
        }
        if (start[0] === 0x80) {
          return {
            format: 'pytorch-legacy',
            metadata: {},
            ...(await readLegacyPth(handle, size, bad, fits)),
          };
        }
        const { what, remedy } = fileKind(start);
        throw new DataError(
          `${file}: found ${what}, expected safetensors or a state dict of torch.save${remedy ? `; ${remedy}` : ''}`,
        );
      }
    } finally {
      await handle.close();
    }
  } catch (cause) {
    if (cause instanceof DataError) throw cause;
    if (cause instanceof PickleEnd) throw complaint(file, 'PyTorch file')('its pickle ends too early', cause);
    throw new DataError(`${file} cannot be read: ${(cause as Error).message}`, { cause });
  }
  return { format: 'safetensors', path: [], ...(await readSafetensorsHeader(file)) };
}

function complaint(file: string, kind: string): (what: string, cause?: unknown) => DataError {
  return (what, cause) =>
    new DataError(`${file} is not a usable ${kind}: ${shortened(what, 1000)}`, { cause });
}

/**
 * Returns the usual prefixes that all names begin with, possibly none or several. The names of image generators and
 * discriminators begin with `model.` themselves (`model.1.weight`, `model.model.0.weight`), so they keep it.
 */
function usualPrefix(names: string[]): string {
  if (names.length === 0) return '';
  let prefix = '';
  for (;;) {
    const next = USUAL_PREFIXES.find((usual) => names.every((name) => name.startsWith(prefix + usual)));
    if (next === undefined) return prefix;
    const isOwn = (name: string) => /^(\d|model\.)/.test(name.slice(prefix.length + next.length));
    if (next === 'model.' && names.some(isOwn)) return prefix;
    prefix += next;
  }
}

/** Drops the prefix from the names that begin with it. */
function withoutPrefix<T extends { name: string }>(entries: T[], prefix: string): T[] {
  return entries.map((entry) =>
    entry.name.startsWith(prefix) ? { ...entry, name: entry.name.slice(prefix.length) } : entry,
  );
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
