import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { DataError } from '../support/errors.js';

/** Line of a log. */
export interface LogLine {
  /** JSON object without a line break. */
  text: string;
  /** Position after the line in the file, in bytes. */
  end: number;
}

/** Largest log to follow. The lines stay in memory. A long run writes a few megabytes. */
const MAX_BYTES = 2 ** 28;

const MAX_LINE_BYTES = 2 ** 24;

const CHUNK_BYTES = 2 ** 18;

/**
 * Follows a run's event log, `events.jsonl`, while another process appends to it. Reads each byte once, for any number
 * of viewers. Lines that are no JSON are left out, because a process that died may leave half a line.
 */
export class LogTail {
  readonly #file: string;
  /** Lines read so far. */
  lines: LogLine[] = [];
  /**
   * Identity of the log: a hash of its first line, which holds the time to the millisecond. '' while there is no line. A run
   * that is overwritten begins another log.
   */
  id = '';
  readonly #chunk = Buffer.alloc(CHUNK_BYTES);
  #inode = 0;
  #position = 0;
  /** Beginning of a line whose end is not written yet. */
  #rest: Buffer = Buffer.alloc(0);

  constructor(file: string) {
    this.#file = file;
  }

  /**
   * Reads what was written since the last call.
   *
   * @returns true if there are new lines, or the log is another one
   * @throws DataError when the log cannot be read
   */
  async poll(): Promise<boolean> {
    let handle: FileHandle;
    try {
      // The folder may come from anywhere. A link could lead out of it, and a pipe would wait forever.
      handle = await open(this.#file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if (!['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
        throw new DataError(`${this.#file}: cannot be read: ${(error as Error).message}`, { cause: error });
      }
      return this.#clear();
    }
    try {
      return await this.#read(handle);
    } finally {
      await handle.close();
    }
  }

  async #read(handle: FileHandle): Promise<boolean> {
    const info = await handle.stat();
    const { size, ino } = info;
    if (!info.isFile()) throw new DataError(`${this.#file}: is a pipe, socket or device, expected a file`);
    if (size > MAX_BYTES) {
      throw new DataError(`${this.#file}: found ${size} bytes, expected at most ${MAX_BYTES}`);
    }
    // The first line tells an inode that was used again from the same log.
    const isOther = ino !== this.#inode || size < this.#position || (await this.#firstLineDiffers(handle));
    let changed = isOther && this.#clear();
    this.#inode = ino;
    for (;;) {
      const { bytesRead } = await handle.read(this.#chunk, 0, CHUNK_BYTES, this.#position);
      if (bytesRead === 0) return changed;
      this.#position += bytesRead;
      changed = this.#take(this.#chunk.subarray(0, bytesRead)) || changed;
    }
  }

  /** Splits bytes into lines. Returns true if there are any. */
  #take(bytes: Buffer): boolean {
    const data = Buffer.concat([this.#rest, bytes]);
    const start = this.#position - data.length;
    const before = this.lines.length;
    let from = 0;
    for (let to = data.indexOf(10); to >= 0; to = data.indexOf(10, from)) {
      const text = data.toString('utf8', from, to).trim();
      if (start + from === 0) this.id = hash(text);
      if (isObject(text)) this.lines.push({ text, end: start + to + 1 });
      from = to + 1;
    }
    this.#rest = Buffer.from(data.subarray(from));
    if (this.#rest.length > MAX_LINE_BYTES) {
      throw new DataError(`${this.#file}: found a line of more than ${MAX_LINE_BYTES} bytes`);
    }
    return this.lines.length > before;
  }

  async #firstLineDiffers(handle: FileHandle): Promise<boolean> {
    const first = this.lines[0];
    if (first === undefined || this.id !== hash(first.text)) return false;
    const length = Buffer.byteLength(first.text);
    const { buffer } = await handle.read(Buffer.alloc(length), 0, length, 0);
    return buffer.toString('utf8') !== first.text;
  }

  #clear(): boolean {
    const had = this.id !== '';
    this.lines = [];
    this.id = '';
    this.#position = 0;
    this.#rest = Buffer.alloc(0);
    return had;
  }
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null;
  } catch {
    return false;
  }
}
