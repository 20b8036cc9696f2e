import { type FileHandle, mkdir, open } from 'node:fs/promises';
import path from 'node:path';
import crc32c from 'crc-32/crc32c.js';
import protobuf from 'protobufjs/light.js';
import { DataError } from '../support/errors.js';

/** Content of an event, one of these. */
export type TensorBoardEvent =
  | { values: readonly TensorBoardValue[] }
  /** Withdraws what earlier files say about this step and later ones, because the run continues from an earlier step. */
  | { restart: true };

export type TensorBoardValue = { tag: string } & ({ scalar: number } | { image: EncodedImage });

/** Image as the bytes of a PNG file. */
export interface EncodedImage {
  width: number;
  height: number;
  bytes: Uint8Array;
}

/** Part of TensorBoard's event.proto and summary.proto that is used here, with their names and field numbers. */
const schema = protobuf.Root.fromJSON({
  nested: {
    Event: {
      oneofs: { what: { oneof: ['fileVersion', 'summary', 'sessionLog'] } },
      fields: {
        wallTime: { type: 'double', id: 1 },
        step: { type: 'int64', id: 2 },
        fileVersion: { type: 'string', id: 3 },
        summary: { type: 'Summary', id: 5 },
        sessionLog: { type: 'SessionLog', id: 7 },
      },
    },
    SessionLog: { fields: { status: { type: 'int32', id: 1 } } },
    Summary: {
      fields: { value: { rule: 'repeated', type: 'Value', id: 1 } },
      nested: {
        Value: {
          oneofs: { value: { oneof: ['simpleValue', 'image'] } },
          fields: {
            tag: { type: 'string', id: 1 },
            simpleValue: { type: 'float', id: 2 },
            image: { type: 'Image', id: 4 },
          },
        },
        Image: {
          fields: {
            height: { type: 'int32', id: 1 },
            width: { type: 'int32', id: 2 },
            colorspace: { type: 'int32', id: 3 },
            encodedImageString: { type: 'bytes', id: 4 },
          },
        },
      },
    },
  },
});
const Event = schema.lookupType('Event');
/** SessionLog.START */
const START = 1;
/** Image.colorspace */
const RGB = 3;

/**
 * Event file of TensorBoard. It consists of TFRecords of protobuf messages `Event`. They are appended one by one, so
 * TensorBoard can follow a run.
 */
export class EventFile {
  readonly #file: string;
  readonly #handle: FileHandle;

  private constructor(file: string, handle: FileHandle) {
    this.#file = file;
    this.#handle = handle;
  }

  /**
   * Creates a file in `folder`, and the folder if it does not exist. TensorBoard reads the files of a folder in the
   * order of their names. That is also the order of their times.
   *
   * @throws DataError when the file cannot be written
   */
  static async create(folder: string, now = Date.now()): Promise<EventFile> {
    const file = path.join(folder, `events.out.tfevents.${now}.bidiseg`);
    try {
      await mkdir(folder, { recursive: true });
      const eventFile = new EventFile(file, await open(file, 'a'));
      await eventFile.#append({ wallTime: now / 1000, fileVersion: 'brain.Event:2' });
      return eventFile;
    } catch (error) {
      throw error instanceof DataError ? error : cannotWrite(file, error);
    }
  }

  /** @throws DataError when the file cannot be written */
  async write(step: number, event: TensorBoardEvent, now = Date.now()): Promise<void> {
    const head = { wallTime: now / 1000, step };
    await this.#append(
      'restart' in event
        ? { ...head, sessionLog: { status: START } }
        : { ...head, summary: { value: event.values.map(toMessage) } },
    );
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #append(message: object): Promise<void> {
    try {
      await this.#handle.appendFile(tfRecord(Event.encode(Event.create(message)).finish()));
    } catch (error) {
      throw cannotWrite(this.#file, error);
    }
  }
}

function toMessage(value: TensorBoardValue): object {
  if ('scalar' in value) return { tag: value.tag, simpleValue: value.scalar };
  const { width, height, bytes } = value.image;
  return { tag: value.tag, image: { height, width, colorspace: RGB, encodedImageString: bytes } };
}

/** Encodes a TFRecord, all little-endian: length (uint64), checksum of the length, data, checksum of the data. */
function tfRecord(data: Uint8Array): Buffer {
  const record = Buffer.alloc(data.length + 16);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedChecksum(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedChecksum(data), 12 + data.length);
  return record;
}

/** Computes a masked CRC-32C: rotated, plus a constant. A plain CRC is weak for data that contain CRCs. */
function maskedChecksum(data: Uint8Array): number {
  const checksum = crc32c.buf(data) >>> 0;
  return (((checksum >>> 15) | (checksum << 17)) + 0xa282ead8) >>> 0;
}

function cannotWrite(file: string, error: unknown): DataError {
  return new DataError(`${file}: cannot be written: ${(error as Error).message}`, { cause: error });
}
