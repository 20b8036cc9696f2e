// A route of Next.js (app router) that segments an uploaded image: POST /api/segment, image in, PNG out. It needs
// next.config.mjs beside `app/`, and the environment variable BIDISEG_WEIGHTS with the path of the weights.
import { BatchedPredictor, BidisegError, QueueFullError, Segmenter, segment } from 'bidiseg';

// The native addon does not run in the edge runtime.
export const runtime = 'nodejs';

const MAX_BYTES = 16 * 2 ** 20;
const MAX_PIXELS = 2 ** 25;

/** Loads the segmenter at the first request, not while Next builds. `next dev` reloads modules, but not globalThis. */
function predictor() {
  globalThis.bidisegPredictor ??= Segmenter.fromFile(process.env.BIDISEG_WEIGHTS).then(
    (segmenter) => new BatchedPredictor(segmenter, { maxQueue: 64 }),
  );
  return globalThis.bidisegPredictor;
}

export async function POST(request) {
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BYTES)
    return failure(413, 'the image is too large');
  try {
    const image = new Uint8Array(await request.arrayBuffer());
    const { data } = await segment(await predictor(), image, {
      output: 'overlay',
      format: 'png',
      maxPixels: MAX_PIXELS,
      // Aborts when the client disconnects.
      signal: request.signal,
    });
    return new Response(data, { headers: { 'content-type': 'image/png' } });
  } catch (error) {
    if (error instanceof QueueFullError) {
      return failure(429, error.message, { 'retry-after': String(Math.ceil(error.retryAfterMs / 1000)) });
    }
    if (error instanceof BidisegError && error.code === 'ERR_DATA') return failure(422, error.message);
    throw error;
  }
}

function failure(status, error, headers = {}) {
  return Response.json({ error }, { status, headers });
}
