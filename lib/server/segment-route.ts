import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { encodeLabels } from '../data/label-codec.js';
import { type Segmentation, segment } from '../inference/segment.js';
import { DataError, InvalidArgumentError, OutOfMemoryError, QueueFullError } from '../support/errors.js';
import { HttpError } from './http-error.js';
import type { Model, ServedModel } from './served-model.js';
import type { ServiceMetrics } from './service-metrics.js';
import type { ServiceOptions } from './service-options.js';

const OUTPUTS = ['labels', 'color', 'overlay', 'json'] as const;
type Output = (typeof OUTPUTS)[number];

interface Route {
  model: ServedModel;
  metrics: ServiceMetrics;
  options: ServiceOptions;
}

/** Status that proxies log for a client that has gone. Nobody receives it. */
const CLIENT_GONE = 499;

/** Largest number of bodies that arrive at the same time. It bounds their memory. */
const MAX_ARRIVING = 256;

/** Adds `POST /segment`. */
export function addSegmentRoute(app: FastifyInstance, route: Route): void {
  const { model, metrics, options } = route;
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => {
    try {
      requireImageType(request);
      done(null, body);
    } catch (error) {
      done(error as Error);
    }
  });

  /** Requests whose body is on its way. */
  const arriving = new Set<FastifyRequest>();
  // Each accepted request holds an image.
  const mostAccepted = options.maxQueue + 2 * options.limit;
  app.post('/segment', {
    // Before the body is read, so that a full queue costs nothing.
    onRequest: async (request, reply) => {
      reply.raw.once('close', () => {
        metrics.answered(reply.raw.writableFinished ? reply.statusCode : CLIENT_GONE);
      });
      outputOf(request);
      requireImageType(request);
      requireRoom(model.current);
      if (arriving.size >= MAX_ARRIVING) {
        throw new HttpError(429, `${MAX_ARRIVING} bodies are on their way, as many as may be`, {
          retryAfter: 1,
        });
      }
      arriving.add(request);
      reply.raw.once('close', () => arriving.delete(request));
    },
    preHandler: async (request) => {
      arriving.delete(request);
    },
    handler: async (request, reply) => {
      if (metrics.accepted >= mostAccepted) {
        throw new HttpError(429, `${mostAccepted} requests are under way, as many as may be`, {
          retryAfter: 1,
        });
      }
      metrics.accepted++;
      try {
        return await model.use((current) => answer(request, reply, current, route));
      } finally {
        metrics.accepted--;
      }
    },
  });
}

async function answer(
  request: FastifyRequest,
  reply: FastifyReply,
  current: Model,
  { metrics, options }: Route,
): Promise<FastifyReply> {
  const output = outputOf(request);
  const body = request.body as Buffer | undefined;
  if (!body || body.length === 0) throw new HttpError(422, 'Expected an image in the body but it is empty');
  const end = new AbortController();
  const onClose = () => end.abort(new HttpError(CLIENT_GONE, 'The client has gone'));
  reply.raw.once('close', onClose);
  const timer = setTimeout(
    () => end.abort(new HttpError(503, `No result after ${options.timeoutMs / 1000} s`, { retryAfter: 1 })),
    options.timeoutMs,
  );
  try {
    if (reply.raw.destroyed) onClose();
    const { size, precision, maxPixels } = options;
    const result = await segment(current.predictor, body, {
      ...(size && { size }),
      output: output === 'json' ? 'labels' : output,
      format: output === 'json' ? 'pixels' : 'png',
      palette: current.classes.palette,
      precision,
      maxPixels,
      signal: end.signal,
    });
    metrics.segmented(output, reply.elapsedTime / 1000);
    if (output === 'json') return reply.send(await describe(result, current));
    return reply.type('image/png').send(asBuffer(result.data));
  } catch (error) {
    throw httpError(error);
  } finally {
    clearTimeout(timer);
    reply.raw.removeListener('close', onClose);
  }
}

