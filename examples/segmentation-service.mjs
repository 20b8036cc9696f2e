// A service that segments images, on fastify. It batches concurrent requests, answers 429 when too many wait, stops work
// for clients that disconnect, and ends gracefully on SIGTERM. `bidiseg serve` is a complete service of this kind.
//   npm install bidiseg fastify
//   node segmentation-service.mjs WEIGHTS [PORT]
//   curl --data-binary @street.jpg -H 'content-type: image/jpeg' http://127.0.0.1:3000/segment -o overlay.png
import { BatchedPredictor, BidisegError, QueueFullError, Segmenter, segment } from 'bidiseg';
import fastify from 'fastify';

const [weights, port = '3000'] = process.argv.slice(2);
/** Input size of the network. Choose the size that it was trained at. */
const size = { width: 320, height: 160 };
/** Largest upload, in bytes and in pixels. A small file can hold a huge image. */
const [bodyLimit, maxPixels] = [16 * 2 ** 20, 2 ** 25];
const timeoutMs = 30_000;

const segmenter = await Segmenter.fromFile(weights);
const predictor = new BatchedPredictor(segmenter, { limit: 8, maxQueue: 64 });
await predictor.warmUp([size]);

const app = fastify({ bodyLimit });
app.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

// Rejects before the body is read, when the queue is full anyway.
app.addHook('onRequest', async () => predictor.requireRoom());

app.post('/segment', async (request, reply) => {
  const gone = new AbortController();
  const disconnected = Object.assign(new Error('the client has disconnected'), { statusCode: 499 });
  reply.raw.on('close', () => gone.abort(disconnected));
  const signal = AbortSignal.any([gone.signal, AbortSignal.timeout(timeoutMs)]);
  const { data } = await segment(predictor, request.body, {
    size,
    output: 'overlay',
    format: 'png',
    maxPixels,
    signal,
  });
  return reply.type('image/png').send(data);
});

/** Status for each code that a client can cause. Anything else is a fault of the server. */
const STATUS = { ERR_DATA: 422, ERR_INVALID_ARGUMENT: 400, ERR_QUEUE_FULL: 429, ERR_DISPOSED: 503 };

app.setErrorHandler((error, _request, reply) => {
  if (error instanceof QueueFullError) reply.header('retry-after', Math.ceil(error.retryAfterMs / 1000));
  const known = error instanceof BidisegError ? STATUS[error.code] : error.statusCode;
  const status = error.name === 'TimeoutError' ? 504 : (known ?? 500);
  // The details of a fault belong in the log of the server, not in the answer.
  if (status === 500) console.error(error);
  return reply.code(status).send({ error: status === 500 ? 'internal error' : error.message });
});

let isEnding = false;
// Otherwise a connection whose last request was running at the end would be kept open for a minute.
app.addHook('onSend', async (_request, reply) => {
  if (isEnding) reply.header('connection', 'close');
});
process.once('SIGTERM', async () => {
  isEnding = true;
  await app.close(); // accepts no more requests, and waits for the answers to those that it has
  await predictor.drain();
  segmenter.dispose();
});

console.log(`listening on ${await app.listen({ port: Number(port) })}`);
