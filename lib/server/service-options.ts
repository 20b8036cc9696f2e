import type { ImageSize } from '../data/image-size.js';
import type { Precision } from '../native/precision.js';
import type { ServerOptions } from './http-server.js';
import type { LoadedNetwork } from './served-model.js';

/** Options of `startService`. `bidiseg serve` has the defaults. */
export interface ServiceOptions extends ServerOptions {
  /** Loads the network. Called at the start and for each reload. */
  load: () => Promise<LoadedNetwork>;
  /** Input size of the network. Default: the image's own. */
  size?: ImageSize | undefined;
  precision: Precision;
  /** Largest number of images that go through the network together. */
  limit: number;
  /** Time that an image waits for others, in milliseconds. */
  deadlineMs: number;
  /** Largest number of images that wait. */
  maxQueue: number;
  /** Largest body in bytes. */
  maxBytes: number;
  /** Largest image in pixels. */
  maxPixels: number;
  /** Time for a client to send a request, for us to compute the answer, and for the client to read it, in milliseconds. */
  timeoutMs: number;
}