/** Makes the JSON answer. */
async function describe(
  { data, width, height }: Segmentation,
  { classes: { names, palette } }: Model,
): Promise<object> {
  const pixels = await countLabels(data);
  const png = await encodeLabels({ data, width, height });
  return {
    width,
    height,
    classes: names.map((name, index) => ({
      index,
      name,
      color: `#${asBuffer(palette.subarray(3 * index, 3 * index + 3)).toString('hex')}`,
      pixels: pixels[index]!,
      share: pixels[index]! / data.length,
    })),
    labels: asBuffer(png).toString('base64'),
  };
}

/** Pixels that are counted in about a millisecond. */
const PIXELS_AT_ONCE = 2 ** 19;

async function countLabels(labels: Uint8Array): Promise<Uint32Array> {
  const counts = new Uint32Array(256);
  for (let start = 0; start < labels.length; start += PIXELS_AT_ONCE) {
    for (const label of labels.subarray(start, start + PIXELS_AT_ONCE)) counts[label]!++;
    await nextTurn();
  }
  return counts;
}

function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
}

/** Converts what `segment` throws to an error with a status. */
function httpError(error: unknown): unknown {
  const options = { cause: error };
  if (error instanceof QueueFullError) {
    return new HttpError(429, error.message, { ...options, retryAfter: error.retryAfterMs / 1000 });
  }
  if (error instanceof DataError || error instanceof InvalidArgumentError) {
    return new HttpError(422, error.message, options);
  }
  if (error instanceof OutOfMemoryError) {
    return new HttpError(503, `Not enough memory for this image now: ${error.message}`, {
      ...options,
      retryAfter: 1,
    });
  }
  return error;
}

function requireRoom({ predictor }: Model): void {
  try {
    predictor.requireRoom(1);
  } catch (error) {
    throw httpError(error);
  }
}

function requireImageType({ headers }: FastifyRequest): void {
  const type = (headers['content-type'] ?? '').split(';')[0]!.trim().toLowerCase();
  if (type !== '' && type !== 'application/octet-stream' && !/^image\/[\w.+-]+$/.test(type)) {
    throw new HttpError(
      415,
      `Expected the bytes of an image with a Content-Type such as image/jpeg but found ${type}; with curl: --data-binary @photo.jpg -H 'Content-Type: image/jpeg'`,
    );
  }
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') {
    throw new HttpError(415, `Expected a body without Content-Encoding but found ${encoding}`);
  }
}

/** Returns the output that the query names, or else `Accept`. */
function outputOf({ query, headers }: FastifyRequest): Output {
  const { output } = query as { output?: unknown };
  if (output !== undefined) {
    const found = OUTPUTS.find((name) => name === output);
    if (found) return found;
    throw new HttpError(
      400,
      `Expected output to be one of ${OUTPUTS.join(', ')} but found '${String(output)}'`,
    );
  }
  const accept = headers.accept ?? '*/*';
  const [json, png] = [quality(accept, 'application/json'), quality(accept, 'image/png')];
  if (json === 0 && png === 0) {
    throw new HttpError(406, `Expected Accept to allow image/png or application/json but found '${accept}'`);
  }
  return json > png ? 'json' : 'labels';
}

/** Returns how much a header `Accept` wants a media type, 0–1. */
function quality(accept: string, wanted: string): number {
  const ranges = accept.split(',').map((part) => {
    const [range = '', ...parameters] = part.split(';').map((text) => text.trim().toLowerCase());
    const q = Number(parameters.find((text) => text.startsWith('q='))?.slice(2) ?? 1);
    return { range, q: q >= 0 && q <= 1 ? q : 0 };
  });
  const places = [wanted, `${wanted.split('/')[0]}/*`, '*/*'];
  for (const place of places) {
    const found = ranges.find(({ range }) => range === place);
    if (found) return found.q;
  }
  return 0;
}
